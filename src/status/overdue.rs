//! What is overdue: a policy that has not succeeded within its RPO, and a scheduled time that passed without a run.
//!
//! Pure. It moves only when something becomes overdue or a run ends that, so time alone writes no commit.

use jiff::SignedDuration;

use super::{StatusInput, conditions::Health, documents::PolicyStatus};
use crate::notify::judge::{Trouble, troubles};

/// How long after its time a run may begin: others may come first, and hosts sleep.
const PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// Why a policy is overdue; none: it is not, or asks for nothing now.
pub fn overdue(input: &StatusInput<'_>, policy: &PolicyStatus) -> Option<String> {
    match policy.health {
        Health::Suspended | Health::Withdrawn => return None,
        Health::Broken
        | Health::Damaged
        | Health::Failed
        | Health::Ahead
        | Health::Refused
        | Health::Held
        | Health::Unseen
        | Health::Waiting
        | Health::Good => {}
    }
    let there = input.actual.policies.get(&policy.name)?;
    // One that never ran is told of by its schedule.
    if let Some(why) = troubles(there, input.now, input.now).remove(&Trouble::Silent) {
        return Some(why);
    }
    if input.desired.settings.freeze || there.compiled.is_none() || there.running.is_some() {
        return None;
    }
    let due = policy.status.next_run?;
    let jitter = input.desired.policies.get(&policy.name).map_or(SignedDuration::ZERO, |policy| policy.jitter);
    let latest = due.checked_add(jitter).ok()?.checked_add(PATIENCE).ok()?;
    (input.now > latest).then(|| {
        format!("a run was due at {due}, and none has begun; look whether the daemon and its schedules are at work")
    })
}
