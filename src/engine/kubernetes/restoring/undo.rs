//! Taking a restore back: after a failure, and for whoever finds the record of a pod that is gone.
//!
//! Everything here can be repeated. A restore that was proven goes forward only: what is left of it is put in order.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job as KubernetesJob;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

use super::{
    borrowed, databases, end,
    fill::MADE_BY,
    volumes::{self, get},
    workload,
};
use crate::{
    actual::RestoreReport,
    engine::{
        kubernetes::{
            access, guard,
            labels::{self, Kind},
            manifests::snapshot::Identity,
            movers,
            runner::{
                DEFAULT_HOOK_TIMEOUT,
                quiesce::{Started, WorkloadError},
            },
            site::{Site, SiteError},
            store::{RestoreRecord, StoppedWorkload, restores::Safety},
        },
        movers::Bounds,
    },
    mover::job::{Job, Task},
    policy::{
        PolicyName,
        document::restore::{Existing, RestoreSpec},
    },
    run::Phase,
};

/// Who stopped a workload, as it stands on the workload.
pub fn owner(record: &RestoreRecord) -> String {
    format!("{}/{}", record.policy, record.mark())
}

/// Looks after the restores of a policy whose pod is gone. The caller holds the policy's lease.
///
/// # Errors
/// The cluster does not answer.
pub async fn recover_policy(site: &Site, policy: &PolicyName, now: Timestamp) -> Result<(), SiteError> {
    for record in left(site, policy, now).await? {
        recover(site, record, now).await?;
    }
    Ok(())
}

/// The restores of a policy that a pod began which is gone.
///
/// # Errors
/// The cluster does not answer.
pub async fn left(site: &Site, policy: &PolicyName, now: Timestamp) -> Result<Vec<RestoreRecord>, SiteError> {
    let mut left = Vec::new();
    for record in site.store.restores_under_way(policy).await? {
        let Some(pod) = record.pod.as_ref().filter(|pod| **pod != site.pod) else { continue };
        if guard::is_gone(site, pod, now).await? {
            left.push(record);
        }
    }
    Ok(left)
}

/// Brings a restore whose pod is gone to its end: what it had done is taken back.
///
/// # Errors
/// The cluster does not answer, or something cannot be put back now; it is tried again.
pub async fn recover(site: &Site, mut record: RestoreRecord, now: Timestamp) -> Result<RestoreReport, SiteError> {
    if record.proven {
        settle(site, &record).await?;
        end(&mut record, Phase::Succeeded, "restored; the pod went away when only tidying was left".to_owned());
    } else {
        let lost = put_back(site, &mut record).await?;
        let message = format!("the restore's pod went away; {}", told(&record, &lost));
        end(&mut record, Phase::Failed, message);
    }
    tracing::warn!(restore = %record.name, "{}", record.report.message);
    site.store.end_restore(&record, now).await?;
    Ok(record.report)
}

/// What is left after a restore was taken back, for a person. `lost`: what [`put_back`] could not put back.
pub fn told(record: &RestoreRecord, lost: &[String]) -> String {
    let mut all: Vec<String> = lost.to_vec();
    all.extend(record.unsaved.iter().map(|source| {
        format!(
            "what source {source} held before could not be captured, so it holds what the restore had loaded by then: \
             restore it again, perhaps from another restore point"
        )
    }));
    let rest = match record.is_in_place() {
        true if all.is_empty() => "what was there before is there again",
        true => "everything else is as it was before",
        false if record.spec.existing == Existing::Update => "what it had overwritten by then stays overwritten",
        false if record.made.is_empty() => "nothing that was there was overwritten",
        false => "claims that it had made are gone again",
    };
    all.push(rest.to_owned());
    all.join("; ")
}

