//! The plan: exactly what would change, and which restore points would be lost. So specific that apply has no choice
//! left.
//!
//! Pure. `diff` makes it, `losses` counts what an edit loses, `safety` refuses, `digest`, `approval` and `used_up` are
//! about consent, `text`, `markdown` and `json` render, and `saved` tells whether a plan that was kept still holds.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    git::Revision,
    policy::{CompiledPolicy, Location, PolicyName, Restore},
    restore_point::RestorePointId,
};

pub mod diff;
pub mod fields;
pub mod losses;
pub mod safety;

pub mod approval;
pub mod digest;
pub mod used_up;

pub mod json;
pub mod markdown;
pub mod text;
pub mod wording;

pub mod saved;

#[cfg(test)]
mod tests;

/// What happens to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// `+`: a policy that the engine does not have.
    Create,
    /// `~`: a policy that the engine has with other content.
    Update,
    /// `-`: a policy without a document. Its schedule stops; what becomes of its restore points is in the losses.
    Delete,
    /// `←`: a restore that is carried out.
    Restore,
}

/// Why an action is in the plan. A closed set: no reason, no action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The document is new.
    DocumentAdded,
    /// The document asks for something else; the changed fields, as paths such as `retention.keepDaily`.
    DocumentChanged(Vec<String>),
    /// The document is gone.
    DocumentRemoved,
    /// The engine's object was changed by hand; it is put back.
    Drifted,
    /// A Restore document asks for it.
    RestoreRequested,
}

/// One entry of a plan.
#[derive(Debug, Clone)]
pub struct Change {
    /// The policy (or the Restore document) it is about.
    pub policy: PolicyName,
    /// What happens.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// What the engine has.
    pub before: Option<CompiledPolicy>,
    /// What it will have.
    pub after: Option<CompiledPolicy>,
    /// The restore, where `action` is [`Action::Restore`].
    pub restore: Option<Restore>,
    /// Where the document stands; for a deletion, where it stood.
    pub source: Location,
    /// The next three times of the changed schedule.
    pub next_runs: Vec<Timestamp>,
    /// Restore points that are marked as expired together with this change.
    pub losses: Vec<RestorePointId>,
    /// Restore points that are marked as expired and kept by the new rules: their marks are taken back with this change.
    pub taken_back: Vec<RestorePointId>,
    /// What was approved, where it goes ahead by an approval. None: nothing had to be.
    pub approval: Option<Digest>,
}

/// A restore point that the old rules keep and the new ones expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Whose it is.
    pub policy: PolicyName,
    /// Which.
    pub id: RestorePointId,
    /// When it was captured.
    pub time: Timestamp,
    /// Bytes that a restore would write.
    pub size_bytes: u64,
    /// Why it is lost, in words: the rule that kept it, such as `keepDaily 30 → 7`.
    pub reason: String,
}

/// An effect that needs consent: what an approval is bound to. Ordered and typed; never rendered text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// This restore point expires.
    Lose {
        /// Whose it is.
        policy: PolicyName,
        /// Which.
        point: RestorePointId,
    },
    /// What the policy protects is overwritten by a restore with this content.
    RestoreInPlace {
        /// The Restore document.
        restore: PolicyName,
        /// Its content hash.
        content: String,
    },
}

/// Hex SHA-256 over sorted effects: what a person approves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

/// A change that a safety rail blocks.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The change that is not carried out. The policy keeps what it has.
    pub change: Change,
    /// Which rail, in words.
    pub reason: String,
    /// What consent is missing for; empty: this cannot be approved, something must be mended.
    pub effects: BTreeSet<Effect>,
    /// Digest of these effects.
    pub digest: Digest,
}

/// Something that was changed by hand, or is there without a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The policy it is about.
    pub policy: PolicyName,
    /// What is different, in words.
    pub difference: String,
}

/// How far back one can go, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The oldest restore point that the old rules keep.
    pub before: Option<Timestamp>,
    /// The oldest one that the new rules keep.
    pub after: Option<Timestamp>,
}

/// Exactly what would change.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The commit that is planned; none: a plain directory.
    pub revision: Option<Revision>,
    /// When the actual state was observed.
    pub observed_at: Timestamp,
    /// The time that the rules were applied at.
    pub now: Timestamp,
    /// What will be carried out, sorted by policy.
    pub changes: Vec<Change>,
    /// How many policies stay as they are.
    pub unchanged: usize,
    /// What was changed by hand.
    pub drift: Vec<Drift>,
    /// All losses, approved or refused, sorted by policy and time.
    pub losses: Vec<Loss>,
    /// For each policy with losses: how far back one can go.
    pub reach: BTreeMap<PolicyName, Reach>,
    /// What a safety rail blocks, sorted by policy.
    pub refusals: Vec<Refusal>,
    /// Policies that stay as they are because their document or file is wrong.
    pub frozen: BTreeSet<PolicyName>,
    /// Digest over all effects that need consent, given or not: approving something does not change it.
    pub digest: Digest,
}

/// What was consented to: effects, found in commits or given at the command line.
#[derive(Debug, Clone, Default)]
pub struct Approvals {
    /// Effects that are listed by an approval.
    pub effects: BTreeSet<Effect>,
    /// Digests that were approved without a list.
    pub digests: BTreeSet<Digest>,
}
