//! What of the consent that was given is used up: consent holds once, and for each policy on its own.
//!
//! Pure. Where all that was asked for is settled, everything up to that commit is used up, and nothing but the commit
//! need be remembered. While something is refused, frozen or failed, this remembers what was carried out all the same:
//! a loss that is taken back afterwards cannot happen again unseen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Action, Approvals, Change, Digest, Effect, Plan, digest};
use crate::{desired::DesiredState, git::Revision, policy::PolicyName};

/// With more entries than this, all consent so far counts as used up: it can be given again.
const ENTRIES_LIMIT: usize = 2_000;

/// Up to which commit consent is used up, for each policy and restore that somebody consented to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UsedUp {
    /// Consent to losses of a policy.
    losses: BTreeMap<PolicyName, Revision>,
    /// Consent to a restore in place.
    restores: BTreeMap<PolicyName, Revision>,
    /// Consent by a digest without a list.
    digests: BTreeMap<Digest, Revision>,
}

/// What a turn came to, as far as consent cares.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// What the documents ask for.
    pub desired: &'a DesiredState,
    /// What was planned.
    pub plan: &'a Plan,
    /// What was not carried out, and why.
    pub failed: &'a BTreeMap<PolicyName, String>,
}

impl UsedUp {
    /// Whether nothing is used up.
    pub fn is_empty(&self) -> bool {
        let Self { losses, restores, digests } = self;
        losses.is_empty() && restores.is_empty() && digests.is_empty()
    }

    /// What is left of consent that one commit brought. `is_within` tells whether that commit is the one that it is given,
    /// or lies before it.
    ///
    /// # Errors
    /// Those of `is_within`.
    pub fn rest<E>(&self, given: Approvals, is_within: impl Fn(&Revision) -> Result<bool, E>) -> Result<Approvals, E> {
        let mut known: BTreeMap<&Revision, bool> = BTreeMap::new();
        for up_to in self.losses.values().chain(self.restores.values()).chain(self.digests.values()) {
            if !known.contains_key(up_to) {
                known.insert(up_to, is_within(up_to)?);
            }
        }
        let is_used = |up_to: Option<&Revision>| up_to.and_then(|up_to| known.get(up_to)).is_some_and(|used| *used);
        let mut rest = Approvals::default();
        for effect in given.effects {
            let up_to = match &effect {
                Effect::Lose { policy, .. } => self.losses.get(policy),
                Effect::RestoreInPlace { restore, .. } => self.restores.get(restore),
            };
            if !is_used(up_to) {
                rest.effects.insert(effect);
            }
        }
        for digest in given.digests {
            if !is_used(self.digests.get(&digest)) {
                rest.digests.insert(digest);
            }
        }
        Ok(rest)
    }

    /// What is used up after a turn at `head` that these approvals were in force in. None: everything up to `head`.
    pub fn after(&self, approvals: &Approvals, outcome: Outcome<'_>, head: &Revision) -> Option<Self> {
        let Outcome { plan, failed, .. } = outcome;
        if plan.refusals.is_empty() && plan.frozen.is_empty() && failed.is_empty() {
            return None;
        }
        self.with(approvals, outcome, head)
    }

    /// The same, one by one also where nothing is left to approve. None: it is too much to remember.
    pub fn with(&self, approvals: &Approvals, outcome: Outcome<'_>, head: &Revision) -> Option<Self> {
        let plan = outcome.plan;
        let refused: BTreeSet<(bool, &PolicyName)> = plan
            .refusals
            .iter()
            .map(|refusal| (refusal.change.action == Action::Restore, &refusal.change.policy))
            .collect();
        let mut after = self.clone();
        for effect in &approvals.effects {
            let (is_restore, name, used) = match effect {
                Effect::Lose { policy, .. } => (false, policy, &mut after.losses),
                Effect::RestoreInPlace { restore, .. } => (true, restore, &mut after.restores),
            };
            let is_open = refused.contains(&(is_restore, name)) || outcome.is_open(is_restore, name);
            if used.get(name) != Some(head) && !is_open {
                used.insert(name.clone(), head.clone());
            }
        }
        for digest in outcome.carried_out(approvals) {
            after.digests.insert(digest, head.clone());
        }
        let entries = after.losses.len() + after.restores.len() + after.digests.len();
        (entries <= ENTRIES_LIMIT).then_some(after)
    }
}

impl Outcome<'_> {
    /// How many restore points may be lost without approval from now on. A raise is put off as long as there is a change
    /// that was not carried out, for whatever reason: the raise would let it through later, and it may have come with it.
    pub fn losses_in_force(&self) -> u32 {
        let Self { desired, plan, failed } = self;
        let is_refused = plan.refusals.iter().any(|refusal| refusal.change.action != Action::Restore);
        match is_refused || !plan.frozen.is_empty() || !failed.is_empty() {
            true => desired.losses_allowed(),
            false => desired.settings.safety.losses,
        }
    }

    /// Whether consent to an effect may still be waited for: its policy or restore did not go through, or cannot
    /// be read.
    fn is_open(&self, is_restore: bool, name: &PolicyName) -> bool {
        let Self { desired, plan, failed } = self;
        let is_unread = match (is_restore, desired.restores.get(name)) {
            (true, Some(restore)) => desired.is_frozen(name, &restore.location.file),
            // It may stand in one of these files.
            (true, None) => !desired.frozen_files.is_empty() || !desired.frozen_policies.is_empty(),
            (false, _) => plan.frozen.contains(name),
        };
        is_unread || failed.contains_key(name)
    }

    /// Digests without a list that something was carried out by.
    fn carried_out(&self, approvals: &Approvals) -> BTreeSet<Digest> {
        let mut found = BTreeSet::new();
        if approvals.digests.is_empty() {
            return found;
        }
        let done = self.plan.changes.iter().filter(|change| !self.failed.contains_key(&change.policy));
        for effects in done.map(effects).filter(|effects| !effects.is_empty()) {
            // With the digest of the whole plan, each of its changes was consented to.
            found.extend([digest::of(&effects), self.plan.digest.clone()]);
        }
        found.retain(|digest| approvals.digests.contains(digest));
        found
    }
}

