//! A plan that was kept in a file, so that what is carried out is what was reviewed.
//!
//! Pure; a boundary format (JSON). A saved plan is never carried out by itself: `apply --plan` plans anew and goes on
//! only if [`compare`] finds that nothing has moved since.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Digest, Plan};
use crate::{policy::PolicyName, restore_point::RestorePointId};

const FORMAT_VERSION: u32 = 1;

/// A plan as it was reviewed: the identity of everything that it does and destroys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedPlan {
    format_version: u32,
    /// The commit that was planned.
    pub revision: Option<String>,
    /// The time that the rules were applied at.
    pub now: Timestamp,
    /// Digest over the effects that needed consent.
    pub digest: Digest,
    changes: Vec<SavedChange>,
    refused: Vec<SavedChange>,
}

/// One change by identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedChange {
    policy: PolicyName,
    action: Action,
    /// Content hash of what the engine had.
    before: Option<String>,
    /// Content hash of what it will have; for a restore, that of its document.
    after: Option<String>,
    losses: BTreeSet<RestorePointId>,
}

/// Why a saved plan could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SavedPlanError {
    /// Not JSON of this shape.
    #[error("this is not a plan that `mainstay plan --out` wrote")]
    Malformed(#[source] serde_json::Error),
    /// From another version of Mainstay.
    #[error("the plan has format version {0}, and this version of mainstay reads {FORMAT_VERSION}; plan again")]
    Version(u32),
}

/// Something that is not as it was when the plan was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// What it is about.
    pub policy: PolicyName,
    /// What has moved, in words.
    pub what: String,
}

impl std::fmt::Display for Moved {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.policy, self.what)
    }
}

/// A plan as the content of a file.
pub fn save(plan: &Plan) -> String {
    let saved = SavedPlan {
        format_version: FORMAT_VERSION,
        revision: plan.revision.as_ref().map(|revision| revision.0.clone()),
        now: plan.now,
        digest: plan.digest.clone(),
        changes: plan.changes.iter().map(identity).collect(),
        refused: plan.refusals.iter().map(|refusal| identity(&refusal.change)).collect(),
    };
    let mut text = serde_json::to_string_pretty(&saved).expect("names, hashes and times are plain data");
    text.push('\n');
    text
}

/// Reads such a file back.
///
/// # Errors
/// It is something else, or from another version.
pub fn load(content: &[u8]) -> Result<SavedPlan, SavedPlanError> {
    let saved: SavedPlan = serde_json::from_slice(content).map_err(SavedPlanError::Malformed)?;
    match saved.format_version {
        FORMAT_VERSION => Ok(saved),
        other => Err(SavedPlanError::Version(other)),
    }
}

/// What has moved between a saved plan and the plan of now, sorted by policy. Empty: carrying out the plan of now does
/// what was reviewed. Fewer losses than were reviewed are no reason to stop.
pub fn compare(saved: &SavedPlan, fresh: &Plan) -> Vec<Moved> {
    let reviewed = by_identity(saved.changes.iter().cloned());
    let current = by_identity(fresh.changes.iter().map(identity));
    let keys: BTreeSet<_> = reviewed.keys().chain(current.keys()).collect();
    let mut moved = Vec::new();
    for key in keys {
        let what = match (reviewed.get(key), current.get(key)) {
            (Some(reviewed), Some(current)) => difference(reviewed, current),
            (Some(_), None) => Some(gone(fresh, key)),
            (None, Some(_)) => {
                Some(match saved.refused.iter().any(|change| (&change.policy, change.action) == (&key.0, key.1)) {
                    true => "it was refused when the plan was saved and would be carried out now".to_owned(),
                    false => format!("to {} it was not in the plan", verb(key.1)),
                })
            }
            (None, None) => None,
        };
        moved.extend(what.map(|what| Moved { policy: key.0.clone(), what }));
    }
    moved
}

fn identity(change: &Change) -> SavedChange {
    let Change {
        policy,
        action,
        reason: _,
        before,
        after,
        restore,
        source: _,
        next_runs: _,
        losses,
        taken_back: _,
        approval: _,
    } = change;
    SavedChange {
        policy: policy.clone(),
        action: *action,
        // What the engine really has, which a hand may have changed since it was applied.
        before: before.as_ref().map(|before| before.content_hash()),
        after: after
            .as_ref()
            .map(|after| after.spec_hash.clone())
            .or_else(|| restore.as_ref().map(|restore| restore.content_hash())),
        losses: losses.iter().cloned().collect(),
    }
}

fn by_identity(changes: impl Iterator<Item = SavedChange>) -> BTreeMap<(PolicyName, Action), SavedChange> {
    changes.map(|change| ((change.policy.clone(), change.action), change)).collect()
}

fn difference(reviewed: &SavedChange, current: &SavedChange) -> Option<String> {
    if reviewed.before != current.before {
        return Some("what the engine has is another than when the plan was saved".to_owned());
    }
    if reviewed.after != current.after {
        return Some("its document is another than when the plan was saved".to_owned());
    }
    let more: Vec<&str> = current.losses.difference(&reviewed.losses).map(|id| id.0.as_str()).collect();
    let [first, rest @ ..] = more.as_slice() else { return None };
    Some(match rest.len() {
        0 => format!("restore point {first} would be lost, too"),
        others => format!("restore point {first} and {others} others would be lost, too"),
    })
}

fn gone(fresh: &Plan, (policy, action): &(PolicyName, Action)) -> String {
    let is_it = |change: &Change| (&change.policy, change.action) == (policy, *action);
    match fresh.refusals.iter().find(|refusal| is_it(&refusal.change)) {
        Some(refusal) => format!("to {} it is refused now: {}", verb(*action), refusal.reason),
        None => format!("there is nothing to {} any more", verb(*action)),
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
        Action::Restore => "restore",
    }
}
