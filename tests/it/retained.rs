//! What is kept and what goes, end to end on real repositories: expire, grace, forget, prune; and the work of a policy
//! that has a schedule of its own.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, process::Stdio, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{
        Engine as _,
        local::{
            LocalEngine,
            cleanup::{self, Cleaned, Extent, clean},
            inventory,
            movers::Bounds,
            process::ProcessIdentity,
            repositories::{capture_lease, maintenance_lease, prune_lease},
        },
    },
    plan::losses::{Former, Losses, by_edit},
    policy::{
        CompiledPolicy, PolicyName,
        document::{SettingsSpec, settings::Concurrency},
    },
    restore_point::RestorePointId,
    status::ledger::EventKind,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::host::{Host, bad, good};

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

async fn clean_at(engine: &LocalEngine, now: Timestamp) -> Cleaned {
    let bounds = Bounds::within(Duration::from_secs(60), None);
    clean(engine.context(), &Host::name(), Extent::Whole, now, &bounds).await.unwrap()
}

/// How many snapshots the repositories list.
async fn snapshots(engine: &LocalEngine) -> usize {
    let found = inventory::refresh(engine.context(), &Host::name(), Timestamp::now()).await.unwrap();
    assert!(found.complete, "{:?}", found.problems);
    found.listed.values().map(Vec::len).sum()
}

async fn ids(host: &Host) -> Vec<String> {
    host.actual().await.inventory.points.iter().map(|point| point.id.to_string()).collect()
}

/// A host with three restore points, of which the rules keep the newest.
async fn three_points() -> Host {
    let host = Host::new();
    host.put(json!({"retention": {"keepLast": 1, "grace": "24h"}})).await;
    for content in ["one", "two", "three"] {
        fs::write(host.path("data/file"), content).unwrap();
        good(host.mainstay(&["run", "shop/nightly"]));
    }
    host
}

#[tokio::test]
async fn an_expired_point_is_forgotten_and_pruned_after_its_grace_and_not_before() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    let marked: Vec<bool> =
        host.actual().await.inventory.points.iter().map(|point| point.expired_since.is_some()).collect();
    assert_eq!(marked, [true, true, false]);
    assert!(clean_at(&engine, now + hours(23)).await.forgotten.is_empty());
    assert_eq!(snapshots(&engine).await, 3);
    let before = ids(&host).await;
    let cleaned = clean_at(&engine, now + hours(25)).await;
    assert_eq!(cleaned.forgotten.iter().map(ToString::to_string).collect::<Vec<_>>(), before[..2]);
    assert_eq!((ids(&host).await, snapshots(&engine).await), (before[2..].to_vec(), 1));
    let events = engine.history(0).await.unwrap();
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::Forgotten { points } if points.len() == 2)));
    // The newest is kept, whatever time goes by.
    assert!(clean_at(&engine, now + hours(24 * 4000)).await.forgotten.is_empty());
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("restored")]));
    assert_eq!(crate::host::walk(&host.path("restored")), ["three"]);
}

#[tokio::test]
async fn an_edit_that_is_reverted_within_the_grace_loses_nothing_from_that_moment() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    host.put(json!({"retention": {"keepLast": 3, "grace": "24h"}})).await;
    assert_eq!(marked(&host).await, [false; 3], "a mark waits for the next cleanup");
    let events = engine.history(0).await.unwrap();
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::TakenBack { points } if points.len() == 2)));
    let cleaned = clean_at(&engine, now + hours(1000)).await;
    assert!(cleaned.forgotten.is_empty() && cleaned.marked.is_empty(), "{cleaned:?}");
    assert_eq!(snapshots(&engine).await, 3);
}

/// Which points are marked as expired, oldest first.
async fn marked(host: &Host) -> Vec<bool> {
    host.actual().await.inventory.points.iter().map(|point| point.expired_since.is_some()).collect()
}

