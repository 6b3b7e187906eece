//! Plans on change requests of a real Gitea, and the answer in git: the whole story, from the edit that loses restore
//! points to the revert that takes them back.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use mainstay::forge::{Forge as _, Progress};
use serde_json::json;

use crate::{
    peers::{free_port, succeed, wait_for},
    world::{PASSWORD, Started, World},
};

pub mod server;

use server::{Clone, Gitea};

/// Signs webhooks.
pub const WEBHOOK_SECRET: &str = "canary-webhook-6a1f";

/// A daemon that watches a repository on a Gitea.
struct Site {
    // In this order they end: whoever is at work goes before what it works on.
    _daemon: Started,
    gitea: Gitea,
    ada: Clone,
    port: u16,
    world: World,
}

impl Site {
    /// With the policy `shop/nightly` applied.
    fn new(name: &str) -> Self {
        Self::polled(name, "1s")
    }

    /// The same, whose daemon asks git and the forge only so often.
    fn polled(name: &str, poll: &str) -> Self {
        let world = World::new(name);
        let gitea = Gitea::start(&world.path("gitea"));
        world.write("site/a", "a line of the shop\n".repeat(40_000));
        world.write("webhook-secret", format!("{WEBHOOK_SECRET}\n"));
        let ada = Clone::new(&gitea, world.path("ada"), "ada", "ada/backups");
        let files = [("backup.yaml", policy(&world, 5)), ("settings.backup.yaml", settings(&world, &gitea))];
        ada.push("main", &files.each_ref().map(|(path, text)| (*path, text.as_str())), "first");
        // Asked for at the last moment: whatever starts meanwhile might take it.
        let port = free_port();
        let daemon = start_daemon(&world, &gitea, port, poll);
        let site = Self { world, gitea, ada, port, _daemon: daemon };
        wait_for("the policy to be applied", 60, || {
            site.world.mainstay(&["run", "shop/nightly"]).status.success().then_some(())
        });
        site
    }

    /// More runs of the policy, each with a restore point of its own.
    fn run_until(&self, points: usize) {
        wait_for(&format!("{points} restore points"), 60, || {
            let list = self.world.good(&["points", "shop/nightly", "--path", "ada", "-o", "json"]);
            let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
            if list.as_array().expect("a list").len() >= points {
                return Some(());
            }
            self.world.good(&["run", "shop/nightly"]);
            None
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.path("daemon.log")).unwrap_or_default()
    }

    /// Ada proposes to keep only so many; number and head of the change request.
    fn propose_to_keep(&self, branch: &str, keep: u32) -> (u64, String) {
        let head = self.ada.push(branch, &[("backup.yaml", &policy(&self.world, keep))], "keep fewer");
        (self.gitea.open("ada", branch), head)
    }

    fn wait_for_comment(&self, number: u64, words: &[&str]) -> String {
        self.gitea.wait_for_comment(number, words, || self.log())
    }
}

fn policy(world: &World, keep: u32) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {{name: store}}
spec:
  directory: {store}
  layout: Shared
  password: {{file: {password}}}
---
apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: nightly, namespace: shop}}
spec:
  schedule: \"0 3 29 2 *\"
  repositories: [store]
  sources:
    - name: files
      paths: [{site}]
  retention: {{keepLast: {keep}}}
",
        store = world.path("store").display(),
        password = world.path("password").display(),
        site = world.path("site").display(),
    )
}

/// The settings of a daemon that works with `ada/backups`.
pub fn settings(world: &World, gitea: &Gitea) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: Settings
metadata: {{name: settings}}
spec:
  forge:
    kind: Gitea
    url: {url}
    repository: ada/backups
    token: {{file: {token}}}
    webhookSecret: {{file: {secret}}}
",
        url = gitea.url(),
        token = gitea.token_file("mainstay").display(),
        secret = world.path("webhook-secret").display(),
    )
}

fn start_daemon(world: &World, gitea: &Gitea, port: u16, poll: &str) -> Started {
    start_daemon_with(world, gitea, port, poll, &[])
}

