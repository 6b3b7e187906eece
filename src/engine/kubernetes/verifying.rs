//! Verify: the integrity of a policy's repositories, and with it the proof of its restore points.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    cleanup,
    inventory::{self, IN_CLUSTER},
    site::{Site, SiteError},
};
use crate::{
    actual::checks::{self, FailedCheck},
    engine::{
        local::{
            state::points::StoredPart,
            verifying::{Problem, Verified, percent},
        },
        movers::Bounds,
    },
    mover::job::{FailureKind, Outcome, Task},
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
    // No repository holds a volume snapshot: its driver says whether it is there and can be used.
    let ready: BTreeSet<String> = match &compiled {
        Some(compiled) => {
            let there = inventory::volume_snapshots(site, compiled).await?;
            there.into_iter().map(|snapshot| snapshot.id).collect()
        }
        None => BTreeSet::new(),
    };
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
        let read_data_percent = percent(share.as_deref());
        let task = Task::Check { read_data_percent };
        let outcome = site.job(place, task, bounds, |_| ()).await;
        if let Err(error) = lease.release().await {
            tracing::debug!("a lease was not given back; it ends with this pod: {error}");
        }
        let is_damaged = matches!(&outcome, Err(error) if error.is(FailureKind::RepositoryDamaged));
        let (read_bytes, problem) = match outcome {
            Ok(Outcome::Checked { read_bytes }) => (read_bytes, None),
            Ok(_) => (0, Some("the mover gave an answer to another question; update Mainstay".to_owned())),
            Err(error) => (0, Some(error.chain())),
        };
        let proven: Vec<RestorePointId> = record
            .points
            .iter()
            .filter(|point| problem.is_none() && !point.forgetting && point.point.missing_since.is_none())
            .filter(|point| is_whole(&point.parts, place.id, &ready))
            .map(|point| point.point.id.clone())
            .collect();
        let repository = place.repository.clone();
        let kind = EventKind::Verified { repository: repository.clone(), problem: problem.clone() };
        let hint = "keep it as it is, look at its storage, and run the policy into another repository".to_owned();
        let problem = problem.map(|what| Problem { what, hint, is_damaged });
        let failed = problem.as_ref().map(|problem| FailedCheck {
            place: place.id,
            repository: repository.clone(),
            at: now,
            problem: problem.to_string(),
            read_data_percent,
        });
        site.store
            .change_points(policy, |record| {
                record.set_verified(&proven, now);
                // One that could not be carried out says nothing about the repository.
                if failed.is_none() || is_damaged {
                    checks::note(&mut record.failed_checks, place.id, read_data_percent, failed.clone());
                }
                record.add_event(now, kind.clone());
            })
            .await?;
        results.push(Verified { repository, read_bytes, problem, points: proven });
    }
    match results.is_empty() {
        true => Err(SiteError::Refused(format!(
            "there is nothing to verify: no repository of {policy} holds restore points yet; run the policy first"
        ))),
        false => Ok(results),
    }
}

/// Whether one place holds every part of a restore point that is in a repository, and the cluster the others.
fn is_whole(parts: &[StoredPart], place: i64, ready: &BTreeSet<String>) -> bool {
    let in_repository = |part: &StoredPart| part.place == place;
    parts.iter().any(in_repository)
        && parts.iter().all(|part| {
            if part.place == IN_CLUSTER {
                return ready.contains(&part.part.snapshot);
            }
            let same = |other: &&StoredPart| other.place == place && other.part.source == part.part.source;
            parts.iter().any(|other| same(&other))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore_point::Part;

    fn part(source: &str, place: i64) -> StoredPart {
        let part = Part {
            source: source.to_owned(),
            repository: "r".to_owned(),
            location: None,
            snapshot: format!("shop/{source}"),
            size_bytes: 1,
            added_bytes: 1,
            files: 1,
            unreadable: 0,
            duration_milliseconds: 1,
        };
        StoredPart { place, part }
    }

    #[test]
    fn a_volume_snapshot_counts_where_its_driver_has_it() {
        let parts = [part("db", 1), part("disk/data", IN_CLUSTER)];
        let ready = BTreeSet::from(["shop/disk/data".to_owned()]);
        assert!(is_whole(&parts, 1, &ready));
        assert!(!is_whole(&parts, 1, &BTreeSet::new()));
        assert!(!is_whole(&parts, 2, &ready), "another repository holds none of it");
        assert!(!is_whole(&[part("db", 1), part("files", 2)], 1, &ready));
    }
}
