//! Looks at a forge that speaks as GitHub does: what they say, and what they cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use mainstay::{
    daemon::turns::GitClock,
    engine::local::LocalEngine,
    forge::{
        consent::{Consent, Way},
        done::TurnReport,
        github::GitHub,
        look::{Eye, Looked},
        memory::{ForgeMemory, Merged, Tracked},
    },
    git::Revision,
    plan::{Approvals, approval, digest, used_up::UsedUp},
    policy::EngineKind,
    secret::Secret,
    turn::{Site, SiteOptions, turn},
};
use serde_json::{Value, json};

use super::published::{Answer, Asked, Server};
use crate::git::fixture::{WorkTree, git};

/// What the server has.
#[derive(Default)]
pub struct Hosted {
    pub pulls: BTreeMap<u64, Value>,
    pub comments: BTreeMap<u64, Vec<Value>>,
    next_comment: u64,
    statuses: Vec<(String, Value)>,
    /// Change requests whose comments nobody may read.
    locked: BTreeSet<u64>,
    /// Which change request brought a commit.
    pub brought: BTreeMap<String, u64>,
    /// Change requests that break the server.
    broken: BTreeSet<u64>,
    /// Whether it cannot tell who brought a commit.
    is_lost: bool,
}

impl Hosted {
    /// Whether a comment is on a change request that breaks the server.
    fn is_broken(&self, comment: u64) -> bool {
        let mut broken = self.broken.iter().filter_map(|number| self.comments.get(number)).flatten();
        broken.any(|known| known["id"] == comment)
    }

    /// Closes a change request that was merged as this commit, which is the newest of those that it brought.
    pub fn merged(&mut self, number: u64, commit: &Revision) {
        let pull = self.pulls.get_mut(&number).expect("it is open");
        pull["state"] = json!("closed");
        pull["merged_at"] = json!("2026-11-21T11:00:00Z");
        pull["merge_commit_sha"] = json!(commit.0);
        self.brought.insert(commit.0.clone(), number);
    }
}

/// A repository, a server and an engine.
struct Scene {
    documents: WorkTree,
    state: tempfile::TempDir,
    server: Server,
    hosted: Arc<Mutex<Hosted>>,
    engine: LocalEngine,
    eye: Eye<GitHub>,
}

impl Scene {
    async fn new() -> Self {
        let documents = WorkTree::with(&[("backup.yaml", &policy("nightly", 7))]);
        let state = tempfile::tempdir().expect("a directory");
        let hosted: Arc<Mutex<Hosted>> = Arc::default();
        let known = Arc::clone(&hosted);
        let server = Server::start(move |asked| answer(&mut known.lock().expect("no panic"), asked)).await;
        let engine = LocalEngine::open(state.path()).expect("an engine");
        let forge = GitHub::with_token(&server.url, "ada/backups", Secret::new("a-token")).expect("a client");
        let eye = Eye {
            forge,
            place: server.url.clone(),
            own: None,
            rules: Default::default(),
            checkout: documents.options(""),
            state_directory: state.path().to_owned(),
            engine_kind: EngineKind::Local,
            cache: Default::default(),
            open: Vec::new(),
            memory: ForgeMemory::default(),
            seen: None,
            permissions: Default::default(),
            unsettled: Default::default(),
        };
        Self { documents, state, server, hosted, engine, eye }
    }

    /// Opens a change request of a branch with these files.
    fn open(&self, number: u64, files: &[(&str, &str)]) -> Revision {
        git(self.documents.path(), &["checkout", "--quiet", "-B", &format!("edit-{number}"), "main"]);
        let head = self.documents.commit(files, "an edit");
        git(self.documents.path(), &["checkout", "--quiet", "main"]);
        self.hosted.lock().expect("no panic").pulls.insert(number, pull(number, &head));
        head
    }

    async fn look(&mut self) -> Looked {
        self.look_at(Timestamp::now()).await
    }

