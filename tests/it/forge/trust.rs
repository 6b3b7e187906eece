//! Whose consent counts: that of a change request once it was merged, never that of a fork.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mainstay::{
    engine::Engine as _,
    forge::{
        consent::{Consent, Way},
        done::TurnReport,
        memory::{ForgeMemory, Merged, Tracked},
    },
    git::Revision,
    plan::{approval, digest, used_up::UsedUp},
    status::ledger::EventKind,
};
use serde_json::json;

use super::{
    hosted::pull,
    published::{Answer, Server},
    scene::Scene,
};
use crate::git::fixture::{WorkTree, git};

/// A memory with consent to one loss, given on a change request that was merged as `commit`.
fn merged(commit: &Revision) -> ForgeMemory {
    let effects = BTreeSet::from(["lose shop/nightly 1".parse().expect("an effect")]);
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

/// What a fork proposes is read, and nothing else: no program of it is started, no file and no address of it is opened.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fork_asks_for_is_planned_and_nothing_of_it_is_carried_out() {
    let mut scene = Scene::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (touched, secret) = (folder.path().join("touched"), folder.path().join("secret"));
    std::fs::write(&secret, "canary-91c7\n").expect("a file");
    let elsewhere = Server::start(|_| Answer::json(json!([]))).await;
    let policy = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: store}}\nspec:\n  s3: {{endpoint: \"{url}\", \
         bucket: b, accessKeyId: {{file: {secret}}}, secretAccessKey: {{file: {secret}}}}}\n  password: {{file: {secret}}}\n\
         ---\napiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: evil, namespace: shop}}\nspec:\n  \
         repositories: [store]\n  sources: [{{name: dump, command: {{dump: [touch, {touched}], restore: [touch, {touched}]}}}}]\n  \
         hooks: {{before: [{{command: [touch, {touched}]}}]}}\n",
        url = elsewhere.url,
        secret = secret.display(),
        touched = touched.display(),
    );
    let forge = FORGE
        .replace("http://127.0.0.1:1", &elsewhere.url)
        .replace("{env: TOKEN}", &format!("{{file: {}}}", secret.display()));
    let head = scene.open(1, &[("backup.yaml", &policy), ("settings.backup.yaml", &forge)]);
    scene.hosted.lock().expect("no panic").pulls.get_mut(&1).expect("it is open")["head"]["repo"]["id"] = json!(2);
    scene.look().await;
    assert_eq!(scene.check(&head).0, "success", "{:?}: {}", scene.check(&head), scene.comment(1));
    assert!(scene.comment(1).contains("shop/evil") && !scene.comment(1).contains("canary"), "{}", scene.comment(1));
    assert!(!touched.exists(), "something was carried out");
    assert!(elsewhere.lines().is_empty(), "somebody else was asked");
}

/// The ledger has each approval once, whatever goes wrong while it is written.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_could_not_be_written_down_is_written_by_the_next_look_and_never_twice() {
    let mut scene = Scene::new().await;
    let commit = scene.documents.commit(&[("docs.txt", "x")], "merged");
    let mut memory = ForgeMemory { place: scene.eye.place.clone(), ..merged(&commit) };
    let not_recorded = |memory: &mut ForgeMemory| {
        let tracked = memory.requests.get_mut(&1).expect("it is there");
        tracked.merged.as_mut().expect("it was merged").is_recorded = false;
    };
    not_recorded(&mut memory);
    scene.eye.memory = memory;
    let database = rusqlite::Connection::open(scene.state.path().join("state.sqlite")).expect("the state");
    let full = "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END";
    database.execute_batch(full).expect("a trigger");
    let report = TurnReport { revision: Some(scene.documents.head()), ..TurnReport::default() };
    scene.eye.look(&scene.engine, &report, Timestamp::now()).await.expect_err("it cannot be written");
    database.execute_batch("DROP TRIGGER full").expect("a trigger");
    // What a daemon finds that was killed then, and one that was killed right after it was written.
    for is_written in [false, true] {
        scene.eye.memory = ForgeMemory::load(scene.state.path()).expect("a memory");
        if is_written {
            not_recorded(&mut scene.eye.memory);
        }
        assert!(scene.look().await.has_consent);
        let events = scene.engine.history(0).await.expect("events");
        let approved = events.iter().filter(|event| matches!(event.kind, EventKind::Approved { request: 1, .. }));
        assert_eq!(approved.count(), 1, "{events:#?}");
    }
}
