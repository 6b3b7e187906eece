//! Publishing the status: nothing twice, nothing of others lost, nothing on the watched branch; on a local repository
//! and through a real remote.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use mainstay::{
    git::{
        Retry, Revision,
        checkout::{Checkout, CheckoutOptions},
        credentials::SecretSource,
        writeback::{PublishOptions, Published, STATUS_BRANCH, WritebackError, publish, publish_on_top},
    },
    restore_point::RestorePointId,
    status::{
        self, Edit,
        ledger::{Event, EventKind},
    },
};

use crate::git::{
    fixture::{WorkTree, git},
    http::{Server, Weather},
};

fn options(checkout: &Checkout) -> PublishOptions<'_> {
    PublishOptions {
        checkout,
        branch: STATUS_BRANCH,
        author_name: "Mainstay",
        author_email: "mainstay@example.org",
        now: Timestamp::from_second(1_795_000_000).expect("a time"),
        is_wanted: &|| true,
    }
}

fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    entries.iter().map(|(path, content)| ((*path).to_owned(), content.as_bytes().to_vec())).collect()
}

fn revision(published: Published) -> Revision {
    match published {
        Published::Committed(revision) => revision,
        Published::Unchanged => panic!("nothing was published"),
    }
}

fn show(directory: &Path, path: &str) -> String {
    git(directory, &["show", &format!("{STATUS_BRANCH}:{path}")])
}

fn event(sequence: u64, second: i64, point: &str) -> Event {
    Event {
        sequence,
        at: Timestamp::from_second(1_795_000_000 + second).expect("a time"),
        policy: "shop/nightly".parse().expect("a name"),
        kind: EventKind::Held(RestorePointId(point.to_owned())),
    }
}

/// Adds events to the published ledger, as a turn does.
fn publish_events(checkout: &Checkout, events: &[Event]) -> Result<Published, WritebackError> {
    publish_on_top(&options(checkout), "status: events", &mut |files| {
        let published = status::Published { read: &|path| files.read(path), list: &|path| files.list(path) };
        Edit { write: status::ledger::extend(events, &published), remove: Vec::new() }
    })
}

/// The ledger as it stands on the branch, checked, as the set of restore points that it names.
fn points_in_ledger(directory: &Path) -> BTreeSet<String> {
    let text = show(directory, "runs/2026-11.jsonl");
    status::ledger::verify(text.lines()).expect("an unbroken chain");
    let held =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["kind"]["held"].as_str().map(str::to_owned);
    text.lines().map(|line| held(line).expect("an entry")).collect()
}

#[test]
fn the_second_publication_of_the_same_is_no_commit() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let status = files(&[("README.md", "# fine\n"), ("status/shop/nightly.yaml", "ready: true\n")]);
    let first = revision(publish(&options(&checkout), &status, "status: shop/nightly ran").expect("published"));
    assert_eq!(publish(&options(&checkout), &status, "again").expect("published"), Published::Unchanged);
    assert_eq!(git(tree.path(), &["rev-parse", STATUS_BRANCH]).trim(), first.0);
    assert_eq!(show(tree.path(), "status/shop/nightly.yaml"), "ready: true\n");
    // A history of its own, and the trailer by which git itself knows it.
    assert_eq!(git(tree.path(), &["rev-list", "--count", STATUS_BRANCH]).trim(), "1");
    let trailer = git(tree.path(), &["log", "-1", "--format=%(trailers:key=Mainstay-Status,valueonly)", STATUS_BRANCH]);
    assert_eq!(trailer.trim(), "true");
    // The work tree was not touched.
    assert_eq!(git(tree.path(), &["status", "--porcelain"]), "");
    assert_eq!(git(tree.path(), &["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn the_watched_branch_is_refused() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let options = PublishOptions { branch: "main", ..options(&checkout) };
    let error = publish(&options, &files(&[("README.md", "")]), "status").expect_err("refused");
    assert!(matches!(error, WritebackError::WatchedBranch(_)), "{error}");
}

#[test]
fn files_of_others_stay_and_a_deleted_branch_is_made_anew() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    publish(&options(&checkout), &files(&[("README.md", "one"), ("status/a/b.yaml", "x")]), "status")
        .expect("published");
    let linked = tempfile::tempdir().expect("a directory");
    git(tree.path(), &["worktree", "add", "--quiet", &linked.path().join("w").display().to_string(), STATUS_BRANCH]);
    let linked = linked.path().join("w");
    std::fs::write(linked.join("CNAME"), "status.example.org\n").expect("a file");
    git(&linked, &["add", "."]);
    git(&linked, &["commit", "--quiet", "--message", "a page"]);

    let edit =
        Edit { write: files(&[("README.md", "two")]), remove: vec!["status/a/b.yaml".to_owned(), "gone".to_owned()] };
    revision(publish_on_top(&options(&checkout), "status", &mut |_| edit.clone()).expect("published"));
    let names = git(tree.path(), &["ls-tree", "-r", "--name-only", STATUS_BRANCH]);
    assert_eq!(names, "CNAME\nREADME.md\n");

    git(tree.path(), &["worktree", "remove", "--force", &linked.display().to_string()]);
    git(tree.path(), &["branch", "--quiet", "-D", STATUS_BRANCH]);
    revision(publish(&options(&checkout), &files(&[("README.md", "two")]), "status").expect("published"));
    assert_eq!(git(tree.path(), &["rev-list", "--count", STATUS_BRANCH]).trim(), "1");
}

#[test]
fn what_is_published_can_be_read_back() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let status = files(&[("runs/2026-11.jsonl", "1"), ("runs/deep/x", "2"), ("runs2/x", "3"), ("README.md", "4")]);
    publish(&options(&checkout), &status, "status").expect("published");
    publish_on_top(&options(&checkout), "status", &mut |files| {
        assert_eq!(files.list("runs/"), ["runs/2026-11.jsonl", "runs/deep/x"]);
        assert_eq!(files.read("README.md"), Some(b"4".to_vec()));
        assert_eq!(files.read("runs"), None);
        assert_eq!(files.read("nothing"), None);
        Edit::default()
    })
    .expect("published");
}

