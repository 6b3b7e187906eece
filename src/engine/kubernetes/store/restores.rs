//! The record of one restore: what is asked for, how far it is, and everything that is needed to take it back.
//!
//! Pure. A boundary format (JSON). Each thing is written here before it is done in the cluster, so that whoever finds
//! the record of a pod that is gone can put everything back as it was.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoppedWorkload;
use crate::{
    actual::RestoreReport,
    engine::kubernetes::{lease::PodIdentity, names},
    policy::{
        PolicyName,
        document::{Source, restore::RestoreSpec},
    },
    run::Phase,
};

/// A restore as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRecord {
    /// The Restore document; of a restore that a person asked for by hand, the policy.
    pub name: PolicyName,
    /// The hash of what is asked for: another content is another restore.
    pub content: String,
    /// Whose restore point is used.
    pub policy: PolicyName,
    /// What is asked for.
    pub spec: RestoreSpec,
    /// A claim that an archive goes into, which a person brings; none: a restore point is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// How far it is.
    pub report: RestoreReport,
    /// The pod that carries it out; none: it did not begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodIdentity>,
    /// Claims that get another volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swaps: Vec<Swap>,
    /// Claims that it made where there were none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<MadeClaim>,
    /// Workloads that it stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<StoppedWorkload>,
    /// Those of them that could prove nothing: they are gone, or have no replicas any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_pods: Vec<String>,
    /// What databases held before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safeties: Vec<Safety>,
    /// Sources that were loaded although nobody knows what was there before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<String>,
    /// The workloads are ready on what was restored: from here on it goes forward only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
}

/// A claim that gets another volume, which is filled beside it first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Swap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// The claim by which the new volume is made and filled.
    pub beside: String,
    /// The claim as its owner made it.
    pub made: Value,
    /// Its volume; none: the claim itself was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Volume>,
    /// The one that takes its place; none: it is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Volume>,
    /// Whether the claim may have been taken from its volume already.
    #[serde(default)]
    pub begun: bool,
}

/// A volume, and what becomes of it without a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its reclaim policy before this restore: `Delete` or `Retain`.
    pub reclaim: String,
}

/// A claim that a restore made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeClaim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub claim: String,
}

/// What databases of a source held before they were overwritten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Safety {
    /// The source.
    pub source: String,
    /// The source as its policy had it then: it may have another name by now, or none. Records of before lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Source>,
    /// Number of the place that holds it.
    pub place: i64,
    /// The snapshot.
    pub snapshot: String,
}

impl RestoreRecord {
    /// One that nobody began.
    pub fn new(
        name: &PolicyName,
        content: &str,
        policy: &PolicyName,
        spec: &RestoreSpec,
        report: RestoreReport,
    ) -> Self {
        Self {
            name: name.clone(),
            content: content.to_owned(),
            policy: policy.clone(),
            spec: spec.clone(),
            upload: None,
            report,
            pod: None,
            swaps: Vec::new(),
            made: Vec::new(),
            stopped: Vec::new(),
            without_pods: Vec::new(),
            safeties: Vec::new(),
            unsaved: Vec::new(),
            proven: false,
        }
    }

    /// What its temporary objects and the workloads that it stopped are marked with, where runs have their id.
    pub fn mark(&self) -> String {
        names::restore_mark(&self.name, &self.content)
    }

    /// Whether it writes over what the policy protects.
    pub fn is_in_place(&self) -> bool {
        self.spec.into.is_none()
    }

    /// Whether every workload that was stopped became ready on what was restored, and there was one.
    pub fn is_witnessed(&self) -> bool {
        !self.stopped.is_empty() && self.without_pods.is_empty()
    }

    /// Whether nobody began it.
    pub fn is_pending(&self) -> bool {
        self.report.phase == Phase::Pending && self.pod.is_none()
    }
}
