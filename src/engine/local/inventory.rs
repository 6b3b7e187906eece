//! The inventory of a policy: what its repositories hold, merged with what the state knows.
//!
//! A listing that fails makes the inventory incomplete: what that repository held stays known, and nothing may be
//! forgotten. Snapshots of a run that is still under way never count, nor do those that a failed run is known to have
//! left. What else carries the id of such a run may be the work of the same run that a state before this one saw the
//! end of (this one is a copy from the middle of it): if it is whole it is a restore point, not a leftover.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    context::{Context, WorkError},
    movers::{self, MoverError},
    state::{
        places::PlaceRecord,
        points::{StoredPart, StoredPoint},
    },
};
use crate::{
    mover::job::{FailureKind, Outcome, Snapshot, Task},
    policy::PolicyName,
    restore_point::{MakerId, Part, RestorePoint, RestorePointId},
    retention::reach::Reach,
    run::{Phase, RunReport},
};

/// How long a point that no listing shows any more stays known, unless somebody holds it.
const PATIENCE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What one look at all repositories of a policy found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whether all of them answered that the policy writes to now.
    pub complete: bool,
    /// Why not, for each that did not.
    pub problems: Vec<String>,
    /// The restore points as they are known after the look, oldest first.
    pub points: Vec<StoredPoint>,
    /// Snapshots of failed runs, by place; a cleanup forgets them.
    pub leftovers: BTreeMap<i64, Vec<(RestorePointId, String)>>,
    /// The snapshots that each place answered with.
    pub listed: BTreeMap<i64, Vec<Snapshot>>,
    /// Places that the policy left behind and that did not answer, with the names of their repositories.
    pub away: BTreeMap<i64, String>,
}

/// Looks at all repositories of a policy and stores what was found.
///
/// A place that was never written to from here is asked, too: it may hold what another state wrote. So may the places
/// beside it, which have the same name but for their suffix: a first look finds those, and while no point is known they
/// are asked until all of them answer.
///
/// A place that the policy left behind is asked only while a known point has a part there, and one that does not answer
/// leaves the inventory complete: the rules count no point that is only there, see [`crate::retention::reach`].
///
/// # Errors
/// The state cannot be read or written. A repository that does not answer is no error but an incomplete inventory.
pub async fn refresh(context: &Context, policy: &PolicyName, now: Timestamp) -> Result<Found, WorkError> {
    // Before the listings: a point that is recorded while they are made is not in question.
    let known = context.state.points(policy)?;
    let mut problems = Vec::new();
    let (mut fresh_places, mut paths_beside) = (Vec::new(), Vec::new());
    if !context.state.has_seen_all(policy)? {
        for place in context.state.places(policy)?.iter().filter(|place| place.current && !place.path.is_empty()) {
            match beside(context, policy, place).await {
                Ok(paths) => {
                    fresh_places.extend(context.state.add_former_places(place.id, &paths)?);
                    paths_beside.extend(paths);
                }
                Err(error) => problems.push(error.chain()),
            }
        }
    }
    let places = context.state.places(policy)?;
    let stored = context.state.policy(policy)?;
    let reach = stored.as_ref().filter(|stored| !stored.withdrawn).map(|stored| Reach::of(&stored.compiled));
    let holds_something = |place: &PlaceRecord| {
        place.current
            || fresh_places.contains(&place.id)
            // A place that an earlier look could not read, such as with the wrong password, is not fresh any more.
            || (known.is_empty() && paths_beside.contains(&place.path))
            || known.iter().any(|point| point.parts.iter().any(|part| part.place == place.id))
    };
    let mut listed = BTreeMap::new();
    let mut away = BTreeMap::new();
    for place in places.iter().filter(|place| holds_something(place)) {
        let task = Task::List { policy: Some(policy.clone()) };
        let answer = context.job(place, task, None, &context.small_work(), |_| ()).await;
        match answer.and_then(|outcome| Ok(movers::snapshots(&place.repository, outcome)?)) {
            Ok(snapshots) => {
                if !place.initialised {
                    context.state.set_initialised(place.id)?;
                }
                listed.insert(place.id, snapshots);
            }
            Err(WorkError::Mover(MoverError::Failed(failure)))
                if failure.kind == FailureKind::RepositoryMissing && !place.initialised => {}
            Err(error) => {
                tracing::warn!(%policy, repository = place.repository, "{}", error.chain());
                match &reach {
                    Some(reach) if reach.holds_place(&place.repository, &place.location()) => {
                        problems.push(error.chain());
                    }
                    Some(_) | None => {
                        away.insert(place.id, place.repository.clone());
                    }
                }
            }
        }
    }
    let maker = context.state.maker()?;
    name_points(&mut listed, Some(&maker));
    // After the listings, and the runs first: a run whose snapshots were listed is among them, and one that is over by
    // then has its point among those that are known now.
    let runs = context.state.runs(policy)?;
    let known_now = context.state.points(policy)?;
    let is_known = |snapshot: &Snapshot| known_now.iter().any(|point| point.point.id == snapshot.label.run);
    if let Some(stored) = &stored {
        // In a shared repository another host may have a policy of the same name: its snapshots are not ours to judge.
        for snapshots in listed.values_mut() {
            snapshots.retain(|snapshot| snapshot.label.host == stored.compiled.cluster || is_known(snapshot));
        }
    }
    let recorded = known_now.into_iter().map(|point| point.point.id).collect();
    let merged = merge(&places, &listed, known, &recorded, &not_good(runs.iter().map(|run| &run.report)), now);
    let complete = problems.is_empty();
    context.state.set_inventory(policy, now, complete, &merged)?;
    tell_missing(policy, &merged.missing);
    let points = context.state.points(policy)?;
    Ok(Found { complete, problems, points, leftovers: merged.leftovers, listed, away })
}

