//! A policy is looked at when something of it changed or its time has come, and not otherwise.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::policy::CompiledPolicy;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn compiled(name: &str, schedule: &str) -> CompiledPolicy {
    let document = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let spec =
        json!({"schedule": schedule, "repositories": ["disk"], "sources": [{"name": "files", "paths": ["/srv"]}]});
    serde_json::from_value(json!({
        "name": format!("shop/{name}"),
        "document": document("BackupPolicy", name, spec),
        "repositories": [document("Repository", "disk", json!({"directory": "/backup", "password": {"generate": true}}))],
        "cluster": "local", "revision": null, "specHash": "",
        "source": {"file": "backup.yaml", "line": 1, "column": 1},
    }))
    .unwrap()
}

/// The names of the policies to look at, all of which then rest until the time of their first schedule.
fn look(awake: &mut Awake, state: &State, now: Timestamp) -> Vec<String> {
    let mut names = Vec::new();
    for (name, stored) in awake.policies(state, now).unwrap() {
        let until = match &*stored {
            Stored::Scheduled { timetable, .. } => timetable.schedules[0].next_after(now).unwrap(),
            Stored::Withdrawn { forget_at } => forget_at.unwrap_or(Timestamp::MAX),
            Stored::Unreadable => Timestamp::MAX,
        };
        names.push(name.name().to_owned());
        awake.rest(name, until);
    }
    names
}

#[test]
fn only_what_changed_or_is_due_is_looked_at() {
    let directory = TempDir::new().unwrap();
    let (state, other) = (State::open(directory.path()).unwrap(), State::open(directory.path()).unwrap());
    let now = time("2026-11-21T12:00:00Z");
    state.put_policy(&compiled("early", "0 13 * * *"), now).unwrap();
    state.put_policy(&compiled("late", "0 15 * * *"), now).unwrap();
    let mut awake = Awake::default();
    assert_eq!(look(&mut awake, &state, now), ["early", "late"]);
    assert_eq!(awake.next(), Some(time("2026-11-21T13:00:00Z")));
    assert!(look(&mut awake, &state, now).is_empty(), "nothing changed");

    // Another process writes: each of these is read anew, once.
    other.put_policy(&compiled("late", "30 12 * * *"), now).unwrap();
    assert_eq!(look(&mut awake, &state, now), ["late"]);
    assert_eq!(awake.next(), Some(time("2026-11-21T12:30:00Z")), "the schedule is the new one");
    other.set_last_scheduled(&"shop/early".parse().unwrap(), now).unwrap();
    assert_eq!(look(&mut awake, &state, now), ["early"]);

    assert_eq!(look(&mut awake, &state, time("2026-11-21T12:30:00Z")), ["late"], "its time has come");
    other.withdraw_policy(&"shop/early".parse().unwrap()).unwrap();
    assert_eq!(look(&mut awake, &state, time("2026-11-21T12:30:00Z")), ["early"]);
    assert_eq!(look(&mut awake, &state, time("2026-11-21T13:00:00Z")), [""; 0], "it was withdrawn");
}

#[test]
fn a_clock_that_went_back_wakes_all() {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path()).unwrap();
    let now = time("2026-11-21T12:00:00Z");
    state.put_policy(&compiled("nightly", "0 2 * * *"), now).unwrap();
    let mut awake = Awake::default();
    assert_eq!(look(&mut awake, &state, now), ["nightly"]);
    assert!(look(&mut awake, &state, now - SignedDuration::from_secs(30)).is_empty(), "it is being kept right");
    assert_eq!(look(&mut awake, &state, now - SignedDuration::from_mins(20)), ["nightly"]);
    assert!(look(&mut awake, &state, now - SignedDuration::from_mins(20)).is_empty());
}

#[test]
fn what_waits_for_its_turn_is_looked_at_each_time() {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path()).unwrap();
    let now = time("2026-11-21T12:00:00Z");
    state.put_policy(&compiled("due", "0 2 * * *"), now).unwrap();
    let mut awake = Awake::default();
    for _ in 0..3 {
        assert_eq!(awake.policies(&state, now).unwrap().len(), 1);
    }
    assert_eq!(awake.next(), None, "nothing rests");
}
