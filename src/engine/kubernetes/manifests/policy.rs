//! Everything that a policy becomes in the cluster: a ConfigMap with the compiled policy, and a CronJob for each of its
//! schedules.
//!
//! Pure.

use serde_json::{Value, json};

use super::cron_job::{self, Timetable};
use crate::{
    engine::kubernetes::{
        labels::{self, Kind, REVISION, SPEC_HASH},
        names::{self, CronJobKind},
    },
    policy::{CompiledPolicy, PolicyName},
};

/// What every manifest of an installation has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Mainstay's own namespace.
    pub namespace: String,
    /// The image of run pods; none: whatever is there counts as right, and nothing new can be made.
    pub image: Option<String>,
    /// The service account of run pods.
    pub run_service_account: String,
    /// Everything is frozen: no schedule starts anything.
    pub frozen: bool,
}

/// Which sort of object a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A ConfigMap.
    ConfigMap,
    /// A CronJob.
    CronJob,
}

impl Sort {
    /// As Kubernetes calls it.
    pub fn text(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::CronJob => "CronJob",
        }
    }
}

/// One object: exactly the fields that are ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Which sort.
    pub sort: Sort,
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: Value,
}

/// The objects of a policy: the ConfigMap first, because the CronJobs' pods read it.
pub fn of(policy: &CompiledPolicy, installation: &Installation) -> Vec<Manifest> {
    let mut manifests = vec![Manifest {
        sort: Sort::ConfigMap,
        name: names::policy_map(&policy.name),
        content: config_map(policy, installation),
    }];
    for (kind, timetable) in timetables(policy) {
        let name = names::cron_job(&policy.name, kind);
        let content = cron_job::manifest(policy, &name, &timetable, installation);
        manifests.push(Manifest { sort: Sort::CronJob, name, content });
    }
    manifests
}

/// The sorts and names of the objects that a policy with this document has or would have.
pub fn object_names(policy: &CompiledPolicy) -> Vec<(Sort, String)> {
    let jobs = timetables(policy).into_iter().map(|(kind, _)| (Sort::CronJob, names::cron_job(&policy.name, kind)));
    let points = (Sort::ConfigMap, names::points_map(&policy.name));
    [(Sort::ConfigMap, names::policy_map(&policy.name)), points].into_iter().chain(jobs).collect()
}

/// Labels and annotations of an object of a policy.
pub(super) fn metadata(policy: &CompiledPolicy, name: &str, installation: &Installation) -> Value {
    let mut annotations = labels::annotations(Some(&policy.name));
    annotations.insert(SPEC_HASH.to_owned(), policy.spec_hash.clone());
    if let Some(revision) = &policy.revision {
        annotations.insert(REVISION.to_owned(), revision.clone());
    }
    json!({
        "name": name,
        "namespace": installation.namespace,
        "labels": labels::labels(Kind::Policy, Some(&policy.name)),
        "annotations": annotations,
    })
}

fn config_map(policy: &CompiledPolicy, installation: &Installation) -> Value {
    let text = serde_json::to_string(policy).expect("a policy is plain data");
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(policy, &names::policy_map(&policy.name), installation),
        "data": {"record.json": text},
    })
}

/// What is due when, and the arguments of `mainstay run` for it.
fn timetables(policy: &CompiledPolicy) -> Vec<(CronJobKind, Timetable)> {
    let spec = &policy.document.spec;
    let mut all = Vec::new();
    let timetable = |expression: &str, zone: &str, only: Option<String>| Timetable {
        expression: expression.to_owned(),
        time_zone: zone.to_owned(),
        only,
    };
    for (index, expression) in spec.schedule.as_slice().iter().enumerate() {
        all.push((CronJobKind::Run(index), timetable(expression, &spec.time_zone, None)));
    }
    if let Some(cleanup) = &spec.cleanup {
        let work = Some("cleanup".to_owned());
        all.push((CronJobKind::Cleanup, timetable(&cleanup.schedule, &spec.time_zone, work)));
    }
    if let Some(expression) = spec.verify.as_ref().and_then(|verify| verify.schedule.as_ref()) {
        all.push((CronJobKind::Verify, timetable(expression, &spec.time_zone, Some("verify".to_owned()))));
    }
    for (index, repository) in policy.repositories.iter().enumerate() {
        let Some(maintenance) = &repository.spec.maintenance else { continue };
        let name = &repository.metadata.name;
        if let Some(expression) = &maintenance.prune {
            all.push((CronJobKind::Prune(index), timetable(expression, "UTC", Some(format!("prune {name}")))));
        }
        if let Some(expression) = &maintenance.check {
            all.push((CronJobKind::Check(index), timetable(expression, "UTC", Some(format!("check {name}")))));
        }
    }
    all
}

/// The policy that an object says it belongs to.
pub fn policy_of(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<PolicyName> {
    annotations?.get(labels::POLICY_NAME)?.parse().ok()
}