/// What a turn does with an edit of which every loss is approved. Returns what the plan listed.
async fn edit(host: &Host, after: CompiledPolicy, now: Timestamp) -> Losses {
    let (engine, actual) = (host.engine(), host.actual().await);
    let former = Former::Applied(actual.compiled.as_ref().unwrap());
    let losses = by_edit(former, &after, &actual.inventory.points, now);
    engine.put(&after).await.unwrap();
    let lost: Vec<RestorePointId> = losses.losses.iter().map(|loss| loss.id.clone()).collect();
    engine.expire(&Host::name(), &lost, now).await.unwrap();
    losses
}

fn keeps_two(host: &Host, repository: &str) -> CompiledPolicy {
    host.policy_in(&[repository], json!({}), json!({"retention": {"keepLast": 2, "grace": "24h"}}))
}

/// Promise 2: what the plan of an edit does not list stays, also where points of the policy are in a repository that it
/// no longer has.
#[tokio::test]
async fn moved_away_and_back_only_what_the_plans_listed_expires() {
    let host = Host::new();
    host.engine().put(&keeps_two(&host, "first")).await.unwrap();
    let run = || drop(good(host.mainstay(&["run", "shop/nightly"])));
    (0..2).for_each(|_| run());
    let now = Timestamp::now();
    let away = edit(&host, keeps_two(&host, "second"), now).await;
    assert_eq!(away.losses.len(), 2, "{away:?}");
    (0..2).for_each(|_| run());
    assert_eq!(marked(&host).await, [true, true, false, false], "a cleanup took back what was consented to");
    let back = edit(&host, keeps_two(&host, "first"), now).await;
    let all = ids(&host).await;
    let lost: Vec<&str> = back.losses.iter().map(|loss| loss.id.0.as_str()).collect();
    assert_eq!(lost, all[2..], "the plan of the way back");
    assert_eq!(back.taken_back.iter().map(ToString::to_string).collect::<Vec<_>>(), all[..2]);
    let cleaned = clean_at(&host.engine(), now + hours(1)).await;
    assert!(cleaned.marked.is_empty() && cleaned.taken_back.is_empty(), "{cleaned:?}");
    assert_eq!(marked(&host).await, [false, false, true, true]);
    let cleaned = clean_at(&host.engine(), now + hours(25)).await;
    assert_eq!(cleaned.forgotten.iter().map(ToString::to_string).collect::<Vec<_>>(), all[2..]);
}

