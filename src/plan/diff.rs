//! The difference between what is asked for and what is there: the plan.
//!
//! Pure, and a function of its arguments only: the same four give the same plan, byte for byte.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Action, Approvals, Change, Drift, Effect, Plan, Reach, Reason, digest, fields,
    losses::{self, Former, Losses},
    safety::{self, Limit, Needs, Proposal},
};
use crate::{
    actual::{ActualPolicy, ActualState},
    desired::DesiredState,
    engine::kubernetes::{labels, manifests::policy as manifests},
    policy::{CompiledPolicy, Location, Policy, PolicyName, Restore, document::restore::PointChoice},
    restore_point::{Inventory, RestorePointId},
    schedule,
};

/// How many of the next times of a schedule a change names.
const NEXT_RUNS: usize = 3;

/// Plans: compares what is asked for with what is there, counts what would be lost, and refuses what is not consented
/// to.
pub fn plan(desired: &DesiredState, actual: &ActualState, approvals: &Approvals, now: Timestamp) -> Plan {
    let mut draft = Draft::new(desired, actual, now);
    for (name, wanted, there) in side_by_side(&desired.policies, &actual.policies) {
        draft.policy(name, wanted, there.map(Arc::as_ref));
    }
    for restore in desired.restores.values() {
        draft.restore(restore);
    }
    draft.finish(approvals)
}

/// Walks two maps in their common order: each name once, with what either has of it.
fn side_by_side<'a, V, W>(
    one: &'a BTreeMap<PolicyName, V>,
    other: &'a BTreeMap<PolicyName, W>,
) -> impl Iterator<Item = (&'a PolicyName, Option<&'a V>, Option<&'a W>)> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (Some((name, _)), Some((other_name, _))) => name.cmp(other_name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let here = if order == Ordering::Greater { None } else { one.next() };
        let there = if order == Ordering::Less { None } else { other.next() };
        let name = here.map(|(name, _)| name).or(there.map(|(name, _)| name))?;
        Some((name, here.map(|(_, value)| value), there.map(|(_, value)| value)))
    })
}

/// A plan in the making.
struct Draft<'a> {
    desired: &'a DesiredState,
    actual: &'a ActualState,
    now: Timestamp,
    proposals: Vec<Proposal>,
    unchanged: usize,
    drift: Vec<Drift>,
    losses: Vec<super::Loss>,
    reach: BTreeMap<PolicyName, Reach>,
    frozen: BTreeSet<PolicyName>,
}

impl<'a> Draft<'a> {
    fn new(desired: &'a DesiredState, actual: &'a ActualState, now: Timestamp) -> Self {
        Self {
            desired,
            actual,
            now,
            proposals: Vec::new(),
            unchanged: 0,
            drift: Vec::new(),
            losses: Vec::new(),
            reach: BTreeMap::new(),
            frozen: desired.frozen_policies.clone(),
        }
    }

    fn policy(&mut self, name: &PolicyName, wanted: Option<&Policy>, there: Option<&ActualPolicy>) {
        if self.is_frozen(name, wanted, there) {
            self.frozen.insert(name.clone());
            return;
        }
        match (wanted, there) {
            (Some(policy), None) => self.create(policy, None),
            (Some(policy), Some(actual)) => match (&actual.compiled, &actual.schedule) {
                (Some(before), _) => self.update(policy, before, actual),
                (None, Some(schedule)) => self.update_unknown(policy, schedule, actual),
                (None, None) => self.create(policy, Some(actual)),
            },
            (None, Some(actual)) => self.remove(name, actual),
            (None, None) => {}
        }
    }

    /// A policy is frozen where its document is wrong, and also where the file is that it was last applied from. Where
    /// only an inventory is known, nobody can say which file it came from: any bad file freezes it.
    fn is_frozen(&self, name: &PolicyName, wanted: Option<&Policy>, there: Option<&ActualPolicy>) -> bool {
        let files = wanted.map(|policy| &policy.location.file);
        let applied = there.and_then(|actual| actual.compiled.as_ref()).map(|compiled| &compiled.source.file);
        let unknown_origin = wanted.is_none() && applied.is_none() && !self.desired.frozen_files.is_empty();
        unknown_origin
            || self.desired.frozen_policies.contains(name)
            || files.into_iter().chain(applied).any(|file| self.desired.is_frozen(name, file))
    }

