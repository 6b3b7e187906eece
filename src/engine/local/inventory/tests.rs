//! Merging listings with what is known, without repositories.

use serde_json::json;

use super::*;
use crate::{
    mover::job::SnapshotLabel,
    run::{SourceReport, Trigger},
    status::ledger::EventKind,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn name() -> PolicyName {
    PolicyName::new("shop", "nightly")
}

fn place(id: i64) -> PlaceRecord {
    let document = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": format!("disk{id}")},
        "spec": {"directory": format!("/disk{id}"), "password": {"generate": true}},
    });
    PlaceRecord {
        id,
        repository: format!("disk{id}"),
        document: serde_json::from_value(document).unwrap(),
        path: "local/shop-nightly-abcde".into(),
        current: true,
        initialised: true,
    }
}

fn snapshot(run: &str) -> Snapshot {
    Snapshot {
        id: format!("snapshot of {run}"),
        label: SnapshotLabel {
            policy: name(),
            run: RestorePointId(run.into()),
            source: "files".into(),
            sources: 1,
            host: "local".into(),
            maker: None,
        },
        time: Timestamp::UNIX_EPOCH,
        size_bytes: 1,
        added_bytes: 1,
        files: 1,
    }
}

fn point(run: &str, places: &[i64]) -> StoredPoint {
    let point = RestorePoint {
        id: RestorePointId(run.into()),
        time: Timestamp::UNIX_EPOCH,
        size_bytes: 1,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    let parts = places.iter().map(|id| part(&place(*id), &snapshot(run))).collect();
    StoredPoint { point, parts, forgetting: false }
}

fn run(id: &str, phase: Phase) -> RunReport {
    RunReport {
        policy: name(),
        id: RestorePointId(id.into()),
        trigger: Trigger::Schedule,
        scheduled_at: Timestamp::UNIX_EPOCH,
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: None,
        phase,
        failed_after_record: false,
        interrupted: false,
        message: String::new(),
        sources: Vec::new(),
    }
}

/// One look: `listed` runs by place, `known` before it, `recorded` after it.
fn look(listed: &[(i64, &[&str])], known: Vec<StoredPoint>, recorded: &[&str], runs: &[RunReport]) -> Merged {
    let listed = listed.iter().map(|(place, runs)| (*place, runs.iter().map(|run| snapshot(run)).collect())).collect();
    let recorded = recorded.iter().map(|id| RestorePointId((*id).into())).collect();
    merge(&[place(1), place(2)], &listed, known, &recorded, &not_good(runs.iter()), NOW)
}

fn ids(points: &[StoredPoint]) -> Vec<&str> {
    points.iter().map(|point| point.point.id.0.as_str()).collect()
}

#[test]
fn a_point_that_is_recorded_during_the_look_is_left_alone() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        let merged = look(&[(1, &["old", "new"])], vec![point("old", &[1])], &["old", "new"], &[run("new", phase)]);
        assert_eq!((ids(&merged.seen), merged.fresh.len(), merged.gone.len()), (vec!["old"], 0, 0), "{phase:?}");
        assert!(merged.leftovers.is_empty(), "{phase:?}: its snapshots would be forgotten");
    }
    // It was not listed yet, either.
    let merged = look(&[(1, &["old"])], vec![point("old", &[1])], &["old", "new"], &[run("new", Phase::Succeeded)]);
    assert_eq!((ids(&merged.seen), merged.gone.len()), (vec!["old"], 0));
}

#[test]
fn a_part_that_turns_up_is_added_and_one_that_is_gone_is_not_kept() {
    let merged = look(&[(1, &["old"]), (2, &["old"])], vec![point("old", &[1])], &["old"], &[]);
    let places: Vec<i64> = merged.seen[0].parts.iter().map(|part| part.place).collect();
    assert_eq!(places, [1, 2]);
    let merged = look(&[(1, &[]), (2, &["old"])], vec![point("old", &[1, 2])], &["old"], &[]);
    let places: Vec<i64> = merged.seen[0].parts.iter().map(|part| part.place).collect();
    assert_eq!(places, [2]);
    let merged = look(&[(1, &[])], vec![point("old", &[1])], &["old"], &[]);
    assert_eq!((ids(&merged.missing), merged.gone.len()), (vec!["old"], 0));
    assert_eq!(merged.missing[0].parts.len(), 1, "it is known where it should be");
    // It did not answer.
    let merged = look(&[(1, &[])], vec![point("old", &[1, 2])], &["old"], &[]);
    assert_eq!(merged.seen[0].parts.len(), 1);
}