/// The same name at another place is another place, and a point without another one stays as long as there is none.
#[tokio::test]
async fn a_repository_that_moves_under_its_name_leaves_points_behind_but_never_the_only_one() {
    let host = Host::new();
    let at = |directory: &str| {
        let more = json!({"directory": host.text(directory)});
        host.policy_in(&["disk"], more, json!({"retention": {"keepLast": 2, "grace": "1h"}}))
    };
    host.engine().put(&at("one")).await.unwrap();
    good(host.mainstay(&["run", "shop/nightly"]));
    let now = Timestamp::now();
    assert_eq!(edit(&host, at("two"), now).await.losses.len(), 1);
    let cleaned = clean_at(&host.engine(), now + hours(1000)).await;
    assert!(cleaned.forgotten.is_empty(), "the only point was forgotten: {cleaned:?}");
    good(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!(clean_at(&host.engine(), now + hours(1001)).await.forgotten.len(), 1);
    assert_eq!(marked(&host).await, [false]);
}

/// A repository that was left behind and is gone for ever keeps nothing from expiring.
#[tokio::test]
async fn a_repository_that_is_gone_for_ever_can_be_left_behind() {
    let host = Host::new();
    host.engine().put(&keeps_two(&host, "first")).await.unwrap();
    let run = || drop(good(host.mainstay(&["run", "shop/nightly"])));
    (0..2).for_each(|_| run());
    fs::remove_dir_all(host.path("first")).unwrap();
    let (engine, now) = (host.engine(), Timestamp::now());
    let held_up = clean_at(&engine, now).await.held_up;
    assert!(held_up[0].contains("If one is gone for ever"), "{held_up:?}");
    edit(&host, keeps_two(&host, "second"), now).await;
    (0..3).for_each(|_| run());
    let seen = inventory::refresh(engine.context(), &Host::name(), now).await.unwrap();
    assert!(seen.complete && seen.away.len() == 1, "{seen:?}");
    assert_eq!(marked(&host).await, [true, true, true, false, false]);
    let cleaned = clean_at(&engine, now + hours(25)).await;
    assert_eq!(cleaned.forgotten.len(), 1, "only what is in the repository that answers: {cleaned:?}");
    assert!(cleaned.held_up[0].contains("2 expired restore points wait for repository first"), "{cleaned:?}");
    assert_eq!(clean_at(&engine, now + hours(24 * 9)).await.forgotten.len(), 2);
    // Nothing is there any more, so nobody asks.
    let seen = inventory::refresh(engine.context(), &Host::name(), now).await.unwrap();
    assert!(seen.complete && seen.away.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_held_point_stays_until_it_is_released_and_has_its_grace_anew() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    let held = ids(&host).await.remove(0);
    good(host.mainstay(&["points", "hold", "shop/nightly", &held]));
    assert_eq!(clean_at(&engine, now + hours(25)).await.forgotten.len(), 1);
    assert!(ids(&host).await.contains(&held));
    good(host.mainstay(&["points", "release", "shop/nightly", &held]));
    assert_eq!(clean_at(&engine, now + hours(50)).await.marked.len(), 1);
    assert!(clean_at(&engine, now + hours(73)).await.forgotten.is_empty());
    assert_eq!(clean_at(&engine, now + hours(75)).await.forgotten.len(), 1);
    assert_eq!(ids(&host).await.len(), 1);
}

#[tokio::test]
async fn a_repository_that_is_away_loses_nothing_and_is_not_made_anew() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    fs::rename(host.path("disk"), host.path("away")).unwrap();
    let cleaned = clean_at(&engine, now + hours(25)).await;
    assert!(cleaned.forgotten.is_empty() && cleaned.marked.is_empty(), "{cleaned:?}");
    assert!(cleaned.held_up[0].contains("not every repository could be seen"), "{cleaned:?}");
    assert!(!host.actual().await.inventory.complete);
    assert_eq!(ids(&host).await.len(), 3, "what it held stays known");
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("disk"), "{said}");
    assert!(!host.path("disk").exists(), "a second repository was made where the first one is missing");
    fs::rename(host.path("away"), host.path("disk")).unwrap();
    assert_eq!(clean_at(&engine, now + hours(25)).await.forgotten.len(), 2);
}

#[tokio::test]
async fn what_a_failed_run_left_is_forgotten_by_the_next_good_one() {
    let host = Host::new();
    let sources = |dump: &str| {
        json!({"sources": [
            {"name": "files", "paths": [host.text("data")]},
            {"name": "dump", "command": {"dump": ["sh", "-c", dump]}},
        ]})
    };
    host.put(sources("echo rows; exit 1")).await;
    bad(host.mainstay(&["run", "shop/nightly"]));
    let engine = host.engine();
    assert_eq!((ids(&host).await.len(), snapshots(&engine).await), (0, 1));
    host.put(sources("echo rows")).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!((ids(&host).await.len(), snapshots(&engine).await), (1, 2));
}

/// A mover that is killed while it writes leaves half a file: the next one that looks there removes it.
#[tokio::test]
async fn what_a_killed_mover_was_writing_is_removed() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let place = host.engine().context().state.places(&Host::name()).unwrap().remove(0);
    let index = host.path("disk").join(place.path).join("index");
    let own = ProcessIdentity::own();
    let draft = |ticks: u64| {
        let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
        let path = index.join(format!("ab-tmp-{}-{ticks}-{}-{namespace}-0", own.pid, &own.boot[..8]));
        fs::write(&path, "half").unwrap();
        path
    };
    let (of_the_living, of_the_dead) = (draft(own.started_ticks), draft(own.started_ticks - 1));
    good(host.mainstay(&["run", "shop/nightly"]));
    assert!(of_the_living.exists() && !of_the_dead.exists());
}

