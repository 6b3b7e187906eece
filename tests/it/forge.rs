//! GitHub and GitLab against a server in the test that holds to their published interfaces (no such forge can be had
//! here), and looks that must stay cheap. The live tests have a real Gitea.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use mainstay::{
    forge::{
        Account, ChangeRequest, Check, CheckState, Forge, ForgeError, PLAN_CHECK, Permission, Progress, Proposal,
        Review, Verdict,
        consent::{Origin, Shown, Way, by_reviews},
        github::GitHub,
        gitlab::GitLab,
    },
    git::Revision,
    secret::Secret,
};
use serde_json::{Value, json};

mod ci;
mod hosted;
mod large;
mod look;
mod picture;
mod proposed;
pub mod published;
mod pushed;
mod scene;
mod trust;
mod whole;

use published::{Answer, Server};

const HEAD: &str = "1111111111111111111111111111111111111111";

fn pull(number: u64, head_repository: u64) -> Value {
    json!({
        "number": number,
        "user": { "id": 7, "login": "ada" },
        "head": { "ref": "edit", "sha": HEAD, "repo": { "id": head_repository } },
        "base": { "ref": "main", "sha": HEAD, "repo": { "id": 1 } },
        "state": "open",
        "merged_at": null,
        "merge_commit_sha": "9999999999999999999999999999999999999999",
        "updated_at": "2026-11-21T10:00:00Z",
        "html_url": "https://github.example/ada/backups/pull/1",
    })
}

fn github(server: &Server) -> GitHub {
    GitHub::with_token(&server.url, "ada/backups", Secret::new("a-token")).expect("a client")
}

fn gitlab(server: &Server) -> GitLab {
    GitLab::new(&server.url, "group/sub/backups", Secret::new("a-token")).expect("a client")
}

#[tokio::test]
async fn github_lists_page_by_page_and_asks_with_its_tag() {
    let server = Server::start(|asked| {
        let is_same = asked.header("if-none-match") == "\"one\"";
        let page = |numbers: std::ops::Range<u64>| json!(numbers.map(|number| pull(number, 1)).collect::<Vec<_>>());
        match asked.path.split("page=").last() {
            Some("1") if is_same => Answer { status: 304, ..Answer::default() },
            // The address of the next page is somebody else's: it is never followed.
            Some("1") => Answer::json(page(1..101))
                .with("etag", "\"one\"")
                .with("link", "<http://127.0.0.1:1/evil?page=2>; rel=\"next\", <http://127.0.0.1:1/>; rel=\"last\""),
            Some("2") => Answer::json(page(101..121)),
            _ => Answer::status(500, "no such page"),
        }
    })
    .await;
    let forge = github(&server);
    assert_eq!(forge.open_requests().await.expect("a list").expect("news").len(), 120);
    let asked = server.asked();
    let path = "/api/v3/repos/ada/backups/pulls?state=open&sort=updated&direction=desc&per_page=100";
    assert_eq!(
        asked.iter().map(|asked| asked.line()).collect::<Vec<_>>(),
        [format!("GET {path}&page=1"), format!("GET {path}&page=2")]
    );
    assert_eq!(asked[0].header("authorization"), "Bearer a-token");
    assert_eq!(asked[0].header("x-github-api-version"), "2022-11-28");
    assert_eq!(asked[0].header("accept"), "application/vnd.github+json");
}