#[test]
fn two_publishers_at_once_lose_no_entry() {
    // Several branches, because making one is a race of its own.
    for _ in 0..8 {
        let tree = WorkTree::with(&[("backup.yaml", "a")]);
        let begin = std::sync::Barrier::new(2);
        let publisher = |who: &'static str| {
            let checkout = tree.checkout();
            let begin = &begin;
            move || {
                begin.wait();
                for number in 0..4 {
                    let event = event(number, i64::try_from(number).expect("small"), &format!("{who}-{number}"));
                    publish_events(&checkout, &[event]).expect("published");
                }
            }
        };
        std::thread::scope(|scope| {
            for who in ["ada", "grace"] {
                scope.spawn(publisher(who));
            }
        });
        let expected: BTreeSet<String> =
            ["ada", "grace"].iter().flat_map(|who| (0..4).map(move |number| format!("{who}-{number}"))).collect();
        assert_eq!(points_in_ledger(tree.path()), expected);
    }
}

#[test]
fn the_same_event_sent_again_is_not_written_again() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    publish_events(&checkout, &[event(1, 0, "a")]).expect("published");
    assert_eq!(publish_events(&checkout, &[event(1, 0, "a")]).expect("published"), Published::Unchanged);
    publish_events(&checkout, &[event(1, 0, "a"), event(2, 0, "b")]).expect("published");
    assert_eq!(show(tree.path(), "runs/2026-11.jsonl").lines().count(), 2);
}

#[test]
fn a_publication_that_was_given_up_writes_nothing_over_a_newer_one() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let newer = files(&[("README.md", "newer\n")]);
    let is_given_up = std::cell::Cell::new(false);
    let older = PublishOptions { is_wanted: &|| !is_given_up.get(), ..options(&checkout) };
    let error = publish_on_top(&older, "status: older", &mut |_| {
        // Once it has read the branch, it hangs; another turn takes over and publishes.
        if !is_given_up.replace(true) {
            publish(&options(&checkout), &newer, "status: newer").expect("published");
        }
        Edit { write: files(&[("README.md", "older\n")]), remove: Vec::new() }
    });
    assert!(matches!(error, Err(WritebackError::GivenUp(_))), "{error:?}");
    assert_eq!(show(tree.path(), "README.md"), "newer\n");
}

/// A bare repository behind a server, and a checkout of it with the given token.
struct Remote {
    root: tempfile::TempDir,
    server: Server,
}