/// A Settings document that is wrong hides no restore point: they are told, and so is what is wrong.
#[tokio::test]
async fn points_are_told_although_the_settings_are_wrong() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    fs::create_dir(host.path("documents")).unwrap();
    let settings =
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freese: true}\n";
    fs::write(host.path("documents/backup.yaml"), settings).unwrap();
    let output = host.mainstay(&["points", "--path", &host.text("documents"), "-o", "json"]);
    assert_eq!(output.status.code(), Some(4));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told.as_array().unwrap().len(), &told[0]["kept"]), (1, &json!(true)), "{told:#}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `freeze`?"));
}

#[tokio::test]
async fn work_with_a_schedule_of_its_own_is_started_when_it_is_due_and_all_of_it_is_done() {
    let host = Host::new();
    let maintenance = json!({"maintenance": {"prune": "0 5 * * *", "check": "0 5 * * *", "readData": "100%"}});
    // All at the same time: one maintenance of a repository at a time, and none is left out.
    let policy = host.policy_in(
        &["disk"],
        maintenance,
        json!({"schedule": "0 1 1 1 *", "cleanup": {"schedule": "0 5 * * *"}, "verify": {"schedule": "0 5 * * *"},
            "retention": {"keepLast": 1, "grace": "1h"}}),
    );
    let engine = host.engine();
    engine.put(&policy).await.unwrap();
    for content in ["one", "two"] {
        fs::write(host.path("data/file"), content).unwrap();
        good(host.mainstay(&["run", "shop/nightly"]));
    }
    assert_eq!(ids(&host).await.len(), 2, "a cleanup that has its own time is not done after a run");
    let (sender, mut ended) = mpsc::channel(8);
    engine.tell_ended(sender);
    let settings = SettingsSpec { concurrency: Concurrency { runs: 4 }, ..SettingsSpec::default() };
    let now = Timestamp::now();
    let first = engine.schedule_turn(now, &settings).unwrap();
    assert!(first.maintenance.is_empty() && first.next_due.is_some(), "{first:?}");
    let frozen = SettingsSpec { freeze: true, ..settings.clone() };
    assert!(engine.schedule_turn(now + hours(25), &frozen).unwrap().maintenance.is_empty());
    let due = engine.schedule_turn(now + hours(25), &settings).unwrap();
    let started: BTreeSet<&str> = due.maintenance.iter().map(|(_, work)| work.as_str()).collect();
    assert_eq!(started, BTreeSet::from(["check disk", "cleanup", "prune disk", "verify"]));
    assert!(engine.schedule_turn(now + hours(25), &settings).unwrap().maintenance.is_empty(), "started twice");
    for _ in &due.maintenance {
        ended.recv().await.unwrap();
    }
    let actual = host.actual().await;
    assert!(actual.inventory.points.iter().all(|point| point.verified_at.is_some()));
    let events = engine.history(0).await.unwrap();
    let verified = events.iter().filter(|event| matches!(&event.kind, EventKind::Verified { problem: None, .. }));
    assert_eq!(verified.count(), 2, "the check and the verification: {events:?}");
}

/// A prune would take for unused what a run relies on and has not recorded yet.
#[tokio::test]
async fn nothing_is_pruned_while_a_run_captures_and_nothing_captured_during_a_prune() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let engine = host.engine();
    let place = engine.context().state.places(&Host::name()).unwrap().remove(0);
    let gate = host.fifo("gate");
    let mut run = host
        .command(&["run", "shop/nightly"])
        .env("MAINSTAY_TEST_PAUSE", format!("record:intended={}", gate.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Opens only once the run stands there.
    let held = fs::OpenOptions::new().write(true).open(gate).unwrap();
    let prune = async || {
        let bounds = Bounds::within(Duration::from_millis(1), None);
        cleanup::prune(engine.context(), &place, Timestamp::now(), &bounds).await
    };
    let refused = prune().await.unwrap_err().to_string();
    assert!(refused.contains("captures into it"), "{refused}");
    drop(held);
    assert!(run.wait().unwrap().success());
    let bounds = Bounds::within(Duration::from_secs(60), None);
    cleanup::prune(engine.context(), &place, Timestamp::now(), &bounds).await.unwrap();

    let state = &engine.context().state;
    let pruning = state.lease(&prune_lease(&place), Timestamp::now()).unwrap().unwrap();
    host.put(json!({"limits": {"timeout": "1s"}})).await;
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("repository disk is being pruned"), "{said}");
    drop(pruning);
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!(ids(&host).await.len(), 3);
}

