//! Verify: the integrity of a policy's repositories, and with it the proof of its restore points.

use jiff::Timestamp;

use super::{
    cleanup,
    site::{Site, SiteError},
};
use crate::{
    engine::{
        local::{state::points::StoredPart, verifying::percent},
        movers::Bounds,
    },
    mover::job::{Outcome, Task},
    policy::PolicyName,
    restore_point::RestorePointId,
    status::ledger::EventKind,
};

/// Checks every repository of a policy, reading back the share of the data that the documents name. `only`: just the
/// one with this name.
///
/// # Errors
/// The records cannot be used, a repository does not pass, or there is nothing to verify.
pub async fn verify(
    site: &Site,
    policy: &PolicyName,
    only: Option<&str>,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<(), SiteError> {
    let compiled = site.store.policy(policy).await?;
    let of_policy = compiled.as_ref().and_then(|compiled| compiled.document.spec.verify.as_ref()?.read_data.clone());
    let record = site.store.points(policy).await?;
    let (mut checked, mut problems) = (0, Vec::new());
    for place in record.places.iter().filter(|place| place.initialised) {
        let holds_something = record.points.iter().any(|point| point.parts.iter().any(|part| part.place == place.id));
        if only.is_some_and(|only| only != place.repository) || !(place.current || holds_something) {
            continue;
        }
        let of_place = place.document.spec.maintenance.as_ref().and_then(|maintenance| maintenance.read_data.clone());
        let share = if only.is_some() { of_place } else { of_policy.clone() };
        let lease = cleanup::maintenance(site, place, now, bounds).await?;
        let task = Task::Check { read_data_percent: percent(share.as_deref()) };
        let outcome = site.job(place, task, bounds, |_| ()).await;
        if let Err(error) = lease.release().await {
            tracing::debug!("a lease was not given back; it ends with this pod: {error}");
        }
        let problem = match outcome {
            Ok(Outcome::Checked { .. }) => None,
            Ok(_) => Some("the mover gave an answer to another question; update Mainstay".to_owned()),
            Err(error) => Some(error.chain()),
        };
        let proven: Vec<RestorePointId> = record
            .points
            .iter()
            .filter(|point| problem.is_none() && !point.forgetting && point.point.missing_since.is_none())
            .filter(|point| is_whole(&point.parts, place.id))
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
        problems.extend(problem.map(|problem| format!("repository {repository} did not pass: {problem}")));
        checked += 1;
    }
    match (checked, problems.is_empty()) {
        (0, _) => Err(SiteError::Refused(format!(
            "there is nothing to verify: no repository of {policy} holds restore points yet; run the policy first"
        ))),
        (_, false) => Err(SiteError::Refused(problems.join("; "))),
        (_, true) => Ok(()),
    }
}

/// Whether one place holds every part of a restore point.
fn is_whole(parts: &[StoredPart], place: i64) -> bool {
    parts.iter().all(|part| {
        let same = |other: &&StoredPart| other.place == place && other.part.source == part.part.source;
        parts.iter().any(|other| same(&other))
    })
}
