//! Cleanup: the retention rules mark restore points, and what stayed marked for the grace time is forgotten and pruned.
//!
//! The order is that of promise 2: look at the repositories, and stop if one did not answer; mark and take marks back;
//! write the intent to forget; forget; prune in two phases, one maintenance at a time for each repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    context::{Context, WorkError},
    inventory::{self, Found},
    movers::Bounds,
    process::ProcessIdentity,
    repositories::{capture_leases, maintenance_lease, prune_lease},
    state::{
        State, StateError,
        leases::Lease,
        places::PlaceRecord,
        points::{StoredPoint, grace_seconds},
    },
};
use crate::{
    mover::job::{Outcome, Task},
    policy::{CompiledPolicy, PolicyName},
    restore_point::{RestorePoint, RestorePointId},
    retention::{
        self,
        reach::{decide_for, sweep_for},
    },
    status::ledger::EventKind,
};

/// The note that says whether everything is frozen.
pub const FREEZE_NOTE: &str = "freeze";

/// How long a maintenance waits for another one of the same repository.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 3600);
/// How often a maintenance or a run looks whether the one that it waits for has ended.
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How long after its grace an expired point waits for a place that was left behind and does not answer. Then it leaves
/// the index: its loss was approved with the edit that left the place behind.
const PATIENCE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a cleanup did.
#[derive(Debug, Clone, Default)]
pub struct Cleaned {
    /// Newly marked as expired.
    pub marked: Vec<RestorePointId>,
    /// Marks that were taken back.
    pub taken_back: Vec<RestorePointId>,
    /// Forgotten.
    pub forgotten: Vec<RestorePointId>,
    /// Snapshots of failed runs that were forgotten.
    pub leftovers: usize,
    /// Bytes that pruning freed, or will free after its safety time.
    pub freed_bytes: u64,
    /// What kept it from doing more, in sentences.
    pub held_up: Vec<String>,
}

/// How far a cleanup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Only look and mark.
    Mark,
    /// Forget and prune as well.
    Whole,
}