#[tokio::test]
async fn a_list_of_one_page_that_did_not_change_is_no_news_and_costs_one_request() {
    let server = Server::start(|asked| match asked.header("if-none-match") {
        "\"one\"" => Answer { status: 304, ..Answer::default() },
        _ => Answer::json(json!([pull(1, 1), pull(2, 5)])).with("etag", "\"one\""),
    })
    .await;
    let forge = github(&server);
    let requests = forge.open_requests().await.expect("a list").expect("news");
    assert_eq!(requests.iter().map(|request| request.is_fork).collect::<Vec<_>>(), [false, true]);
    assert_eq!(requests[0].progress, Progress::Open, "a tried merge is no merge");
    assert_eq!(forge.open_requests().await.expect("a list"), None);
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_rate_limit_brings_silence() {
    let server = Server::start(|asked| match asked.path.contains("/issues/") {
        true => Answer::status(403, "secondary rate limit").with("retry-after", "120"),
        false => Answer::json(pull(1, 1)),
    })
    .await;
    let forge = github(&server);
    let before = Timestamp::now();
    match forge.comments(1).await {
        Err(ForgeError::Limited { until, .. }) => {
            let seconds = until.duration_since(before).as_secs();
            assert!((119..=122).contains(&seconds), "{seconds}");
        }
        other => panic!("{other:?}"),
    }
    // Nothing more is asked until then, whatever it is.
    assert!(matches!(forge.request(1).await, Err(ForgeError::Limited { .. })));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn refusals_name_what_to_do_and_no_token() {
    for (status, said) in [
        (401, "make a new one"),
        (403, "lacks a right"),
        (404, "check `repository`"),
        (422, "answered 422"),
        (302, "answered 302"),
    ] {
        let server = Server::start(move |_| Answer::status(status, "no").with("location", "http://127.0.0.1:1/")).await;
        let error = github(&server).request(1).await.expect_err("a refusal").to_string();
        assert!(error.contains(said) && !error.contains("a-token"), "{status}: {error}");
        assert_eq!(server.lines().len(), 1, "no redirection is followed");
    }
    let server = Server::start(|_| Answer::json(json!({ "unexpected": true }))).await;
    let error = github(&server).request(1).await.expect_err("nonsense").to_string();
    assert!(error.contains("is this the right `kind` of forge?"), "{error}");
    let server = Server::start(|_| Answer { status: 200, headers: vec![], body: "x".repeat(17 << 20) }).await;
    assert!(matches!(github(&server).request(1).await, Err(ForgeError::TooLarge { .. })));
}

#[tokio::test]
async fn github_is_spoken_to_as_it_publishes() {
    let server = Server::start(|asked| {
        let comment = |id: u64, body: &Value| {
            json!({
                "id": id, "user": { "id": 9, "login": "mainstay" }, "body": body,
                "created_at": "2026-11-21T10:00:00Z", "updated_at": "2026-11-21T10:00:05Z",
            })
        };
        match asked.line().replace("/api/v3/repos/ada/backups", "").as_str() {
            "POST /issues/1/comments" => Answer::json(comment(4, &asked.body["body"])),
            "PATCH /issues/comments/4" => Answer::json(comment(4, &asked.body["body"])),
            "GET /pulls/1/reviews?per_page=100&page=1" => Answer::json(json!([
                { "id": 1, "user": { "id": 8, "login": "bob" }, "state": "APPROVED", "commit_id": HEAD,
                  "submitted_at": "2026-11-21T10:00:00Z" },
                { "id": 2, "user": { "id": 8, "login": "bob" }, "state": "DISMISSED", "commit_id": null,
                  "submitted_at": "2026-11-21T10:00:01Z" },
                { "id": 3, "user": { "id": 8, "login": "bob" }, "state": "PENDING", "commit_id": HEAD },
            ])),
            line if line == format!("GET /commits/{HEAD}/pulls?per_page=100&page=1") => {
                Answer::json(json!([pull(1, 5)]))
            }
            "GET /collaborators/bob/permission" => Answer::json(json!({ "permission": "write" })),
            "GET /collaborators/eve/permission" => Answer::json(json!({ "permission": "read" })),
            "GET /collaborators/nobody/permission" => Answer::status(404, "Not Found"),
            "GET /pulls/1" => {
                let mut merged = pull(1, 1);
                (merged["state"], merged["merged_at"]) = (json!("closed"), json!("2026-11-21T11:00:00Z"));
                Answer::json(merged)
            }
            "GET /pulls?state=all&sort=updated&direction=desc&per_page=50" => {
                let mut closed = pull(1, 5);
                (closed["state"], closed["head"]["repo"]) = (json!("closed"), Value::Null);
                Answer::json(json!([pull(2, 1), closed]))
            }
            line if line == format!("POST /statuses/{HEAD}") => Answer::json(json!({ "id": 1 })),
            "GET /git/ref/heads/main" => Answer::json(json!({ "object": { "sha": HEAD } })),
            "POST /git/refs" | "PUT /contents/restores/x%2Ebackup%2Eyaml" => Answer::json(json!({})),
            "POST /pulls" => Answer::json(pull(2, 1)),
            line => Answer::status(500, &format!("not published: {line}")),
        }
    })
    .await;
    let forge = github(&server);
    assert_eq!(forge.add_comment(1, "hello").await.expect("a comment").id, 4);
    assert_eq!(forge.edit_comment(1, 4, "again").await.expect("a comment").body, "again");
    let request = forge.request(1).await.expect("a request");
    assert_eq!(request.progress, Progress::Merged(Revision("9".repeat(40))));
    let verdicts: Vec<Verdict> =
        forge.reviews(&request).await.expect("reviews").into_iter().map(|review| review.verdict).collect();
    assert_eq!(verdicts, [Verdict::Approved, Verdict::Neither], "one that is not sent yet is none");
    for (name, expected) in [("bob", Permission::Write), ("eve", Permission::Read), ("nobody", Permission::None)] {
        let account = Account { name: name.to_owned(), id: 1 };
        assert_eq!(forge.permission(&account).await.expect("an answer"), expected, "{name}");
    }
    let brought = forge.brought_by(&Revision(HEAD.to_owned())).await.expect("a list");
    assert_eq!(brought.iter().map(|request| (request.number, request.is_fork)).collect::<Vec<_>>(), [(1, true)]);
    assert_eq!((brought[0].head_branch.as_str(), brought[0].base_branch.as_str()), ("edit", "main"));
    let recent = forge.recent_requests().await.expect("a list").into_iter();
    let recent: Vec<_> = recent.map(|request| (request.number, request.progress)).collect();
    assert_eq!(recent, [(2, Progress::Open), (1, Progress::Closed)]);
    forge.set_check(&Revision(HEAD.to_owned()), &check(CheckState::ApprovalNeeded)).await.expect("a status");
    let status = server.asked().pop().expect("the status");
    assert_eq!(status.body, json!({ "context": "mainstay/plan", "state": "failure", "description": "why" }));
    assert_eq!(forge.propose(&proposal()).await.expect("a request").number, 2);
}

fn check(state: CheckState) -> Check {
    Check { name: PLAN_CHECK, state, summary: "why".to_owned(), annotations: Vec::new() }
}

fn proposal() -> Proposal {
    Proposal {
        branch: "mainstay/restore-4".to_owned(),
        base: "main".to_owned(),
        path: "restores/x.backup.yaml".to_owned(),
        content: "kind: Restore\n".to_owned(),
        title: "restore".to_owned(),
        body: "asked for".to_owned(),
    }
}

/// An RSA key, as GitHub hands out: PKCS#1 in PEM.
fn key() -> String {
    let output = Command::new("openssl").args(["genrsa", "-traditional", "2048"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).expect("PEM"),
        _ => {
            let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
            let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).expect("DER");
            let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der.as_ref());
            let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
        }
    }
}