    /// A policy that the engine does not run: new, or removed before and only its points are left.
    fn create(&mut self, policy: &Policy, left: Option<&ActualPolicy>) {
        let after = self.compile(policy);
        let needs = if self.actual.complete {
            None
        } else {
            Some(
                "unknown is not empty: the engine could not be observed completely, so this policy may be there \
                  already; mend what cannot be seen first"
                    .to_owned(),
            )
        };
        let needs = needs.or_else(|| self.foreign(Some(&after)));
        let change = self.change(&policy.name, Action::Create, Reason::DocumentAdded, None, Some(policy), after);
        match left {
            None => self.propose(change, needs, None),
            Some(left) => self.propose_edit(change, Former::Withdrawn, &left.inventory, needs),
        }
    }

    /// A policy that the engine runs, and whose applied form is known.
    fn update(&mut self, policy: &Policy, before: &CompiledPolicy, actual: &ActualPolicy) {
        let is_same = policy.is_compiled_as(before, &self.desired.settings);
        if is_same && actual.drift.is_none() {
            self.unchanged += 1;
            return;
        }
        let after = self.compile(policy);
        if let Some(difference) = &actual.drift {
            self.drift.push(Drift { policy: policy.name.clone(), difference: difference.clone() });
        }
        let is_same_document = before.spec_hash == after.spec_hash;
        if !is_same && (is_same_document || before.spec_hash != before.content_hash()) {
            let difference = match is_same_document {
                true => by_hand(&after, before),
                false => "changed by hand since it was applied".to_owned(),
            };
            self.drift.push(Drift { policy: policy.name.clone(), difference });
        }
        let reason = match is_same_document {
            true => Reason::Drifted,
            false => {
                Reason::DocumentChanged(fields::changed(before, &after).into_iter().map(|field| field.path).collect())
            }
        };
        let change = self.change(&policy.name, Action::Update, reason, Some(before), Some(policy), after);
        let foreign = self.foreign(change.after.as_ref());
        self.propose_edit(change, Former::Applied(before), &actual.inventory, foreign);
    }

    /// A policy that runs, of which only an inventory is known: its schedule and its points, not its rules.
    fn update_unknown(&mut self, policy: &Policy, schedule: &str, actual: &ActualPolicy) {
        let after = self.compile(policy);
        let lost = losses::by_edit(Former::Unknown, &after, &actual.inventory.points, self.now);
        let mut fields = Vec::new();
        if schedule != written_schedule(&after) {
            fields.push("schedule".to_owned());
        }
        if !lost.losses.is_empty() {
            fields.push("retention".to_owned());
        }
        if let Some(difference) = &actual.drift {
            self.drift.push(Drift { policy: policy.name.clone(), difference: difference.clone() });
        }
        let reason = match (fields.is_empty(), &actual.drift) {
            (true, None) => {
                self.unchanged += 1;
                return;
            }
            (_, Some(_)) => Reason::Drifted,
            (false, None) => Reason::DocumentChanged(fields),
        };
        let foreign = self.foreign(Some(&after));
        let change = self.change(&policy.name, Action::Update, reason, None, Some(policy), after);
        self.propose_edit(change, Former::Unknown, &actual.inventory, foreign);
    }

    /// Why a policy cannot be applied: an object that is not ours has a name that it needs.
    fn foreign(&self, after: Option<&CompiledPolicy>) -> Option<String> {
        if self.actual.foreign.is_empty() {
            return None;
        }
        let after = after?;
        let names = manifests::object_names(after).into_iter().map(|(sort, name)| format!("{} {name}", sort.text()));
        let name = names.into_iter().find(|name| {
            let adopter = self.actual.foreign.get(name);
            adopter.is_some_and(|adopter| adopter.as_deref() != Some(after.name.to_string().as_str()))
        })?;
        Some(format!(
            "{name} is there and is not Mainstay's; delete or rename it, or let it be taken over with the annotation \
             {}: {}",
            labels::ADOPT,
            after.name
        ))
    }