/// What a change destroys.
fn effects(change: &Change) -> BTreeSet<Effect> {
    let lost = change.losses.iter().map(|point| Effect::Lose { policy: change.policy.clone(), point: point.clone() });
    let overwritten = change.restore.iter().filter(|restore| restore.is_in_place());
    let overwritten = overwritten
        .map(|restore| Effect::RestoreInPlace { restore: change.policy.clone(), content: restore.content_hash() });
    lost.chain(overwritten).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actual::ActualState,
        plan::{Refusal, diff},
        policy::Location,
        restore_point::RestorePointId,
    };

    fn name(text: &str) -> PolicyName {
        text.parse().unwrap()
    }

    fn lose(policy: &str) -> BTreeSet<Effect> {
        BTreeSet::from([format!("lose {policy} 1").parse().unwrap()])
    }

    fn all(policies: &[&str]) -> BTreeSet<Effect> {
        policies.iter().flat_map(|policy| lose(policy)).collect()
    }

    fn change(policy: &str) -> Change {
        Change {
            policy: name(policy),
            action: Action::Update,
            reason: super::super::Reason::DocumentRemoved,
            before: None,
            after: None,
            restore: None,
            source: Location { file: "backup.yaml".into(), line: 1, column: 1 },
            next_runs: Vec::new(),
            losses: vec![RestorePointId("1".to_owned())],
            taken_back: Vec::new(),
            approval: None,
        }
    }

    /// A plan that changes these policies and refuses those.
    fn plan(done: &[&str], refused: &[&str]) -> Plan {
        let actual = ActualState {
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            complete: true,
            policies: BTreeMap::new(),
            restores: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        let nothing = diff::plan(&DesiredState::default(), &actual, &Approvals::default(), jiff::Timestamp::UNIX_EPOCH);
        let refusal = |policy: &&str| Refusal {
            change: change(policy),
            reason: String::new(),
            effects: lose(policy),
            digest: digest::of(&lose(policy)),
        };
        Plan {
            changes: done.iter().map(|policy| change(policy)).collect(),
            refusals: refused.iter().map(refusal).collect(),
            digest: digest::of(&all(&[done, refused].concat())),
            ..nothing
        }
    }

    fn after(used_up: &UsedUp, approvals: &Approvals, plan: &Plan, failed: &[&str]) -> Option<UsedUp> {
        let failed = failed.iter().map(|policy| (name(policy), String::new())).collect();
        let desired = DesiredState::default();
        used_up.after(approvals, Outcome { desired: &desired, plan, failed: &failed }, &Revision("2".repeat(40)))
    }

    /// What is left of these approvals if they were given at the commit with this number.
    fn left(used_up: &UsedUp, approvals: &Approvals, at: u32) -> (usize, usize) {
        let is_within = |used: &Revision| Ok::<_, ()>(used.0.starts_with('2') && at <= 2);
        let rest = used_up.rest(approvals.clone(), is_within).unwrap();
        (rest.effects.len(), rest.digests.len())
    }

    #[test]
    fn what_was_carried_out_is_used_up_and_what_is_held_back_is_not() {
        let effects = all(&["a/done", "a/held", "a/failed", "a/nothing"]);
        let approvals = Approvals { effects, ..Approvals::default() };
        let plan = plan(&["a/done", "a/failed"], &["a/held"]);
        let used_up = after(&UsedUp::default(), &approvals, &plan, &["a/failed"]).expect("something is left");
        assert_eq!(left(&used_up, &approvals, 1), (2, 0));
        assert_eq!(left(&used_up, &approvals, 3), (4, 0), "what is approved again counts again");
        assert_eq!(after(&used_up, &approvals, &self::plan(&["a/held"], &[]), &[]), None, "all of it is used up");
    }

    #[test]
    fn a_digest_without_a_list_is_used_up_by_what_it_let_through() {
        for (digest, is_used) in [
            (digest::of(&lose("a/done")), true),
            (digest::of(&all(&["a/done", "a/held"])), true),
            (digest::of(&lose("a/held")), false),
        ] {
            let approvals = Approvals { digests: BTreeSet::from([digest]), ..Approvals::default() };
            let used_up = after(&UsedUp::default(), &approvals, &plan(&["a/done"], &["a/held"]), &[]).expect("some");
            assert_eq!(left(&used_up, &approvals, 1), (0, usize::from(!is_used)));
            assert_eq!(left(&used_up, &approvals, 3), (0, 1));
        }
    }

    #[test]
    fn with_too_many_entries_all_of_it_is_used_up() {
        let names: Vec<String> = (0..=ENTRIES_LIMIT).map(|number| format!("a/p{number}")).collect();
        let approvals =
            Approvals { effects: names.iter().flat_map(|name| lose(name)).collect(), ..Approvals::default() };
        assert_eq!(after(&UsedUp::default(), &approvals, &plan(&[], &["b/held"]), &[]), None);
    }
}