/// Cleans up after a policy.
///
/// # Errors
/// The state cannot be used, or a forgetting or pruning failed; what was intended is finished by the next cleanup.
pub async fn clean(
    context: &Context,
    policy: &PolicyName,
    extent: Extent,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<Cleaned, WorkError> {
    let mut cleaned = Cleaned::default();
    let Some(stored) = context.state.policy(policy)? else { return Ok(cleaned) };
    let found = inventory::refresh(context, policy, now).await?;
    if !found.complete {
        let problems = found.problems.join("; ");
        cleaned.held_up.push(format!(
            "nothing expires, because not every repository could be seen: {problems}. If one is gone for ever, take it \
             out of the policy or move it: the plan lists what was there, and consent lets it go"
        ));
        return Ok(cleaned);
    }
    if context.state.note(FREEZE_NOTE)?.as_deref() == Some("true") {
        cleaned.held_up.push("nothing expires, because `Settings.freeze` is on".to_owned());
        return Ok(cleaned);
    }
    let mut sweep = decide(&stored.compiled, stored.withdrawn, &found.points, now);
    cleaned.taken_back = context.state.unmark(policy, &sweep.unmark)?;
    if !cleaned.taken_back.is_empty() {
        context.state.add_event(now, policy, &EventKind::TakenBack { points: cleaned.taken_back.clone() })?;
    }
    cleaned.marked = context.state.mark(policy, &sweep.mark, now)?;
    if !cleaned.marked.is_empty() {
        context.state.add_event(now, policy, &EventKind::Expired { points: cleaned.marked.clone() })?;
    }
    if extent == Extent::Mark {
        return Ok(cleaned);
    }
    let places = context.state.places(policy)?;
    let waiting = wait_for_away(&mut sweep.forget, &found, grace(&stored.compiled), now);
    if waiting > 0 {
        let names = found.away.values().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        cleaned.held_up.push(format!(
            "{waiting} expired restore points wait for repository {}, which was left behind and does not answer",
            names.join(", ")
        ));
    }
    let intended = context.state.set_forgetting(policy, &sweep.forget, now)?;
    let mut work = snapshots_of(&found.points, &intended);
    for (place, leftovers) in &found.leftovers {
        cleaned.leftovers += leftovers.len();
        work.entry(*place).or_default().extend(leftovers.iter().map(|(_, snapshot)| snapshot.clone()));
    }
    // What is left in a place that is gone stays there, if the place is ever seen again.
    work.retain(|place, _| !found.away.contains_key(place));
    for place in &places {
        let prune_has_its_own_time =
            place.document.spec.maintenance.as_ref().is_some_and(|maintenance| maintenance.prune.is_some());
        let put_off = context.state.note(&put_off_note(place))?.as_deref() == Some("true");
        let snapshots = work.remove(&place.id);
        if snapshots.is_none() && (!put_off || prune_has_its_own_time || found.away.contains_key(&place.id)) {
            continue;
        }
        let lease = maintenance(context, place, now, bounds).await?;
        if let Some(snapshots) = snapshots {
            context.job(place, Task::Forget { snapshots }, None, bounds, |_| ()).await?;
        }
        if !prune_has_its_own_time {
            // A run that captures there may go on for hours: the next cleanup prunes.
            let freed = prune_under(context, place, bounds, &lease, Instant::now()).await?;
            context.state.set_note(&put_off_note(place), if freed.is_ok() { "false" } else { "true" })?;
            cleaned.freed_bytes += freed.unwrap_or(0);
        }
    }
    context.state.remove_points(policy, &intended, now)?;
    let swept: Vec<RestorePointId> = found.leftovers.values().flatten().map(|(run, _)| run.clone()).collect();
    context.state.set_swept(policy, &swept)?;
    cleaned.forgotten = intended;
    Ok(cleaned)
}

/// Takes back the marks of points that the rules of a policy keep, which is what a reverted edit does.
///
/// # Errors
/// The state cannot be used.
pub fn take_back(state: &State, policy: &CompiledPolicy, now: Timestamp) -> Result<(), StateError> {
    let stored = state.points(&policy.name)?;
    if stored.iter().all(|point| point.point.expired_since.is_none()) {
        return Ok(());
    }
    let begun: Vec<bool> = stored.iter().map(|point| point.forgetting).collect();
    let points: Vec<RestorePoint> = stored.into_iter().map(StoredPoint::into_point).collect();
    let decisions = decide_for(policy, &points, now);
    let back =
        points.iter().zip(decisions).zip(begun).filter(|((point, decision), begun)| {
            point.expired_since.is_some() && decision.is_kept_by_rules() && !begun
        });
    let back: Vec<RestorePointId> = back.map(|((point, _), _)| point.id.clone()).collect();
    let taken_back = state.unmark(&policy.name, &back)?;
    if !taken_back.is_empty() {
        state.add_event(now, &policy.name, &EventKind::TakenBack { points: taken_back })?;
    }
    Ok(())
}

/// Reclaims the space of a place.
///
/// # Errors
/// Another maintenance is under way there, or runs that capture there do not end, or it failed.
pub async fn prune(context: &Context, place: &PlaceRecord, now: Timestamp, bounds: &Bounds) -> Result<u64, WorkError> {
    let lease = maintenance(context, place, now, bounds).await?;
    let until = bounds.deadline.min(Instant::now() + LONGEST_WAIT);
    prune_under(context, place, bounds, &lease, until).await?.map_err(|holder| {
        WorkError::Refused(format!(
            "repository {} was not pruned: process {} captures into it; prune at a time without runs",
            place.repository, holder.pid
        ))
    })
}

/// The lease that allows maintenance of a place. Waits for its turn: what is due at the same time is done one after
/// the other.
///
/// # Errors
/// Another process holds it for longer than this may wait, or the wait was ended.
pub async fn maintenance<'a>(
    context: &'a Context,
    place: &PlaceRecord,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<Lease<'a>, WorkError> {
    let name = maintenance_lease(place);
    let until = bounds.deadline.min(Instant::now() + LONGEST_WAIT);
    loop {
        let holder = match context.state.lease(&name, now)? {
            Ok(lease) => return Ok(lease),
            Err(holder) => holder,
        };
        let asked_to_stop = bounds.stop.as_ref().is_some_and(|stop| *stop.borrow());
        if asked_to_stop || Instant::now() >= until {
            return Err(WorkError::Refused(format!(
                "another maintenance of repository {} is under way ({}); it is done at the next cleanup",
                place.repository, holder
            )));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Prunes while nobody captures into the place, for which it waits until some moment; `Err` in the result: who does.
/// The lease is asked for as proof that it is held.
async fn prune_under(
    context: &Context,
    place: &PlaceRecord,
    bounds: &Bounds,
    _: &Lease<'_>,
    until: Instant,
) -> Result<Result<u64, ProcessIdentity>, WorkError> {
    let _alone = loop {
        let taken = context.state.lease_unless(&prune_lease(place), Some(&capture_leases(place)), Timestamp::now())?;
        let holder = match taken {
            Ok(lease) => break lease,
            Err(holder) => holder,
        };
        let asked_to_stop = bounds.stop.as_ref().is_some_and(|stop| *stop.borrow());
        if asked_to_stop || Instant::now() >= until {
            return Ok(Err(holder));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    };
    let outcome = context.job(place, Task::Prune, None, bounds, |_| ()).await?;
    Ok(Ok(if let Outcome::Pruned { freed_bytes } = outcome { freed_bytes } else { 0 }))
}

/// The note that says that a place is to be pruned by the next cleanup.
fn put_off_note(place: &PlaceRecord) -> String {
    format!("{} put off", prune_lease(place))
}

/// Leaves points out that have a part in a place which was left behind and does not answer, until nobody has to expect
/// it back. How many.
fn wait_for_away(forget: &mut Vec<RestorePointId>, found: &Found, grace: SignedDuration, now: Timestamp) -> usize {
    let before = forget.len();
    let waits = |point: &StoredPoint| {
        let is_away = point.parts.iter().any(|part| found.away.contains_key(&part.place));
        let expired = point.point.expired_since.unwrap_or(now);
        is_away && now.duration_since(expired) < grace + PATIENCE
    };
    let waiting: BTreeSet<&RestorePointId> =
        found.points.iter().filter(|point| waits(point)).map(|point| &point.point.id).collect();
    forget.retain(|id| !waiting.contains(id));
    before - forget.len()
}

fn grace(policy: &CompiledPolicy) -> SignedDuration {
    SignedDuration::from_secs(grace_seconds(policy))
}

/// What the rules say of these points. The rules of a withdrawn policy no longer apply: what was marked when its loss was
/// approved goes after the grace time, and everything else stays.
pub fn decide(policy: &CompiledPolicy, withdrawn: bool, stored: &[StoredPoint], now: Timestamp) -> retention::Sweep {
    let grace = grace(policy);
    let points: Vec<_> = stored.iter().cloned().map(StoredPoint::into_point).collect();
    let mut sweep = if withdrawn {
        let forget = points
            .iter()
            .filter(|point| !point.held)
            .filter(|point| point.expired_since.is_some_and(|since| since <= now && now.duration_since(since) >= grace))
            .map(|point| point.id.clone())
            .collect();
        retention::Sweep { mark: Vec::new(), unmark: Vec::new(), forget }
    } else {
        sweep_for(policy, grace, &points, now)
    };
    // What a cleanup began to forget before a crash may be half gone: it is finished.
    let begun = stored.iter().filter(|point| point.forgetting && !point.point.held).map(|point| point.point.id.clone());
    for id in begun {
        if !sweep.forget.contains(&id) {
            sweep.forget.push(id.clone());
        }
        sweep.unmark.retain(|other| *other != id);
    }
    sweep
}

/// The snapshots of some points, by place.
pub fn snapshots_of(points: &[StoredPoint], ids: &[RestorePointId]) -> BTreeMap<i64, Vec<String>> {
    let mut snapshots: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for point in points.iter().filter(|point| ids.contains(&point.point.id)) {
        for part in &point.parts {
            snapshots.entry(part.place).or_default().push(part.part.snapshot.clone());
        }
    }
    snapshots
}