impl Remote {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let tree = WorkTree::with(&[("backup.yaml", "a")]);
        let bare = root.path().join("policies.git");
        git(tree.path(), &["clone", "--quiet", "--bare", ".", &bare.display().to_string()]);
        let server = Server::start(root.path());
        Self { root, server }
    }

    fn bare(&self) -> std::path::PathBuf {
        self.root.path().join("policies.git")
    }

    fn checkout(&self, name: &str, cache: &str, token: &str) -> Checkout {
        let file = self.root.path().join(format!("token-{token}"));
        std::fs::write(&file, format!("{token}\n")).expect("a file");
        let mut options: CheckoutOptions = crate::git::fixture::options(Path::new(""), "");
        options.url_or_path = format!("{}/{name}", self.server.address);
        options.cache_directory = self.root.path().join(cache);
        options.credentials.token = Some(SecretSource::File(file));
        Checkout::open(options).expect("a mirror")
    }

    /// Commits to the watched branch as somebody else.
    fn commit(&self, path: &str, content: &str) -> Revision {
        let tree = tempfile::tempdir().expect("a directory");
        git(tree.path(), &["clone", "--quiet", &self.bare().display().to_string(), "w"]);
        let tree = tree.path().join("w");
        std::fs::write(tree.join(path), content).expect("a file");
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "--quiet", "--message", "more"]);
        git(&tree, &["push", "--quiet", "origin", "HEAD:main"]);
        Revision(git(&tree, &["rev-parse", "HEAD"]).trim().to_owned())
    }
}

#[test]
fn a_remote_is_fetched_when_it_moved_and_only_asked_when_not() {
    let remote = Remote::new();
    let mut checkout = remote.checkout("policies.git", "cache", "good-token");
    let first = checkout.fetch().expect("a revision");
    assert_eq!(checkout.files(&first).expect("files").content.len(), 1);
    let before = remote.server.requests.load(Ordering::SeqCst);
    assert_eq!(checkout.fetch().expect("a revision"), first);
    let idle = remote.server.requests.load(Ordering::SeqCst) - before;
    assert!(idle <= 2, "{idle} requests to see that nothing moved (one may be the question for the token)");
    let second = remote.commit("b.backup.yaml", "b");
    assert_eq!(checkout.fetch().expect("a revision"), second);
    assert_eq!(checkout.files(&second).expect("files").content.len(), 2);
    checkout.check_descendant(&first, &second).expect("follows");
    // A second start finds the mirror.
    let mut again = remote.checkout("policies.git", "cache", "good-token");
    assert_eq!(again.fetch().expect("a revision"), second);
    // A mirror that a crash left half made is made anew.
    let cache = remote.root.path().join("cache");
    for entry in std::fs::read_dir(&cache).expect("the cache").flatten() {
        std::fs::remove_file(entry.path().join("HEAD")).expect("removed");
    }
    assert_eq!(remote.checkout("policies.git", "cache", "good-token").fetch().expect("a revision"), second);
}

#[test]
fn a_refused_token_ends_in_an_error_and_not_in_a_loop() {
    let remote = Remote::new();
    let error = remote.checkout("policies.git", "cache", "bad-token").fetch().expect_err("refused");
    assert_eq!((error.reason(), error.retry()), ("AuthenticationFailed", Retry::AfterRepair));
    assert!(!format!("{error} {error:?}").contains("bad-token"));
    let requests = remote.server.requests.load(Ordering::SeqCst);
    assert!(requests <= 3, "{requests} requests");
}

#[test]
fn a_remote_that_is_missing_or_empty_says_so() {
    let remote = Remote::new();
    let error = remote.checkout("nothing.git", "cache", "good-token").fetch().expect_err("missing");
    assert_eq!(error.reason(), "RepositoryMissing", "{error:?}");
    git(remote.root.path(), &["init", "--quiet", "--bare", "empty.git"]);
    let error = remote.checkout("empty.git", "cache", "good-token").fetch().expect_err("empty");
    assert_eq!(error.reason(), "RepositoryEmpty", "{error:?}");
    git(&remote.bare(), &["branch", "--move", "main", "trunk"]);
    let error = remote.checkout("policies.git", "cache", "good-token").fetch().expect_err("no branch");
    assert_eq!(error.reason(), "BranchMissing", "{error:?}");
}

#[test]
fn two_publishers_on_a_remote_lose_no_entry() {
    let remote = Remote::new();
    let publisher = |who: &'static str| {
        let checkout = remote.checkout("policies.git", who, "good-token");
        move || {
            for number in 0..3 {
                let event = event(number, i64::try_from(number).expect("small"), &format!("{who}-{number}"));
                publish_events(&checkout, &[event]).expect("published");
            }
        }
    };
    std::thread::scope(|scope| {
        for who in ["ada", "grace"] {
            scope.spawn(publisher(who));
        }
    });
    let expected: BTreeSet<String> =
        ["ada", "grace"].iter().flat_map(|who| (0..3).map(move |number| format!("{who}-{number}"))).collect();
    assert_eq!(points_in_ledger(&remote.bare()), expected);
    // Nothing of the exchange is left behind over there.
    assert_eq!(git(&remote.bare(), &["for-each-ref", "refs/mainstay"]), "");
}

