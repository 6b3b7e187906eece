//! The inventory of a policy: what its repositories and the cluster itself hold, merged with what is known.
//!
//! A listing that fails makes the inventory incomplete: what that repository held stays known, and nothing may be
//! forgotten. Volume snapshots count as one more place, the cluster.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::api::DynamicObject;

use super::{
    labels::{self, Kind},
    movers::RUN_LABEL,
    runner::snapshots,
    site::{Site, SiteError},
    store::PointsRecord,
};
pub use crate::engine::local::inventory::IN_CLUSTER;
use crate::{
    engine::{
        local::{
            inventory::{Found, merge, name_points, not_good, tell_missing, why_not_beside},
            state::places::PlaceRecord,
        },
        movers::{self, MoverError},
    },
    mover::job::{Outcome, Snapshot, SnapshotLabel, Task},
    policy::{CompiledPolicy, PolicyName},
    restore_point::{RestorePointId, VOLUME_SNAPSHOT},
    retention::reach::Reach,
    run::RunReport,
};

/// Looks at all repositories of a policy and stores what was found. `withdrawn`: every place is one that it left behind.
///
/// # Errors
/// The records cannot be read or written. A repository that does not answer is no error but an incomplete inventory.
pub async fn refresh(
    site: &Site,
    policy: &CompiledPolicy,
    withdrawn: bool,
    now: Timestamp,
) -> Result<Found, SiteError> {
    let name = &policy.name;
    // Before the listings: a point that is recorded while they are made is not in question.
    let mut before = site.store.points(name).await?;
    let (mut listed, mut problems, mut away) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    // A first look finds what was made in these places before this record.
    let mut fresh_places = Vec::new();
    if before.observed_at.is_none() || !before.complete {
        for place in before.places.iter().filter(|place| place.current && !place.path.is_empty()) {
            match beside(site, name, place).await {
                Ok(paths) if paths.is_empty() => {}
                Ok(paths) => {
                    let add = |record: &mut PointsRecord| record.add_former_places(place.id, &paths);
                    fresh_places.extend(site.store.change_points(name, add).await?);
                }
                Err(error) => problems.push(error.chain()),
            }
        }
        before = site.store.points(name).await?;
    }
    let reach = (!withdrawn).then(|| Reach::of(policy));
    let holds_something = |place: &PlaceRecord| {
        place.current
            || fresh_places.contains(&place.id)
            || before.points.iter().any(|point| point.parts.iter().any(|part| part.place == place.id))
    };
    for place in before.places.iter().filter(|place| place.initialised && holds_something(place)) {
        let task = Task::List { policy: Some(name.clone()) };
        let answer = site.job(place, task, &site.small_work(), |_| ()).await;
        match answer.and_then(|outcome| Ok(movers::snapshots(&place.repository, outcome)?)) {
            Ok(snapshots) => {
                listed.insert(place.id, snapshots);
            }
            Err(error) => {
                tracing::warn!(policy = %name, repository = place.repository, "{}", error.chain());
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
    match volume_snapshots(site, policy).await {
        Ok(snapshots) => {
            listed.insert(IN_CLUSTER, snapshots);
        }
        Err(error) => problems.push(error.chain()),
    }
    let runs: Vec<RunReport> = site.store.runs(name).await?.into_iter().map(|run| run.report).collect();
    let recorded: BTreeSet<RestorePointId> =
        site.store.points(name).await?.points.into_iter().map(|point| point.point.id).collect();
    name_points(&mut listed, before.maker.as_ref());
    // In a shared repository another cluster may have a policy of the same name: its snapshots are not ours to judge.
    for snapshots in listed.values_mut() {
        snapshots.retain(|snapshot| snapshot.label.host == policy.cluster || recorded.contains(&snapshot.label.run));
    }
    let mut places = before.places.clone();
    places.extend(cluster(&before.places));
    let merged = merge(&places, &listed, before.points, &recorded, &not_good(runs.iter()), now);
    let complete = problems.is_empty();
    let stored = site.store.change_points(name, |record| {
        record.set_inventory(now, complete, &merged);
        record.points.clone()
    });
    let points = stored.await?;
    tell_missing(name, &merged.missing);
    Ok(Found { complete, problems, points, leftovers: merged.leftovers, listed, away })
}

/// The paths of places that another record of a policy had beside one of this one.
async fn beside(site: &Site, policy: &PolicyName, place: &PlaceRecord) -> Result<Vec<String>, SiteError> {
    let task = Task::Beside { prefix: PlaceRecord::prefix(policy) };
    let Outcome::Beside(names) = site.job(place, task, &site.small_work(), |_| ()).await? else {
        return Err(MoverError::WrongAnswer { repository: place.repository.clone() }.into());
    };
    Ok(place.former_paths(policy, &names))
}

/// Refuses to make a repository beside those of the same policy that its password does not open: a password that was
/// lost would leave all that was captured before behind, unseen.
///
/// # Errors
/// There are such, or the repository does not answer.
pub async fn check_beside(site: &Site, policy: &PolicyName, place: &PlaceRecord) -> Result<(), SiteError> {
    if place.path.is_empty() {
        return Ok(());
    }
    let paths = beside(site, policy, place).await?;
    let open = |former, task| async move { site.job(&former, task, &site.small_work(), |_| ()).await };
    why_not_beside(policy, place, paths, open, SiteError::is).await?.map_or(Ok(()), |why| Err(SiteError::Refused(why)))
}

/// The volume snapshots of a policy that are restore points, or parts of them.
///
/// # Errors
/// The API server refuses.
pub async fn volume_snapshots(site: &Site, policy: &CompiledPolicy) -> Result<Vec<Snapshot>, SiteError> {
    let namespace = policy.name.namespace();
    let mut selector: Vec<String> = labels::labels(Kind::VolumeSnapshot, Some(&policy.name))
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    selector.sort();
    let found = snapshots::list(site.client(), namespace, &selector.join(",")).await?;
    Ok(found.iter().filter_map(|object| snapshot(policy, object)).collect())
}

/// A volume snapshot as if a repository had listed it. One that is not ready holds nothing yet.
fn snapshot(policy: &CompiledPolicy, object: &DynamicObject) -> Option<Snapshot> {
    let metadata = &object.metadata;
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
    if object.data["status"]["readyToUse"] != true || metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(Snapshot {
        id: format!("{}/{}", metadata.namespace.as_deref()?, metadata.name.as_deref()?),
        label: SnapshotLabel {
            policy: policy.name.clone(),
            run: RestorePointId(metadata.labels.as_ref()?.get(RUN_LABEL)?.clone()),
            source: annotation(labels::SOURCE)?,
            sources: annotation(labels::SOURCES)?.parse().ok()?,
            host: policy.cluster.clone(),
            // An object of this very cluster.
            maker: None,
        },
        time: metadata.creation_timestamp.as_ref()?.0,
        size_bytes: snapshots::bytes(object.data["status"]["restoreSize"].as_str()),
        added_bytes: 0,
        files: 0,
    })
}

/// The cluster as a place. It needs no document of its own; none is ever read of it.
fn cluster(places: &[PlaceRecord]) -> Option<PlaceRecord> {
    let repository = VOLUME_SNAPSHOT.to_owned();
    let place = places.first()?.clone();
    Some(PlaceRecord { id: IN_CLUSTER, repository, path: String::new(), current: true, initialised: true, ..place })
}