    async fn look_at(&mut self, now: Timestamp) -> Looked {
        let report = TurnReport { revision: Some(self.documents.head()), ..TurnReport::default() };
        self.eye.look(&self.engine, &report, now).await.expect("a look")
    }

    /// A look after a turn that had not seen the newest commit.
    async fn look_without_a_turn(&mut self) {
        let before = git(self.documents.path(), &["rev-parse", "HEAD~2"]);
        let report = TurnReport { revision: Some(Revision(before.trim().to_owned())), ..TurnReport::default() };
        self.eye.look(&self.engine, &report, Timestamp::now()).await.expect("a look");
    }

    /// Closes a change request that was merged as this commit, which is the newest of those that it brought.
    fn merged(&self, number: u64, commit: &Revision) {
        self.hosted.lock().expect("no panic").merged(number, commit);
    }

    /// A whole turn.
    async fn turn(&self) {
        turn(&mut self.site(), &self.engine, Timestamp::now()).await.expect("a turn");
    }

    /// What a turn would take for consented to.
    fn approvals(&self) -> Approvals {
        let mut site = self.site();
        let fetched = site.fetch().expect("a fetch");
        site.load(fetched).expect("documents").1
    }

    fn site(&self) -> Site {
        let options = SiteOptions {
            checkout: self.documents.options(""),
            state_directory: self.state.path().to_owned(),
            write_back: false,
            engine: EngineKind::Local,
        };
        Site::new(options, GitClock::default(), None).expect("a site")
    }

    /// What a comment of ours says.
    fn comment(&self, number: u64) -> String {
        let hosted = self.hosted.lock().expect("no panic");
        let comments = hosted.comments.get(&number).map(Vec::as_slice).unwrap_or_default();
        let ours: Vec<&Value> = comments.iter().filter(|comment| comment["user"]["login"] == "mainstay").collect();
        ours.first().map(|comment| comment["body"].as_str().expect("a text").to_owned()).unwrap_or_default()
    }

    /// State and description of the last check on a commit.
    fn check(&self, commit: &Revision) -> (String, String) {
        let hosted = self.hosted.lock().expect("no panic");
        let last = hosted.statuses.iter().rev().find(|(sha, _)| *sha == commit.0).map(|(_, status)| status.clone());
        let last = last.unwrap_or_default();
        let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("description"))
    }
}

pub fn policy(name: &str, keep: u32) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: store}}\nspec:\n  directory: /backup\n  \
         password: {{file: /etc/password}}\n---\napiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: \
         {{name: {name}, namespace: shop}}\nspec:\n  repositories: [store]\n  sources: [{{name: files, paths: \
         [/srv]}}]\n  retention: {{keepLast: {keep}}}\n"
    )
}

pub fn pull(number: u64, head: &Revision) -> Value {
    json!({
        "number": number,
        "user": { "id": 7, "login": "ada" },
        "head": { "ref": "edit", "sha": head.0, "repo": { "id": 1 } },
        "base": { "ref": "main", "sha": head.0, "repo": { "id": 1 } },
        "state": "open", "merged_at": null, "merge_commit_sha": null,
        "updated_at": "2026-11-21T10:00:00Z", "html_url": "",
    })
}