#[tokio::test]
async fn an_app_buys_a_token_and_sets_check_runs() {
    let bought = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bought);
    let server = Server::start(move |asked| match asked.line().as_str() {
        "POST /api/v3/app/installations/42/access_tokens" => {
            let jwt = asked.header("authorization").trim_start_matches("Bearer ").to_owned();
            assert_eq!(jwt.split('.').count(), 3, "{jwt}");
            let claims = jwt.split('.').nth(1).expect("claims");
            let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims);
            let claims: Value = serde_json::from_slice(&claims.expect("base64")).expect("JSON");
            assert_eq!(claims["iss"], "Iv1.app");
            let lasts = claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat");
            assert!(lasts <= 600, "GitHub takes ten minutes: {lasts}");
            count.fetch_add(1, Ordering::Relaxed);
            let until = Timestamp::now() + jiff::SignedDuration::from_hours(1);
            Answer { status: 201, headers: vec![], body: json!({ "token": "ghs_x", "expires_at": until }).to_string() }
        }
        "GET /api/v3/app" => Answer::json(json!({ "slug": "mainstay-app" })),
        "GET /api/v3/users/mainstay-app%5Bbot%5D" => Answer::json(json!({ "id": 5, "login": "mainstay-app[bot]" })),
        "POST /api/v3/repos/ada/backups/check-runs" | "PATCH /api/v3/repos/ada/backups/check-runs/77" => {
            assert_eq!(asked.header("authorization"), "Bearer ghs_x");
            Answer::json(json!({ "id": 77 }))
        }
        line => Answer::status(500, &format!("not published: {line}")),
    })
    .await;
    let forge = GitHub::with_app(&server.url, "ada/backups", "Iv1.app", 42, &Secret::new(key())).expect("a key");
    assert_eq!(forge.own_account().await.expect("an account").name, "mainstay-app[bot]");
    let mut needed = check(CheckState::ApprovalNeeded);
    needed.annotations = vec![mainstay::forge::Annotation {
        path: "backup.yaml".to_owned(),
        line: 3,
        end_line: 3,
        is_error: true,
        rule: "document/name".to_owned(),
        message: "wrong".to_owned(),
    }];
    let head = Revision(HEAD.to_owned());
    forge.set_check(&head, &check(CheckState::Pending)).await.expect("a check");
    forge.set_check(&head, &needed).await.expect("a check");
    let runs: Vec<_> = server.asked().into_iter().filter(|asked| asked.path.contains("check-runs")).collect();
    assert_eq!((runs[0].method.as_str(), &runs[0].body["status"]), ("POST", &json!("in_progress")));
    assert_eq!((runs[1].method.as_str(), &runs[1].body["conclusion"]), ("PATCH", &json!("action_required")));
    assert_eq!(runs[1].body["output"]["annotations"][0]["start_line"], 3);
    assert_eq!(bought.load(Ordering::Relaxed), 1, "a token lasts an hour");
}