/// The paths of places that another state made for a policy beside one of this state.
async fn beside(context: &Context, policy: &PolicyName, place: &PlaceRecord) -> Result<Vec<String>, WorkError> {
    let task = Task::Beside { prefix: PlaceRecord::prefix(policy) };
    let Outcome::Beside(names) = context.job(place, task, None, &context.small_work(), |_| ()).await? else {
        return Err(MoverError::WrongAnswer { repository: place.repository.clone() }.into());
    };
    Ok(place.former_paths(policy, &names))
}

/// Refuses to make a repository beside those of the same policy that its password does not open: a password that was
/// lost would leave all that was captured before behind, unseen.
///
/// # Errors
/// There are such, or the repository does not answer.
pub async fn check_beside(context: &Context, policy: &PolicyName, place: &PlaceRecord) -> Result<(), WorkError> {
    if place.path.is_empty() {
        return Ok(());
    }
    let paths = beside(context, policy, place).await?;
    let open = |former, task| async move { context.job(&former, task, None, &context.small_work(), |_| ()).await };
    let is = |error: &WorkError, kind| matches!(error, WorkError::Mover(error) if error.is(kind));
    why_not_beside(policy, place, paths, open, is).await?.map_or(Ok(()), |why| Err(WorkError::Refused(why)))
}

/// Why no repository is made beside those at `paths`: there are some, and the password opens none of them. `open` carries a
/// task out on one of them; `is` tells the kind of a failure.
///
/// # Errors
/// One of them does not answer.
pub async fn why_not_beside<E, F: Future<Output = Result<Outcome, E>>>(
    policy: &PolicyName,
    place: &PlaceRecord,
    paths: Vec<String>,
    open: impl Fn(PlaceRecord, Task) -> F,
    is: impl Fn(&E, FailureKind) -> bool,
) -> Result<Option<String>, E> {
    let mut unopened = Vec::new();
    for path in paths {
        let former = PlaceRecord { path: path.clone(), initialised: true, ..place.clone() };
        match open(former, Task::List { policy: Some(policy.clone()) }).await {
            Err(error) if is(&error, FailureKind::WrongPassword) => unopened.push(path),
            Err(error) if is(&error, FailureKind::RepositoryMissing) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(None),
        }
    }
    Ok((!unopened.is_empty()).then(|| place.unopened(&unopened)))
}

