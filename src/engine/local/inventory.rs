//! The inventory of a policy: what its repositories hold, merged with what the state knows.
//!
//! A listing that fails makes the inventory incomplete: what that repository held stays known, and nothing may be
//! forgotten. Snapshots of a run that failed, or is still under way, never count.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    context::{Context, WorkError},
    movers,
    state::{
        places::PlaceRecord,
        points::{StoredPart, StoredPoint},
    },
};
use crate::{
    mover::job::{Snapshot, Task},
    policy::PolicyName,
    restore_point::{Part, RestorePoint, RestorePointId},
    run::Phase,
};

/// What one look at all repositories of a policy found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whether all of them answered.
    pub complete: bool,
    /// Why not, for each that did not.
    pub problems: Vec<String>,
    /// The restore points, oldest first.
    pub points: Vec<StoredPoint>,
    /// Points that the state knew and that are really gone.
    pub gone: Vec<StoredPoint>,
    /// Snapshots of failed runs, by place; a cleanup forgets them.
    pub leftovers: BTreeMap<i64, Vec<(RestorePointId, String)>>,
    /// The snapshots that each place answered with.
    pub listed: BTreeMap<i64, Vec<Snapshot>>,
}

/// Looks at all repositories of a policy and stores what was found.
///
/// # Errors
/// The state cannot be read or written. A repository that does not answer is no error but an incomplete inventory.
pub async fn refresh(context: &Context, policy: &PolicyName, now: Timestamp) -> Result<Found, WorkError> {
    let places = context.state.places(policy)?;
    let mut listed = BTreeMap::new();
    let mut problems = Vec::new();
    for place in places.iter().filter(|place| place.initialised) {
        let task = Task::List { policy: Some(policy.clone()) };
        let answer = context.job(place, task, None, &context.small_work(), |_| ()).await;
        match answer.and_then(|outcome| Ok(movers::snapshots(&place.repository, outcome)?)) {
            Ok(snapshots) => {
                listed.insert(place.id, snapshots);
            }
            Err(error) => {
                tracing::warn!(%policy, repository = place.repository, "{}", error.chain());
                problems.push(error.chain());
            }
        }
    }
    let known = context.state.points(policy)?;
    let runs = context.state.runs(policy)?;
    if let Some(stored) = context.state.policy(policy)? {
        // In a shared repository another host may have a policy of the same name: its snapshots are not ours to judge.
        let is_known = |snapshot: &Snapshot| known.iter().any(|point| point.point.id == snapshot.label.run);
        for snapshots in listed.values_mut() {
            snapshots.retain(|snapshot| snapshot.label.host == stored.compiled.cluster || is_known(snapshot));
        }
    }
    let not_good: BTreeMap<&RestorePointId, Phase> = runs
        .iter()
        .filter(|run| run.report.phase != Phase::Succeeded)
        .map(|run| (&run.report.id, run.report.phase))
        .collect();
    let found = merge(&places, listed, problems, known, &not_good);
    context.state.set_inventory(policy, now, found.complete, &found.points, &found.gone)?;
    for point in found.gone.iter().filter(|point| !point.forgetting) {
        tracing::warn!(%policy, point = %point.point.id, "a restore point is no longer in any repository");
    }
    Ok(found)
}

/// The number of the place that is the cluster itself: its volume snapshots complete what any repository holds. On one
/// host there is no such place.
pub const IN_CLUSTER: i64 = 0;

