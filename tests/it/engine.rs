//! The local engine as a daemon uses it: schedule turns, places, holds, restores by document.

use std::{fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{Engine as _, local::LocalEngine},
    policy::{CompiledPolicy, Location, PolicyName, document::SettingsSpec},
};

fn policy(directory: &Path, name: &str) -> CompiledPolicy {
    let text = |part: &str| directory.join(part).display().to_string();
    let document = serde_json::json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "BackupPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"repositories": ["disk"], "sources": [{"name": "files", "paths": [text("data")]}]},
    });
    let repository = serde_json::json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "disk"},
        "spec": {"directory": text("repository"), "password": {"generate": true}},
    });
    let mut compiled = CompiledPolicy {
        name: PolicyName::new("shop", name),
        document: std::sync::Arc::new(serde_json::from_value(document).unwrap()),
        repositories: vec![std::sync::Arc::new(serde_json::from_value(repository).unwrap())],
        cluster: "local".into(),
        pushgateway: None,
        revision: None,
        source: Location { file: "backup.yaml".into(), line: 1, column: 1 },
        spec_hash: String::new(),
    };
    compiled.spec_hash = compiled.content_hash();
    compiled
}

fn engine(directory: &Path) -> LocalEngine {
    LocalEngine::open(&directory.join("state")).unwrap().with_program(env!("CARGO_BIN_EXE_mainstay").into())
}

#[tokio::test]
async fn what_is_due_is_started_once_and_the_budget_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("data")).unwrap();
    fs::write(directory.path().join("data/file"), "content").unwrap();
    let engine = engine(directory.path());
    for name in ["one", "two"] {
        engine.put(&policy(directory.path(), name)).await.unwrap();
    }
    let (sender, mut ended) = tokio::sync::mpsc::channel(8);
    engine.tell_ended(sender);
    let mut settings = SettingsSpec::default();
    settings.concurrency.runs = 1;
    let now = Timestamp::now();
    assert!(engine.schedule_turn(now, &settings).unwrap().started.is_empty(), "nothing is due yet");
    let later = now + SignedDuration::from_hours(25);
    let frozen = SettingsSpec { freeze: true, ..settings.clone() };
    assert!(engine.schedule_turn(later, &frozen).unwrap().started.is_empty());
    let first = engine.schedule_turn(later, &settings).unwrap();
    assert_eq!((first.started.len(), first.waiting), (1, 1));
    // Another daemon on the same state adopts what is under way, and starts nothing twice.
    let second = self::engine(directory.path()).schedule_turn(later, &settings).unwrap();
    assert!(second.started.is_empty());
    ended.recv().await.unwrap();
    assert_eq!(engine.schedule_turn(later, &settings).unwrap().started.len(), 1);
    ended.recv().await.unwrap();
    assert!(engine.schedule_turn(later, &settings).unwrap().started.is_empty());
    // The clock goes back: nothing starts, and it is said why.
    let back = engine.schedule_turn(now - SignedDuration::from_hours(1), &settings).unwrap();
    let ahead: Vec<String> = back.ahead.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!((back.started.len(), ahead), (0, vec!["shop/one".to_owned(), "shop/two".to_owned()]));
    assert_eq!(engine.schedule_turn(later, &settings).unwrap().ahead, []);
    let actual = engine.observe(later).await.unwrap();
    for policy in actual.policies.values() {
        assert_eq!(policy.inventory.points.len(), 1, "{:?}", policy.last_run);
    }
    assert_eq!(engine.history(0).await.unwrap().iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_holds_runs_that_are_asked_for_on_a_forge() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("data")).unwrap();
    fs::write(directory.path().join("data/file"), "content").unwrap();
    let engine = engine(directory.path());
    let policy = policy(directory.path(), "one");
    engine.put(&policy).await.unwrap();
    let (sender, mut ended) = tokio::sync::mpsc::channel(8);
    engine.tell_ended(sender);
    let (now, free) = (Timestamp::now(), SettingsSpec::default());
    let frozen = SettingsSpec { freeze: true, ..free.clone() };
    engine.schedule_turn(now, &frozen).unwrap();
    let refused = engine.run_now(&policy.name, now).await.unwrap_err();
    assert!(mainstay::engine::chain(&refused).contains("everything is frozen"), "{refused:?}");
    engine.schedule_turn(now, &free).unwrap();
    engine.run_now(&policy.name, now).await.unwrap();
    ended.recv().await.unwrap();
    assert_eq!(engine.observe(now).await.unwrap().policies[&policy.name].inventory.points.len(), 1);
}

#[tokio::test]
async fn a_policy_made_again_gets_a_fresh_place_and_keeps_its_old_points() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path());
    let policy = policy(directory.path(), "nightly");
    engine.put(&policy).await.unwrap();
    engine.put(&policy).await.unwrap();
    let places = |engine: &LocalEngine| engine.context().state.places(&policy.name).unwrap();
    let before = places(&engine);
    assert_eq!(before.len(), 1);
    engine.withdraw(&policy.name).await.unwrap();
    engine.put(&policy).await.unwrap();
    let after = places(&engine);
    assert_eq!(after.len(), 2);
    assert_eq!(after.iter().filter(|place| place.current).count(), 1);
    assert!(after.iter().any(|place| place.path == before[0].path && !place.current));
}

#[tokio::test]
async fn a_missing_state_is_empty_and_complete() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none");
    let actual = LocalEngine::open_read_only(&missing).unwrap().observe(Timestamp::now()).await.unwrap();
    assert!(actual.complete && actual.policies.is_empty());
    assert!(!missing.exists());
}
