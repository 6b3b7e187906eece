//! Conditions: whether a policy does what its document asks for, in the manner of Kubernetes.
//!
//! Ready: the newest document is in force, and the last run and the newest checks were good. Reconciling: it will be tried again by itself.
//! Stalled: a person must do something. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::StatusInput;
use crate::{
    actual::{RestoreReport, checks},
    plan::Refusal,
    policy::PolicyName,
    retention::remarks,
    run::{Phase, RunReport, Trigger},
    schedule::CLOCK_SLACK,
};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    pub r#type: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word that never changes.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// Since when it holds or does not.
    pub last_transition_time: Timestamp,
}

/// Which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// The newest document is in force, and the last run and the newest checks were good.
    Ready,
    /// It will be tried again by itself.
    Reconciling,
    /// A person must do something.
    Stalled,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known.
    Unknown,
}

/// How a policy is doing, worst first: the order of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// The document is wrong, or could not be applied.
    Broken,
    /// A repository did not pass its newest check.
    Damaged,
    /// The last run failed.
    Failed,
    /// The clock went back behind its last run: nothing starts until that time comes again.
    Ahead,
    /// A change waits for consent.
    Refused,
    /// A change is held back, and no consent helps: something must be mended first.
    Held,
    /// The restore points cannot be seen.
    Unseen,
    /// It has not run yet.
    Waiting,
    /// All is well.
    Good,
    /// The user paused it.
    Suspended,
    /// Its document is gone; its restore points stay.
    Withdrawn,
}

impl Health {
    /// Whether a person must look at it.
    pub fn needs_attention(self) -> bool {
        match self {
            Self::Broken | Self::Damaged | Self::Failed | Self::Ahead | Self::Refused | Self::Held | Self::Unseen => {
                true
            }
            Self::Waiting | Self::Good | Self::Suspended | Self::Withdrawn => false,
        }
    }
}

/// Finds how a policy is doing, why, and what to do about it; and what is to be known of its restore points.
pub fn judge(input: &StatusInput<'_>, name: &PolicyName, last_run: Option<&RunReport>) -> (Health, String) {
    let (health, message) = judge_policy(input, name, last_run);
    let points = input.actual.policies.get(name).map_or(&[][..], |actual| &actual.inventory.points);
    let remarks = remarks(name, points, input.now);
    let message = if remarks.is_empty() { message } else { format!("{} {remarks}", sentence(&message)) };
    (health, message)
}

fn judge_policy(input: &StatusInput<'_>, name: &PolicyName, last_run: Option<&RunReport>) -> (Health, String) {
    if let Some(refusal) = refusal(input, name) {
        let health = if refusal.can_be_approved() { Health::Refused } else { Health::Held };
        return (health, refusal_message(refusal, input.approve_arguments));
    }
    if let Some(problem) = input.applied.failed.get(name) {
        return (Health::Broken, format!("The document could not be applied: {problem}"));
    }
    let actual = input.actual.policies.get(name);
    let source = actual.and_then(|actual| actual.compiled.as_ref()).map(|compiled| compiled.source.file.as_path());
    if source.map_or(input.desired.frozen_policies.contains(name), |file| input.desired.is_frozen(name, file)) {
        let message = "The document or its file has findings; what was applied before stays in force. Mend the \
                       document, see `mainstay validate`.";
        return (Health::Broken, message.to_owned());
    }
    let Some(actual) = actual else {
        return (Health::Waiting, "The document is not in force yet.".to_owned());
    };
    if actual.compiled.is_none() && !input.desired.policies.contains_key(name) {
        let points = actual.inventory.points.len();
        return (
            Health::Withdrawn,
            format!("The document is gone; the schedule stopped, {points} restore points stay."),
        );
    }
    if let Some(message) = checks::message(&actual.failed_checks, name) {
        return (Health::Damaged, message);
    }
    if let Some(run) = last_run.filter(|run| run.phase == Phase::Failed) {
        return (Health::Failed, format!("Run {} failed: {}", run.id, run.message));
    }
    if !actual.inventory.complete {
        let message = "The restore points cannot be listed; nothing is expired meanwhile. Check the repository. If it is \
                       gone for ever, take it out of the policy or move it: the plan lists what was there, and consent \
                       lets it go.";
        return (Health::Unseen, message.to_owned());
    }
    if input.desired.policies.get(name).is_some_and(|policy| policy.suspend) {
        return (Health::Suspended, "The schedule is paused by the document.".to_owned());
    }
    match last_run {
        Some(run) if run.trigger != Trigger::Manual && run.scheduled_at > input.now + CLOCK_SLACK => {
            let message = format!(
                "The clock went back: run {} is of {}, which is still to come. No run starts twice; the schedule goes on \
                 by the clock as it is. Check the clock.",
                run.id, run.scheduled_at
            );
            (Health::Ahead, message)
        }
        Some(run) => (Health::Good, format!("Run {} succeeded.", run.id)),
        None => (Health::Waiting, "It has not run yet.".to_owned()),
    }
}

