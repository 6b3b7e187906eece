//! What is due is started as far as its budget goes, none of it is lost, and what is given up is told.

use std::{fs::OpenOptions, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{engine::local::state::State, policy::document::settings::Concurrency, status::ledger::EventKind};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn compiled(name: &str, more: Value) -> CompiledPolicy {
    let document = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let mut spec = json!({"schedule": "0 1 1 1 *", "repositories": ["disk"], "cleanup": {"schedule": "0 4 * * *"},
        "sources": [{"name": "files", "paths": ["/srv"]}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "name": format!("shop/{name}"),
        "document": document("BackupPolicy", name, spec),
        "repositories": [document("Repository", "disk", json!({"directory": "/backup", "password": {"generate": true}}))],
        "cluster": "local", "revision": null, "specHash": "",
        "source": {"file": "backup.yaml", "line": 1, "column": 1},
    }))
    .unwrap()
}

/// A state whose policies are all cleaned up at the same time, by a program that waits until its gate is opened.
fn context(directory: &Path) -> Context {
    // Another process writes the program: nobody here has it open when it is started.
    let gates = NAMES.map(|name| directory.join(name).display().to_string()).join(" ");
    let program = directory.join("program");
    let (folder, script) = (directory.display(), program.display());
    let script = format!(
        "mkfifo {gates}; printf '#!/bin/sh\\nread line < {folder}/${{2#shop/}}\\n' > {script}; chmod +x {script}"
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let state = State::open(&directory.join("state")).unwrap();
    for name in NAMES {
        state.put_policy(&compiled(name, json!({})), now()).unwrap();
    }
    Context { program, ..Context::new(Arc::new(state), None) }
}

#[tokio::test]
async fn work_besides_runs_waits_for_its_budget_and_is_done_once() {
    let directory = TempDir::new().unwrap();
    let context = context(directory.path());
    let scheduler = Scheduler::default();
    let (sender, mut ended) = mpsc::channel(8);
    scheduler.tell(sender);
    let settings = SettingsSpec { concurrency: Concurrency { runs: 2 }, ..SettingsSpec::default() };
    let later = now() + SignedDuration::from_hours(24);
    let names = |turn: &ScheduleTurn| -> Vec<String> {
        turn.maintenance.iter().map(|(name, _)| name.name().to_owned()).collect()
    };
    assert!(names(&scheduler.turn(&context, now(), &settings).unwrap()).is_empty());

    // What cannot be started stays due, and is tried again soon.
    let broken = Context { program: directory.path().join("gone"), ..context.clone() };
    let turn = scheduler.turn(&broken, later, &settings).unwrap();
    assert!(turn.maintenance.is_empty() && turn.next_due == Some(later + TRY_AGAIN), "{turn:?}");

    let turn = scheduler.turn(&context, later, &settings).unwrap();
    assert_eq!((names(&turn), turn.maintenance_waiting), (vec!["a".to_owned(), "b".to_owned()], 3));
    let mut waiting: Vec<String> = names(&turn);
    for (left, next) in [(2, Some("c")), (1, Some("d")), (0, Some("e")), (0, None), (0, None)] {
        let turn = scheduler.turn(&context, later, &settings).unwrap();
        assert!(turn.maintenance.is_empty(), "over the budget: {turn:?}");
        // Opens only once the program stands there.
        drop(OpenOptions::new().write(true).open(directory.path().join(waiting.remove(0))).unwrap());
        ended.recv().await.unwrap();
        let turn = scheduler.turn(&context, later, &settings).unwrap();
        assert_eq!((names(&turn), turn.maintenance_waiting), (next.map(str::to_owned).into_iter().collect(), left));
        waiting.extend(names(&turn));
    }
}

/// Nobody reads the log of a daemon: that there is no restore point of a night stands in the ledger, once.
#[test]
fn a_time_that_is_given_up_is_told_once() {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path()).unwrap();
    let policy = compiled("a", json!({"schedule": "0 2 * * *", "timeZone": "UTC", "deadline": "2h", "cleanup": null}));
    state.put_policy(&policy, now()).unwrap();
    let context = Context::new(Arc::new(state), None);
    let (scheduler, settings) = (Scheduler::default(), SettingsSpec::default());
    let later = now() + SignedDuration::from_hours(72);
    let scheduled: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
    assert_eq!(scheduler.turn(&context, later, &settings).unwrap().skipped, [(policy.name.clone(), scheduled)]);
    assert_eq!(scheduler.turn(&context, later, &settings).unwrap().skipped, []);
    let events = context.state.events(0).unwrap();
    let kinds: Vec<&EventKind> = events.iter().map(|event| &event.kind).collect();
    assert_eq!(kinds, [&EventKind::Skipped { scheduled, missed: 3 }]);
}
