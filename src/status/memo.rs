//! What was published last, kept from turn to turn: with ten thousand policies, reading all of it back and writing it
//! anew takes seconds, and after most runs one policy is news.
//!
//! Pure. It is believed only on top of the very commit that it was confirmed for. Whoever else wrote to the branch, and
//! a publication that did not arrive, make it worthless: then everything is read back from the branch.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{StatusInput, conditions, documents::PolicyStatus};
use crate::{
    actual::{ActualPolicy, ActualState, inventory},
    policy::{Policy, PolicyName},
    run::Phase,
};

/// What was published last; nothing, until a publication was confirmed.
#[derive(Debug, Default)]
pub struct Memo {
    commit: Option<String>,
    known: Option<Known>,
}

/// What the status was made from, and the status of each policy.
#[derive(Debug)]
pub(super) struct Known {
    asked: BTreeMap<PolicyName, Policy>,
    there: BTreeMap<PolicyName, Arc<ActualPolicy>>,
    is_complete: bool,
    /// What the inventory says of restores.
    begun: Vec<((PolicyName, String), Phase, Timestamp)>,
    /// By the names of the policies.
    pub(super) statuses: BTreeMap<PolicyName, Arc<PolicyStatus>>,
}

impl Memo {
    /// What was kept, if the branch is still at the commit that it was confirmed for. What is kept next counts only once
    /// it is confirmed.
    pub(super) fn take(&mut self, commit: Option<&str>) -> Option<Known> {
        let confirmed = self.commit.take();
        self.known.take().filter(|_| confirmed.is_some() && confirmed.as_deref() == commit)
    }

    /// Keeps what a publication is made of.
    pub(super) fn keep(&mut self, input: &StatusInput<'_>, statuses: BTreeMap<PolicyName, Arc<PolicyStatus>>) {
        self.known = Some(Known {
            asked: input.desired.policies.clone(),
            there: input.actual.policies.clone(),
            is_complete: input.actual.complete,
            begun: begun(input.actual),
            statuses,
        });
    }

    /// The publication that was made last arrived: it is what this commit says.
    pub fn confirm(&mut self, commit: &str) {
        self.commit = Some(commit.to_owned());
    }
}

impl Known {
    /// The status of a policy, if everything that it was made from is as it was.
    pub(super) fn status(&self, input: &StatusInput<'_>, name: &PolicyName) -> Option<&Arc<PolicyStatus>> {
        let known = self.statuses.get(name)?;
        let asked = match (self.asked.get(name), input.desired.policies.get(name)) {
            (Some(then), Some(now)) => Arc::ptr_eq(&then.content, &now.content),
            (then, now) => then.is_none() && now.is_none(),
        };
        let there = match (self.there.get(name), input.actual.policies.get(name)) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            (then, now) => then.is_none() && now.is_none(),
        };
        if !asked || !there {
            return None;
        }
        // What the plan, its application and the clock say about it besides.
        let (health, message) = conditions::judge(input, name, known.status.last_run.as_ref());
        let before = known.status.conditions.first().map(|condition| condition.message.as_str());
        (known.health == health && before == Some(message.as_str())).then_some(known)
    }

    /// Whether the inventory would be the same but for the time of the observation.
    pub(super) fn has_same_inventory(&self, actual: &ActualState) -> bool {
        let same = |(then, now): (&Arc<ActualPolicy>, &Arc<ActualPolicy>)| {
            Arc::ptr_eq(then, now)
                || then.compiled == now.compiled
                    && then.schedule == now.schedule
                    && then.inventory.complete == now.inventory.complete
                    && then.inventory.points == now.inventory.points
        };
        self.is_complete == actual.complete
            && self.begun == begun(actual)
            && self.there.keys().eq(actual.policies.keys())
            && self.there.values().zip(actual.policies.values()).all(same)
    }
}

fn begun(actual: &ActualState) -> Vec<((PolicyName, String), Phase, Timestamp)> {
    inventory::begun(actual).map(|(restore, phase, at)| (restore.clone(), phase, at)).collect()
}