#[tokio::test]
async fn a_key_that_is_none_is_named_and_not_shown() {
    let wrong = Secret::new("-----BEGIN NOTHING-----\nc2VjcmV0\n-----END NOTHING-----");
    let error = GitHub::with_app("https://github.com", "a/b", "1", 2, &wrong).expect_err("no key").to_string();
    assert!(error.contains("private key of the GitHub App") && !error.contains("c2VjcmV0"), "{error}");
}

#[tokio::test]
async fn gitlab_is_spoken_to_as_it_publishes() {
    let states: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = Arc::clone(&states);
    let server = Server::start(move |asked| {
        let request = |state: &str| {
            json!({
                "iid": 3, "author": { "id": 7, "username": "ada" }, "sha": HEAD, "target_branch": "main",
                "source_branch": "edit",
                "source_project_id": 1, "target_project_id": 1, "state": state, "merge_commit_sha": null,
                "squash_commit_sha": null, "updated_at": "2026-11-21T10:00:00.123Z",
                "web_url": "https://gitlab.example/x/-/merge_requests/3",
            })
        };
        let note = |id: u64, system: bool, updated: &str| {
            json!({
                "id": id, "author": { "id": 9, "username": "mainstay" }, "body": "text", "system": system,
                "created_at": "2026-11-21T10:00:00.100Z", "updated_at": updated,
            })
        };
        match asked.line().replace("/api/v4/projects/group%2Fsub%2Fbackups", "").as_str() {
            "GET /merge_requests?state=opened&order_by=updated_at&per_page=100&page=1" => {
                let mut preparing = request("opened");
                preparing["sha"] = Value::Null;
                Answer::json(json!([request("opened"), preparing])).with("x-next-page", "")
            }
            "GET /merge_requests?state=all&order_by=updated_at&per_page=50" => {
                Answer::json(json!([request("merged"), request("locked")]))
            }
            "GET /merge_requests/3" => Answer::json(request("merged")),
            "GET /merge_requests/3/notes?sort=asc&order_by=created_at&per_page=100&page=1" => Answer::json(json!([
                note(1, false, "2026-11-21T10:00:00.150Z"),
                note(2, true, "2026-11-21T10:00:00.1Z")
            ]))
            .with("x-next-page", "2"),
            "GET /merge_requests/3/notes?sort=asc&order_by=created_at&per_page=100&page=2" => {
                Answer::json(json!([note(3, false, "2026-11-21T10:05:00Z")])).with("x-next-page", "")
            }
            "POST /merge_requests/3/notes" | "PUT /merge_requests/3/notes/1" => {
                Answer::json(note(1, false, "2026-11-21T10:00:00.1Z"))
            }
            line if line == format!("GET /repository/commits/{HEAD}/merge_requests?per_page=100&page=1") => {
                Answer::json(json!([request("merged")])).with("x-next-page", "")
            }
            "GET /merge_requests/3/approvals" => Answer::json(json!({ "approved_by": [
                { "user": { "id": 8, "username": "bob" }, "approved_at": "2026-11-21T10:00:02Z" },
                { "user": { "id": 6, "username": "old" } },
            ] })),
            "GET /members/all/8" => Answer::json(json!({ "access_level": 40 })),
            "GET /members/all/7" => Answer::json(json!({ "access_level": 30 })),
            "GET /members/all/5" => Answer::status(404, "404 Not found"),
            line if line == format!("POST /statuses/{HEAD}") => {
                let mut seen = seen.lock().expect("no panic");
                if seen.last() == Some(&asked.body) {
                    let said =
                        "Cannot transition status via :enqueue from :pending (Reason(s): Status cannot transition)";
                    return Answer::status(400, said);
                }
                seen.push(asked.body.clone());
                Answer::json(json!({ "id": 1 }))
            }
            "POST /repository/commits" => Answer::json(json!({ "id": HEAD })),
            "POST /merge_requests" => Answer::json(request("opened")),
            line => Answer::status(500, &format!("not published: {line}")),
        }
    })
    .await;
    let forge = gitlab(&server);
    let open = forge.open_requests().await.expect("a list").expect("news");
    assert_eq!(open.len(), 1, "one that is still prepared has no head yet");
    assert_eq!(server.asked()[0].header("private-token"), "a-token");
    let request = forge.request(3).await.expect("a request");
    assert_eq!(request.progress, Progress::Merged(Revision(HEAD.to_owned())), "a fast-forward makes no commit");
    let recent = forge.recent_requests().await.expect("a list");
    assert_eq!(recent[0].progress, request.progress);
    assert_eq!(recent.len(), 2);
    let brought = forge.brought_by(&Revision(HEAD.to_owned())).await.expect("a list");
    assert_eq!(brought.iter().map(|request| request.head_branch.as_str()).collect::<Vec<_>>(), ["edit"]);
    let comments = forge.comments(3).await.expect("notes");
    assert_eq!(comments.iter().map(|comment| comment.id).collect::<Vec<_>>(), [1, 3], "without those of the system");
    assert_eq!(comments[0].created_at, comments[0].updated_at);
    assert_ne!(comments[1].created_at, comments[1].updated_at);
    forge.add_comment(3, "x").await.expect("a note");
    forge.edit_comment(3, 1, "x").await.expect("a note");
    let reviews = forge.reviews(&request).await.expect("approvals");
    assert_eq!(reviews.iter().map(|review| review.author.name.as_str()).collect::<Vec<_>>(), ["bob"]);
    for (id, expected) in [(8, Permission::Write), (7, Permission::Read), (5, Permission::None)] {
        let account = Account { name: "x".to_owned(), id };
        assert_eq!(forge.permission(&account).await.expect("an answer"), expected, "{id}");
    }
    let head = Revision(HEAD.to_owned());
    forge.set_check(&head, &check(CheckState::Pending)).await.expect("a status");
    forge.set_check(&head, &check(CheckState::Pending)).await.expect("it stands so already");
    forge.set_check(&head, &check(CheckState::ApprovalNeeded)).await.expect("a status");
    let seen: Vec<Value> = states.lock().expect("no panic").iter().map(|body| body["state"].clone()).collect();
    assert_eq!(seen, ["pending", "failed"]);
    forge.propose(&proposal()).await.expect("a request");
    assert_eq!(forge.head_reference(3), "refs/merge-requests/3/head");
}

