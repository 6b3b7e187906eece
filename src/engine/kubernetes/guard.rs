//! The guard: runs whose pod is gone are led to their end, and workloads that they stopped get their replicas back.
//!
//! Who is gone is told by looking the pod up, never by age alone. Three call it: the pod that a run's Job starts in
//! the place of one that is gone (so nothing else of Mainstay need be alive), the next run of the policy, and the
//! daemon. Each of them holds the policy's lease.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::PersistentVolumeClaim, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

use super::{
    labels::{self, Kind},
    lease::{PodIdentity, is_alive},
    movers::RUN_LABEL,
    names, restoring,
    runner::{
        self,
        quiesce::{self, WorkloadError},
        snapshots,
    },
    site::{Site, SiteError},
    store::{RestoreRecord, RunRecord, StoppedWorkload, is_for_a_person},
};
use crate::{
    engine::local::runner::finish,
    policy::PolicyName,
    restore_point::RestorePointId,
    run::{
        SourceReport,
        machine::{self, Next, Outcome, Shape, Step},
    },
};

/// A pod that is being deleted for this long beyond its grace time is on a node that is gone.
const LOST_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// What a guard did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Runs that were ended, and why.
    pub ended: Vec<(PolicyName, String)>,
    /// Workloads that were started again.
    pub started: Vec<StoppedWorkload>,
    /// Policies of which a workload is still stopped, and why.
    pub still_stopped: Vec<(PolicyName, String)>,
    /// Restores that a pod began which is gone, and that nobody has taken back yet.
    pub left: Vec<RestoreRecord>,
}