/// The three conditions; the time of one that did not change is taken from `before`.
pub fn conditions(health: Health, message: &str, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    let (reason, ready, reconciling, stalled) = match health {
        Health::Broken => ("DocumentNotInForce", False, False, True),
        Health::Refused => ("ApprovalNeeded", False, False, True),
        Health::Held => ("HeldBack", False, False, True),
        Health::Ahead => ("ClockWentBack", Unknown, False, True),
        Health::Damaged => ("CheckFailed", False, False, True),
        Health::Failed => ("RunFailed", False, True, False),
        Health::Unseen => ("InventoryIncomplete", Unknown, True, False),
        Health::Waiting => ("NotRunYet", Unknown, True, False),
        Health::Good => ("RunSucceeded", True, False, False),
        Health::Suspended => ("Suspended", True, False, False),
        Health::Withdrawn => ("Withdrawn", False, False, False),
    };
    [(ConditionType::Ready, ready), (ConditionType::Reconciling, reconciling), (ConditionType::Stalled, stalled)]
        .into_iter()
        .map(|(r#type, status)| {
            let same = before.iter().find(|condition| condition.r#type == r#type && condition.status == status);
            Condition {
                r#type,
                status,
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: same.map_or(now, |condition| condition.last_transition_time),
            }
        })
        .collect()
}

/// The three conditions of a restore that a document asks for.
pub fn of_restore(report: &RestoreReport) -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    let (reason, ready, reconciling, stalled) = match (report.phase, report.waits_for()) {
        (Phase::Succeeded, _) => ("Restored", True, False, False),
        (Phase::Failed, _) => ("RestoreFailed", False, False, True),
        (Phase::Pending, Some(_)) => ("Waiting", Unknown, True, False),
        (Phase::Pending | Phase::Running, _) => ("UnderWay", Unknown, True, False),
    };
    [(ConditionType::Ready, ready), (ConditionType::Reconciling, reconciling), (ConditionType::Stalled, stalled)]
        .into_iter()
        .map(|(r#type, status)| Condition {
            r#type,
            status,
            reason: reason.to_owned(),
            message: report.message.clone(),
            last_transition_time: report.finished_at.unwrap_or(report.started_at),
        })
        .collect()
}

/// The refused change of a policy.
fn refusal<'a>(input: &StatusInput<'a>, name: &PolicyName) -> Option<&'a Refusal> {
    // They are sorted: each of ten thousand policies asks, and there may be as many refusals.
    let refusals = &input.plan?.refusals;
    let place = refusals.partition_point(|refusal| refusal.change.policy < *name);
    refusals.get(place).filter(|refusal| refusal.change.policy == *name)
}

/// Why a change is refused, and the command that approves it. `arguments`: what that command takes besides.
pub fn refusal_message(refusal: &Refusal, arguments: &str) -> String {
    if refusal.effects.is_empty() {
        return format!("The change is refused: {}", sentence(&refusal.reason));
    }
    format!(
        "The change is refused: {} To consent: `mainstay approve {}{arguments}`",
        sentence(&refusal.reason),
        refusal.digest.0
    )
}

/// With a full stop at its end.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}
