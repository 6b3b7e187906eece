//! Apply: a plan becomes calls to the engine. It decides nothing: the plan names every object and restore point.
//!
//! Create before delete. An error ends only the policy that it belongs to; every call can be repeated, so the next turn
//! takes up what did not go through.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;

use crate::{
    engine::{Engine, EngineError},
    plan::{Action, Change, Plan},
    policy::PolicyName,
    status::ledger::EventKind,
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
        let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.action == order).collect();
        let calls: Vec<_> = changes.iter().map(|change| carry_out(plan, change, engine, now)).collect();
        // In the order of the plan, so that what is told of them is the same each time.
        let mut results = stream::iter(calls).buffered(engine.applies_at_once());
        for change in changes {
            let Some(result) = results.next().await else { break };
            match result {
                Ok(()) => {
                    tracing::info!(policy = %change.policy, action = ?change.action, "applied");
                    applied.done.push((change.policy.clone(), change.action));
                }
                Err(error) => {
                    let reason = crate::engine::chain(&error);
                    tracing::error!(policy = %change.policy, action = ?change.action, %reason, "not applied");
                    applied.failed.insert(change.policy.clone(), reason);
                }
            }
        }
    }
    applied
}

/// One change. Each step can be repeated, and a crash between two of them is made good by the next turn: an update
/// shows no difference any more, but its marks are then set by the next cleanup, by the same rules; a deletion marks
/// first, because a policy that is withdrawn already has no rules that would mark anything.
async fn carry_out<E: Engine>(plan: &Plan, change: &Change, engine: &E, now: Timestamp) -> Result<(), EngineError> {
    match change.action {
        Action::Create | Action::Update => {
            if let Some(after) = &change.after {
                engine.put(after).await?;
            }
            lose(plan, change, engine, now).await?;
        }
        Action::Delete => {
            lose(plan, change, engine, now).await?;
            engine.withdraw(&change.policy).await?;
        }
        Action::Restore => {
            if let Some(restore) = &change.restore {
                engine.restore(restore, now).await?;
            }
        }
    }
    let applied = EventKind::Applied { action: change.action, revision: plan.revision.clone() };
    engine.record(&change.policy, applied, now).await
}

/// Marks what the change loses, and says in the history which commit did it, and what was approved.
async fn lose<E: Engine>(plan: &Plan, change: &Change, engine: &E, now: Timestamp) -> Result<(), EngineError> {
    if change.losses.is_empty() {
        return Ok(());
    }
    engine.expire(&change.policy, &change.losses, now).await?;
    let lost = EventKind::LostByEdit {
        points: change.losses.clone(),
        revision: plan.revision.clone(),
        approval: change.approval.clone(),
    };
    engine.record(&change.policy, lost, now).await
}