/// What GitHub would answer.
pub fn answer(hosted: &mut Hosted, asked: &Asked) -> Answer {
    let line = asked.line().replace("/api/v3/repos/ada/backups", "");
    let path = line.split('?').next().unwrap_or_default().to_owned();
    let words: Vec<&str> = path.split(['/', ' ']).collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or_default();
    match words.as_slice() {
        ["GET", "", "api", "v3", "user"] => Answer::json(json!({ "id": 9, "login": "mainstay" })),
        ["GET", "", "pulls"] => {
            let open: Vec<&Value> = hosted.pulls.values().filter(|pull| pull["state"] == "open").collect();
            let tag = format!("\"{:x}\"", md5_of(&json!(open).to_string()));
            match asked.header("if-none-match") == tag {
                true => Answer { status: 304, ..Answer::default() },
                false => Answer::json(json!(open)).with("etag", tag),
            }
        }
        [_, "", "pulls" | "issues", id, ..] if hosted.broken.contains(&number(id)) => {
            Answer::status(500, "internal error")
        }
        ["PATCH", "", "issues", "comments", id] if hosted.is_broken(number(id)) => {
            Answer::status(500, "internal error")
        }
        ["GET", "", "git", "ref", "heads", "main"] => Answer::json(json!({ "object": { "sha": "1".repeat(40) } })),
        ["POST", "", "git", "refs"] | ["PUT", "", "contents", ..] => Answer::json(json!({})),
        ["POST", "", "pulls"] => {
            let number = hosted.pulls.keys().max().copied().unwrap_or_default() + 1;
            let mut pull = pull(number, &Revision("1".repeat(40)));
            pull["user"] = json!({ "id": 9, "login": "mainstay" });
            pull["head"]["ref"] = asked.body["head"].clone();
            hosted.pulls.insert(number, pull.clone());
            Answer::json(pull)
        }
        ["GET", "", "pulls", id] => Answer::json(hosted.pulls[&number(id)].clone()),
        ["GET", "", "commits", _, "pulls"] if hosted.is_lost => Answer::status(500, "internal error"),
        ["GET", "", "commits", sha, "pulls"] => {
            let pulls: Vec<&Value> = hosted.brought.get(*sha).map(|number| &hosted.pulls[number]).into_iter().collect();
            Answer::json(json!(pulls))
        }
        ["GET", "", "pulls", _, "reviews"] => Answer::json(json!([])),
        ["GET", "", "issues", id, "comments"] if hosted.locked.contains(&number(id)) => {
            Answer::status(403, "Forbidden")
        }
        ["GET", "", "issues", id, "comments"] => {
            Answer::json(json!(hosted.comments.get(&number(id)).cloned().unwrap_or_default()))
        }
        ["POST", "", "issues", id, "comments"] => {
            hosted.next_comment += 1;
            let comment = comment(hosted.next_comment, 9, "mainstay", asked.body["body"].as_str().expect("a text"));
            hosted.comments.entry(number(id)).or_default().push(comment.clone());
            Answer::json(comment)
        }
        ["PATCH", "", "issues", "comments", id] => {
            let all = hosted.comments.values_mut().flatten();
            let mut known = all.filter(|comment| comment["id"] == number(id));
            let Some(comment) = known.next() else { return Answer::status(404, "Not Found") };
            comment["body"] = asked.body["body"].clone();
            Answer::json(comment.clone())
        }
        ["GET", "", "collaborators", name, "permission"] => {
            Answer::json(json!({ "permission": if *name == "eve" { "read" } else { "write" } }))
        }
        ["POST", "", "statuses", sha] => {
            hosted.statuses.push(((*sha).to_owned(), asked.body.clone()));
            Answer::json(json!({}))
        }
        _ => Answer::status(500, &format!("not published: {line}")),
    }
}

fn comment(id: u64, account: u64, name: &str, body: &str) -> Value {
    json!({
        "id": id, "user": { "id": account, "login": name }, "body": body,
        "created_at": "2026-11-21T10:00:00Z", "updated_at": "2026-11-21T10:00:00Z",
    })
}

