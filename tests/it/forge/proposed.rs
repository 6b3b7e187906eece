//! Change requests of ours: what a call began that did not get to its end, the next one goes on with.

use std::sync::{Arc, Mutex};

use mainstay::{
    forge::{Forge, gitea::Gitea},
    secret::Secret,
};
use serde_json::{Value, json};

use super::{
    HEAD, gitlab,
    hosted::Gateway,
    proposal,
    published::{Answer, Asked, Server},
    pull,
    scene::Scene,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_change_request_was_not_opened_at_once_is_opened_by_the_next_look() {
    for gateway in [Gateway::LosesWish, Gateway::LosesAnswer] {
        let mut scene = Scene::new().await;
        scene.open(1, &[("docs.txt", "x")]);
        scene.hosted.lock().expect("no panic").gateway = vec![gateway];
        scene.say(1, 11, 5, "bob", "/mainstay restore shop/nightly path=/srv/back");
        assert!(scene.look().await.problem.is_some());
        assert!(scene.answers(1).is_empty(), "{:#?}", scene.answers(1));
        scene.look().await;
        let said = scene.answers(1);
        assert!(said.len() == 1 && said[0].contains("change request 2 has the restore"), "{gateway:?}: {said:#?}");
        assert_eq!(scene.hosted.lock().expect("no panic").pulls.len(), 2, "one change request for one wish");
    }
}

/// What a forge has got so far.
#[derive(Default)]
struct Got {
    content: Option<Value>,
    wishes: usize,
}

#[tokio::test]
async fn gitea_goes_on_with_a_branch_that_is_there() {
    let got: Arc<Mutex<Got>> = Arc::default();
    let known = Arc::clone(&got);
    let ours = || {
        let mut pull = pull(2, 1);
        (pull["head"]["ref"], pull["head"]["label"]) = (json!("mainstay/restore-4"), json!("mainstay/restore-4"));
        (pull["head"]["repo_id"], pull["base"]["repo_id"], pull["merged"]) = (json!(1), json!(1), json!(false));
        pull["base"]["label"] = json!("main");
        pull
    };
    let server = Server::start(move |asked: &Asked| {
        let mut got = known.lock().expect("no panic");
        match asked.line().replace("/api/v1/repos/ada/backups", "").as_str() {
            "POST /contents/restores/x%2Ebackup%2Eyaml" if got.content.is_some() => {
                Answer::status(409, "branch already exists")
            }
            "POST /contents/restores/x%2Ebackup%2Eyaml" => {
                got.content = Some(asked.body["content"].clone());
                Answer::json(json!({}))
            }
            "GET /contents/restores/x%2Ebackup%2Eyaml?ref=mainstay%2Frestore-4" => {
                Answer::json(json!({ "content": got.content, "encoding": "base64" }))
            }
            "POST /pulls" => {
                got.wishes += 1;
                match got.wishes {
                    1 => Answer::status(502, "bad gateway"),
                    2 => Answer::json(ours()),
                    _ => Answer::status(409, "pull request already exists for these targets"),
                }
            }
            "GET /pulls?state=open&limit=50&page=1" => Answer::json(json!([ours()])),
            line => Answer::status(500, &format!("not published: {line}")),
        }
    })
    .await;
    let forge = Gitea::new(&server.url, "ada/backups", Secret::new("a-token")).expect("a client");
    forge.propose(&proposal()).await.expect_err("it is away");
    for _ in 0..2 {
        assert_eq!(forge.propose(&proposal()).await.expect("a request").number, 2);
    }
    got.lock().expect("no panic").content = Some(json!("c29tZWJvZHkgZWxzZSdz"));
    let error = forge.propose(&proposal()).await.expect_err("another content").to_string();
    assert!(error.contains("branch already exists"), "{error}");
}

#[tokio::test]
async fn gitlab_goes_on_with_a_branch_that_is_there() {
    let got: Arc<Mutex<Got>> = Arc::default();
    let known = Arc::clone(&got);
    let ours = || {
        json!({
            "iid": 2, "author": { "id": 9, "username": "mainstay" }, "sha": HEAD, "target_branch": "main",
            "source_branch": "mainstay/restore-4", "source_project_id": 1, "target_project_id": 1, "state": "opened",
            "merge_commit_sha": null, "squash_commit_sha": null, "updated_at": "2026-11-21T10:00:00.123Z",
        })
    };
    let server = Server::start(move |asked: &Asked| {
        let mut got = known.lock().expect("no panic");
        match asked.line().replace("/api/v4/projects/group%2Fsub%2Fbackups", "").as_str() {
            "POST /repository/commits" if got.content.is_some() => {
                Answer::status(400, "A branch called 'mainstay/restore-4' already exists.")
            }
            "POST /repository/commits" => {
                // The content that the proposal has, in base64.
                got.content = Some(json!("a2luZDogUmVzdG9yZQo="));
                Answer::json(json!({ "id": HEAD }))
            }
            "GET /repository/files/restores%2Fx%2Ebackup%2Eyaml?ref=mainstay%2Frestore-4" => {
                Answer::json(json!({ "content": got.content, "encoding": "base64" }))
            }
            "POST /merge_requests" => {
                got.wishes += 1;
                match got.wishes {
                    1 => Answer::status(502, "bad gateway"),
                    2 => Answer::json(ours()),
                    _ => Answer::status(409, "Another open merge request already exists for this source branch: !2"),
                }
            }
            "GET /merge_requests?state=opened&source_branch=mainstay%2Frestore-4&per_page=100&page=1" => {
                Answer::json(json!([ours()]))
            }
            line => Answer::status(500, &format!("not published: {line}")),
        }
    })
    .await;
    let forge = gitlab(&server);
    forge.propose(&proposal()).await.expect_err("it is away");
    for _ in 0..2 {
        assert_eq!(forge.propose(&proposal()).await.expect("a request").number, 2);
    }
}
