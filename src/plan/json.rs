//! A plan as JSON, for programs. Everything is in it, nothing is cut.
//!
//! Pure. The shape is a contract: fields are added, never renamed.

use serde_json::{Value, json};

use super::{
    Change, Loss, Plan, Reason, Refusal,
    wording::{self, View},
};
use crate::policy::{CompiledPolicy, Location};

/// Version of the shape.
pub const FORMAT_VERSION: u32 = 1;

/// Renders a plan.
pub fn render(plan: &Plan, view: &View) -> Value {
    let Plan { revision, observed_at, now, changes, unchanged, drift, losses, reach, refusals, frozen, digest } = plan;
    json!({
        "formatVersion": FORMAT_VERSION,
        "revision": revision,
        "digest": digest,
        "comparedWith": view.compared_with,
        "observedAt": observed_at,
        "now": now,
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
        "unchanged": unchanged,
        "drift": drift.iter().map(|drift| json!({"policy": drift.policy, "difference": drift.difference})).collect::<Vec<_>>(),
        "losses": losses.iter().map(loss).collect::<Vec<_>>(),
        "reach": reach.iter().map(|(policy, reach)| (policy.to_string(), json!({"before": reach.before, "after": reach.after}))).collect::<serde_json::Map<_, _>>(),
        "refused": refusals.iter().map(|refused| refusal(refused, view)).collect::<Vec<_>>(),
        "frozen": frozen,
        "errored": view.errored,
    })
}

fn change(change: &Change) -> Value {
    let fields: Vec<Value> = wording::changed_fields(change)
        .into_iter()
        .map(|field| json!({"path": field.path, "before": field.before, "after": field.after}))
        .collect();
    json!({
        "policy": change.policy,
        "action": change.action,
        "reason": reason(&change.reason),
        "fields": fields,
        "before": change.before.as_ref().map(policy),
        "after": change.after.as_ref().map(policy),
        "restore": change.restore.as_ref().map(|restore| &restore.document),
        "source": source(&change.source),
        "nextRuns": change.next_runs,
        "losses": change.losses,
        "takenBack": change.taken_back,
    })
}

fn reason(reason: &Reason) -> &'static str {
    match reason {
        Reason::DocumentAdded => "documentAdded",
        Reason::DocumentChanged(_) => "documentChanged",
        Reason::DocumentRemoved => "documentRemoved",
        Reason::Drifted => "drifted",
        Reason::RestoreRequested => "restoreRequested",
    }
}

/// A policy as its document, with defaults filled in.
fn policy(policy: &CompiledPolicy) -> Value {
    json!({"metadata": policy.document.metadata, "spec": policy.document.spec, "specHash": policy.spec_hash})
}

fn source(location: &Location) -> Value {
    match location.line {
        0 => Value::Null,
        _ => json!({"file": location.file, "line": location.line, "column": location.column}),
    }
}

fn loss(loss: &Loss) -> Value {
    json!({
        "policy": loss.policy,
        "id": loss.id,
        "time": loss.time,
        "sizeBytes": loss.size_bytes,
        "reason": loss.reason,
    })
}

fn refusal(refusal: &Refusal, view: &View) -> Value {
    let can_be_approved = refusal.can_be_approved();
    json!({
        "policy": refusal.change.policy,
        "action": refusal.change.action,
        "reason": refusal.reason,
        "digest": can_be_approved.then_some(&refusal.digest),
        "effects": refusal.effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "approve": can_be_approved.then(|| wording::approve_command(&refusal.digest, view)),
        "change": change(&refusal.change),
    })
}
