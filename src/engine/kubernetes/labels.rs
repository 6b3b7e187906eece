//! Labels and annotations: how our objects are found again, whoever wrote them and whatever became of the writer.
//!
//! Pure. A label's value has at most 63 characters and no `/`, so labels carry object names, and annotations carry the
//! full ones.

use std::collections::BTreeMap;

use super::names;
use crate::policy::PolicyName;

/// The field manager of everything that we apply.
pub const FIELD_MANAGER: &str = "mainstay";
/// Label: who manages the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value for ours.
pub const MAINSTAY: &str = "mainstay";
/// Label: the object name of the policy.
pub const POLICY: &str = "mainstay.dev/policy";
/// Label: what the object is, see [`Kind`].
pub const KIND: &str = "mainstay.dev/kind";
/// Annotation: the full name of the policy. It shares its key with the label.
pub const POLICY_NAME: &str = POLICY;
/// Annotation: the hash of the compiled policy that the object was made from.
pub const SPEC_HASH: &str = "mainstay.dev/spec-hash";
/// Annotation: the commit.
pub const REVISION: &str = "mainstay.dev/revision";
/// Annotation that a person puts on a foreign object: the policy that may take it over.
pub const ADOPT: &str = "mainstay.dev/adopt";
/// Annotation that a person puts on a claim or a workload: it need not be protected.
pub const IGNORE: &str = "mainstay.dev/ignore";
/// Annotation on a CronJob that is suspended because everything is frozen, and not because its policy says so.
pub const FROZEN: &str = "mainstay.dev/frozen";
/// Annotation on a workload: the run that stopped it.
pub const STOPPED_BY: &str = "mainstay.dev/stopped-by";
/// Annotation on a workload: how many replicas it had before.
pub const REPLICAS: &str = "mainstay.dev/replicas";
/// Annotation on a Job: the scheduled time of its run, for one that no CronJob started.
pub const SCHEDULED_AT: &str = "mainstay.dev/scheduled-at";
/// Annotation on a volume snapshot: the name of its part of the restore point.
pub const SOURCE: &str = "mainstay.dev/source";
/// Annotation on a volume snapshot: how many parts the restore point has.
pub const SOURCES: &str = "mainstay.dev/sources";
/// Annotation on a Lease: the pods that capture into what it guards, separated by spaces.
pub const CAPTURES: &str = "mainstay.dev/captures";
/// Annotation that the CronJob controller puts on a Job: its scheduled time.
pub const CRON_SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What an object of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A compiled policy, and its CronJobs.
    Policy,
    /// The restore points of a policy.
    Points,
    /// One run.
    Run,
    /// One restore.
    Restore,
    /// The history.
    History,
    /// What the last turn left.
    Memory,
    /// What the settings say to runs.
    Limits,
    /// A mover, and what belongs to it.
    Mover,
    /// A volume snapshot that is a restore point, or a part of one.
    VolumeSnapshot,
}

impl Kind {
    /// The value of the label.
    pub fn text(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Points => "points",
            Self::Run => "run",
            Self::Restore => "restore",
            Self::History => "history",
            Self::Memory => "memory",
            Self::Limits => "limits",
            Self::Mover => "mover",
            Self::VolumeSnapshot => "volume-snapshot",
        }
    }
}

/// The labels of an object of ours.
pub fn labels(kind: Kind, policy: Option<&PolicyName>) -> BTreeMap<String, String> {
    let mut labels =
        BTreeMap::from([(MANAGED_BY.to_owned(), MAINSTAY.to_owned()), (KIND.to_owned(), kind.text().to_owned())]);
    if let Some(policy) = policy {
        labels.insert(POLICY.to_owned(), names::object(policy));
    }
    labels
}

/// The annotation that names the policy in full.
pub fn annotations(policy: Option<&PolicyName>) -> BTreeMap<String, String> {
    policy.map(|policy| (POLICY_NAME.to_owned(), policy.to_string())).into_iter().collect()
}

/// The selector of what the daemon watches. Runs are not: a policy's points say which one is under way, and there are
/// many.
pub fn watched() -> String {
    let kinds = [Kind::Policy, Kind::Points, Kind::Restore, Kind::History].map(Kind::text);
    format!("{},{KIND} in ({})", managed(), kinds.join(","))
}

/// The selector of everything that is ours.
pub fn managed() -> String {
    format!("{MANAGED_BY}={MAINSTAY}")
}

/// The selector of everything that is not ours.
pub fn foreign() -> String {
    format!("{MANAGED_BY}!={MAINSTAY}")
}
