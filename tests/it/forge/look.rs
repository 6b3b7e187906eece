//! Looks at a forge that speaks as GitHub does: what they say, and what they cost.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use mainstay::{forge::memory::ForgeMemory, git::Revision};
use serde_json::json;

use super::scene::{Scene, policy};
use crate::git::fixture::git;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_open_requests_cost_one_request_while_nothing_moves() {
    let mut scene = Scene::new().await;
    for number in 1..=100 {
        scene.open(number, &[("docs.txt", &number.to_string())]);
    }
    scene.look().await;
    assert!(scene.comment(100).contains("### Mainstay: 1 change"), "{}", scene.comment(100));
    scene.server.lines();
    scene.look().await;
    let quiet = scene.server.lines();
    assert_eq!(quiet.len(), 1, "{quiet:#?}");

    // Another one is merged: all others are planned anew, and none of them is told what it knows.
    scene.documents.commit(&[("README.md", "x")], "somebody else's change");
    scene.look().await;
    let moved = scene.server.lines();
    assert_eq!(moved.len(), 1, "{moved:#?}");

    // One of them is pushed to: only that one is looked at.
    let head = scene.open(50, &[("backup.yaml", &policy("weekly", 7))]);
    scene.look().await;
    let lines = scene.server.lines();
    assert!(lines.len() <= 6 && lines.iter().all(|line| !line.contains("/51")), "{lines:#?}");
    assert!(scene.comment(50).contains("shop/weekly"), "{}", scene.comment(50));
    assert_eq!(scene.check(&head).0, "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_is_that_of_the_merge_and_a_conflict_says_so() {
    let mut scene = Scene::new().await;
    let extra = policy("weekly", 7).split("---\n").nth(1).expect("a policy").to_owned();
    let both = scene.open(1, &[("weekly.backup.yaml", &extra)]);
    let clash = scene.open(2, &[("backup.yaml", &policy("nightly", 5))]);
    // The branch moved on since both began.
    scene.documents.commit(&[("backup.yaml", &policy("nightly", 6))], "moved on");
    scene.look().await;
    let merged = scene.comment(1);
    assert!(merged.contains("shop/weekly") && merged.contains("6 last"), "{merged}");
    assert_eq!(scene.check(&both), ("success".to_owned(), "2 changes".to_owned()));
    assert!(scene.comment(2).contains("cannot be merged"), "{}", scene.comment(2));
    assert_eq!(scene.check(&clash).0, "failure");
    // Nothing of these merges is in the repository.
    let objects = git(scene.documents.path(), &["count-objects"]);
    scene.documents.commit(&[("other.txt", "x")], "moved again");
    scene.look().await;
    let after = git(scene.documents.path(), &["count-objects"]);
    let count = |text: &str| text.split(' ').next().and_then(|word| word.parse::<u32>().ok()).expect("a number");
    assert!(count(&after) <= count(&objects) + 3, "a commit has three objects: {objects} → {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_read_holds_up_no_other() {
    let mut scene = Scene::new().await;
    let extra = policy("weekly", 7).split("---\n").nth(1).expect("a policy").to_owned();
    scene.open(1, &[("weekly.backup.yaml", &extra)]);
    let other = scene.open(2, &[("weekly.backup.yaml", &extra)]);
    scene.hosted.lock().expect("no panic").locked.insert(1);
    scene.look().await;
    assert_eq!(scene.comment(1), "");
    assert_eq!(scene.check(&other).0, "success");
    assert!(scene.comment(2).contains("shop/weekly"), "{}", scene.comment(2));
    let problem = scene.eye.memory.problem.clone().unwrap_or_default();
    assert!(problem.contains("change request 1"), "{problem}");
    scene.hosted.lock().expect("no panic").locked.clear();
    scene.look().await;
    assert!(scene.comment(1).contains("shop/weekly"), "{}", scene.comment(1));
    assert_eq!(scene.eye.memory.problem, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_once_even_if_the_memory_is_lost() {
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    scene.say(1, 11, 11, "bob", "/mainstay help");
    scene.say(1, 12, 12, "eve", "/mainstay run shop/nightly");
    scene.say(1, 13, 13, "bob", "/mainstay run shop/nothing");
    scene.say(1, 14, 14, "bob", "> /mainstay plan");
    scene.say(1, 15, 15, "bob", "/mainstay plan");
    scene.say(1, 16, 16, "bob", "/mainstay run shop/nightly");
    scene.hosted.lock().expect("no panic").comments.get_mut(&1).expect("comments").last_mut().expect("a comment")["updated_at"] =
        json!("2026-11-21T10:00:59Z");
    scene.look().await;
    let said = scene.answers(1);
    assert_eq!(said.len(), 5, "{said:#?}");
    assert!(said[3].contains("`bob`: planned anew"), "{}", said[3]);
    assert!(said[4].contains("`bob`: this comment was edited"), "{}", said[4]);
    assert!(said[0].contains("`bob`: this can be asked") && said[1].contains("`eve`: only people who may write"));
    assert!(said[2].contains("no run was started") && said[2].contains("shop/nothing"), "{}", said[2]);
    // Somebody who pretends to be us is not taken for us, even if that comment is the first.
    let pretended = "<!-- mainstay:plan -->\nnothing is lost";
    scene.say(1, 17, 17, "eve", pretended);
    scene.hosted.lock().expect("no panic").comments.get_mut(&1).expect("comments").rotate_right(1);
    std::fs::remove_file(scene.state.path().join("forge.json")).expect("a memory");
    scene.eye.memory = ForgeMemory::default();
    scene.look().await;
    assert_eq!(scene.answers(1).len(), 5, "nothing is answered twice");
    let hosted = scene.hosted.lock().expect("no panic");
    assert_eq!(hosted.comments[&1][0]["body"], pretended);
    let plans = hosted.comments[&1].iter().filter(|comment| {
        comment["user"]["login"] == "mainstay" && comment["body"].to_string().contains("mainstay:plan")
    });
    assert_eq!(plans.count(), 1, "our comment is found again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_did_not_arrive_is_given_again_and_nothing_is_carried_out_twice() {
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    scene.look().await;
    scene.hosted.lock().expect("no panic").is_mute = true;
    scene.say(1, 11, 5, "bob", "/mainstay help");
    scene.say(1, 12, 5, "bob", "/mainstay run shop/nothing");
    scene.say(1, 13, 5, "bob", "/mainstay restore shop/nightly path=/srv/back");
    for _ in 0..2 {
        assert!(scene.look().await.problem.is_some());
        assert!(scene.answers(1).is_empty());
    }
    // A daemon that was restarted in between knows what it has not said.
    scene.eye.memory = ForgeMemory::load(scene.state.path()).expect("a memory");
    scene.hosted.lock().expect("no panic").is_mute = false;
    for _ in 0..2 {
        scene.look().await;
        let said = scene.answers(1);
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(said[0].contains("this can be asked") && said[1].contains("no run was started"), "{said:#?}");
        assert!(said[2].contains("change request 2 has the restore"), "{said:#?}");
    }
    assert_eq!(scene.hosted.lock().expect("no panic").pulls.len(), 2, "one change request for one wish");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_on_one_that_is_open_no_longer_is_refused_once() {
    let mut scene = Scene::new().await;
    for number in [1, 2] {
        scene.open(number, &[(&format!("{number}.txt"), "x")]);
    }
    scene.say(1, 11, 5, "bob", "/mainstay help");
    scene.look().await;
    let commit = scene.documents.commit(&[("1.txt", "x")], "merged");
    scene.merged(1, &commit);
    scene.hosted.lock().expect("no panic").pulls.get_mut(&2).expect("it is there")["state"] = json!("closed");
    scene.look().await;
    assert_eq!(scene.answers(1).len(), 1, "what was answered before the end is not refused after it");
    assert!(!scene.eye.memory.requests.contains_key(&2), "nothing is kept of what was closed");
    scene.say(1, 12, 5, "bob", "/mainstay run shop/nightly");
    scene.say(1, 13, 5, "bob", "thank you");
    scene.say(2, 14, 6, "eve", "/mainstay nonsense");
    scene.hosted.lock().expect("no panic").is_mute = true;
    assert!(scene.look().await.problem.is_some());
    scene.hosted.lock().expect("no panic").is_mute = false;
    for _ in 0..2 {
        scene.look().await;
        let (merged, closed) = (scene.answers(1), scene.answers(2));
        assert_eq!((merged.len(), closed.len()), (2, 1), "{merged:#?} {closed:#?}");
        assert!(merged[1].contains("`bob`: this change request is merged, so nothing is carried out"), "{}", merged[1]);
        assert!(closed[0].contains("`eve`: this change request is closed, so nothing is carried out"), "{}", closed[0]);
    }
    assert_eq!(scene.engine.newest_sequence().expect("a number"), 0, "nothing was run");
    scene.server.lines();
    scene.look().await;
    let lines = scene.server.lines();
    assert_eq!(lines.len(), 2, "both lists, and no comment that was read: {lines:#?}");
    // A list that lacks what was said last brings no second answer.
    scene.hosted.lock().expect("no panic").comments.values_mut().for_each(|all| {
        all.retain(|comment| comment["user"]["login"] != "mainstay");
    });
    scene.say(2, 15, 5, "bob", "well");
    scene.look().await;
    assert!(scene.answers(2).is_empty(), "{:#?}", scene.answers(2));
    scene.look_at(Timestamp::now() + SignedDuration::from_hours(25)).await;
    scene.server.lines();
    scene.look_at(Timestamp::now() + SignedDuration::from_hours(25)).await;
    let lines = scene.server.lines();
    assert_eq!(lines.len(), 1, "after a day nobody listens: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asked_for_a_restore_cannot_consent_to_it_even_if_the_memory_is_lost() {
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    scene.say(1, 11, 5, "bob", "/mainstay restore shop/nightly path=/srv/back");
    scene.look().await;
    let head = scene.documents.head();
    {
        let mut hosted = scene.hosted.lock().expect("no panic");
        let opened = hosted.pulls.get_mut(&2).expect("a change request of ours");
        assert_eq!(opened["head"]["ref"], "mainstay/restore-11-for-5");
        opened["head"]["sha"] = json!(head.0);
    }
    // It is closed, forgotten, and opened again; and bob has another name by now.
    scene.hosted.lock().expect("no panic").pulls.get_mut(&2).expect("it is there")["state"] = json!("closed");
    scene.look().await;
    std::fs::remove_file(scene.state.path().join("forge.json")).expect("a memory");
    scene.eye.memory = ForgeMemory::default();
    scene.hosted.lock().expect("no panic").pulls.get_mut(&2).expect("it is there")["state"] = json!("open");
    let approve = format!("/mainstay approve {}", "4bf5".repeat(16));
    scene.say(2, 12, 5, "robert", &approve);
    scene.say(2, 13, 6, "zoe", &approve);
    scene.look().await;
    let hosted = scene.hosted.lock().expect("no panic");
    let said = |name: &str| {
        let mut bodies = hosted.comments[&2].iter().map(|comment| comment["body"].as_str().expect("a text"));
        bodies.find(|body| body.contains(&format!("\n`{name}`: "))).unwrap_or_default().to_owned()
    };
    assert!(said("robert").contains("the author of a change request cannot consent to it"), "{}", said("robert"));
    assert!(said("zoe").contains("asks for no consent under this digest"), "{}", said("zoe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_closed_or_merged_holds_up_no_other_either() {
    let mut scene = Scene::new().await;
    for number in [1, 2, 3, 4] {
        scene.open(number, &[(&format!("{number}.txt"), "x")]);
    }
    scene.look().await;
    // The first two are merged, and the forge breaks at the first of them, then at telling of it.
    for number in [1, 2] {
        let commit = scene.documents.commit(&[(&format!("{number}.txt"), "x")], "merged");
        scene.merged(number, &commit);
    }
    let commits = [1, 2].map(|number: u64| {
        let hosted = scene.hosted.lock().expect("no panic");
        Revision(hosted.pulls[&number]["merge_commit_sha"].as_str().expect("a commit").to_owned())
    });
    scene.hosted.lock().expect("no panic").broken = BTreeSet::from([1]);
    let other = scene.open(5, &[("backup.yaml", &policy("weekly", 7))]);
    scene.look().await;
    let problem = scene.eye.memory.problem.clone().unwrap_or_default();
    assert!(problem.starts_with("change request 1: ") && problem.contains("internal error"), "{problem}");
    assert_eq!(scene.check(&commits[1]).0, "success", "the second one is told of");
    assert_eq!(scene.check(&other).0, "success", "and so is a new one");

    // The first one is seen now, and its comments cannot be written.
    scene.hosted.lock().expect("no panic").broken.clear();
    scene.look().await;
    assert_eq!(scene.check(&commits[0]).0, "success");
    let third = scene.documents.commit(&[("3.txt", "x")], "merged");
    let fourth = scene.documents.commit(&[("4.txt", "x")], "merged");
    scene.merged(3, &third);
    scene.merged(4, &fourth);
    scene.look_without_a_turn().await;
    scene.hosted.lock().expect("no panic").broken = BTreeSet::from([3]);
    scene.look().await;
    assert_eq!(scene.check(&third).0, "pending");
    assert_eq!(scene.check(&fourth).0, "success");
    let problem = scene.eye.memory.problem.clone().unwrap_or_default();
    assert!(problem.starts_with("change request 3, which was merged: "), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_not_unpacked() {
    let mut scene = Scene::new().await;
    let large = "#".repeat(9 << 20);
    let files: Vec<(String, &str)> = (0..5).map(|number| (format!("{number}.backup.yaml"), large.as_str())).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let head = scene.open(1, &files);
    scene.look().await;
    let (state, why) = scene.check(&head);
    assert!(state == "failure" && why.contains("more than 32 MiB"), "{state}: {why}");
}