#[test]
fn snapshots_of_failed_runs_are_leftovers_and_unknown_ones_are_points() {
    let runs = [run_that_left("failed"), run("running", Phase::Running)];
    let merged = look(&[(1, &["failed", "running", "found"])], Vec::new(), &[], &runs);
    assert_eq!(ids(&merged.fresh), ["found"]);
    assert_eq!(merged.leftovers[&1], [(RestorePointId("failed".into()), "snapshot of failed".into())]);
    // Its workload did not start, but its point was recorded. Missing for one look, it must come back with the next.
    let recorded = RunReport { failed_after_record: true, ..run_that_left("failed") };
    let merged = look(&[(1, &["failed"])], Vec::new(), &[], &[recorded]);
    assert_eq!((ids(&merged.fresh), merged.leftovers.len()), (vec!["failed"], 0));
}

/// A run that failed after it had captured what [`snapshot`] lists of it.
fn run_that_left(id: &str) -> RunReport {
    let mut source = SourceReport::pending("files".into(), "disk1".into());
    source.snapshot = Some(format!("snapshot of {id}"));
    RunReport { sources: vec![source], ..run(id, Phase::Failed) }
}

/// The state is a copy from the middle of a run, or from before it and the run was begun anew: what the run left in the
/// end is not known here, but the repository shows it.
#[test]
fn what_this_state_does_not_know_to_have_failed_is_a_point_if_it_is_whole() {
    let interrupted = RunReport { interrupted: true, ..run_that_left("cut") };
    let begun_anew = run("anew", Phase::Failed);
    let merged = look(&[(1, &["cut", "anew"])], Vec::new(), &[], &[interrupted.clone(), begun_anew]);
    assert_eq!((ids(&merged.fresh), merged.leftovers.len()), (vec!["anew", "cut"], 0));
    // Half of it is worth nothing.
    let mut half = snapshot("cut");
    half.label.sources = 2;
    let listed = BTreeMap::from([(1, vec![half])]);
    let merged = merge(&[place(1)], &listed, Vec::new(), &BTreeSet::new(), &not_good([interrupted].iter()), NOW);
    assert_eq!((merged.fresh.len(), merged.leftovers[&1].len()), (0, 1));
}

#[test]
fn storing_a_look_touches_nothing_that_changed_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let state = crate::engine::local::state::State::open(directory.path()).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let store = |seen: &[StoredPoint], fresh: &[StoredPoint]| {
        let (seen, fresh) = (seen.to_vec(), fresh.to_vec());
        state.set_inventory(&name(), now, true, &Merged { seen, fresh, ..Merged::default() }).unwrap();
    };
    store(&[], &[point("one", &[1]), point("two", &[1])]);
    // One was forgotten by another process, and is not brought back; the other is there already.
    state.remove_points(&name(), &[RestorePointId("one".into())], now).unwrap();
    store(&[point("one", &[1]), point("two", &[1, 2])], &[point("two", &[])]);
    let points = state.points(&name()).unwrap();
    assert_eq!((ids(&points), points[0].parts.len()), (vec!["two"], 2));
}

#[test]
fn volume_snapshots_in_the_cluster_complete_what_a_repository_holds() {
    let stored = |place: i64, source: &str, size_bytes: u64| {
        let mut stored = point("old", &[1]).parts.remove(0);
        stored.place = place;
        stored.part.source = source.to_owned();
        stored.part.size_bytes = size_bytes;
        stored
    };
    let parts = [stored(IN_CLUSTER, "site/data", 64), stored(1, "db", 2), stored(2, "db", 2)];
    assert!(is_restorable(&parts, 2));
    assert_eq!(size_of_one_copy(&parts), 66);
    assert!(!is_restorable(&parts[1..], 2), "the volume snapshot is gone");
    assert!(is_restorable(&parts[..1], 1));
}

/// Two installations share a repository and the name of a policy, so that their runs have the same ids.
#[test]
fn what_another_maker_made_is_a_point_of_its_own() {
    let own = MakerId("aaaaaaaaaaaaaaaa".into());
    let made_by = |maker: &MakerId, id: &str| {
        let mut snapshot = Snapshot { id: id.into(), ..snapshot("20261121-020000") };
        snapshot.label.maker = Some(maker.clone());
        snapshot
    };
    let other = MakerId("bbbbbbbbbbbbbbbb".into());
    let listing = || {
        let mut listed = BTreeMap::from([(1, vec![made_by(&other, "theirs"), made_by(&own, "ours")])]);
        name_points(&mut listed, Some(&own));
        listed
    };
    let mut known = point("20261121-020000", &[1]);
    known.parts[0].part.snapshot = "ours".into();
    let recorded = BTreeSet::from([known.point.id.clone()]);
    let merged = merge(&[place(1)], &listing(), vec![known], &recorded, &BTreeMap::new(), NOW);
    assert_eq!((ids(&merged.seen), ids(&merged.fresh)), (vec!["20261121-020000"], vec!["20261121-020000-bbbbbb"]));
    assert_eq!((merged.seen[0].parts.len(), merged.fresh[0].point.found), (1, true));
    // Ours failed; theirs did not.
    let mut failed = run_that_left("20261121-020000");
    failed.sources[0].snapshot = Some("ours".into());
    let merged = merge(&[place(1)], &listing(), Vec::new(), &BTreeSet::new(), &not_good([failed].iter()), NOW);
    assert_eq!(ids(&merged.fresh), ["20261121-020000-bbbbbb"]);
    assert_eq!(merged.leftovers[&1], [(RestorePointId("20261121-020000".into()), "ours".into())]);
}

