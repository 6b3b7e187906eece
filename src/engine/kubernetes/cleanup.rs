//! Cleanup: the retention rules mark restore points, and what stayed marked for the grace time is forgotten and pruned;
//! volume snapshots are deleted.
//!
//! The same order as on one host: look, and stop if something did not answer; mark and take marks back; write the intent
//! to forget; forget; prune in two phases, one maintenance at a time for each repository.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    inventory::{self, IN_CLUSTER},
    lease::{Held, PodIdentity},
    names,
    runner::snapshots,
    site::{Site, SiteError},
};
pub use crate::engine::local::cleanup::{Cleaned, Extent};
use crate::{
    engine::{
        local::{
            cleanup::{decide, snapshots_of},
            repositories::{maintenance_lease, prune_lease},
            state::places::PlaceRecord,
        },
        movers::Bounds,
    },
    mover::job::{Outcome, Task},
    policy::PolicyName,
    restore_point::RestorePointId,
    status::ledger::EventKind,
};

/// How long a maintenance waits for another one of the same repository.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 3600);
/// How often a maintenance or a run looks whether the one that it waits for has ended.
pub const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Cleans up after a policy. The caller holds the policy's lease.
///
/// # Errors
/// The records cannot be used, or a forgetting or pruning failed; what was intended is finished by the next cleanup.
pub async fn clean(
    site: &Site,
    policy: &PolicyName,
    extent: Extent,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<Cleaned, SiteError> {
    let mut cleaned = Cleaned::default();
    let (compiled, withdrawn) = match site.store.policy(policy).await? {
        Some(compiled) => (compiled, false),
        None => match site.store.points(policy).await?.withdrawn {
            Some(compiled) => (*compiled, true),
            None => return Ok(cleaned),
        },
    };
    let found = inventory::refresh(site, &compiled, withdrawn, now).await?;
    if !found.complete {
        let problems = found.problems.join("; ");
        cleaned.held_up.push(format!("nothing expires, because not every repository could be seen: {problems}"));
        return Ok(cleaned);
    }
    let mut sweep = decide(&compiled, withdrawn, &found.points, now);
    let (marked, taken_back) = site
        .store
        .change_points(policy, |record| {
            let taken_back = record.unmark(&sweep.unmark);
            if !taken_back.is_empty() {
                record.add_event(now, EventKind::TakenBack { points: taken_back.clone() });
            }
            let marked = record.mark(&sweep.mark, now);
            if !marked.is_empty() {
                record.add_event(now, EventKind::Expired { points: marked.clone() });
            }
            (marked, taken_back)
        })
        .await?;
    cleaned.marked = marked;
    cleaned.taken_back = taken_back;
    if extent == Extent::Mark {
        return Ok(cleaned);
    }
    // What has a part in a place that was left behind and does not answer waits for it.
    let waits = |id: &RestorePointId| {
        let point = found.points.iter().find(|point| point.point.id == *id);
        point.is_some_and(|point| point.parts.iter().any(|part| found.away.contains_key(&part.place)))
    };
    let expired = sweep.forget.len();
    sweep.forget.retain(|id| !waits(id));
    if sweep.forget.len() < expired {
        cleaned.held_up.push(format!(
            "{} expired restore points wait for a repository that was left behind and does not answer",
            expired - sweep.forget.len()
        ));
    }
    let intended = site.store.change_points(policy, |record| record.set_forgetting(&sweep.forget)).await?;
    let mut work = snapshots_of(&found.points, &intended);
    for (place, leftovers) in &found.leftovers {
        cleaned.leftovers += leftovers.len();
        work.entry(*place).or_default().extend(leftovers.iter().map(|(_, snapshot)| snapshot.clone()));
    }
    work.retain(|place, _| !found.away.contains_key(place));
    forget(site, policy, work, now, bounds, &mut cleaned).await?;
    if !intended.is_empty() {
        site.store.change_points(policy, |record| record.remove(&intended, now)).await?;
    }
    cleaned.forgotten = intended;
    Ok(cleaned)
}

async fn forget(
    site: &Site,
    policy: &PolicyName,
    work: BTreeMap<i64, Vec<String>>,
    now: Timestamp,
    bounds: &Bounds,
    cleaned: &mut Cleaned,
) -> Result<(), SiteError> {
    let places = site.store.points(policy).await?.places;
    for (id, snapshots) in work {
        if id == IN_CLUSTER {
            snapshots::forget(site.client(), &snapshots).await?;
            continue;
        }
        let Some(place) = places.iter().find(|place| place.id == id) else { continue };
        let lease = maintenance(site, place, now, bounds).await?;
        let result = async {
            site.job(place, Task::Forget { snapshots }, bounds, |_| ()).await?;
            let maintenance = place.document.spec.maintenance.as_ref();
            let has_its_own_time = maintenance.is_some_and(|maintenance| maintenance.prune.is_some());
            if has_its_own_time {
                return Ok(0);
            }
            // A run of another policy that captures there may go on for hours: the next cleanup that forgets prunes.
            Ok::<u64, SiteError>(prune_under(site, place, bounds, Instant::now()).await?.unwrap_or(0))
        }
        .await;
        give_back(lease).await;
        cleaned.freed_bytes += result?;
    }
    Ok(())
}

/// Reclaims the space of a place.
///
/// # Errors
/// Another maintenance is under way there, or runs that capture there do not end, or it failed.
pub async fn prune(site: &Site, place: &PlaceRecord, now: Timestamp, bounds: &Bounds) -> Result<u64, SiteError> {
    let lease = maintenance(site, place, now, bounds).await?;
    let until = bounds.deadline.min(Instant::now() + LONGEST_WAIT);
    let result = prune_under(site, place, bounds, until).await;
    give_back(lease).await;
    result?.map_err(|holder| {
        SiteError::Refused(format!(
            "repository {} was not pruned: {holder} captures into it; prune at a time without runs",
            place.repository
        ))
    })
}

/// The lease that allows maintenance of a place. Waits for its turn.
///
/// # Errors
/// Another pod holds it for longer than this may wait, or the wait was ended.
pub async fn maintenance(site: &Site, place: &PlaceRecord, now: Timestamp, bounds: &Bounds) -> Result<Held, SiteError> {
    let name = names::maintenance_lease(&maintenance_lease(place));
    let until = bounds.deadline.min(Instant::now() + LONGEST_WAIT);
    loop {
        let holder = match site.leases.take(&name, &site.pod, now).await? {
            Ok(lease) => return Ok(lease),
            Err(holder) => holder,
        };
        let asked_to_stop = bounds.stop.as_ref().is_some_and(|stop| *stop.borrow());
        if asked_to_stop || Instant::now() >= until {
            return Err(SiteError::Refused(format!(
                "another maintenance of repository {} is under way ({holder}); it is done at the next cleanup",
                place.repository
            )));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Prunes while nobody captures into the place, for which it waits until some moment; `Err` in the result: who does.
async fn prune_under(
    site: &Site,
    place: &PlaceRecord,
    bounds: &Bounds,
    until: Instant,
) -> Result<Result<u64, PodIdentity>, SiteError> {
    let name = names::prune_lease(&prune_lease(place));
    let alone = loop {
        let holder = match site.leases.take_alone(&name, &site.pod, Timestamp::now()).await? {
            Ok(lease) => break lease,
            Err(holder) => holder,
        };
        let asked_to_stop = bounds.stop.as_ref().is_some_and(|stop| *stop.borrow());
        if asked_to_stop || Instant::now() >= until {
            return Ok(Err(holder));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    };
    let outcome = site.job(place, Task::Prune, bounds, |_| ()).await;
    give_back(alone).await;
    Ok(Ok(if let Outcome::Pruned { freed_bytes } = outcome? { freed_bytes } else { 0 }))
}

async fn give_back(lease: Held) {
    if let Err(error) = lease.release().await {
        tracing::debug!("a lease was not given back; it ends with this pod: {error}");
    }
}