#[tokio::test]
async fn a_repository_has_one_maintenance_at_a_time() {
    let host = three_points().await;
    let engine = host.engine();
    let place = engine.context().state.places(&Host::name()).unwrap().remove(0);
    let other = engine.context().state.lease(&maintenance_lease(&place), Timestamp::now()).unwrap().unwrap();
    let prune = async |limit| {
        let bounds = Bounds::within(limit, None);
        cleanup::prune(engine.context(), &place, Timestamp::now(), &bounds).await
    };
    let refused = prune(Duration::from_millis(1)).await.unwrap_err().to_string();
    assert!(refused.contains("another maintenance of repository disk is under way"), "{refused}");
    drop(other);
    prune(Duration::from_secs(60)).await.unwrap();
}

/// The space of what was forgotten while another run captured is reclaimed by the next cleanup, though that forgets
/// nothing.
#[tokio::test]
async fn a_prune_that_was_put_off_is_made_up_for() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    let place = engine.context().state.places(&Host::name()).unwrap().remove(0);
    let other = PolicyName::new("shop", "other");
    let capturing = engine.context().state.lease(&capture_lease(&place, &other), now).unwrap().unwrap();
    let cleaned = clean_at(&engine, now + hours(25)).await;
    assert_eq!((cleaned.forgotten.len(), cleaned.freed_bytes), (2, 0));
    drop(capturing);
    assert!(clean_at(&engine, now + hours(25)).await.freed_bytes > 0);
    assert_eq!(clean_at(&engine, now + hours(25)).await.freed_bytes, 0);
}

/// A listing without a snapshot that nothing here forgot: it stays known with its hold, is told, and comes back.
#[tokio::test]
async fn a_point_that_a_listing_misses_is_told_keeps_its_hold_and_comes_back() {
    let host = three_points().await;
    let (engine, now) = (host.engine(), Timestamp::now());
    let held = ids(&host).await.remove(0);
    good(host.mainstay(&["points", "hold", "shop/nightly", &held]));
    let place = engine.context().state.places(&Host::name()).unwrap().remove(0);
    let snapshots = host.path("disk").join(place.path).join("snapshots");
    fs::rename(&snapshots, host.path("elsewhere")).unwrap();
    fs::create_dir(&snapshots).unwrap();
    let cleaned = clean_at(&engine, now + hours(23)).await;
    assert!(cleaned.marked.is_empty() && cleaned.forgotten.is_empty(), "{cleaned:?}");
    let points = host.actual().await.inventory.points;
    assert!(points.len() == 3 && points.iter().all(|point| point.missing_since.is_some()), "{points:?}");
    let (_, said) = bad(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("restored")]));
    assert!(said.contains("has no restore point yet"), "{said}");
    fs::remove_dir(&snapshots).unwrap();
    fs::rename(host.path("elsewhere"), &snapshots).unwrap();
    clean_at(&engine, now + hours(23)).await;
    let points = host.actual().await.inventory.points;
    assert!(points.iter().all(|point| point.missing_since.is_none() && !point.found), "{points:?}");
    assert!(points[0].held, "{points:?}");
    let events = engine.history(0).await.unwrap();
    let told = |wanted: fn(&EventKind) -> bool| events.iter().filter(|event| wanted(&event.kind)).count();
    assert_eq!(told(|kind| matches!(kind, EventKind::Missing { points } if points.len() == 3)), 1);
    assert_eq!(told(|kind| matches!(kind, EventKind::Returned { points } if points.len() == 3)), 1);
}