    /// A policy without a document.
    fn remove(&mut self, name: &PolicyName, actual: &ActualPolicy) {
        if actual.compiled.is_none() && actual.schedule.is_none() {
            let points = actual.inventory.points.iter().filter(|point| point.expired_since.is_none()).count();
            if points > 0 {
                let difference = match points {
                    1 => "no document; 1 restore point is kept".to_owned(),
                    several => format!("no document; {several} restore points are kept"),
                };
                self.drift.push(Drift { policy: name.clone(), difference });
            }
            return;
        }
        let before = actual.compiled.as_ref();
        let source = before.map_or_else(unknown_place, |before| before.source.clone());
        let lost = losses::by_removal(name, before, &actual.inventory.points);
        let mut blocked = self.desired.deletion_blocked.as_ref().map(|why| format!("nothing may be deleted: {why}"));
        let confirms = before.is_some_and(|before| {
            before.document.spec.deletion == crate::policy::document::backup_policy::Deletion::Confirm
        });
        if let Some(file) = self.desired.unknown_files.first() {
            let file = file.display();
            blocked
                .get_or_insert(format!("unknown is not empty: nobody can tell which policies {file} holds; mend it"));
        }
        if !self.actual.complete {
            blocked.get_or_insert("unknown is not empty: the engine could not be observed completely".to_owned());
        } else if confirms && !actual.inventory.complete {
            blocked.get_or_insert(unseen(&actual.inventory));
        }
        let change = Change {
            policy: name.clone(),
            action: Action::Delete,
            reason: Reason::DocumentRemoved,
            before: before.cloned(),
            after: None,
            restore: None,
            source,
            next_runs: Vec::new(),
            losses: Vec::new(),
            taken_back: Vec::new(),
            approval: None,
        };
        let why = "deletion: Confirm: every restore point of the policy goes with it, the newest too".to_owned();
        self.propose(change, blocked, Some((lost, Some(why))));
    }

    fn restore(&mut self, restore: &Restore) {
        if self.desired.is_frozen(&restore.name, &restore.location.file) {
            return;
        }
        let content = restore.content_hash();
        if self.actual.restores.contains_key(&(restore.name.clone(), content.clone())) {
            return;
        }
        let change = Change {
            policy: restore.name.clone(),
            action: Action::Restore,
            reason: Reason::RestoreRequested,
            before: None,
            after: None,
            restore: Some(restore.clone()),
            source: restore.location.clone(),
            next_runs: Vec::new(),
            losses: Vec::new(),
            taken_back: Vec::new(),
            approval: None,
        };
        let needs = if let Some(missing) = self.missing_point(restore) {
            Needs::Mending(missing)
        } else if restore.is_in_place() {
            let effects = BTreeSet::from([Effect::RestoreInPlace { restore: restore.name.clone(), content }]);
            Needs::Consent(effects, format!("overwrites in place what {} protects", restore.policy))
        } else {
            Needs::Nothing
        };
        self.proposals.push(Proposal { change, needs });
    }

    /// Says so if the restore point that is asked for is surely not there.
    fn missing_point(&self, restore: &Restore) -> Option<String> {
        let inventory = self.actual.policies.get(&restore.policy).map(|actual| &actual.inventory);
        let is_complete = inventory.map_or(self.actual.complete, |inventory| inventory.complete);
        let mut points = inventory.into_iter().flat_map(|inventory| &inventory.points);
        let (is_there, wanted) = match &restore.document.spec.restore_point {
            PointChoice::Name(name) if name == "latest" => (points.next().is_some(), String::new()),
            PointChoice::Name(id) => (points.any(|point| point.id.0 == *id), format!(" {id}")),
            PointChoice::Before { before } => (points.any(|point| point.time < *before), format!(" before {before}")),
        };
        (is_complete && !is_there).then(|| {
            format!("{} has no restore point{wanted}; `mainstay points {}` lists them", restore.policy, restore.policy)
        })
    }

    /// Proposes a change of rules, with what it loses and what it must not do blindly.
    fn propose_edit(&mut self, change: Change, former: Former<'_>, inventory: &Inventory, mut blocked: Option<String>) {
        let Some(after) = &change.after else { return };
        let lost = losses::by_edit(former, after, &inventory.points, self.now);
        let mut consent = None;
        if !inventory.complete && losses::leaves_behind(former, after) && !inventory.points.is_empty() {
            consent = Some("leaves behind a repository whose restore points cannot all be seen".to_owned());
        } else if !inventory.complete && losses::leaves_behind(former, after) {
            blocked.get_or_insert_with(|| unseen(inventory));
        }
        if !inventory.complete && losses::could_lose(former, after) {
            blocked.get_or_insert_with(|| unseen(inventory));
        }
        if !lost.losses.is_empty()
            && let Some(why) = &self.desired.deletion_blocked
        {
            blocked.get_or_insert_with(|| format!("no restore point may be lost: {why}"));
        }
        self.propose(change, blocked, Some((lost, consent)));
    }

