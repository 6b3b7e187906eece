//! Reading documents from git: every way in which a repository can be unusable, and how little is read again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use mainstay::{
    git::{
        GitError, Retry,
        checkout::{Checkout, Unread, files_at},
        credentials::SecretSource,
        history,
        watch::{Notice, Watcher},
    },
    plan::{Digest, used_up::UsedUp},
};

use self::fixture::{WorkTree, git, options};

pub mod fixture;
pub mod http;
#[cfg(feature = "live")]
pub mod signature;
#[cfg(feature = "live")]
mod ssh;

const DOCUMENT: &str = "kind: BackupPolicy\n";

#[test]
fn only_documents_below_the_watched_path_are_read_from_the_commit() {
    let tree = WorkTree::with(&[
        ("backups/backup.yaml", DOCUMENT),
        ("backups/shop/nightly.backup.yaml", DOCUMENT),
        ("backups/shop/values.yaml", "a: 1\n"),
        ("backups/mybackup.yaml", "no document\n"),
        ("other/backup.yaml", DOCUMENT),
    ]);
    tree.write("backups/uncommitted.backup.yaml", DOCUMENT);
    let mut checkout = Checkout::open(tree.options("./backups/")).expect("opens");
    let head = checkout.fetch().expect("a revision");
    assert_eq!(head, tree.head());
    let files = checkout.files(&head).expect("files");
    let paths: Vec<&Path> = files.content.keys().map(PathBuf::as_path).collect();
    assert_eq!(paths, [Path::new("backup.yaml"), Path::new("shop/nightly.backup.yaml")]);
    assert!(files.unread.is_empty());
    assert_eq!(files.content[Path::new("backup.yaml")].bytes, DOCUMENT.as_bytes());
    let again = files_at(checkout.repository(), &head, Path::new("backups")).expect("files");
    assert_eq!(again, *files);
}

#[test]
fn a_change_gives_the_same_files_as_reading_everything() {
    let tree = WorkTree::with(&[("a/backup.yaml", "a"), ("b/backup.yaml", "b"), ("c/x.backup.yaml", "c")]);
    let mut checkout = tree.checkout();
    let first = checkout.fetch().expect("a revision");
    let before = checkout.files(&first).expect("files");
    assert!(Arc::ptr_eq(&before, &checkout.files(&first).expect("files")));

    let steps: [&[(&str, &str)]; 4] = [
        &[("a/backup.yaml", "changed"), ("d/backup.yaml", "new")],
        &[("a/backup.yaml/backup.yaml", "a file that became a directory")],
        &[("unrelated", "nothing of ours")],
        &[("a", "a directory that became a file"), ("e/backup.yaml", "b")],
    ];
    for (step, files) in steps.into_iter().enumerate() {
        for (path, _) in files {
            let parents = Path::new(path).ancestors().map(|parent| tree.path().join(parent));
            for parent in parents.filter(|parent| parent.is_file()) {
                std::fs::remove_file(parent).expect("removed");
            }
            if tree.path().join(path).is_dir() {
                std::fs::remove_dir_all(tree.path().join(path)).expect("removed");
            }
        }
        if step == 0 {
            std::fs::remove_file(tree.path().join("b/backup.yaml")).expect("removed");
        }
        tree.commit(files, "next");
        let head = checkout.fetch().expect("a revision");
        let changed = checkout.files(&head).expect("files");
        assert_eq!(*changed, files_at(checkout.repository(), &head, Path::new("")).expect("files"), "step {step}");
    }
}

#[test]
fn what_cannot_be_read_is_listed_and_not_left_out() {
    let tree = WorkTree::with(&[("good/backup.yaml", DOCUMENT)]);
    tree.write("large/backup.yaml", vec![b'#'; 10 * 1024 * 1024 + 1]);
    std::fs::create_dir(tree.path().join("link")).expect("a directory");
    std::os::unix::fs::symlink("/etc/passwd", tree.path().join("link/backup.yaml")).expect("a link");
    tree.commit(&[], "trouble");
    let id = tree.head().0;
    git(tree.path(), &["update-index", "--add", "--cacheinfo", &format!("160000,{id},module/backup.yaml")]);
    git(tree.path(), &["commit", "--quiet", "--message", "module"]);
    std::fs::create_dir_all(tree.path().join("module/backup.yaml")).expect("a directory");
    // A blob that is gone from the object database, as after a bad disk.
    tree.commit(&[("damaged/backup.yaml", "gone")], "damage");
    let blob = git(tree.path(), &["rev-parse", "HEAD:damaged/backup.yaml"]);
    let (directory, file) = blob.trim().split_at(2);
    let object = tree.path().join(".git/objects").join(directory).join(file);
    std::fs::rename(&object, object.with_extension("away")).expect("it moves");

    let mut checkout = tree.checkout();
    let head = checkout.fetch().expect("a revision");
    let files = checkout.files(&head).expect("files");
    assert_eq!(files.content.len(), 1);
    let unread = |path: &str| files.unread.get(Path::new(path));
    assert_eq!(unread("large/backup.yaml"), Some(&Unread::TooLarge { size_bytes: 10_485_761 }));
    assert_eq!(unread("link/backup.yaml"), Some(&Unread::SymbolicLink));
    assert_eq!(unread("module/backup.yaml"), Some(&Unread::Submodule));
    assert!(matches!(unread("damaged/backup.yaml"), Some(Unread::Damaged(_))));

    // It was mended, as by `git fetch` from another copy: no commit tells of that.
    std::fs::rename(object.with_extension("away"), &object).expect("it moves");
    let files = checkout.files(&head).expect("files");
    assert_eq!((files.content.len(), files.unread.len()), (2, 3));
}

