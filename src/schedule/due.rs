//! Whether a policy should start now: jitter, missed times, catch-up, deadline.
//!
//! Pure. Any number of missed times gives one run, that of the latest of them. A scheduled time is run at most once:
//! only times strictly later than the last scheduled one count, whatever the clock does in between.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{Schedule, next_runs};
use crate::policy::PolicyName;

/// Whether to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing to do before `next`.
    NotYet {
        /// When to start next, jitter included.
        next: Timestamp,
    },
    /// Start now.
    Now {
        /// The time of the schedule that this run is for, without jitter: the identity of the run.
        scheduled: Timestamp,
        /// How many earlier times passed without a run; at most [`MISSED_LIMIT`].
        missed: u32,
        /// It starts late, or stands for missed times too.
        catch_up: bool,
    },
    /// The latest time is past its deadline and no longer started.
    Skipped {
        /// The time of the schedule that is given up.
        scheduled: Timestamp,
        /// How many times passed without a run, this one included; at most [`MISSED_LIMIT`].
        missed: u32,
        /// When to start next, jitter included.
        next: Timestamp,
    },
}

/// Beyond this many missed times, nobody counts.
pub const MISSED_LIMIT: u32 = 1000;

/// A clock that is set back by no more than this is being kept right, and nobody needs to look.
pub const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(60);

/// A start up to this long after its time is punctual: the scheduler's own pace, not a catch-up.
const PUNCTUAL: SignedDuration = SignedDuration::from_secs(60);

/// Decides whether a policy should start. `last_scheduled` is the scheduled time of the last run that was started, or
/// the time when the policy was applied first. A clock that went back behind it starts nothing.
pub fn due(
    schedules: &[Schedule],
    jitter: SignedDuration,
    deadline: Option<SignedDuration>,
    policy: &PolicyName,
    last_scheduled: Timestamp,
    now: Timestamp,
) -> Due {
    let start = |scheduled: Timestamp| start_of(schedules, jitter, policy, scheduled);
    let Some(scheduled) = latest_started(schedules, last_scheduled, now, &start) else {
        let next = next_runs(schedules, last_scheduled, 1).first().map_or(Timestamp::MAX, |next| start(*next));
        return Due::NotYet { next };
    };
    let missed = count_between(schedules, last_scheduled, scheduled);
    let lateness = now.duration_since(start(scheduled));
    if deadline.is_some_and(|deadline| lateness > deadline) {
        let next = next_runs(schedules, scheduled, 1).first().map_or(Timestamp::MAX, |next| start(*next));
        return Due::Skipped { scheduled, missed: missed.saturating_add(1).min(MISSED_LIMIT), next };
    }
    Due::Now { scheduled, missed, catch_up: missed > 0 || lateness > PUNCTUAL }
}

/// When the run for a scheduled time starts: later by a part of `jitter` that is always the same for a policy, and
/// before the next scheduled time in any case.
pub fn start_of(
    schedules: &[Schedule],
    jitter: SignedDuration,
    policy: &PolicyName,
    scheduled: Timestamp,
) -> Timestamp {
    let jitter_seconds = u64::try_from(jitter.as_secs()).unwrap_or(0);
    if jitter_seconds == 0 {
        return scheduled;
    }
    let hash = Sha256::digest(policy.to_string());
    let number = hash.iter().take(8).fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    let offset_seconds = i64::try_from(number % (jitter_seconds + 1)).unwrap_or(0);
    let room_seconds = next_runs(schedules, scheduled, 1)
        .first()
        .map_or(i64::MAX, |next| next.duration_since(scheduled).as_secs() - 1);
    scheduled
        .checked_add(SignedDuration::from_secs(offset_seconds.clamp(0, room_seconds.max(0))))
        .unwrap_or(Timestamp::MAX)
}

/// The latest scheduled time after `last_scheduled` whose start has come.
fn latest_started(
    schedules: &[Schedule],
    last_scheduled: Timestamp,
    now: Timestamp,
    start: &impl Fn(Timestamp) -> Timestamp,
) -> Option<Timestamp> {
    let latest =
        |until: Timestamp| schedules.iter().filter_map(|schedule| schedule.latest_between(last_scheduled, until)).max();
    // Every start lies before the next scheduled time, so only the latest one can still be waiting for its jitter.
    let candidate = latest(now)?;
    if start(candidate) <= now {
        return Some(candidate);
    }
    latest(candidate.checked_sub(SignedDuration::from_secs(1)).ok()?)
}

/// How many scheduled times lie strictly between two; at most [`MISSED_LIMIT`].
fn count_between(schedules: &[Schedule], after: Timestamp, before: Timestamp) -> u32 {
    let mut count = 0;
    let mut time = after;
    while count < MISSED_LIMIT
        && let Some(next) = next_runs(schedules, time, 1).first().copied().filter(|next| *next < before)
    {
        count += 1;
        time = next;
    }
    count
}
