//! Actual state: one observation of what the engine really has; possibly stale, maybe incomplete.
//!
//! Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    policy::{CompiledPolicy, PolicyName},
    restore_point::{Inventory, RestorePointId},
    run::RunReport,
};

pub mod checks;
pub mod inventory;

/// One observation of everything that the engine has. A clone shares the policies, as does the next observation with
/// those that did not change.
#[derive(Debug, Clone, PartialEq)]
pub struct ActualState {
    /// When it was made.
    pub observed_at: Timestamp,
    /// Whether everything could be seen. An incomplete observation allows no deletion.
    pub complete: bool,
    /// All that Mainstay manages, with or without a document.
    pub policies: BTreeMap<PolicyName, Arc<ActualPolicy>>,
    /// Restores that were carried out or refused, by name and content hash.
    pub restores: BTreeMap<(PolicyName, String), RestoreReport>,
    /// Objects in our own place that are not ours, as `CronJob NAME`, with the policy that may adopt each. Empty where an
    /// engine has none.
    pub foreign: BTreeMap<String, Option<String>>,
}

/// What the engine has of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ActualPolicy {
    /// What was applied last. None: its schedule was withdrawn, only restore points are left; or only an inventory
    /// was read, see [`ActualPolicy::schedule`].
    pub compiled: Option<CompiledPolicy>,
    /// The schedule as an offline inventory states it, when `compiled` is not known.
    pub schedule: Option<String>,
    /// Its restore points.
    pub inventory: Inventory,
    /// The newest run, finished or not.
    pub last_run: Option<RunReport>,
    /// When a run last succeeded.
    pub last_success: Option<Timestamp>,
    /// The run that is under way.
    pub running: Option<RestorePointId>,
    /// What was changed by hand in the objects that the engine made of it, in words.
    pub drift: Option<String>,
    /// Its repositories whose newest check did not pass.
    pub failed_checks: Vec<checks::FailedCheck>,
}

/// How a restore ended.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// Which restore point was used.
    pub restore_point: Option<RestorePointId>,
    /// How far it is.
    pub phase: crate::run::Phase,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What happened, in a sentence.
    pub message: String,
    /// Each source: how it went.
    pub sources: Vec<crate::run::SourceReport>,
}

impl RestoreReport {
    /// How the message of one begins that has to wait.
    const WAITS: &str = "waits for ";

    /// The same, waiting for something: nothing was begun.
    pub fn waiting(self, reason: &str) -> Self {
        Self { phase: crate::run::Phase::Pending, message: format!("{}{reason}", Self::WAITS), ..self }
    }

    /// What it waits for; none: it does not wait.
    pub fn waits_for(&self) -> Option<&str> {
        let reason = self.message.strip_prefix(Self::WAITS)?;
        (self.phase == crate::run::Phase::Pending).then_some(reason)
    }
}