/// Looks after these policies, and after every workload in these namespaces that any run stopped. With nothing to do it
/// writes nothing. The daemon calls it, which may do nothing to volumes and databases: a restore that is to be taken back
/// is only told, and its workloads stay as they are until somebody has.
///
/// # Errors
/// The cluster does not answer.
pub async fn recover(
    site: &Site,
    mut policies: Vec<PolicyName>,
    namespaces: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Recovered, SiteError> {
    let mut recovered = Recovered::default();
    for namespace in namespaces {
        match quiesce::stopped(site.client(), namespace).await {
            Ok(stopped) => {
                policies.extend(stopped.iter().filter_map(|(_, owner)| Some(split_owner(owner)?.0)));
            }
            // A namespace that this account was not let into holds nothing that a run could have stopped.
            Err(WorkloadError::Api { source, .. }) if is_for_a_person(&source) => {
                tracing::warn!(namespace, "workloads cannot be looked after there: {source}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    policies.sort();
    policies.dedup();
    let mut failure = None;
    for policy in policies {
        // A run that lives holds the lease: it needs no guard.
        let Ok(lease) = site.leases.take(&names::policy_lease(&policy), &site.pod, now).await? else { continue };
        let result = match restoring::undo::left(site, &policy, now).await {
            Ok(left) if left.is_empty() => recover_policy(site, &policy, now).await,
            Ok(left) => Ok(Recovered { left, ..Recovered::default() }),
            Err(error) => Err(error),
        };
        if let Err(error) = lease.release().await {
            tracing::debug!(%policy, "a lease was not given back; it ends with this pod: {error}");
        }
        let Recovered { ended, started, still_stopped, left } = match result {
            Ok(recovered) => recovered,
            // The others are looked after all the same.
            Err(error) => {
                tracing::error!(%policy, reason = error.chain(), "what a run left could not be looked after");
                failure.get_or_insert(error);
                continue;
            }
        };
        recovered.ended.extend(ended);
        recovered.started.extend(started);
        recovered.still_stopped.extend(still_stopped);
        recovered.left.extend(left);
    }
    failure.map_or(Ok(recovered), Err)
}

/// Looks after one policy. The caller holds its lease.
///
/// # Errors
/// The cluster does not answer.
pub async fn recover_policy(site: &Site, policy: &PolicyName, now: Timestamp) -> Result<Recovered, SiteError> {
    let mut recovered = Recovered::default();
    // A workload must not start on a claim that a restore has not put back yet.
    restoring::undo::recover_policy(site, policy, now).await?;
    for run in site.store.runs(policy).await? {
        if run.report.finished_at.is_none() && run.pod != site.pod && is_gone(site, &run.pod, now).await? {
            // What is stopped is started first, whatever else fails.
            wake(site, policy, &mut recovered).await?;
            recovered.ended.push((policy.clone(), end(site, run, now).await?));
        }
    }
    wake(site, policy, &mut recovered).await?;
    Ok(recovered)
}

/// Whether a run's pod works no more: it is gone, has ended, or stays on a node that is gone.
///
/// # Errors
/// The API server does not say.
pub async fn is_gone(site: &Site, pod: &PodIdentity, now: Timestamp) -> Result<bool, SiteError> {
    if !pod.is_pod() {
        // A process outside of the cluster: its lease was free, and that is all there is to know.
        return Ok(true);
    }
    let operation = || format!("looking {pod} up");
    let api_error = |error| quiesce::WorkloadError::api(operation(), error);
    if !is_alive(site.client(), pod).await.map_err(api_error)? {
        return Ok(true);
    }
    let pods: Api<Pod> = Api::namespaced(site.client().clone(), &pod.namespace);
    let found = pods.get_opt(&pod.name).await.map_err(api_error)?;
    let deleted_at = found.and_then(|found| found.metadata.deletion_timestamp).map(|time| time.0);
    Ok(deleted_at.is_some_and(|at| now.duration_since(at) > LOST_AFTER))
}

/// Starts what runs of this policy stopped. Its lease is ours, so none of them is under way.
async fn wake(site: &Site, policy: &PolicyName, recovered: &mut Recovered) -> Result<(), SiteError> {
    for (stopped, owner) in quiesce::stopped(site.client(), policy.namespace()).await? {
        if split_owner(&owner).is_none_or(|(other, _)| other != *policy) {
            continue;
        }
        match runner::start(site, &stopped, &owner).await {
            Ok(()) => {
                tracing::warn!(%policy, "started {}/{}, which {owner} had left stopped", stopped.kind, stopped.name);
                recovered.started.push(stopped);
            }
            Err(reason) => recovered.still_stopped.push((policy.clone(), reason)),
        }
    }
    Ok(())
}

/// Brings a run whose pod is gone to its end: the same machine, with the open step interrupted.
async fn end(site: &Site, run: RunRecord, now: Timestamp) -> Result<String, SiteError> {
    let mut journal = run.journal();
    let RunRecord { mut report, stopped, .. } = run;
    let (policy, id) = (report.policy.clone(), report.id.clone());
    // Its movers may have survived it, and must not write on.
    remove_leftovers(site, &policy, &id).await?;
    if let Some(step) = journal.open_step() {
        // The restore point is written in one piece, so whether it was can be looked up.
        let recorded = step == Step::Record && site.store.points(&policy).await?.point(&id).is_some();
        journal.conclude(if recorded { Outcome::Done } else { Outcome::Interrupted });
    }
    let compiled = site.store.policy(&policy).await?;
    let hooks = compiled.as_ref().map(|compiled| compiled.document.spec.hooks.clone()).unwrap_or_default();
    let shape = Shape { hooks_after: hooks.after.len(), ..Shape::default() };
    loop {
        let step = match machine::next(&shape, &journal) {
            Next::Do(step) => step,
            Next::End(ending) => {
                finish(&mut report, ending, now);
                break;
            }
        };
        journal.intend(step);
        site.store.change_run(&policy, &id, |record| record.set_journal(&journal)).await?;
        let outcome = match step {
            Step::Start => {
                let owner = runner::owner(&policy, &id);
                let mut result = Ok(());
                for workload in &stopped {
                    result = result.and(runner::start(site, workload, &owner).await);
                }
                result.map_or_else(Outcome::Failed, |()| Outcome::Done)
            }
            Step::HookAfter(index) => {
                let limit = runner::DEFAULT_HOOK_TIMEOUT;
                let result = match hooks.after.get(index) {
                    Some(after) => runner::hook(site, &policy, after, "after", index, limit).await,
                    None => Ok(()),
                };
                result.map_or_else(Outcome::Failed, |()| Outcome::Done)
            }
            // Nothing more is captured or recorded for a pod that is gone; the snapshots that it left are forgotten by
            // the next cleanup.
            Step::HookBefore(_)
            | Step::Stop
            | Step::Capture(_)
            | Step::Copy(_)
            | Step::Check
            | Step::Record
            | Step::Cleanup => Outcome::Interrupted,
        };
        journal.conclude(outcome);
    }
    SourceReport::fail_running(&mut report.sources, Some("the run's pod went away"));
    site.store
        .change_run(&policy, &id, |record| {
            record.set_journal(&journal);
            if journal.did(Step::Start) {
                record.stopped.clear();
            }
        })
        .await?;
    site.store.end_run(&report, now).await?;
    tracing::warn!(%policy, run = %id, "{}", report.message);
    Ok(report.message)
}

/// Removes what a run left: its movers, and the claims and volume snapshots that were made only to be read.
async fn remove_leftovers(site: &Site, policy: &PolicyName, run: &RestorePointId) -> Result<(), SiteError> {
    let movers = ListParams::default().labels(&selector(Kind::Mover, policy, run));
    let failed = |what: &str| {
        let operation = format!("removing the {what} that run {run} of {policy} left");
        move |error| quiesce::WorkloadError::api(operation, error)
    };
    let (client, namespace) = (site.client().clone(), policy.namespace());
    let jobs: Api<Job> = Api::namespaced(client, namespace);
    jobs.delete_collection(&DeleteParams::background(), &movers).await.map_err(failed("Jobs"))?;
    remove_temporary(site, policy, run).await
}

/// Removes the claims and volume snapshots that a run made only to be read, and, where it left no restore point, those
/// that would have become one. A run that fails calls it for itself.
///
/// # Errors
/// The API server refuses.
pub async fn remove_temporary(site: &Site, policy: &PolicyName, run: &RestorePointId) -> Result<(), SiteError> {
    let (client, namespace) = (site.client().clone(), policy.namespace());
    let failed = |error| {
        let operation = format!("removing the claims that run {run} of {policy} left");
        quiesce::WorkloadError::api(operation, error)
    };
    let movers = ListParams::default().labels(&selector(Kind::Mover, policy, run));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    claims.delete_collection(&DeleteParams::default(), &movers).await.map_err(failed)?;
    let mut unneeded = snapshots::list(site.client(), namespace, &selector(Kind::Mover, policy, run)).await?;
    if site.store.points(policy).await?.point(run).is_none() {
        // They would have become a restore point, and did not.
        unneeded.extend(snapshots::list(site.client(), namespace, &selector(Kind::VolumeSnapshot, policy, run)).await?);
    }
    for snapshot in unneeded {
        snapshots::remove(site.client(), namespace, snapshot.metadata.name.as_deref().unwrap_or_default()).await;
    }
    Ok(())
}

/// What a run made of one kind.
fn selector(kind: Kind, policy: &PolicyName, run: &RestorePointId) -> String {
    let all = labels::labels(kind, Some(policy)).into_iter().map(|(key, value)| format!("{key}={value}"));
    all.chain([format!("{RUN_LABEL}={run}")]).collect::<Vec<_>>().join(",")
}

/// `NAMESPACE/NAME/RUN`.
fn split_owner(owner: &str) -> Option<(PolicyName, RestorePointId)> {
    let (policy, run) = owner.rsplit_once('/')?;
    Some((policy.parse().ok()?, RestorePointId(run.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stopped_a_workload_is_read_as_it_was_written() {
        let policy: PolicyName = "shop/nightly".parse().unwrap();
        let run = RestorePointId("20261121-020000".into());
        assert_eq!(split_owner(&runner::owner(&policy, &run)), Some((policy, run)));
        assert_eq!(split_owner("somebody"), None);
    }
}
