//! The CronJob of one schedule, and the Job of a run that is asked for by hand.
//!
//! Pure. The pod that they start needs no daemon: it reads its policy from the ConfigMap, and everything else from the
//! cluster.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::policy::{Installation, metadata};
use crate::{
    engine::kubernetes::labels::{self, CRON_SCHEDULED_AT, Kind, SCHEDULED_AT},
    policy::{CompiledPolicy, PolicyName},
    schedule::Schedule,
};

/// How late a missed run may start where the policy names no deadline. The controller looks at most 100 missed times
/// back, and gives up with more: a deadline keeps a schedule alive that was away for long.
const LATEST_START_SECONDS: i64 = 24 * 3600;
/// A controller looks every ten seconds; a shorter deadline could miss every start.
const SHORTEST_DEADLINE_SECONDS: i64 = 30;
/// How long an ended Job, with its log, is kept.
const KEPT_SECONDS: i64 = 3 * 24 * 3600;
/// How many ended Jobs are kept for each schedule.
const KEPT_JOBS: i64 = 3;
/// A run that takes longer is ended.
const LONGEST_RUN_SECONDS: i64 = 48 * 3600;
/// How long a run may take to end its movers and to start what it stopped when its pod is told to go.
const GRACE_SECONDS: i64 = 300;
/// How many pods of one run may be killed before its Job gives up; the next run and the daemon look after it then.
const MOST_PODS: i64 = 6;
/// The container of a run.
const CONTAINER: &str = "mainstay";
/// The user that the image runs as.
const USER: i64 = 65532;

/// What is due when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// A cron expression.
    pub expression: String,
    /// The zone in which it is read.
    pub time_zone: String,
    /// Other work than a run, as `mainstay run --only` takes it.
    pub only: Option<String>,
}

/// The CronJob for one timetable of a policy.
pub fn manifest(policy: &CompiledPolicy, name: &str, timetable: &Timetable, installation: &Installation) -> Value {
    let spec = &policy.document.spec;
    let deadline = spec.deadline.map_or(LATEST_START_SECONDS, |deadline| deadline.seconds());
    let mut metadata = metadata(policy, name, installation);
    if installation.frozen {
        metadata["annotations"][labels::FROZEN] = json!("true");
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {
            "schedule": normalised(timetable),
            "timeZone": timetable.time_zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": deadline.max(SHORTEST_DEADLINE_SECONDS),
            "suspend": spec.suspend || installation.frozen,
            "successfulJobsHistoryLimit": KEPT_JOBS,
            "failedJobsHistoryLimit": KEPT_JOBS,
            "jobTemplate": job_template(policy, timetable, installation),
        },
    })
}

/// The Job of a run that is asked for now, from the template of a CronJob that is there. `scheduled_at` gives the run
/// its id, so a second wish for the same time adopts the first.
pub fn run_now(template: &Value, name: &str, namespace: &str, scheduled_at: jiff::Timestamp) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": template.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    });
    let metadata = &mut job["metadata"];
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(namespace);
    metadata["annotations"][SCHEDULED_AT] = json!(scheduled_at.to_string());
    if let Some(arguments) = job.pointer_mut("/spec/template/spec/containers/0/args").and_then(Value::as_array_mut) {
        arguments.extend([json!("--trigger"), json!("manual")]);
    }
    job
}

/// The Job of other work than a run that is asked for now, from the template of a CronJob that is there.
pub fn work_now(template: &Value, name: &str, namespace: &str, policy: &PolicyName, work: &str) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": template.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    });
    job["metadata"]["name"] = json!(name);
    job["metadata"]["namespace"] = json!(namespace);
    let arguments = json!(["run", policy.to_string(), "--engine", "kubernetes", "--only", work]);
    if let Some(old) = job.pointer_mut("/spec/template/spec/containers/0/args") {
        *old = arguments;
    }
    job
}

/// The Job of a cleanup of a policy that was withdrawn, and so has no schedule any more.
pub fn cleanup_now(policy: &CompiledPolicy, name: &str, installation: &Installation) -> Value {
    let timetable =
        Timetable { expression: String::new(), time_zone: "UTC".to_owned(), only: Some("cleanup".to_owned()) };
    let template = job_template(policy, &timetable, installation);
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(policy, name, installation),
        "spec": template["spec"],
    })
}

/// The Job of a restore: `arguments` are those of `mainstay restore`.
pub fn restore(policy: &PolicyName, name: &str, arguments: Vec<String>, installation: &Installation) -> Value {
    let marks = json!({
        "labels": labels::labels(Kind::Restore, Some(policy)),
        "annotations": labels::annotations(Some(policy)),
    });
    let spec = job_spec(&marks, &arguments, installation);
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": marks, "spec": spec});
    job["metadata"]["name"] = json!(name);
    job["metadata"]["namespace"] = json!(installation.namespace);
    job
}

/// In numbers, which is what the controller takes: 7 is no Sunday to it.
fn normalised(timetable: &Timetable) -> String {
    Schedule::parse(&timetable.expression, &TimeZone::UTC)
        .map_or_else(|_| timetable.expression.clone(), |schedule| schedule.normalised())
}

fn job_template(policy: &CompiledPolicy, timetable: &Timetable, installation: &Installation) -> Value {
    let marks = json!({
        "labels": labels::labels(Kind::Run, Some(&policy.name)),
        "annotations": labels::annotations(Some(&policy.name)),
    });
    let mut arguments = vec!["run".to_owned(), policy.name.to_string(), "--engine".to_owned(), "kubernetes".to_owned()];
    if let Some(work) = &timetable.only {
        arguments.extend(["--only".to_owned(), work.clone()]);
    }
    let spec = job_spec(&marks, &arguments, installation);
    json!({"metadata": marks, "spec": spec})
}

fn job_spec(marks: &Value, arguments: &[String], installation: &Installation) -> Value {
    json!({
            // A pod that is gone is followed by another one, which leads the run to its end and starts what it
            // stopped, even if nothing else of Mainstay is alive. A run that ended, however it did, is not repeated.
            "backoffLimit": MOST_PODS,
            "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [1, 2, 3, 4]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            "activeDeadlineSeconds": LONGEST_RUN_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": marks,
                "spec": {
                    "serviceAccountName": installation.run_service_account,
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": CONTAINER,
                        "image": installation.image.clone().unwrap_or_default(),
                        "imagePullPolicy": "IfNotPresent",
                        "args": arguments,
                        "env": environment(installation),
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                    }],
                    "volumes": [{"name": "scratch", "emptyDir": {}}],
                },
            },
    })
}

fn environment(installation: &Installation) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    json!([
        // The image has no time zone of its own.
        {"name": "TZ", "value": "UTC"},
        {"name": "MAINSTAY_NAMESPACE", "value": installation.namespace},
        {"name": "MAINSTAY_IMAGE", "value": installation.image.clone().unwrap_or_default()},
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_NAME", "metadata.name"),
        field("POD_UID", "metadata.uid"),
        field("MAINSTAY_JOB", "metadata.labels['batch.kubernetes.io/job-name']"),
    ])
}

/// The annotations of a Job that say which time its run is for, the one that people set first.
pub const SCHEDULED_ANNOTATIONS: [&str; 2] = [SCHEDULED_AT, CRON_SCHEDULED_AT];
