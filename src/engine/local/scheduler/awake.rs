//! Which policies the scheduler must look at: those that something changed of, and those whose time has come. Ten
//! thousand others rest meanwhile, and cost a comparison each.
//!
//! What changed is told by the table that an observation goes by (`state::observation`), so whoever wrote it, a policy
//! is read anew. Only the turns of maintenance are not in it: those are written by the one daemon itself.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::timetable::{self, Timetable};
use crate::{
    engine::local::state::{State, StateError},
    policy::PolicyName,
    schedule::CLOCK_SLACK,
};

/// A cleanup that was held up is tried again after this.
const CLEANUP_AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// All policies: each rests until a time, or is awake.
#[derive(Debug, Default)]
pub(super) struct Awake {
    /// The newest change that is in it; none: nothing was read yet.
    newest_change: Option<i64>,
    newest_look: Timestamp,
    policies: BTreeMap<PolicyName, Known>,
}

#[derive(Debug)]
enum Known {
    /// Something of it changed.
    Unread,
    /// It is to be looked at each time. It is kept, because at two at night all of them may wait for their turn.
    Awake(Arc<Stored>),
    /// Nothing of it is due before that time.
    Resting(Timestamp),
}

/// What is stored of a policy.
#[derive(Debug)]
pub(super) enum Stored {
    /// It is there.
    Scheduled {
        /// The scheduled time that was dealt with last.
        last_scheduled: Timestamp,
        /// When what of it is due.
        timetable: Timetable,
    },
    /// It was withdrawn. Its restore points that are marked are forgotten at that time; none: there are none.
    Withdrawn { forget_at: Option<Timestamp> },
    /// It cannot be read.
    Unreadable,
}

impl Awake {
    /// The policies to look at now, by name. All of them stay awake that are not put to rest afterwards.
    pub(super) fn policies(
        &mut self,
        state: &State,
        now: Timestamp,
    ) -> Result<Vec<(PolicyName, Arc<Stored>)>, StateError> {
        if now + CLOCK_SLACK < self.newest_look {
            // The clock went back, and what was not due may lie ahead of it now.
            *self = Self::default();
        }
        let (newest_change, changed) = state.policies_changed_since(self.newest_change)?;
        if self.newest_change.is_none_or(|known| newest_change < known) {
            // The first look, or another database in the place of the one that was known.
            self.policies.clear();
        }
        self.newest_look = self.newest_look.max(now);
        self.policies.extend(changed.into_iter().map(|name| (name, Known::Unread)));
        self.newest_change = Some(newest_change);

        let mut awake = Vec::new();
        let mut gone = Vec::new();
        for (name, known) in &mut self.policies {
            let stored = match known {
                Known::Resting(until) if *until > now => continue,
                Known::Resting(_) | Known::Unread => read(state, name)?.map(Arc::new),
                Known::Awake(stored) => Some(Arc::clone(stored)),
            };
            match stored {
                Some(stored) => {
                    *known = match *stored {
                        Stored::Scheduled { .. } | Stored::Unreadable => Known::Awake(Arc::clone(&stored)),
                        // When it is cleaned up again hangs on when it was cleaned up last, which is no change of it.
                        Stored::Withdrawn { .. } => Known::Unread,
                    };
                    awake.push((name.clone(), stored));
                }
                None => gone.push(name.clone()),
            }
        }
        for name in gone {
            self.policies.remove(&name);
        }
        Ok(awake)
    }

    /// Nothing of this policy is due before `until`.
    pub(super) fn rest(&mut self, name: PolicyName, until: Timestamp) {
        self.policies.insert(name, Known::Resting(until));
    }

    /// When the first one wakes that rests.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let until = |known: &Known| match known {
            Known::Resting(until) => Some(*until),
            Known::Unread | Known::Awake(_) => None,
        };
        self.policies.values().filter_map(until).min()
    }
}

fn read(state: &State, name: &PolicyName) -> Result<Option<Stored>, StateError> {
    let stored = match state.policy(name) {
        Ok(None) => return Ok(None),
        Ok(Some(stored)) => stored,
        Err(error @ StateError::Decode { .. }) => {
            tracing::error!(policy = %name, "it does not run: {error}");
            return Ok(Some(Stored::Unreadable));
        }
        Err(error) => return Err(error),
    };
    if stored.withdrawn {
        let last = state.last_turn(name, "cleanup")?;
        let forget_at = state.marks_end(&stored.compiled)?;
        return Ok(Some(Stored::Withdrawn {
            forget_at: forget_at.map(|at| last.map_or(at, |last| at.max(last + CLEANUP_AGAIN))),
        }));
    }
    Ok(Some(match timetable::read(&stored.compiled) {
        Ok(timetable) => Stored::Scheduled { last_scheduled: stored.last_scheduled, timetable },
        Err(reason) => {
            tracing::error!(policy = %name, "its stored schedule cannot be read, so it does not run: {reason}");
            Stored::Unreadable
        }
    }))
}

#[cfg(test)]
mod tests;
