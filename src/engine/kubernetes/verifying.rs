//! Verify: the integrity of a policy's repositories, and with it the proof of its restore points.

use jiff::Timestamp;

use super::{
    cleanup,
    site::{Site, SiteError},
};
use crate::{
    engine::{
        local::{
            state::points::StoredPart,
            verifying::{Problem, Verified, percent},
        },
        movers::Bounds,
    },
    mover::job::{Outcome, Task},
    policy::PolicyName,
    restore_point::RestorePointId,
    status::ledger::EventKind,
};

/// Checks every repository of a policy, reading back `share` of the data; none: the share that the documents name.
/// `only`: just the one with this name.
///
/// # Errors
/// The records cannot be used, or there is nothing to verify. A repository that does not pass is a result.
pub async fn verify(
    site: &Site,
    policy: &PolicyName,
    only: Option<&str>,
    share: Option<&str>,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<Vec<Verified>, SiteError> {
    let asked = share;
    let compiled = site.store.policy(policy).await?;
    let of_policy = compiled.as_ref().and_then(|compiled| compiled.document.spec.verify.as_ref()?.read_data.clone());
    let record = site.store.points(policy).await?;
    let mut results = Vec::new();
    for place in record.places.iter().filter(|place| place.initialised) {
        let holds_something = record.points.iter().any(|point| point.parts.iter().any(|part| part.place == place.id));
        if only.is_some_and(|only| only != place.repository) || !(place.current || holds_something) {
            continue;
        }
        let of_place = place.document.spec.maintenance.as_ref().and_then(|maintenance| maintenance.read_data.clone());
        let named = if only.is_some() { of_place } else { of_policy.clone() };
        let share = asked.map(str::to_owned).or(named);
        let lease = cleanup::maintenance(site, place, now, bounds).await?;
        let task = Task::Check { read_data_percent: percent(share.as_deref()) };
        let outcome = site.job(place, task, bounds, |_| ()).await;
        if let Err(error) = lease.release().await {
            tracing::debug!("a lease was not given back; it ends with this pod: {error}");
        }
        let (read_bytes, problem) = match outcome {
            Ok(Outcome::Checked { read_bytes }) => (read_bytes, None),
            Ok(_) => (0, Some("the mover gave an answer to another question; update Mainstay".to_owned())),
            Err(error) => (0, Some(error.chain())),
        };
        let proven: Vec<RestorePointId> = record
            .points
            .iter()
            .filter(|point| problem.is_none() && !point.forgetting && is_whole(&point.parts, place.id))
            .map(|point| point.point.id.clone())
            .collect();
        let repository = place.repository.clone();
        let kind = EventKind::Verified { repository: repository.clone(), problem: problem.clone() };
        site.store
            .change_points(policy, |record| {
                record.set_verified(&proven, now);
                record.add_event(now, kind.clone());
            })
            .await?;
        let hint = "keep it as it is, look at its storage, and run the policy into another repository".to_owned();
        let problem = problem.map(|what| Problem { what, hint });
        results.push(Verified { repository, read_bytes, problem, points: proven });
    }
    match results.is_empty() {
        true => Err(SiteError::Refused(format!(
            "there is nothing to verify: no repository of {policy} holds restore points yet; run the policy first"
        ))),
        false => Ok(results),
    }
}

/// Whether one place holds every part of a restore point.
fn is_whole(parts: &[StoredPart], place: i64) -> bool {
    parts.iter().all(|part| {
        let same = |other: &&StoredPart| other.place == place && other.part.source == part.part.source;
        parts.iter().any(|other| same(&other))
    })
}