/// Starts a daemon that watches `ada/backups`, with this in its environment.
pub fn start_daemon_with(world: &World, gitea: &Gitea, port: u16, poll: &str, environment: &[(&str, &str)]) -> Started {
    let (repository, token) = (format!("{}/ada/backups.git", gitea.url()), gitea.token_file("mainstay"));
    let (token, listen) = (token.display().to_string(), format!("127.0.0.1:{port}"));
    let arguments = [
        "daemon",
        "--poll",
        poll,
        "--listen",
        &listen,
        "--repo",
        &repository,
        "--git-username",
        "mainstay",
        "--git-token-file",
        &token,
    ];
    world.start_with("daemon", &arguments, environment)
}

/// The digest that a comment asks consent for.
pub fn digest_in(comment: &str) -> String {
    let (_, rest) = comment.split_once("/mainstay approve ").expect("a digest");
    rest.chars().take_while(char::is_ascii_hexdigit).collect()
}

#[test]
fn the_story_of_an_edit_that_loses_restore_points() {
    let site = Site::new("forge-story");
    let Site { gitea, world, .. } = &site;
    site.run_until(3);

    // The plan comes to the change request, and its check is red.
    let (number, head) = site.propose_to_keep("fewer", 1);
    let plan = site.wait_for_comment(number, &["Restore points: 2 lost", "/mainstay approve"]);
    gitea.wait_for_check(&head, "mainstay/plan", "failure", "approval needed: 2 restore points would be lost");

    // Whoever may not write, and the author, cannot consent; both are told.
    let digest = digest_in(&plan);
    gitea.comment("eve", number, &format!("/mainstay approve {digest}"));
    site.wait_for_comment(number, &["`eve`: only people who may write"]);
    gitea.comment("ada", number, &format!("/mainstay approve {digest}"));
    site.wait_for_comment(number, &["`ada`: the author of a change request cannot consent"]);

    // Somebody else does.
    gitea.approve("bob", number);
    let approved = site.wait_for_comment(number, &["#### Consent", "`bob` by review"]);
    gitea.wait_for_check(&head, "mainstay/plan", "success", "2 restore points lost with consent");

    // It is merged, applied, and said on the same comment.
    let commit = gitea.merge("ada", number, "merge");
    let done = site.wait_for_comment(number, &["### Mainstay: applied", "2 restore points are marked as expired"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");
    let sticky = gitea.comments(number, "mainstay");
    assert_eq!(sticky.iter().filter(|comment| comment.starts_with("<!-- mainstay:plan -->")).count(), 1, "{sticky:#?}");
    wait_for("the consent in the ledger", 60, || {
        let ledger = site.ada.ledger();
        (ledger.contains("\"approved\"") && ledger.contains("bob by review") && ledger.contains("lostByEdit"))
            .then_some(())
    });
    // Whoever asks for something there now is told that nobody listens.
    gitea.comment("bob", number, "/mainstay run shop/nightly");
    site.wait_for_comment(number, &["`bob`: this change request is merged, so nothing is carried out here"]);

    // A revert within the grace time takes them back.
    let (revert, _) = site.propose_to_keep("more", 5);
    let taken = site.wait_for_comment(revert, &["takes back 2 restore points"]);
    gitea.merge("ada", revert, "squash");
    let back = site.wait_for_comment(revert, &["### Mainstay: applied", "2 restore points were taken back"]);
    site.run_until(4);

    assert_eq!(shape(&plan), shape(&in_readme("<!-- comment: before the merge -->\n")));
    assert_eq!(shape(&done), shape(&in_readme("<!-- comment: after it -->\n")));

    let transcript = [plan, approved, done, taken, back].join("\n\n----------------\n\n");
    world.write("transcript.md", &transcript);
    if let Some(file) = std::env::var_os("MAINSTAY_TRANSCRIPT") {
        fs::write(file, &transcript).expect("a file for the transcript");
    }
    no_secret_shows(&site, &[number, revert]);
}

/// The comment that the README shows below a mark.
fn in_readme(mark: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once(mark).expect("the mark");
    rest.lines().map_while(|line| line.strip_prefix('>')).map(|line| format!("{}\n", line.trim_start())).collect()
}

/// A comment without what differs between two lives of the same story: hashes, times, numbers and sizes.
fn shape(comment: &str) -> String {
    let comment = comment.strip_prefix(mainstay::forge::comment::MARKER).unwrap_or(comment);
    let (mut shape, mut rest) = (String::new(), comment.trim());
    while let Some(next) = rest.chars().next() {
        let is_hex = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
        let hash = rest.find(|c| !is_hex(c)).unwrap_or(rest.len());
        let number = rest.find(|c: char| !c.is_ascii_digit() && !".:-TZ".contains(c)).unwrap_or(rest.len());
        let length = match next {
            _ if hash >= 8 => hash,
            '0'..='9' => number,
            _ => 0,
        };
        if length == 0 {
            shape.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        }
        shape.push('#');
        rest = &rest[length..];
        let units = [" B", " KiB", " MiB", " GiB"];
        rest = units.iter().find_map(|unit| rest.strip_prefix(unit)).unwrap_or(rest);
    }
    shape
}

/// Looks for the values of all secrets in everything that anybody can see.
fn no_secret_shows(site: &Site, requests: &[u64]) {
    let token = site.gitea.token("mainstay");
    let mut seen = vec![("the log".to_owned(), site.log()), ("the ledger".to_owned(), site.ada.ledger())];
    for number in requests {
        for comment in site.gitea.comments(*number, "mainstay") {
            seen.push((format!("a comment on {number}"), comment));
        }
    }
    site.ada.git(&["fetch", "-q", "origin"]);
    seen.push(("the commits".to_owned(), site.ada.git(&["log", "--all", "-p"])));
    let memory = fs::read_to_string(site.world.path("state/forge.json")).expect("the memory");
    seen.push(("the memory".to_owned(), memory));
    for process in fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("mainstay") && !line.contains("git clone") {
            seen.push((format!("the command line `{line}`"), line));
        }
    }
    for (place, text) in seen {
        for secret in [token.as_str(), WEBHOOK_SECRET, PASSWORD] {
            assert!(!text.contains(secret), "{place} shows a secret");
        }
    }
}

#[test]
fn consent_ends_with_a_push_that_adds_to_what_is_lost() {
    let site = Site::new("forge-void");
    let gitea = &site.gitea;
    site.run_until(4);
    let (number, head) = site.propose_to_keep("fewer", 3);
    let plan = site.wait_for_comment(number, &["Restore points: 1 lost"]);
    gitea.comment("bob", number, &format!("yes\n\n/mainstay approve {}", digest_in(&plan)));
    site.wait_for_comment(number, &["`bob`: this is consent to 1 effect"]);
    gitea.wait_for_check(&head, "mainstay/plan", "success", "1 restore point lost with consent");

    // A push that does not alter the effects keeps it.
    let head = site.ada.push("fewer", &[("NOTES.md", "a note")], "a note");
    gitea.wait_for_check(&head, "mainstay/plan", "success", "1 restore point lost with consent");

    let head = site.ada.push("fewer", &[("backup.yaml", &policy(&site.world, 1))], "even fewer");
    site.wait_for_comment(number, &["Restore points: 3 lost", "It does not count any more"]);
    gitea.wait_for_check(&head, "mainstay/plan", "failure", "approval needed: 3 restore points");

    // Merged without consent, it is held back, and says so; nothing is lost.
    let commit = gitea.merge("ada", number, "merge");
    site.wait_for_comment(number, &["### Mainstay: held back"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "failure", "held back");
    site.run_until(5);
}

#[test]
fn commands_are_carried_out_for_those_who_may_write() {
    let site = Site::new("forge-commands");
    let Site { gitea, world, .. } = &site;
    let (number, _) = site.propose_to_keep("same", 6);
    site.wait_for_comment(number, &["keepLast 5 → 6"]);
    gitea.comment("bob", number, "/mainstay help");
    site.wait_for_comment(number, &["`bob`: this can be asked"]);
    gitea.comment("bob", number, "/mainstay destroy everything");
    site.wait_for_comment(number, &["there is no command `destroy`"]);
    gitea.comment("eve", number, "/mainstay run shop/nightly");
    site.wait_for_comment(number, &["`eve`: only people who may write"]);
    let before = site.ada.ledger().matches("runEnded").count();
    gitea.comment("bob", number, "/mainstay run shop/nightly");
    site.wait_for_comment(number, &["a run of `shop/nightly` was started"]);
    wait_for("the run in the ledger", 60, || (site.ada.ledger().matches("runEnded").count() > before).then_some(()));

    // A restore is a change request of its own, carried out when it is merged.
    let into = world.path("back");
    gitea.comment("bob", number, &format!("/mainstay restore shop/nightly latest path={}", into.display()));
    let answer = site.wait_for_comment(number, &["has the restore"]);
    let restore: u64 = answer
        .split("change request ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|digits| digits.parse().ok())
        .expect("a number");
    site.wait_for_comment(restore, &["restores shop/nightly from latest"]);
    let commit = gitea.merge("ada", restore, "rebase");
    site.wait_for_comment(restore, &["### Mainstay: applied", "restored:"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");
    let restored = succeed(Command::new("find").arg(&into).args(["-name", "a", "-type", "f"]));
    assert!(!restored.trim().is_empty(), "nothing was restored below {}", into.display());
}

#[test]
fn a_fork_is_planned_without_trust() {
    let site = Site::new("forge-fork");
    let gitea = &site.gitea;
    site.run_until(2);
    gitea.good("eve", "POST", "/repos/ada/backups/forks", json!({}));
    let eve = Clone::new(gitea, site.world.path("eve"), "eve", "eve/backups");
    let lines = ["keepLast: 5", "keepLast: 1"];
    let text = fs::read_to_string(site.ada.path.join("backup.yaml")).expect("a document").replace(lines[0], lines[1]);
    let head = eve.push("main", &[("backup.yaml", &text)], "fewer");
    let number = gitea.open("eve", "eve:main");
    let plan = site.wait_for_comment(number, &["Restore points: 1 lost"]);

    // A trailer in a fork's commit is no consent, and neither is what its author says.
    let message = format!("fewer\n\nMainstay-Approve: {}", digest_in(&plan));
    let trailer = eve.push("main", &[("NOTES.md", "x")], &message);
    assert_ne!(head, trailer);
    gitea.wait_for_check(&trailer, "mainstay/plan", "failure", "approval needed: 1 restore point would be lost");

    // Not even if it is squashed with these words: nothing is lost until somebody says so who may push to the branch.
    let words = format!("Mainstay-Approve: {}", digest_in(&plan));
    let merged = gitea.merge_saying("ada", number, "squash", &words);
    site.wait_for_comment(number, &["### Mainstay: held back"]);
    gitea.wait_for_check(&merged, "mainstay/apply", "failure", "held back");
    assert!(site.ada.git(&["fetch", "-q", "origin"]).is_empty());
    assert!(site.ada.git(&["log", "-1", "--format=%B", "origin/main"]).contains(&words), "the words are on the branch");
    site.ada.git(&["checkout", "-q", "-B", "main", "origin/main"]);
    site.ada.push("main", &[], &words);
    site.wait_for_comment(number, &["### Mainstay: applied", "1 restore point is marked as expired"]);

    // Wrong documents, and text that would like to be more, stay in their place.
    let hostile = format!("{text}\n---\nkind: \"@ada closes #1 ``` <img src=x> | [a](http://evil.example)\"\n");
    eve.git(&["fetch", "-q", &gitea.clone_address("eve", "ada/backups"), "main"]);
    eve.git(&["checkout", "-q", "-B", "hostile", "FETCH_HEAD"]);
    let broken = eve.push("hostile", &[("backup.yaml", &hostile)], "broken");
    let number = gitea.open("eve", "eve:hostile");
    gitea.wait_for_check(&broken, "mainstay/plan", "failure", "in the documents");
    let shown = site.wait_for_comment(number, &["#### Findings in the documents"]);
    let outside = outside_code(&shown);
    for word in ["@ada", "<img", "evil.example"] {
        assert!(!outside.contains(word), "{word} in: {outside}");
    }
}

/// What a look has to know of what was merged, whichever way.
#[test]
fn the_forge_says_which_change_request_brought_a_commit() {
    let world = World::new("forge-brought");
    let gitea = Gitea::start(&world.path("gitea"));
    let ada = Clone::new(&gitea, world.path("ada"), "ada", "ada/backups");
    let pushed = ada.push("main", &[("a.txt", "a")], "first");
    gitea.good("eve", "POST", "/repos/ada/backups/forks", json!({}));
    let eve = Clone::new(&gitea, world.path("eve"), "eve", "eve/backups");
    let client = mainstay::forge::gitea::Gitea::new(
        &gitea.url(),
        "ada/backups",
        mainstay::secret::Secret::new(gitea.token("mainstay")),
    );
    let client = client.expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let brought = |commit: &str| -> Vec<(u64, bool, String)> {
        let commit = mainstay::git::Revision(commit.to_owned());
        let requests = runtime.block_on(client.brought_by(&commit)).expect("an answer");
        assert!(requests.iter().all(|request| request.progress == Progress::Merged(commit.clone())), "{requests:?}");
        requests.into_iter().map(|request| (request.number, request.is_fork, request.head_branch)).collect()
    };
    assert_eq!(brought(&pushed), []);
    for how in ["merge", "squash", "rebase"] {
        for (who, clone) in [("ada", &ada), ("eve", &eve)] {
            let branch = format!("{how}-{who}");
            clone.push(&branch, &[(&format!("{branch}.txt"), "1")], "one");
            clone.push(&branch, &[(&format!("{branch}.txt"), "2")], "two");
            let head = if who == "eve" { format!("eve:{branch}") } else { branch.clone() };
            let number = gitea.open(who, &head);
            let commit = gitea.merge("ada", number, how);
            assert_eq!(brought(&commit), [(number, who == "eve", branch.clone())], "{branch}");
            ada.git(&["fetch", "-q", "origin"]);
            let before = ada.git(&["rev-parse", "origin/main~1"]).trim().to_owned();
            if how == "rebase" {
                // Of a rebase it knows the last commit only: those before it are judged by it.
                assert_eq!(brought(&before), [], "{branch}");
            }
        }
    }
}

/// A comment without its code blocks and code spans.
fn outside_code(text: &str) -> String {
    let mut outside = String::new();
    let mut fence: Option<usize> = None;
    for line in text.lines() {
        let ticks = line.chars().take_while(|c| *c == '`').count();
        match fence {
            Some(length) if ticks >= length && line.trim_start_matches('`').is_empty() => fence = None,
            Some(_) => {}
            None if ticks >= 3 => fence = Some(ticks),
            None => outside.push_str(&format!("{}\n", line.split('`').step_by(2).collect::<String>())),
        }
    }
    outside
}

#[test]
fn a_webhook_wakes_and_proves_itself() {
    // Nobody asks within the time of this test: only the webhook can be what wakes.
    let site = Site::polled("forge-webhook", "30m");
    let gitea = &site.gitea;
    let unproven = || http(site.port, "POST", "/webhook", "{}", &[]);
    wait_for("webhooks to be listened to", 60, || unproven().starts_with("HTTP/1.1 401").then_some(()));
    let hook = json!({
        "type": "gitea",
        "active": true,
        "events": ["push", "pull_request", "pull_request_review", "issue_comment"],
        "config": {
            "url": format!("http://127.0.0.1:{}/webhook", site.port),
            "content_type": "json",
            "secret": WEBHOOK_SECRET,
        },
    });
    gitea.good("ada", "POST", "/repos/ada/backups/hooks", hook);
    let (number, head) = site.propose_to_keep("more", 6);
    let opened = Instant::now();
    site.wait_for_comment(number, &["keepLast 5 → 6"]);
    gitea.wait_for_check(&head, "mainstay/plan", "success", "1 change");
    // Seconds are promised; a busy machine gets some more.
    assert!(opened.elapsed() < Duration::from_secs(15), "the plan took {:?}", opened.elapsed());
    let commit = gitea.merge("ada", number, "merge");
    site.wait_for_comment(number, &["### Mainstay: applied"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");

    // Without proof nobody gets in; the body is bounded.
    let wrong = [("X-Gitea-Signature", "00".repeat(32))];
    assert!(http(site.port, "POST", "/webhook", "{}", &wrong).starts_with("HTTP/1.1 401"));
    let large = "x".repeat((4 << 20) + 1);
    assert!(http(site.port, "POST", "/webhook", &large, &wrong).starts_with("HTTP/1.1 413"));
}

/// One request over HTTP/1.1; the head of the answer.
fn http(port: u16, method: &str, path: &str, body: &str, headers: &[(&str, String)]) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the daemon listens");
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("the head goes out");
    // A server that refuses early closes before the whole body is there.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[test]
fn a_forge_that_refuses_is_a_condition_and_holds_up_nothing() {
    let site = Site::new("forge-refused");
    let token = site.gitea.token_file("mainstay");
    let good = fs::read_to_string(&token).expect("a token");
    let own = site.world.write("forge-token", &good);
    let text = settings(&site.world, &site.gitea)
        .replace(&format!("token: {{file: {}}}", token.display()), &format!("token: {{file: {}}}", own.display()));
    site.ada.push("main", &[("settings.backup.yaml", &text)], "another token");
    let (number, _) = site.propose_to_keep("more", 6);
    site.wait_for_comment(number, &["keepLast 5 → 6"]);
    fs::write(&own, "not-the-token\n").expect("a token");
    let (later, _) = site.propose_to_keep("most", 7);
    wait_for("the problem on the dashboard", 60, || {
        site.ada.status("README.md").contains("the token is wrong, or it has expired").then_some(())
    });
    assert!(site.world.mainstay(&["run", "shop/nightly"]).status.success());
    fs::write(&own, &good).expect("a token");
    site.wait_for_comment(later, &["keepLast 5 → 7"]);
    wait_for("the problem to go from the dashboard", 60, || {
        (!site.ada.status("README.md").contains("the token is wrong")).then_some(())
    });
}

#[test]
fn a_bot_that_lost_its_rights_says_so_and_makes_up_for_it() {
    let site = Site::new("forge-rights");
    let gitea = &site.gitea;
    wait_for("the first status", 60, || (!site.ada.status("README.md").is_empty()).then_some(()));
    let may = |permission: &str| {
        let path = "/repos/ada/backups/collaborators/mainstay";
        gitea.good("ada", "PUT", path, json!({ "permission": permission }));
    };
    may("read");
    let published = site.ada.git(&["rev-parse", "origin/mainstay/status"]);
    let refused = |words: &str| {
        let end = Instant::now() + Duration::from_secs(30);
        while !site.log().contains(words) {
            assert!(Instant::now() < end, "waited in vain for `{words}` in: {}", site.log());
            std::thread::sleep(Duration::from_millis(50)); // the pause of a poll
        }
    };
    let (number, head) = site.propose_to_keep("more", 6);
    refused("lacks a right");
    // It is applied, run and kept all the same; what cannot be told is said where it can be.
    let commit = gitea.merge("ada", number, "merge");
    wait_for("the merge to be applied", 60, || {
        let plan = site.world.mainstay(&["plan", "--path", "ada"]);
        site.ada.git(&["pull", "-q", "origin", "main"]);
        plan.status.success().then_some(())
    });
    site.world.good(&["run", "shop/nightly"]);
    refused("refuses commits on `mainstay/status`");
    site.ada.git(&["fetch", "-q", "origin"]);
    assert_eq!(site.ada.git(&["rev-parse", "origin/mainstay/status"]), published);

    may("admin");
    site.wait_for_comment(number, &["### Mainstay: applied"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");
    wait_for("the run in the ledger", 60, || (site.ada.ledger().matches("runEnded").count() == 2).then_some(()));
    assert!(!site.log().contains("panicked"), "{head}: {}", site.log());
}