#[test]
fn a_push_whose_answer_is_lost_is_not_made_twice() {
    let remote = Remote::new();
    let checkout = remote.checkout("policies.git", "cache", "good-token");
    publish_events(&checkout, &[event(1, 0, "a")]).expect("published");
    remote.server.weather(|request| match request.contains("git-receive-pack") && request.starts_with("POST") {
        true => Weather::LosesAnswer,
        false => Weather::Fair,
    });
    let error = publish_events(&checkout, &[event(2, 0, "b")]).expect_err("nobody knows");
    assert_eq!(error.retry(), Retry::Later, "{error:?}");
    remote.server.weather(|_| Weather::Fair);
    // The next turn does not know whether it arrived, and sends it again with what is new.
    publish_events(&checkout, &[event(2, 0, "b"), event(3, 0, "c")]).expect("published");
    assert_eq!(show(&remote.bare(), "runs/2026-11.jsonl").lines().count(), 3);
    assert_eq!(points_in_ledger(&remote.bare()), ["a", "b", "c"].map(str::to_owned).into());
}

#[test]
fn a_server_that_breaks_off_at_any_request_costs_only_that_publication() {
    let remote = Remote::new();
    let checkout = remote.checkout("policies.git", "cache", "good-token");
    let mut sequence = 0;
    // More than one publication has requests, so the last rounds go through undisturbed.
    for broken in 0..8 {
        let count = AtomicUsize::new(0);
        remote.server.weather(move |_| match count.fetch_add(1, Ordering::SeqCst) == broken {
            true => Weather::BreaksOff,
            false => Weather::Fair,
        });
        sequence += 1;
        let events: Vec<Event> = (1..=sequence).map(|number| event(number, 0, &format!("p{number}"))).collect();
        if let Err(error) = publish_events(&checkout, &events) {
            assert_eq!(error.retry(), Retry::Later, "request {broken}: {error:?}");
        }
    }
    remote.server.weather(|_| Weather::Fair);
    let events: Vec<Event> = (1..=sequence).map(|number| event(number, 0, &format!("p{number}"))).collect();
    publish_events(&checkout, &events).expect("published");
    assert_eq!(show(&remote.bare(), "runs/2026-11.jsonl").lines().count(), 8);
    assert_eq!(points_in_ledger(&remote.bare()).len(), 8);
}

#[test]
fn a_rule_that_forbids_the_push_is_told_from_a_race() {
    use std::os::unix::fs::PermissionsExt;
    let remote = Remote::new();
    let hook = remote.bare().join("hooks/update");
    std::fs::write(&hook, "#!/bin/sh\nexit 1\n").expect("a hook");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let checkout = remote.checkout("policies.git", "cache", "good-token");
    let error = publish(&options(&checkout), &files(&[("README.md", "")]), "status").expect_err("refused");
    assert!(matches!(error, WritebackError::Refused { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::AfterRepair);
}

/// git and libgit2 lock a branch by a file, which a process that is killed leaves for ever.
#[test]
fn a_lock_that_a_killed_process_left_is_taken_over_and_a_young_one_is_not() {
    for exists in [false, true] {
        let tree = WorkTree::with(&[("backup.yaml", "a")]);
        let checkout = tree.checkout();
        if exists {
            publish(&options(&checkout), &files(&[("README.md", "one")]), "status").expect("published");
        }
        let path = tree.path().join(".git/refs/heads/mainstay/status.lock");
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let lock = std::fs::File::create(&path).expect("a lock");
        let two = files(&[("README.md", "two")]);
        let error = publish(&options(&checkout), &two, "status").expect_err("somebody holds it");
        assert!(matches!(error, WritebackError::Contended { .. }) && path.exists(), "{error}");
        lock.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
        publish(&options(&checkout), &two, "status").expect("published");
        assert_eq!((show(tree.path(), "README.md").as_str(), path.exists()), ("two", false));
    }
}

/// A daemon that is killed while it writes a reference of the mirror leaves a lock there, which nothing else removes.
#[test]
fn a_lock_that_a_killed_process_left_in_the_mirror_ends() {
    let remote = Remote::new();
    let mut checkout = remote.checkout("policies.git", "cache", "good-token");
    checkout.fetch().expect("a revision");
    let second = remote.commit("b.backup.yaml", "b");
    let cache = std::fs::read_dir(remote.root.path().join("cache")).expect("the cache");
    let mirror = cache.filter_map(Result::ok).next().expect("the mirror").path();
    let lock = std::fs::File::create(mirror.join("refs/mainstay/fetched/main.lock")).expect("a lock");
    checkout.fetch().expect_err("somebody holds it");
    lock.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
    assert_eq!(checkout.fetch().expect("a revision"), second);
}