fn md5_of(text: &str) -> u64 {
    // Any hash makes a tag.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

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
    let ask = |scene: &Scene, id: u64, name: &str, body: &str| {
        let mut hosted = scene.hosted.lock().expect("no panic");
        hosted.comments.entry(1).or_default().push(comment(id, id, name, body));
        hosted.next_comment = 1000 + id;
        hosted.pulls.get_mut(&1).expect("it is open")["updated_at"] = json!(format!("2026-11-21T10:00:{id:02}Z"));
    };
    ask(&scene, 11, "bob", "/mainstay help");
    ask(&scene, 12, "eve", "/mainstay run shop/nightly");
    ask(&scene, 13, "bob", "/mainstay run shop/nothing");
    ask(&scene, 14, "bob", "> /mainstay plan");
    scene.look().await;
    let answers = |scene: &Scene| -> Vec<String> {
        let hosted = scene.hosted.lock().expect("no panic");
        let ours = hosted.comments[&1].iter().filter(|comment| comment["user"]["login"] == "mainstay");
        ours.map(|comment| comment["body"].as_str().expect("a text").to_owned()).skip(1).collect()
    };
    let said = answers(&scene);
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said[0].contains("`bob`: this can be asked") && said[1].contains("`eve`: only people who may write"));
    assert!(said[2].contains("no run was started") && said[2].contains("shop/nothing"), "{}", said[2]);
    std::fs::remove_file(scene.state.path().join("forge.json")).expect("a memory");
    scene.eye.memory = ForgeMemory::default();
    scene.look().await;
    assert_eq!(answers(&scene).len(), 3, "nothing is answered twice, and our comment is found again");
    // Somebody who pretends to be us is not.
    ask(&scene, 15, "eve", "<!-- mainstay:plan -->\nnothing is lost");
    scene.look().await;
    assert!(!scene.comment(1).contains("nothing is lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asked_for_a_restore_cannot_consent_to_it_even_if_the_memory_is_lost() {
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    let say = |scene: &Scene, number: u64, id: u64, account: u64, name: &str, body: &str| {
        let mut hosted = scene.hosted.lock().expect("no panic");
        hosted.comments.entry(number).or_default().push(comment(id, account, name, body));
        hosted.next_comment = 1000 + id;
        hosted.pulls.get_mut(&number).expect("it is open")["updated_at"] = json!(format!("2026-11-21T10:00:{id:02}Z"));
    };
    say(&scene, 1, 11, 5, "bob", "/mainstay restore shop/nightly path=/srv/back");
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
    say(&scene, 2, 12, 5, "robert", &approve);
    say(&scene, 2, 13, 6, "zoe", &approve);
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

/// A memory with consent to one loss, given on a change request that was merged as `commit`.
fn merged(commit: &Revision) -> ForgeMemory {
    let effects = std::collections::BTreeSet::from(["lose shop/nightly 1".parse().expect("an effect")]);
    let consent = Consent { effects, by: "bob".to_owned(), way: Way::Review(1) };
    let merged = Merged { commit: commit.clone(), seen_at: Timestamp::UNIX_EPOCH, is_recorded: true };
    let tracked = Tracked { consents: vec![consent], merged: Some(merged), ..Tracked::default() };
    ForgeMemory { requests: BTreeMap::from([(1, tracked)]), ..ForgeMemory::default() }
}

#[test]
fn consent_counts_from_the_merge_until_it_was_carried_out() {
    let documents = WorkTree::with(&[("backup.yaml", "x")]);
    let before = documents.head();
    let commit = documents.commit(&[("backup.yaml", "y")], "merge");
    let later = documents.commit(&[("backup.yaml", "z")], "later");
    let repository = git2::Repository::open(documents.path()).expect("a repository");
    let count = |memory: &ForgeMemory, head: &Revision, used_up: Option<&Revision>| {
        memory.approvals(&repository, head, used_up, &UsedUp::default()).expect("approvals").effects.len()
    };
    let memory = merged(&commit);
    assert_eq!(count(&memory, &before, None), 0, "not merged yet");
    assert_eq!(count(&memory, &commit, None), 1);
    assert_eq!(count(&memory, &later, Some(&before)), 1, "what was used up before does not matter");
    assert_eq!(count(&memory, &later, Some(&commit)), 0, "consent holds once");
    let mut open = memory.clone();
    open.requests.get_mut(&1).expect("it is there").merged = None;
    assert_eq!(count(&open, &later, None), 0, "an open change request consents to nothing");
    assert_eq!(count(&merged(&Revision("1".repeat(40))), &later, None), 0, "a commit that nobody has");
}

#[test]
fn a_daemon_without_its_file_goes_on_with_what_a_turn_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let memory = merged(&Revision("1".repeat(40)));
    let (kept, left_out) = memory.kept().expect("there is something");
    assert_eq!(left_out, None);
    assert_eq!(ForgeMemory::load_or(directory.path(), Some(&kept)).expect("a memory"), memory);
    let own = ForgeMemory { place: "elsewhere".to_owned(), ..ForgeMemory::default() };
    own.save(directory.path()).expect("a file");
    assert_eq!(ForgeMemory::load_or(directory.path(), Some(&kept)).expect("a memory"), own);
    std::fs::write(directory.path().join("forge.json"), "{").expect("a file");
    assert!(ForgeMemory::load_or(directory.path(), Some(&kept)).is_err(), "a damaged one is no empty one");
}

/// Settings that name a forge; the address is not used.
const FORGE: &str = "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec:\n  forge: \
                     {kind: GitHub, url: \"http://127.0.0.1:1\", repository: ada/backups, token: {env: TOKEN}}\n";

/// A commit message that consents to losing one restore point.
fn consent(point: &str) -> String {
    let effects = BTreeSet::from([format!("lose shop/nightly {point}").parse().expect("an effect")]);
    format!("an edit\n\n{}", approval::trailers(&digest::of(&effects), &effects))
}

/// How a forge merges.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Merging {
    Merge,
    Squash,
    Rebase,
}

