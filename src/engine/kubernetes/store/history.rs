//! The history that is not in git yet: numbered events. The daemon at work alone writes it, so the numbers have no gap;
//! what runs tell waits in the record of their policy until it takes it from there.
//!
//! Pure. A boundary format (JSON).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    policy::PolicyName,
    status::ledger::{Event, EventKind},
};

/// How many events are kept. The status branch has them all.
pub const MOST_EVENTS: usize = 12_000;

/// The newest events, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The number of the newest event that ever was.
    pub newest_sequence: u64,
    /// The events.
    pub events: Vec<Event>,
}

impl History {
    /// Adds an event, if it is not known yet: after a crash the same one may be told again. False: it is known.
    pub fn add(&mut self, at: Timestamp, policy: &PolicyName, kind: &EventKind) -> bool {
        if self.has(at, policy, kind) {
            return false;
        }
        self.newest_sequence += 1;
        let event = Event { sequence: self.newest_sequence, at, policy: policy.clone(), kind: kind.clone() };
        self.events.push(event);
        if self.events.len() > MOST_EVENTS {
            self.events.remove(0);
        }
        true
    }

    /// Whether an event is known.
    pub fn has(&self, at: Timestamp, policy: &PolicyName, kind: &EventKind) -> bool {
        self.events.iter().rev().any(|event| event.at == at && event.policy == *policy && event.kind == *kind)
    }

    /// What happened after the event with this number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Event> {
        self.events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Lets the older half go, for a history that no longer fits.
    pub fn halve(&mut self) {
        self.events.drain(..self.events.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore_point::RestorePointId;

    #[test]
    fn an_event_that_is_told_again_keeps_its_number() {
        let mut history = History::default();
        let policy: PolicyName = "shop/nightly".parse().unwrap();
        let held = |id: &str| EventKind::Held(RestorePointId(id.to_owned()));
        let at = Timestamp::UNIX_EPOCH;
        assert!(history.add(at, &policy, &held("a")));
        assert!(history.add(at, &policy, &held("b")));
        assert!(!history.add(at, &policy, &held("a")));
        history.halve();
        assert!(history.add(at, &policy, &held("c")));
        let numbers: Vec<u64> = history.after(0).iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(history.after(2).len(), 1);
    }
}