/// Merges listings with what is known. `not_good`: the runs that did not succeed.
pub fn merge(
    places: &[PlaceRecord],
    listed: BTreeMap<i64, Vec<Snapshot>>,
    problems: Vec<String>,
    known: Vec<StoredPoint>,
    not_good: &BTreeMap<&RestorePointId, Phase>,
) -> Found {
    let complete = places.iter().all(|place| !place.initialised || listed.contains_key(&place.id));
    let names: BTreeMap<i64, &str> = places.iter().map(|place| (place.id, place.repository.as_str())).collect();
    let known_ids: BTreeSet<RestorePointId> = known.iter().map(|point| point.point.id.clone()).collect();
    let mut leftovers: BTreeMap<i64, Vec<(RestorePointId, String)>> = BTreeMap::new();
    let mut by_run: BTreeMap<RestorePointId, Vec<(i64, &Snapshot)>> = BTreeMap::new();
    for (place, snapshots) in &listed {
        for snapshot in snapshots {
            let run = &snapshot.label.run;
            // A run that recorded its point and failed only afterwards is good: the point is known.
            match not_good.get(run).filter(|_| !known_ids.contains(run)) {
                Some(Phase::Failed) => {
                    leftovers.entry(*place).or_default().push((run.clone(), snapshot.id.clone()));
                }
                Some(Phase::Pending | Phase::Running | Phase::Succeeded) => {}
                None => by_run.entry(run.clone()).or_default().push((*place, snapshot)),
            }
        }
    }
    let mut points = Vec::new();
    let mut gone = Vec::new();
    for mut point in known {
        let snapshots = by_run.remove(&point.point.id).unwrap_or_default();
        let holds = |part: &StoredPart| match listed.contains_key(&part.place) {
            true => snapshots.iter().any(|(place, snapshot)| *place == part.place && snapshot.id == part.part.snapshot),
            // It did not answer: what it held stays known.
            false => names.contains_key(&part.place),
        };
        let sources = point.parts.iter().map(|part| part.part.source.clone()).collect::<BTreeSet<_>>().len();
        point.parts.retain(holds);
        match is_restorable(&point.parts, sources) {
            true => points.push(point),
            false => gone.push(point),
        }
    }
    for (id, snapshots) in by_run {
        let parts: Vec<StoredPart> = snapshots.iter().map(|(place, snapshot)| part(*place, &names, snapshot)).collect();
        let Some((_, first)) = snapshots.first() else { continue };
        if is_restorable(&parts, first.label.sources) {
            let point = RestorePoint {
                id,
                time: first.time,
                size_bytes: size_of_one_copy(&parts),
                verified_at: None,
                held: false,
                expired_since: None,
                parts: Vec::new(),
            };
            points.push(StoredPoint { point, parts, forgetting: false });
        }
    }
    points.sort_by(|one, other| (one.point.time, &one.point.id).cmp(&(other.point.time, &other.point.id)));
    Found { complete, problems, points, gone, leftovers, listed }
}

/// Whether one place, together with the cluster, holds all sources.
fn is_restorable(parts: &[StoredPart], sources: usize) -> bool {
    let mut sources_of: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for part in parts {
        sources_of.entry(part.place).or_default().insert(&part.part.source);
    }
    let in_cluster = sources_of.remove(&IN_CLUSTER).unwrap_or_default();
    let enough = |found: &BTreeSet<&str>| found.union(&in_cluster).count() >= sources.max(1);
    in_cluster.len() >= sources.max(1) || sources_of.values().any(enough)
}

/// Bytes that a restore of all sources from one repository writes.
pub fn size_of_one_copy(parts: &[StoredPart]) -> u64 {
    let mut size_of: BTreeMap<i64, u64> = BTreeMap::new();
    for part in parts {
        *size_of.entry(part.place).or_default() += part.part.size_bytes;
    }
    let in_cluster = size_of.remove(&IN_CLUSTER).unwrap_or(0);
    in_cluster + size_of.into_values().max().unwrap_or(0)
}

fn part(place: i64, names: &BTreeMap<i64, &str>, snapshot: &Snapshot) -> StoredPart {
    StoredPart {
        place,
        part: Part {
            source: snapshot.label.source.clone(),
            repository: names.get(&place).copied().unwrap_or_default().to_owned(),
            snapshot: snapshot.id.clone(),
            size_bytes: snapshot.size_bytes,
            added_bytes: snapshot.added_bytes,
            files: snapshot.files,
            unreadable: 0,
            duration_milliseconds: 0,
        },
    }
}