#[test]
fn a_found_point_is_released_by_a_person_or_by_a_loss_that_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let state = crate::engine::local::state::State::open(directory.path()).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let found = |id: &str| {
        let mut found = point(id, &[1]);
        found.point.found = true;
        found
    };
    let id = |id: &str| RestorePointId(id.into());
    let look = Merged { fresh: ["a", "b", "c"].map(found).into(), ..Merged::default() };
    state.set_inventory(&name(), now, true, &look).unwrap();
    state.set_inventory(&name(), now, true, &look).unwrap();
    assert_eq!(state.events(0).unwrap().len(), 1, "it is told once");
    assert!(state.set_held(&name(), &id("a"), false, now).unwrap());
    assert_eq!(state.events(0).unwrap().len(), 2);
    state.mark(&name(), &[id("b")], now).unwrap();
    assert!(state.set_held(&name(), &id("c"), true, now).unwrap());
    let marks = || -> Vec<(bool, bool)> {
        state.points(&name()).unwrap().iter().map(|stored| (stored.point.held, stored.point.found)).collect()
    };
    assert_eq!(marks(), [(false, false), (false, false), (true, true)]);
    state.set_held(&name(), &id("c"), false, now).unwrap();
    assert_eq!(marks()[2], (false, false));
}

/// One listing that is not whole (a store that lags behind, a mount that was half there) must cost nothing.
#[test]
fn a_point_that_a_listing_misses_is_given_up_only_after_long_and_never_while_it_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let state = crate::engine::local::state::State::open(directory.path()).unwrap();
    let hours = |hours: i64| NOW + SignedDuration::from_hours(hours);
    let fresh: Vec<StoredPoint> = ["free", "held"].map(|id| point(id, &[1])).into();
    state.set_inventory(&name(), NOW, true, &Merged { fresh, ..Merged::default() }).unwrap();
    state.set_held(&name(), &RestorePointId("held".into()), true, NOW).unwrap();
    let look = |shown: &[&str], now: Timestamp| {
        let listed = BTreeMap::from([(1, shown.iter().map(|run| snapshot(run)).collect())]);
        let known = state.points(&name()).unwrap();
        let recorded = known.iter().map(|point| point.point.id.clone()).collect();
        let merged = merge(&[place(1)], &listed, known, &recorded, &BTreeMap::new(), now);
        state.set_inventory(&name(), now, true, &merged).unwrap();
        let points = state.points(&name()).unwrap();
        let told = |point: &StoredPoint| (point.point.id.0.clone(), point.point.held, point.point.missing_since);
        points.iter().map(told).collect::<Vec<_>>()
    };
    let free = |since: Option<Timestamp>| ("free".to_owned(), false, since);
    let held = |since: Option<Timestamp>| ("held".to_owned(), true, since);
    assert_eq!(look(&[], hours(1)), [free(Some(hours(1))), held(Some(hours(1)))]);
    assert_eq!(look(&["free", "held"], hours(2)), [free(None), held(None)]);
    assert_eq!(look(&[], hours(3)), [free(Some(hours(3))), held(Some(hours(3)))]);
    assert_eq!(look(&[], hours(3 + 7 * 24 - 1)).len(), 2);
    // The clock went back.
    assert_eq!(look(&[], NOW).len(), 2);
    assert_eq!(look(&[], hours(3 + 7 * 24)), [held(Some(hours(3)))]);
    let both = || ["free", "held"].map(|id| RestorePointId(id.into())).to_vec();
    let told: Vec<EventKind> = state.events(0).unwrap().into_iter().map(|event| event.kind).collect();
    let expected = [
        EventKind::Missing { points: both() },
        EventKind::Returned { points: both() },
        EventKind::Missing { points: both() },
        EventKind::GivenUp { points: vec![RestorePointId("free".into())] },
    ];
    assert_eq!(told[2..], expected);
}