/// Takes back what a restore did. What can never be put back is told in words, one sentence each: workloads do not stay
/// down for it.
///
/// # Errors
/// The cluster does not answer, or something cannot be put back now.
pub async fn put_back(site: &Site, record: &mut RestoreRecord) -> Result<Vec<String>, SiteError> {
    // Its movers may have survived it, and must not write on.
    remove_movers(site, record).await?;
    let owner = owner(record);
    if record.swaps.iter().any(|swap| swap.begun) {
        // Some may be up already on the new volumes.
        for stopped in &record.stopped {
            match stop(site, stopped, &owner).await {
                // Nobody uses the claims by it any more.
                Err(SiteError::Workload(WorkloadError::Missing { .. })) => {}
                other => other?,
            }
        }
    }
    for swap in record.swaps.iter().filter(|swap| swap.begun) {
        volumes::back(site.client(), swap).await?;
    }
    let (mut back, mut lost) = (Vec::new(), Vec::new());
    for safety in &record.safeties {
        match load_back(site, record, safety).await {
            Ok(()) => back.push(safety.clone()),
            Err(error) if error.may_pass() => return Err(error),
            // What was captured stays, for a person.
            Err(error) => lost.push(format!(
                "source {} was not loaded back ({}): what it held before is snapshot {} in its repository",
                safety.source,
                error.chain(),
                safety.snapshot
            )),
        }
    }
    record.safeties = back;
    for stopped in &record.stopped {
        let started = workload(stopped)?.start(site.client(), &stopped.namespace, &owner, DEFAULT_HOOK_TIMEOUT).await;
        match started {
            Ok(Started::Ready | Started::Without) => {}
            // It may not have been ready before either: that may be why somebody restores.
            Err(error @ WorkloadError::NotReady { .. }) => tracing::warn!(restore = %record.name, "{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    for swap in &record.swaps {
        volumes::settle(site.client(), swap, volumes::Ending::TakenBack).await?;
    }
    for made in &record.made {
        let found = get(site.client(), &made.namespace, &made.claim).await?;
        let annotations = found.and_then(|found| found.metadata.annotations).unwrap_or_default();
        if annotations.get(MADE_BY) == Some(&record.mark()) {
            volumes::remove(site.client(), &made.namespace, &made.claim).await?;
        }
    }
    forget(site, record).await;
    Ok(lost)
}

/// The former volumes that stay, because no workload was there that could become ready on the new ones.
pub fn kept(record: &RestoreRecord) -> Vec<&str> {
    let swaps = record.swaps.iter().filter(|swap| !record.is_witnessed() && swap.new.is_some());
    swaps.filter_map(|swap| Some(swap.old.as_ref()?.name.as_str())).collect()
}

/// Why nothing proved what was restored.
pub fn unproven(record: &RestoreRecord) -> String {
    match record.without_pods.as_slice() {
        [] => "no workload was there to prove it".to_owned(),
        gone => format!("{} could not prove it, being gone or without replicas by now", gone.join(", ")),
    }
}

/// Puts in order what a restore leaves that succeeded: the former volumes go, as their class says, but for those of
/// [`kept`].
///
/// # Errors
/// The cluster does not answer.
pub async fn settle(site: &Site, record: &RestoreRecord) -> Result<(), SiteError> {
    let ending = if record.is_witnessed() { volumes::Ending::Proven } else { volumes::Ending::Unproven };
    for swap in &record.swaps {
        volumes::settle(site.client(), swap, ending).await?;
    }
    forget(site, record).await;
    Ok(())
}

/// Stops one workload and waits until its pods are gone.
///
/// # Errors
/// It cannot be stopped.
pub async fn stop(site: &Site, stopped: &StoppedWorkload, owner: &str) -> Result<(), SiteError> {
    let workload = workload(stopped)?;
    workload.stop(site.client(), &stopped.namespace, owner, DEFAULT_HOOK_TIMEOUT).await?;
    Ok(())
}

/// Loads back what databases held before.
async fn load_back(site: &Site, record: &RestoreRecord, safety: &Safety) -> Result<(), SiteError> {
    let points = site.store.points(&record.policy).await?;
    let place = points.places.iter().find(|place| place.id == safety.place);
    let place = place
        .ok_or_else(|| SiteError::Refused(format!("place {} of {} is no longer known", safety.place, record.policy)))?;
    let now = match &safety.definition {
        Some(_) => None,
        None => site.store.policy(&record.policy).await?.or(points.withdrawn.as_deref().cloned()),
    };
    let named = || now.as_ref()?.document.spec.sources.iter().find(|source| source.name == safety.source);
    let source = safety.definition.as_ref().or_else(named);
    // Over whatever the restore left there.
    let spec = RestoreSpec { existing: Existing::Update, into: None, tables: Vec::new(), ..record.spec.clone() };
    let (image, loads) = databases::loads(site, &record.policy, &spec, source, &safety.source).await?;
    let bounds = Bounds::within(super::LIMIT, None);
    for (number, load) in loads.into_iter().enumerate() {
        let identity = Identity {
            name: format!("{}-b{number}-{:08x}", record.mark(), rand::random::<u32>()),
            namespace: record.policy.namespace().to_owned(),
            labels: movers::run_labels(labels::labels(Kind::Mover, Some(&record.policy)), &record.mark()),
            annotations: labels::annotations(Some(&record.policy)),
        };
        let mut mover = movers::plain(identity, &site.image, &bounds);
        mover.client_image = Some(image.clone());
        mover.nfs = access::nfs(place);
        let task = Task::RestoreStream {
            snapshot: safety.snapshot.clone(),
            file_name: load.file_name,
            program: load.program,
            guard: None,
        };
        let repository = access::repository(site.client(), site.store.namespace(), place).await?;
        let work = Job { repository, cache_directory: None, bandwidth_bytes_per_second: None, task };
        movers::carry_out(site.client(), &mover, &work, &bounds, |_| ()).await?;
    }
    Ok(())
}

/// Forgets what was captured only to be put back. What stays is too little to count as a restore point.
async fn forget(site: &Site, record: &RestoreRecord) {
    for safety in &record.safeties {
        let points = site.store.points(&record.policy).await;
        let place = points.ok().and_then(|points| points.places.into_iter().find(|place| place.id == safety.place));
        let Some(place) = place else { continue };
        let task = Task::Forget { snapshots: vec![safety.snapshot.clone()] };
        if let Err(error) = site.job(&place, task, &site.small_work(), |_| ()).await {
            tracing::warn!(restore = %record.name, "what was captured before stays: {}", error.chain());
        }
    }
}

async fn remove_movers(site: &Site, record: &RestoreRecord) -> Result<(), SiteError> {
    let selector = selector(record);
    let into = record.spec.into.as_ref().and_then(|into| into.namespace.as_deref());
    for namespace in [Some(record.policy.namespace()), into].into_iter().flatten() {
        let jobs: Api<KubernetesJob> = Api::namespaced(site.client().clone(), namespace);
        let parameters = ListParams::default().labels(&selector);
        jobs.delete_collection(&DeleteParams::foreground(), &parameters)
            .await
            .map_err(|error| SiteError::cluster(format!("removing the movers of {}", record.mark()), error))?;
    }
    if let Some(into) = into.filter(|into| *into != record.policy.namespace()) {
        let names: Vec<String> = (0..record.report.sources.len()).map(|index| second_name(record, index)).collect();
        borrowed::give_back(site.client(), into, &names).await?;
    }
    Ok(())
}

/// The second name of the volume snapshot of one part, in another namespace.
pub fn second_name(record: &RestoreRecord, index: usize) -> String {
    format!("{}-v{index}", record.mark())
}

/// The labels of the movers of a restore.
fn selector(record: &RestoreRecord) -> String {
    let mark = movers::run_labels(labels::labels(Kind::Mover, Some(&record.policy)), &record.mark());
    mark.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_stays_where_no_workload_proved_the_one_in_its_place() {
        let swap = |new: serde_json::Value| {
            json!({"namespace": "shop", "claim": "data", "beside": "x", "made": {}, "new": new,
                "old": {"name": "former", "reclaim": "Delete"}})
        };
        let record = |new, stopped: serde_json::Value| -> RestoreRecord {
            serde_json::from_value(json!({
                "name": "shop/back", "content": "1", "policy": "shop/nightly", "spec": {"policy": "nightly"},
                "report": {"phase": "Running", "startedAt": "2026-11-21T02:00:00Z", "message": "", "sources": []},
                "swaps": [swap(new)], "stopped": stopped,
            }))
            .unwrap()
        };
        let new = json!({"name": "fresh", "reclaim": "Delete"});
        let stopped = json!([{"kind": "Deployment", "namespace": "shop", "name": "shop", "replicas": 1}]);
        assert_eq!(kept(&record(new.clone(), json!([]))), ["former"]);
        assert!(kept(&record(new.clone(), stopped.clone())).is_empty(), "a workload was ready on the new one");
        assert!(kept(&record(json!(null), json!([]))).is_empty(), "nothing took its place");
        let mut deleted = record(new, stopped);
        deleted.without_pods.push("Deployment/shop".to_owned());
        assert_eq!(kept(&deleted), ["former"], "a workload that is gone is ready on nothing");
        assert!(unproven(&deleted).starts_with("Deployment/shop could not prove it"), "{}", unproven(&deleted));
    }

    #[test]
    fn only_what_is_there_again_is_said_to_be() {
        let record = |unsaved: &[&str]| -> RestoreRecord {
            serde_json::from_value(json!({
                "name": "shop/back", "content": "1", "policy": "shop/nightly", "spec": {"policy": "nightly"},
                "report": {"phase": "Running", "startedAt": "2026-11-21T02:00:00Z", "message": "", "sources": []},
                "unsaved": unsaved,
            }))
            .unwrap()
        };
        assert_eq!(told(&record(&[]), &[]), "what was there before is there again");
        let unsaved = told(&record(&["db"]), &[]);
        assert!(unsaved.starts_with("what source db held before could not be captured"), "{unsaved}");
        assert!(!unsaved.contains("there again"), "{unsaved}");
        let lost = told(&record(&[]), &["source db was not loaded back (why)".to_owned()]);
        assert!(lost.starts_with("source db was not loaded back") && !lost.contains("there again"), "{lost}");
    }
}