#[test]
fn every_unusable_repository_has_a_condition_of_its_own() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let error = Checkout::open(options(nowhere.path(), "")).err().expect("no repository");
    assert_eq!((error.reason(), error.retry()), ("RepositoryMissing", Retry::AfterRepair));

    let tree = WorkTree::empty();
    let mut checkout = tree.checkout();
    assert_eq!(checkout.fetch().expect_err("empty").reason(), "RepositoryEmpty");

    git(tree.path(), &["switch", "--quiet", "--create", "trunk"]);
    tree.commit(&[("other/README.md", "")], "first");
    let error = checkout.fetch().expect_err("another branch");
    assert!(matches!(&error, GitError::BranchMissing { found, .. } if found == &["trunk"]), "{error}");

    git(tree.path(), &["switch", "--quiet", "--create", "main"]);
    let head = checkout.fetch().expect("a revision");
    assert_eq!(checkout.files(&head).expect_err("no documents").reason(), "NoDocuments");

    let mut checkout = Checkout::open(tree.options("backups")).expect("opens");
    let head = checkout.fetch().expect("a revision");
    assert_eq!(checkout.files(&head).expect_err("no directory").reason(), "PathVanished");

    std::fs::remove_dir_all(tree.path().join(".git")).expect("removed");
    assert_eq!(checkout.fetch().expect_err("gone").reason(), "RepositoryMissing");
}

#[test]
fn a_vanished_path_comes_back_with_the_commit_that_restores_it() {
    let tree = WorkTree::with(&[("backups/backup.yaml", DOCUMENT)]);
    let mut checkout = Checkout::open(tree.options("backups")).expect("opens");
    let head = checkout.fetch().expect("a revision");
    checkout.files(&head).expect("files");
    git(tree.path(), &["mv", "backups", "moved"]);
    let moved = tree.commit(&[], "move");
    assert_eq!(checkout.fetch().expect("a revision"), moved);
    assert_eq!(checkout.files(&moved).expect_err("vanished").reason(), "PathVanished");
    git(tree.path(), &["revert", "--no-edit", "HEAD"]);
    let head = checkout.fetch().expect("a revision");
    assert_eq!(checkout.files(&head).expect("files").content.len(), 1);
}

#[test]
fn a_rewritten_history_is_noticed() {
    let tree = WorkTree::with(&[("backup.yaml", DOCUMENT)]);
    let base = tree.head();
    let applied = tree.commit(&[("backup.yaml", "second")], "second");
    let checkout = tree.checkout();
    checkout.check_descendant(&base, &applied).expect("follows");
    checkout.check_descendant(&applied, &applied).expect("the same");
    git(tree.path(), &["commit", "--quiet", "--amend", "--message", "amended"]);
    let error = checkout.check_descendant(&applied, &tree.head()).expect_err("amended");
    assert!(matches!(error, GitError::HistoryRewritten { .. }), "{error}");
    // The new history is meant.
    tree.commit(&[], &format!("squash\n\nMainstay-Follows: {}", "0".repeat(40)));
    checkout.check_descendant(&applied, &tree.head()).expect_err("that names another commit");
    tree.commit(&[], &format!("squash\n\nMainstay-Follows: {applied}"));
    checkout.check_descendant(&applied, &tree.head()).expect("the trailer says so");
    git(tree.path(), &["reset", "--quiet", "--hard", "HEAD~2"]);
    // Also when the old commit is gone altogether.
    git(tree.path(), &["reflog", "expire", "--expire=now", "--all"]);
    git(tree.path(), &["gc", "--quiet", "--prune=now"]);
    assert_eq!(
        tree.checkout().check_descendant(&applied, &tree.head()).expect_err("gone").reason(),
        "HistoryRewritten"
    );
}

#[test]
fn approvals_are_gathered_from_merged_branches_too() {
    let tree = WorkTree::with(&[("backup.yaml", DOCUMENT)]);
    git(tree.path(), &["switch", "--quiet", "--create", "change"]);
    tree.commit(&[], &format!("consent\n\nMainstay-Approve: {}", "a".repeat(64)));
    git(tree.path(), &["switch", "--quiet", "main"]);
    git(tree.path(), &["merge", "--quiet", "--no-ff", "--no-edit", "change"]);
    let checkout = tree.checkout();
    let repository = checkout.repository();
    let approvals = history::approvals(repository, &tree.head(), None, &UsedUp::default(), |_| true).expect("a walk");
    assert_eq!(approvals.digests.into_iter().collect::<Vec<_>>(), [Digest("a".repeat(64))]);
    assert_eq!(history::messages(repository, &tree.head(), None, 2).expect("a walk").len(), 2);
}