/// GitLab has one approval of each person: one that a push made worthless is taken back, and given anew.
#[tokio::test]
async fn an_approval_on_gitlab_that_is_given_anew_counts_anew() {
    let given: Arc<Mutex<&str>> = Arc::new(Mutex::new("2026-11-21T10:00:02Z"));
    let known = Arc::clone(&given);
    let server = Server::start(move |asked| match asked.line().split("backups").last() {
        Some("/merge_requests/3/approvals") => Answer::json(json!({ "approved_by": [
            { "user": { "id": 8, "username": "bob" }, "approved_at": *known.lock().expect("no panic") },
        ] })),
        _ => Answer::status(500, &format!("not published: {}", asked.line())),
    })
    .await;
    let forge = gitlab(&server);
    let author = Account { name: "ada".to_owned(), id: 7 };
    let request = ChangeRequest {
        number: 3,
        author: author.clone(),
        head: Revision(HEAD.to_owned()),
        head_branch: "edit".to_owned(),
        base_branch: "main".to_owned(),
        is_fork: false,
        progress: Progress::Open,
        updated_at: Timestamp::UNIX_EPOCH,
        page: String::new(),
    };
    let shown = [Shown {
        head: request.head.clone(),
        effects: BTreeSet::from(["lose shop/nightly 1".parse().expect("an effect")]),
        at: Timestamp::UNIX_EPOCH,
    }];
    let permissions = BTreeMap::from([("bob".to_owned(), Permission::Write)]);
    let count = |reviews: &[Review], void: &BTreeSet<Way>| {
        let origin = Origin { author: &author, asked_by: None };
        by_reviews(reviews, origin, &shown, &permissions, void).len()
    };
    let first = forge.reviews(&request).await.expect("approvals");
    assert_eq!(count(&first, &BTreeSet::new()), 1);
    let void = first.iter().map(|review| Way::Review(review.id)).collect();
    assert_eq!(count(&forge.reviews(&request).await.expect("approvals"), &void), 0, "it is still the same one");
    *given.lock().expect("no panic") = "2026-11-21T10:05:00Z";
    assert_eq!(count(&forge.reviews(&request).await.expect("approvals"), &void), 1, "given anew");
}
