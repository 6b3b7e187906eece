//! Apply: a plan becomes calls to the engine. It decides nothing: the plan names every object and restore point.
//!
//! Create before delete. An error ends only the policy that it belongs to; every call can be repeated, so the next turn
//! takes up what did not go through.

use std::{collections::BTreeMap, error::Error};

use jiff::Timestamp;

use crate::{
    engine::{Engine, EngineError},
    plan::{Action, Change, Plan},
    policy::PolicyName,
};

/// What was carried out.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// What went through.
    pub done: Vec<(PolicyName, Action)>,
    /// What did not, and why, in words.
    pub failed: BTreeMap<PolicyName, String>,
}

/// Carries out the changes of a plan, and nothing of its refusals.
pub async fn apply<E: Engine>(plan: &Plan, engine: &E, now: Timestamp) -> Applied {
    let mut applied = Applied::default();
    for order in [Action::Create, Action::Update, Action::Delete, Action::Restore] {
        for change in plan.changes.iter().filter(|change| change.action == order) {
            match carry_out(change, engine, now).await {
                Ok(()) => {
                    tracing::info!(policy = %change.policy, action = ?change.action, "applied");
                    applied.done.push((change.policy.clone(), change.action));
                }
                Err(error) => {
                    let reason = chain(&error);
                    tracing::error!(policy = %change.policy, action = ?change.action, %reason, "not applied");
                    applied.failed.insert(change.policy.clone(), reason);
                }
            }
        }
    }
    applied
}

/// One change. The new rules are in place before anything is marked as expired, so a crash in between loses nothing:
/// the next cleanup marks what the new rules no longer keep.
async fn carry_out<E: Engine>(change: &Change, engine: &E, now: Timestamp) -> Result<(), EngineError> {
    match change.action {
        Action::Create | Action::Update => {
            if let Some(after) = &change.after {
                engine.put(after).await?;
            }
        }
        Action::Delete => engine.withdraw(&change.policy).await?,
        Action::Restore => {
            if let Some(restore) = &change.restore {
                engine.restore(restore, now).await?;
            }
        }
    }
    if !change.losses.is_empty() {
        engine.expire(&change.policy, &change.losses, now).await?;
    }
    Ok(())
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
