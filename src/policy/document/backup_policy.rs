//! `BackupPolicy`: what to protect, when, where to, and for how long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, KeepWithinText, OneOrMany, Source};

/// What to protect, when, where to, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupPolicySpec {
    /// When to run: a 5-field cron expression as Kubernetes reads it, `@daily` and the like, or a list of them.
    /// Default `0 2 * * *`.
    #[serde(default = "default_schedule")]
    pub schedule: OneOrMany<String>,
    /// IANA time zone in which the schedule is read, such as `Europe/Berlin`. Default `UTC`.
    #[serde(default = "default_time_zone")]
    pub time_zone: String,
    /// Spread the start over at most this long; the same for a policy each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<DurationText>,
    /// How late a missed run may still start; later ones are skipped. Default: until the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DurationText>,
    /// Pause the schedule; restore points stay as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Names of the repositories; each gets every restore point.
    pub repositories: Vec<String>,
    /// `Hot` copies while the workload runs; `Cold` stops it for the time of the copy. Default `Hot`.
    #[serde(default)]
    pub consistency: Consistency,
    /// How to stop and start what writes to the sources (local engine, with `consistency: Cold`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Quiesce>,
    /// What is protected. A run captures all of them into one restore point, good only if all are.
    pub sources: Vec<Source>,
    /// Commands before and after the capture.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Which restore points to keep. All rules are cumulative. Default: 7 last, 7 daily, 4 weekly.
    #[serde(default)]
    pub retention: Retention,
    /// When to forget expired restore points and reclaim their space. Default: after each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// Prove restore points: integrity checks and restore drills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Box<Verify>>,
    /// What loss of data and time to restore can be tolerated; the plan checks the schedule against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Objectives>,
    /// What happens to the restore points when this document is removed. Default `Retain`.
    #[serde(default)]
    pub deletion: Deletion,
    /// Limits of each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Box<Limits>>,
    /// Pause between the starts for several volumes (kubernetes engine). Default `2m`; `0s` while workloads are down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stagger: Option<DurationText>,
}

/// Whether what writes to the sources is stopped for the time of the copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consistency {
    /// Copy while the workload runs.
    #[default]
    Hot,
    /// Stop the workload, copy, and start it again on every path.
    Cold,
}

/// The commands that make a source still, and let it go on. Each is an argument vector; no shell is involved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quiesce {
    /// Stops what writes, such as `[systemctl, stop, shop]`. A non-zero exit aborts the run.
    pub stop: Vec<String>,
    /// Starts it again, such as `[systemctl, start, shop]`. Carried out on every path, also after a crash.
    pub start: Vec<String>,
    /// How long each of the two may take. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
}

/// Commands before and after the capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hooks {
    /// Carried out in order before the capture; a non-zero exit or a timeout aborts the run before anything is copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Hook>,
    /// Carried out in order after the capture, on every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Hook>,
}

impl Hooks {
    /// Whether there is no hook at all.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// One hook: exactly one of `command` (local engine) and `exec` (kubernetes engine).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// Argument vector of a program on this host; no shell is involved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// A command inside a running pod (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// How long it may take. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
}

/// A command inside a running pod (needs the kubernetes engine).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The workload whose pod is used, such as `Deployment/shop`.
    pub workload: String,
    /// The container; default: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Argument vector.
    pub command: Vec<String>,
}

/// Which restore points to keep: a point stays if any rule keeps it. The semantics are those of `restic forget`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Keep the newest N restore points. `-1`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<i64>,
    /// For the last N hours that have a restore point, keep the newest of each. `-1`: all such hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_hourly: Option<i64>,
    /// For the last N days that have a restore point, keep the newest of each. `-1`: all such days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_daily: Option<i64>,
    /// For the last N weeks (from Monday) that have a restore point, keep the newest of each. `-1`: all such weeks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_weekly: Option<i64>,
    /// For the last N months that have a restore point, keep the newest of each. `-1`: all such months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_monthly: Option<i64>,
    /// For the last N years that have a restore point, keep the newest of each. `-1`: all such years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_yearly: Option<i64>,
    /// Keep everything within this long before the newest restore point, such as `3d`, `12h`, `2w`, `6mo` or `1y`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<KeepWithinText>,
    /// How long an expired restore point can still be taken back, by reverting the edit. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<DurationText>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_last: Some(7),
            keep_hourly: None,
            keep_daily: Some(7),
            keep_weekly: Some(4),
            keep_monthly: None,
            keep_yearly: None,
            keep_within: None,
            grace: None,
        }
    }
}

/// When expired restore points are forgotten and their space reclaimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cleanup {
    /// 5-field cron expression, in the policy's time zone.
    pub schedule: String,
}

/// How restore points are proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verify {
    /// When: a 5-field cron expression, in the policy's time zone. Default: after each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Share of the stored data that each check reads back, such as `5%`. Default `0%`: structure only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_data: Option<String>,
}

/// What loss of data and time to restore can be tolerated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objectives {
    /// Recovery point objective: at most this much time between two restore points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<DurationText>,
    /// Recovery time objective: a restore takes at most this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<DurationText>,
}

/// What happens to the restore points of a policy whose document is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Deletion {
    /// The policy stops; its restore points stay.
    #[default]
    Retain,
    /// The restore points expire once their loss is approved.
    Confirm,
}

/// Limits of each run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// How long a run may take altogether; it is ended then, and fails. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Upload at most this much each second, such as `20MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<String>,
    /// CPU and memory of the mover's pod (needs the kubernetes engine), such as `{cpu: "1", memory: 512Mi}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<std::collections::BTreeMap<String, String>>,
}

fn default_schedule() -> OneOrMany<String> {
    OneOrMany::One("0 2 * * *".to_owned())
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}