/// Two commits on a branch, of which the first consents; merged by hand as the forge would.
fn merge(scene: &Scene, number: u64, way: Merging) -> Revision {
    let tree = scene.documents.path();
    let branch = format!("edit-{number}");
    git(tree, &["checkout", "--quiet", "-B", &branch, "main"]);
    scene.documents.commit(&[(&format!("{number}.txt"), "1")], &consent(&number.to_string()));
    let head = scene.documents.commit(&[(&format!("{number}.txt"), "2")], "more");
    git(tree, &["checkout", "--quiet", "main"]);
    scene.hosted.lock().expect("no panic").pulls.insert(number, pull(number, &head));
    // Something else is merged meanwhile, so that a rebase makes new commits.
    scene.documents.commit(&[(&format!("other-{number}.txt"), "x")], "something else");
    match way {
        Merging::Merge => git(tree, &["merge", "--quiet", "--no-ff", "--message", "merged", &branch]),
        Merging::Squash => {
            git(tree, &["merge", "--quiet", "--squash", &branch]);
            git(tree, &["commit", "--quiet", "--message", &consent(&number.to_string())])
        }
        Merging::Rebase => git(tree, &["cherry-pick", &format!("{branch}~1"), &branch]),
    };
    scene.documents.head()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_consents_to_nothing_however_it_is_merged_and_whenever_it_is_seen() {
    for way in [Merging::Merge, Merging::Squash, Merging::Rebase] {
        for is_seen_open in [false, true] {
            let mut scene = Scene::new().await;
            scene.documents.commit(&[("settings.backup.yaml", FORGE)], "a forge");
            scene.look().await;
            let commit = merge(&scene, 1, way);
            let from_a_fork = |scene: &Scene| {
                let mut hosted = scene.hosted.lock().expect("no panic");
                hosted.pulls.get_mut(&1).expect("it is there")["head"]["repo"]["id"] = json!(2);
            };
            from_a_fork(&scene);
            if is_seen_open {
                git(scene.documents.path(), &["branch", "--quiet", "later"]);
                git(scene.documents.path(), &["reset", "--quiet", "--hard", "HEAD~3"]);
                scene.look().await;
                git(scene.documents.path(), &["reset", "--quiet", "--hard", "later"]);
            }
            assert!(scene.approvals().is_empty(), "{way:?}: a turn came before the look");
            scene.merged(1, &commit);
            assert!(!scene.look().await.has_consent, "{way:?}");
            scene.look_at(Timestamp::now() + jiff::SignedDuration::from_secs(10)).await;
            assert!(scene.approvals().is_empty(), "{way:?}: {:?}", scene.approvals());
            // Whoever may push consents after it, and that counts.
            scene.documents.commit(&[], &consent("7"));
            scene.look().await;
            assert!(scene.look_at(Timestamp::now() + jiff::SignedDuration::from_secs(10)).await.has_consent);
            assert_eq!(scene.approvals().effects.len(), 1, "{way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_counts_once_the_forge_has_said_whose_it_is() {
    for way in [Merging::Merge, Merging::Squash, Merging::Rebase] {
        let mut scene = Scene::new().await;
        scene.documents.commit(&[("settings.backup.yaml", FORGE)], "a forge");
        scene.look().await;
        let commit = merge(&scene, 1, way);
        scene.merged(1, &commit);
        assert!(scene.approvals().is_empty(), "{way:?}: nobody has judged it");
        assert!(scene.look().await.has_consent, "{way:?}");
        assert_eq!(scene.approvals().effects.len(), 1, "{way:?}");
        assert!(!scene.look().await.has_consent, "{way:?}: a turn is told once");
    }
    // What no change request brought waits until the forge has surely noted what was merged.
    let mut scene = Scene::new().await;
    scene.documents.commit(&[("settings.backup.yaml", FORGE)], "a forge");
    scene.documents.commit(&[], &consent("1"));
    let looked = scene.look().await;
    assert!(looked.is_settling && !looked.has_consent);
    assert!(scene.approvals().is_empty());
    let looked = scene.look_at(Timestamp::now() + jiff::SignedDuration::from_secs(10)).await;
    assert!(!looked.is_settling && looked.has_consent);
    assert_eq!(scene.approvals().effects.len(), 1);
    // A forge that cannot tell holds up the rest no more than it believes anything.
    let mut scene = Scene::new().await;
    scene.documents.commit(&[("settings.backup.yaml", FORGE)], "a forge");
    scene.open(2, &[("2.txt", "x")]);
    scene.look().await;
    scene.hosted.lock().expect("no panic").is_lost = true;
    let merged = scene.documents.commit(&[("2.txt", "x")], "merged");
    scene.merged(2, &merged);
    scene.documents.commit(&[("3.txt", "x")], "something else");
    scene.documents.commit(&[], &consent("1"));
    let looked = scene.look_at(Timestamp::now() + jiff::SignedDuration::from_secs(10)).await;
    assert!(looked.problem.is_some_and(|problem| problem.starts_with("who approved what on the branch: ")));
    assert_eq!(scene.check(&merged).0, "success");
    assert!(scene.approvals().is_empty());
    // Without a forge there is nobody to ask.
    let scene = Scene::new().await;
    scene.documents.commit(&[], &consent("1"));
    assert_eq!(scene.approvals().effects.len(), 1);
}

/// A fork's change request that takes the forge out of the settings must not free its own words.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_merged_while_there_was_a_forge_does_not_count_without_it() {
    let scene = Scene::new().await;
    // As long as something is refused, not all consent is used up by a turn.
    let restore = "apiVersion: mainstay.dev/v1alpha1\nkind: Restore\nmetadata: {name: undo, namespace: shop}\nspec: \
                   {policy: nightly}\n";
    scene.documents.commit(&[("settings.backup.yaml", FORGE), ("undo.backup.yaml", restore)], "a forge");
    scene.turn().await;
    std::fs::remove_file(scene.documents.path().join("settings.backup.yaml")).expect("a file");
    scene.documents.commit(&[], &consent("1"));
    scene.turn().await;
    assert!(scene.approvals().is_empty(), "{:?}", scene.approvals());
    scene.documents.commit(&[], &consent("2"));
    assert_eq!(scene.approvals().effects.len(), 1);
}