/// Gives the snapshots the ids that their restore points have here.
pub fn name_points(listed: &mut BTreeMap<i64, Vec<Snapshot>>, own: Option<&MakerId>) {
    for label in listed.values_mut().flatten().map(|snapshot| &mut snapshot.label) {
        label.run = RestorePointId::of_run(&label.run, label.maker.as_ref(), own);
    }
}

/// A run that recorded no restore point, as far as is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotGood {
    /// It goes on.
    UnderWay,
    /// It failed, and left these snapshots behind.
    Failed(BTreeSet<String>),
}

/// The runs that recorded no restore point.
pub fn not_good<'a>(reports: impl Iterator<Item = &'a RunReport>) -> BTreeMap<RestorePointId, NotGood> {
    let judge = |run: &RunReport| match run.phase {
        Phase::Pending | Phase::Running => Some(NotGood::UnderWay),
        Phase::Failed if run.failed_after_record => None,
        // It may have gone well after the moment that is known here.
        Phase::Failed if run.interrupted => Some(NotGood::Failed(BTreeSet::new())),
        Phase::Failed => Some(NotGood::Failed(run.sources.iter().filter_map(|one| one.snapshot.clone()).collect())),
        Phase::Succeeded => None,
    };
    reports.filter_map(|run| Some((run.id.clone(), judge(run)?))).collect()
}

/// Says in the log which points a look misses for the first time.
pub fn tell_missing(policy: &PolicyName, missing: &[StoredPoint]) {
    for point in missing.iter().filter(|point| point.point.missing_since.is_none()) {
        tracing::warn!(%policy, point = %point.point.id, "a restore point is no longer in any repository");
    }
}

/// What listings say of what is known.
#[derive(Debug, Default, PartialEq)]
pub struct Merged {
    /// Known points that are there, with the parts that are.
    pub seen: Vec<StoredPoint>,
    /// Points that nobody knew, marked as found.
    pub fresh: Vec<StoredPoint>,
    /// Known points that are not there, although nothing here forgot them: as they were known.
    pub missing: Vec<StoredPoint>,
    /// Known points that are not there, and are not waited for: a cleanup began to forget them, or they are missing for
    /// long and nobody holds them.
    pub gone: Vec<StoredPoint>,
    /// See [`Found::leftovers`].
    pub leftovers: BTreeMap<i64, Vec<(RestorePointId, String)>>,
}

/// The number of the place that is the cluster itself: its volume snapshots complete what any repository holds. On one
/// host there is no such place.
pub const IN_CLUSTER: i64 = 0;

