//! What is kept between two observations is what a first one would find, whoever wrote in between.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    engine::local::{
        inventory::Merged,
        process::ProcessIdentity,
        state::{points::StoredPoint, runs::Begun},
    },
    run::{Phase, RunReport, Trigger},
};

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn name(name: &str) -> PolicyName {
    PolicyName::new("shop", name)
}

fn id(day: u32) -> RestorePointId {
    RestorePointId(format!("202611{day:02}-020000"))
}

fn compiled(policy: &str, more: Value) -> CompiledPolicy {
    let mut spec = json!({"repositories": ["disk"], "sources": [{"name": "files", "paths": ["/srv"]}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let document = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(json!({
        "name": name(policy).to_string(),
        "document": document("BackupPolicy", policy, spec),
        "repositories": [document("Repository", "disk", json!({"directory": "/backup", "password": {"generate": true}}))],
        "cluster": "local", "revision": null, "specHash": "",
        "source": {"file": "backup.yaml", "line": 1, "column": 1},
    }))
    .unwrap()
}

fn fresh(days: &[u32]) -> Merged {
    Merged { fresh: days.iter().map(|day| point(*day)).collect(), ..Merged::default() }
}

fn point(day: u32) -> StoredPoint {
    let time = format!("2026-11-{day:02}T02:00:00Z").parse().unwrap();
    let point = RestorePoint {
        id: id(day),
        time,
        size_bytes: 1,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    StoredPoint { point, parts: Vec::new(), forgetting: false }
}

fn report(policy: &str, day: u32, phase: Phase) -> RunReport {
    let time = point(day).point.time;
    RunReport {
        policy: name(policy),
        id: id(day),
        trigger: Trigger::Schedule,
        scheduled_at: time,
        started_at: time,
        finished_at: None,
        phase,
        failed_after_record: false,
        interrupted: false,
        message: String::new(),
        sources: Vec::new(),
    }
}

fn failed_check(place: i64) -> FailedCheck {
    FailedCheck { place, repository: "disk".to_owned(), at: now(), problem: "no".to_owned(), read_data_percent: 0.0 }
}

fn restore(phase: Phase) -> RestoreReport {
    RestoreReport {
        restore_point: None,
        phase,
        started_at: now(),
        finished_at: None,
        message: String::new(),
        sources: Vec::new(),
    }
}

/// Every kind of write that there is, each through a connection of its own, as another process would.
#[test]
fn every_write_of_another_process_is_seen() {
    type Write = fn(&State);
    let writes: &[(&str, Write)] = &[
        ("put", |state| state.put_policy(&compiled("a", json!({})), now()).unwrap()),
        ("put another", |state| state.put_policy(&compiled("b", json!({})), now()).unwrap()),
        ("put anew", |state| state.put_policy(&compiled("a", json!({"suspend": true})), now()).unwrap()),
        ("begin", |state| {
            assert!(state.announce_run(&report("a", 1, Phase::Pending)).unwrap());
            assert!(matches!(state.begin_run(&report("a", 1, Phase::Running)).unwrap(), Begun::Ours));
        }),
        ("update", |state| {
            let message = "half-way".to_owned();
            state.update_run(&RunReport { message, ..report("a", 1, Phase::Running) }).unwrap();
        }),
        ("record", |state| state.record_point(&report("a", 1, Phase::Running), &point(1)).unwrap()),
        ("end", |state| state.end_run(&report("a", 1, Phase::Succeeded), now()).unwrap()),
        ("inventory", |state| {
            state.set_inventory(&name("a"), now(), false, &fresh(&[1, 2, 3])).unwrap();
        }),
        ("inventory again", |state| {
            let gone = Merged { gone: vec![point(3)], ..Merged::default() };
            state.set_inventory(&name("a"), now(), true, &gone).unwrap();
        }),
        ("a point is missing", |state| {
            let missing = Merged { missing: vec![point(2)], ..Merged::default() };
            state.set_inventory(&name("a"), now(), true, &missing).unwrap();
        }),
        ("mark", |state| assert_eq!(state.mark(&name("a"), &[id(1), id(2)], now()).unwrap().len(), 2)),
        ("unmark", |state| assert_eq!(state.unmark(&name("a"), &[id(1)]).unwrap().len(), 1)),
        ("hold", |state| assert!(state.set_held(&name("a"), &id(1), true, now()).unwrap())),
        ("verify", |state| state.set_verified(&name("a"), &[id(1)], now()).unwrap()),
        ("a check fails", |state| {
            let place = state.places(&name("a")).unwrap().remove(0).id;
            state.note_check(&name("a"), place, 0.0, Some(failed_check(place))).unwrap();
            assert_eq!(state.observe(now()).unwrap().policies[&name("a")].failed_checks, [failed_check(place)]);
        }),
        ("a check passes", |state| {
            let place = state.places(&name("a")).unwrap().remove(0).id;
            state.note_check(&name("a"), place, 0.0, None).unwrap();
            // Of a place that holds nothing and gets nothing more.
            state.note_check(&name("a"), place + 100, 0.0, Some(failed_check(place + 100))).unwrap();
            assert_eq!(state.observe(now()).unwrap().policies[&name("a")].failed_checks, []);
        }),
        ("remove points", |state| state.remove_points(&name("a"), &[id(2)], now()).unwrap()),
        ("withdraw", |state| state.withdraw_policy(&name("a")).unwrap()),
        ("withdraw the one without points", |state| state.withdraw_policy(&name("b")).unwrap()),
        ("announce a restore", |state| {
            let document = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "undo"},
                "spec": {"policy": "shop/a"}});
            let document = serde_json::from_value(document).unwrap();
            assert!(state.announce_restore(&name("undo"), "1", &document, &restore(Phase::Pending)).unwrap());
        }),
        ("update a restore", |state| {
            let own = ProcessIdentity::own();
            state.update_restore(&name("undo"), "1", &restore(Phase::Failed), &own, now()).unwrap();
        }),
    ];
    let directory = TempDir::new().unwrap();
    let daemon = State::open(directory.path()).unwrap();
    assert_eq!(daemon.observe(now()).unwrap().policies.len(), 0);
    let mut before = daemon.observe(now()).unwrap();
    for (what, write) in writes {
        write(&State::open(directory.path()).unwrap());
        let seen = daemon.observe(now()).unwrap();
        let anew = State::open_read_only(directory.path()).unwrap().observe(now()).unwrap();
        assert!(seen == anew, "{what} is not seen");
        assert!(seen != before, "{what} changes nothing, so that it tests nothing");
        before = seen;
    }
}

/// Also what no call of ours does: a hand in the database.
#[test]
fn a_hand_in_the_database_is_seen() {
    let directory = TempDir::new().unwrap();
    let daemon = State::open(directory.path()).unwrap();
    daemon.put_policy(&compiled("a", json!({})), now()).unwrap();
    daemon.set_inventory(&name("a"), now(), true, &fresh(&[1, 2])).unwrap();
    let hand = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    for statement in [
        "UPDATE policies SET running = '20261121-020000'",
        "UPDATE policies SET compiled = replace(compiled, '/srv', '/home')",
        "DELETE FROM points WHERE id = '20261101-020000'",
        "UPDATE inventories SET complete = 0",
        "DELETE FROM inventories",
        "REPLACE INTO points SELECT policy, id, time, 7, NULL, 0, NULL, 0, parts, 0, NULL FROM points",
        "DELETE FROM policies",
    ] {
        let before = daemon.observe(now()).unwrap();
        assert!(hand.execute(statement, []).unwrap() > 0, "{statement}");
        let seen = daemon.observe(now()).unwrap();
        assert_ne!(seen, before, "{statement}");
        assert_eq!(seen, State::open_read_only(directory.path()).unwrap().observe(now()).unwrap(), "{statement}");
    }
}

#[test]
fn only_what_changed_is_read_again() {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path()).unwrap();
    for policy in ["a", "b"] {
        state.put_policy(&compiled(policy, json!({})), now()).unwrap();
    }
    let before = state.observe(now()).unwrap();
    state.set_inventory(&name("a"), now(), true, &fresh(&[1])).unwrap();
    let after = state.observe(now()).unwrap();
    assert!(Arc::ptr_eq(&before.policies[&name("b")], &after.policies[&name("b")]));
    assert!(!Arc::ptr_eq(&before.policies[&name("a")], &after.policies[&name("a")]));
    let repository = |policy: &str| &after.policies[&name(policy)].compiled.as_ref().unwrap().repositories[0];
    assert!(Arc::ptr_eq(repository("a"), repository("b")), "one document for all policies");
}