    /// Proposes a change. `lost` is what it loses, and why that needs consent in any case, if so.
    fn propose(&mut self, mut change: Change, blocked: Option<String>, lost: Option<(Losses, Option<String>)>) {
        let mut needs = Needs::Nothing;
        if let Some((Losses { losses, taken_back, reach }, consent)) = lost {
            change.taken_back = taken_back;
            if !losses.is_empty() {
                change.losses = losses.iter().map(|loss| loss.id.clone()).collect();
                let effects = effects(&change.policy, &change.losses);
                needs = match consent {
                    None => Needs::Budget(effects),
                    Some(why) => Needs::Consent(effects, why),
                };
                self.reach.insert(change.policy.clone(), reach);
                self.losses.extend(losses);
            }
        }
        if let Some(why) = blocked {
            needs = Needs::Mending(why);
        }
        self.proposals.push(Proposal { change, needs });
    }

    fn compile(&self, policy: &Policy) -> CompiledPolicy {
        policy.compile(&self.desired.settings, self.desired.revision.as_ref().map(|revision| revision.0.as_str()))
    }

    fn change(
        &self,
        name: &PolicyName,
        action: Action,
        reason: Reason,
        before: Option<&CompiledPolicy>,
        policy: Option<&Policy>,
        after: CompiledPolicy,
    ) -> Change {
        let next_runs = match policy {
            Some(policy) if !policy.suspend => schedule::next_runs(&policy.schedules, self.now, NEXT_RUNS),
            Some(_) | None => Vec::new(),
        };
        Change {
            policy: name.clone(),
            action,
            reason,
            before: before.cloned(),
            source: after.source.clone(),
            after: Some(after),
            restore: None,
            next_runs,
            losses: Vec::new(),
            taken_back: Vec::new(),
            approval: None,
        }
    }

    fn finish(self, approvals: &Approvals) -> Plan {
        let Self { desired, actual, now, proposals, unchanged, drift, mut losses, reach, frozen } = self;
        let settings = &desired.settings;
        let limit = Limit { losses: desired.losses_allowed(), asked: settings.safety.losses };
        let mut judgement = safety::judge(proposals, limit, settings.freeze, approvals);
        let order = |change: &Change| (change.policy.clone(), change.action);
        judgement.changes.sort_by_key(order);
        judgement.refusals.sort_by_key(|refusal| order(&refusal.change));
        losses.sort_by(|one, other| (&one.policy, one.time, &one.id).cmp(&(&other.policy, other.time, &other.id)));
        Plan {
            revision: desired.revision.clone(),
            observed_at: actual.observed_at,
            now,
            digest: digest::of(&judgement.effects),
            changes: judgement.changes,
            unchanged,
            drift,
            losses,
            reach,
            refusals: judgement.refusals,
            frozen,
        }
    }
}

/// What a hand has changed, in words.
fn by_hand(asked: &CompiledPolicy, found: &CompiledPolicy) -> String {
    let absent = || "absent".to_owned();
    let fields = fields::changed(asked, found).into_iter().map(|field| {
        let (asked, found) = (field.before.unwrap_or_else(absent), field.after.unwrap_or_else(absent));
        format!("{} is {found} instead of {asked}", field.path)
    });
    fields.collect::<Vec<_>>().join("; ")
}

/// A policy's schedules as an offline inventory writes them.
pub fn written_schedule(policy: &CompiledPolicy) -> String {
    policy.document.spec.schedule.as_slice().join(", ")
}

fn effects(policy: &PolicyName, points: &[RestorePointId]) -> BTreeSet<Effect> {
    points.iter().map(|point| Effect::Lose { policy: policy.clone(), point: point.clone() }).collect()
}

fn unseen(inventory: &Inventory) -> String {
    let known = match inventory.points.len() {
        0 => "its restore points could not be listed".to_owned(),
        1 => "only 1 of its restore points could be seen".to_owned(),
        several => format!("only {several} of its restore points could be seen"),
    };
    format!(
        "unknown is not empty: {known}; make its repositories readable first. If one is gone for ever, take it out of \
         the policy, or move it, in an edit of its own: the plan then lists what was there, and consent lets it go"
    )
}

fn unknown_place() -> Location {
    Location { file: std::path::PathBuf::new(), line: 0, column: 0 }
}
