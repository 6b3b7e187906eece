//! The record of one run: its report, its journal, and what it stopped. What a crash leaves is all here.
//!
//! Pure. A boundary format (JSON).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::kubernetes::lease::PodIdentity,
    run::{
        RunReport,
        machine::{Journal, Outcome, Step},
    },
};

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// What is known of it.
    pub report: RunReport,
    /// The pod that carries it out. One that is gone, or has ended, carries out nothing any more.
    pub pod: PodIdentity,
    /// The Job that the pod belongs to; none: it was started by hand outside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What was intended, and what came of it.
    #[serde(default)]
    pub journal: Vec<(Step, Option<Outcome>)>,
    /// The workloads that it stopped and did not start again yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<StoppedWorkload>,
}

/// A workload that a run stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedWorkload {
    /// `Deployment` or `StatefulSet`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many replicas it had.
    pub replicas: i32,
    /// When a guard last tried to start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted_at: Option<Timestamp>,
}

impl RunRecord {
    /// A run that begins.
    pub fn new(report: RunReport, pod: PodIdentity, job: Option<String>) -> Self {
        Self { report, pod, job, journal: Vec::new(), stopped: Vec::new() }
    }

    /// The journal as the state machine takes it.
    pub fn journal(&self) -> Journal {
        Journal::new(self.journal.clone())
    }

    /// Keeps the journal.
    pub fn set_journal(&mut self, journal: &Journal) {
        self.journal = journal.entries().to_vec();
    }
}
