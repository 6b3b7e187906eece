//! The ledger: what happened, in order, each entry carrying the hash of the one before.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    actual::RestoreReport, git::Revision, plan::Digest, policy::PolicyName, restore_point::RestorePointId,
    run::RunReport,
};

/// Something that happened. The engine numbers them from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number.
    pub sequence: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Whose.
    pub policy: PolicyName,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// A policy was created, updated or withdrawn.
    Applied {
        /// What was done.
        action: crate::plan::Action,
        /// From which commit.
        revision: Option<Revision>,
    },
    /// A run ended.
    RunEnded(Box<RunReport>),
    /// A restore ended.
    RestoreEnded(Box<RestoreReport>),
    /// Restore points were marked as expired by an edit.
    LostByEdit {
        /// Which.
        points: Vec<RestorePointId>,
        /// The commit that did it.
        revision: Option<Revision>,
        /// The approval that allowed it.
        approval: Option<Digest>,
    },
    /// Restore points were marked as expired by the rules as time went on.
    Expired {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Marks were taken back: the rules keep these again.
    TakenBack {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Expired restore points left the index after their grace time.
    Forgotten {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// The repository was checked.
    Verified {
        /// Which repository.
        repository: String,
        /// Whether it passed; else what is wrong.
        problem: Option<String>,
    },
    /// A restore point was protected from expiry.
    Held(RestorePointId),
    /// That protection was taken away.
    Released(RestorePointId),
}