#[test]
fn changed_paths_are_those_that_differ() {
    let tree = WorkTree::with(&[("a/backup.yaml", "a"), ("b/backup.yaml", "b")]);
    let before = tree.head();
    git(tree.path(), &["mv", "a", "c"]);
    let after = tree.commit(&[], "move");
    let paths = tree.checkout().changed_paths(&before, &after).expect("paths");
    assert_eq!(paths, [PathBuf::from("a/backup.yaml"), PathBuf::from("c/backup.yaml")]);
}

/// Watches, makes a change, and waits for the wake that it must cause.
fn wakes(git_directory: &Path, change: impl FnOnce()) -> Notice {
    let (sender, receiver) = mpsc::channel();
    let _watcher = Watcher::start(git_directory, "main", move |notice| {
        let _ = sender.send(notice);
    })
    .expect("a watcher");
    change();
    receiver.recv_timeout(Duration::from_secs(10)).expect("a wake")
}

#[test]
fn a_commit_wakes_at_once_in_every_kind_of_repository() {
    let tree = WorkTree::with(&[("backup.yaml", DOCUMENT)]);
    let directory = tree.checkout().watch_directory().expect("local").to_owned();
    let mut committed_at = None;
    let notice = wakes(&directory, || {
        tree.commit(&[], "second");
        committed_at = Some(Instant::now());
    });
    assert_eq!(notice, Notice::Changed);
    println!("woke {:?} after the commit", committed_at.expect("committed").elapsed());

    // References that are packed.
    assert_eq!(wakes(&directory, || drop(git(tree.path(), &["pack-refs", "--all"]))), Notice::Changed);

    // A linked work tree has its references in the main repository.
    let linked = tree.directory.path().join("linked");
    git(tree.path(), &["worktree", "add", "--quiet", "--detach", &linked.display().to_string()]);
    let directory = Checkout::open(options(&linked, "")).expect("opens").watch_directory().expect("local").to_owned();
    assert_eq!(wakes(&directory, || drop(tree.commit(&[], "third"))), Notice::Changed);

    // A push into a bare repository.
    let bare = tempfile::tempdir().expect("a directory");
    git(tree.path(), &["clone", "--quiet", "--bare", ".", &bare.path().display().to_string()]);
    tree.commit(&[], "fourth");
    let push = || drop(git(tree.path(), &["push", "--quiet", &bare.path().display().to_string(), "main"]));
    assert_eq!(wakes(bare.path(), push), Notice::Changed);

    // The repository goes away.
    let gone = wakes(bare.path(), || std::fs::remove_dir_all(bare.path()).expect("removed"));
    assert!(matches!(gone, Notice::Lost(_) | Notice::Changed), "{gone:?}");
}

#[test]
fn a_status_commit_and_reading_do_not_wake() {
    let tree = WorkTree::with(&[("backup.yaml", DOCUMENT)]);
    git(tree.path(), &["branch", "mainstay/other"]);
    let mut checkout = tree.checkout();
    let directory = checkout.watch_directory().expect("local").to_owned();
    let watch = |branch| {
        let (sender, receiver) = mpsc::channel();
        let notice = move |notice| drop(sender.send(notice));
        (Watcher::start(&directory, branch, notice).expect("a watcher"), receiver)
    };
    let (_watcher, woken) = watch("main");
    let (_control, status_moved) = watch("mainstay/status");
    let mut status = |commit: &str| {
        let head = checkout.fetch().expect("a revision");
        checkout.files(&head).expect("files");
        git(tree.path(), &["branch", "--force", "mainstay/status", commit]);
        status_moved.recv_timeout(Duration::from_secs(10)).expect("the control sees the status commit");
    };
    // Notices are held back for a moment. When the second one of the control is there, one that the first status commit
    // had caused would be, too.
    status("main");
    let other = git(tree.path(), &["commit-tree", "-m", "status", "HEAD^{tree}"]);
    status(other.trim());
    assert_eq!(woken.try_recv().ok(), None, "a status commit or reading woke the daemon");
    tree.commit(&[], "second");
    assert_eq!(woken.recv_timeout(Duration::from_secs(10)).expect("a wake"), Notice::Changed);
}

#[test]
fn a_token_that_is_missing_and_a_host_that_is_down_differ() {
    let cache = tempfile::tempdir().expect("a directory");
    // A port that was free a moment ago: nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let mut options = options(Path::new(&format!("https://me:hunter2@127.0.0.1:{port}/policies.git")), "");
    options.cache_directory = cache.path().join("checkouts");
    let error = Checkout::open(options.clone()).expect("a mirror").fetch().expect_err("nobody listens");
    assert_eq!((error.reason(), error.retry()), ("Unreachable", Retry::Later));
    assert!(!error.to_string().contains("hunter2"), "{error}");

    options.credentials.token = Some(SecretSource::File(cache.path().join("token")));
    let error = Checkout::open(options).expect("a mirror").fetch().expect_err("no token");
    assert_eq!(error.reason(), "CredentialMissing");
    assert!(error.to_string().contains("token"), "{error}");
}