/// What cannot be read must not leave a half observation behind that looks whole.
#[test]
fn a_failed_observation_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path()).unwrap();
    for policy in ["a", "b"] {
        state.put_policy(&compiled(policy, json!({})), now()).unwrap();
    }
    state.observe(now()).unwrap();
    let hand = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    hand.execute("UPDATE policies SET running = 'x' WHERE name = 'shop/a'", []).unwrap();
    hand.execute("UPDATE policies SET compiled = '{' || compiled WHERE name = 'shop/b'", []).unwrap();
    assert!(matches!(state.observe(now()), Err(StateError::Decode { .. })));
    assert!(matches!(state.observe(now()), Err(StateError::Decode { .. })), "the error stays as long as its cause");
    hand.execute("UPDATE policies SET compiled = substr(compiled, 2) WHERE name = 'shop/b'", []).unwrap();
    assert_eq!(state.observe(now()).unwrap(), State::open_read_only(directory.path()).unwrap().observe(now()).unwrap());
}

/// A state as the first version left it, and then another database in its place.
#[test]
fn an_older_state_is_brought_up_to_date() {
    let directory = TempDir::new().unwrap();
    let dump = json!({"name": "dump", "command": {"dump": ["true"], "environment": {"TOKEN": {"env": "SHOP_TOKEN"}}}});
    let policy = compiled("a", json!({"sources": [dump]}));
    State::open(directory.path()).unwrap().put_policy(&policy, now()).unwrap();
    let hand = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    let triggers: Vec<String> = hand
        .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(triggers.len(), 12);
    for trigger in triggers {
        hand.execute(&format!("DROP TRIGGER {trigger}"), []).unwrap();
    }
    hand.execute_batch("ALTER TABLE policies DROP COLUMN failed_checks").unwrap();
    hand.execute_batch("ALTER TABLE points DROP COLUMN found; ALTER TABLE points DROP COLUMN missing_since").unwrap();
    hand.execute_batch(
        "DROP TABLE changes; DROP TABLE past_runs; DROP TABLE secret_variables; PRAGMA user_version = 1",
    )
    .unwrap();
    assert_eq!(State::open_read_only(directory.path()).unwrap().observe(now()).unwrap().policies.len(), 1);
    let state = State::open(directory.path()).unwrap();
    assert_eq!(state.observe(now()).unwrap().policies.len(), 1);
    assert!(state.secret_variables().unwrap().contains("SHOP_TOKEN"), "of a policy that was there before");
    state.withdraw_policy(&name("a")).unwrap();
    assert_eq!(state.observe(now()).unwrap().policies.len(), 0);
    hand.execute_batch("UPDATE policies SET withdrawn = 0; DELETE FROM changes; DELETE FROM sqlite_sequence").unwrap();
    assert_eq!(state.observe(now()).unwrap().policies.len(), 1, "numbers that went back are another database");
}