/// Merges listings with what was known before them. `recorded`: the points that are known after them. `not_good`: the
/// runs that did not succeed.
pub fn merge(
    places: &[PlaceRecord],
    listed: &BTreeMap<i64, Vec<Snapshot>>,
    known: Vec<StoredPoint>,
    recorded: &BTreeSet<RestorePointId>,
    not_good: &BTreeMap<RestorePointId, NotGood>,
    now: Timestamp,
) -> Merged {
    let places: BTreeMap<i64, &PlaceRecord> = places.iter().map(|place| (place.id, place)).collect();
    let known_ids: BTreeSet<RestorePointId> = known.iter().map(|point| point.point.id.clone()).collect();
    let mut leftovers: BTreeMap<i64, Vec<(RestorePointId, String)>> = BTreeMap::new();
    let mut by_run: BTreeMap<RestorePointId, Vec<(&PlaceRecord, &Snapshot)>> = BTreeMap::new();
    for (place, snapshots) in listed {
        let Some(place) = places.get(place) else { continue };
        for snapshot in snapshots {
            let run = &snapshot.label.run;
            if recorded.contains(run) && !known_ids.contains(run) {
                // Recorded while the listings were made: the state knows it better.
                continue;
            }
            // A run that recorded its point and failed only afterwards is good: the point is known.
            match not_good.get(run).filter(|_| !known_ids.contains(run)) {
                Some(NotGood::Failed(left)) if left.contains(&snapshot.id) => {
                    leftovers.entry(place.id).or_default().push((run.clone(), snapshot.id.clone()));
                }
                Some(NotGood::UnderWay) => {}
                Some(NotGood::Failed(_)) | None => by_run.entry(run.clone()).or_default().push((place, snapshot)),
            }
        }
    }
    let (mut seen, mut missing, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for before in known {
        let mut point = before.clone();
        let snapshots = by_run.remove(&point.point.id).unwrap_or_default();
        let sources = point.parts.iter().map(|part| part.part.source.clone()).collect::<BTreeSet<_>>().len();
        point.parts.retain(|part| match listed.contains_key(&part.place) {
            true => {
                snapshots.iter().any(|(place, snapshot)| place.id == part.place && snapshot.id == part.part.snapshot)
            }
            // It did not answer: what it held stays known.
            false => places.contains_key(&part.place),
        });
        for (place, snapshot) in snapshots {
            let is_there = |known: &StoredPart| known.place == place.id && known.part.source == snapshot.label.source;
            if !point.parts.iter().any(is_there) {
                point.parts.push(part(place, snapshot));
            }
        }
        for part in &mut point.parts {
            part.part.location = places.get(&part.place).and_then(|place| location(place));
        }
        match is_restorable(&point.parts, sources) {
            true => seen.push(point),
            false if is_given_up(&before, now) => gone.push(before),
            false => missing.push(before),
        }
    }
    let mut fresh = Vec::new();
    for (id, snapshots) in by_run {
        let parts: Vec<StoredPart> = snapshots.iter().map(|(place, snapshot)| part(place, snapshot)).collect();
        let Some((_, first)) = snapshots.first() else { continue };
        if is_restorable(&parts, first.label.sources) {
            let point = RestorePoint {
                id: id.clone(),
                time: first.time,
                size_bytes: size_of_one_copy(&parts),
                verified_at: None,
                held: false,
                found: true,
                missing_since: None,
                expired_since: None,
                parts: Vec::new(),
            };
            fresh.push(StoredPoint { point, parts, forgetting: false });
        } else if not_good.contains_key(&id) {
            for (place, snapshot) in snapshots {
                leftovers.entry(place.id).or_default().push((id.clone(), snapshot.id.clone()));
            }
        }
    }
    Merged { seen, fresh, missing, gone, leftovers }
}

/// Whether a point that no listing shows is not waited for any more.
fn is_given_up(point: &StoredPoint, now: Timestamp) -> bool {
    let is_patient = |since: Timestamp| since > now || now.duration_since(since) < PATIENCE;
    point.forgetting || (!point.point.held && point.point.missing_since.is_some_and(|since| !is_patient(since)))
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

/// Where a place is; the cluster is always here.
fn location(place: &PlaceRecord) -> Option<String> {
    (place.id != IN_CLUSTER).then(|| place.location())
}

fn part(place: &PlaceRecord, snapshot: &Snapshot) -> StoredPart {
    StoredPart {
        place: place.id,
        part: Part {
            source: snapshot.label.source.clone(),
            repository: place.repository.clone(),
            location: location(place),
            snapshot: snapshot.id.clone(),
            size_bytes: snapshot.size_bytes,
            added_bytes: snapshot.added_bytes,
            files: snapshot.files,
            unreadable: 0,
            duration_milliseconds: 0,
        },
    }
}

#[cfg(test)]
mod tests;
