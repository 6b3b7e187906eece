//! The safety rails: which proposals go ahead, and which are refused until someone consents or mends something.
//!
//! Pure. A refusal takes out one change; the rest of the plan goes on, and the policy keeps what it has.

use std::collections::BTreeSet;

use super::{Action, Approvals, Change, Digest, Effect, Refusal, digest};

/// A change that `diff` would like to make.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The change.
    pub change: Change,
    /// What it needs.
    pub needs: Needs,
}

/// What a proposal needs before it may go ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it destroys nothing.
    Nothing,
    /// Consent to these losses, where they go beyond what may be lost without it.
    Budget(BTreeSet<Effect>),
    /// Consent in any case, and why.
    Consent(BTreeSet<Effect>, String),
    /// Something else must be mended first, and what; consent does not help.
    Mending(String),
}

/// How many restore points all edits together may lose without approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit that counts.
    pub losses: u32,
    /// The one that is asked for; where it is greater, it does not count yet.
    pub asked: u32,
}

/// What the rails made of all proposals.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// What goes ahead.
    pub changes: Vec<Change>,
    /// What does not.
    pub refusals: Vec<Refusal>,
    /// All effects that need consent, given or not.
    pub effects: BTreeSet<Effect>,
}

/// Sorts proposals into those that go ahead and those that are refused. `frozen` refuses everything but restores, which
/// are needed most when something is wrong, and which change no policy.
pub fn judge(proposals: Vec<Proposal>, limit: Limit, frozen: bool, approvals: &Approvals) -> Judgement {
    let mut judgement = Judgement::default();
    let over_budget = |open: usize| open > limit.losses as usize;
    let all_losses: usize = proposals.iter().map(|proposal| losses_of(&proposal.needs)).sum();
    for proposal in &proposals {
        match &proposal.needs {
            Needs::Budget(effects) if over_budget(all_losses) => judgement.effects.extend(effects.iter().cloned()),
            Needs::Consent(effects, _) => judgement.effects.extend(effects.iter().cloned()),
            Needs::Budget(_) | Needs::Nothing | Needs::Mending(_) => {}
        }
    }
    let whole = digest::of(&judgement.effects);
    let is_whole_approved = approvals.digests.contains(&whole);
    let approval = |effects: &BTreeSet<Effect>| {
        let own = digest::of(effects);
        let is_own_approved = effects.is_subset(&approvals.effects) || approvals.digests.contains(&own);
        is_own_approved.then_some(own).or_else(|| is_whole_approved.then(|| whole.clone()))
    };
    let open_losses: usize = proposals
        .iter()
        .filter(|proposal| matches!(&proposal.needs, Needs::Budget(effects) if approval(effects).is_none()))
        .map(|proposal| losses_of(&proposal.needs))
        .sum();
    for Proposal { mut change, needs } in proposals {
        let approved = match &needs {
            Needs::Budget(effects) | Needs::Consent(effects, _) => approval(effects),
            Needs::Nothing | Needs::Mending(_) => None,
        };
        let refused = match needs {
            _ if frozen && change.action != Action::Restore => Some((
                "frozen: Settings.freeze is true; nothing is changed until it is taken out".to_owned(),
                BTreeSet::new(),
            )),
            Needs::Nothing => None,
            Needs::Mending(reason) => Some((reason, BTreeSet::new())),
            Needs::Budget(effects) => (approved.is_none() && over_budget(open_losses))
                .then(|| (beyond_budget(&effects, open_losses, limit), effects)),
            Needs::Consent(effects, reason) => approved.is_none().then_some((reason, effects)),
        };
        match refused {
            None => {
                change.approval = approved;
                judgement.changes.push(change);
            }
            Some((reason, effects)) => {
                let digest = digest::of(&effects);
                judgement.refusals.push(Refusal { change, reason, effects, digest });
            }
        }
    }
    judgement
}

fn losses_of(needs: &Needs) -> usize {
    match needs {
        Needs::Budget(effects) => effects.len(),
        Needs::Nothing | Needs::Consent(..) | Needs::Mending(_) => 0,
    }
}

fn beyond_budget(effects: &BTreeSet<Effect>, open: usize, limit: Limit) -> String {
    let points = match effects.len() {
        1 => "1 restore point".to_owned(),
        several => format!("{several} restore points"),
    };
    let together = match open == effects.len() {
        true => String::new(),
        false => format!(", {open} with the other edits"),
    };
    let Limit { losses, asked } = limit;
    let held_back = match asked > losses {
        true => format!("; the {asked} of this edit count once nothing is held back"),
        false => String::new(),
    };
    format!("loses {points}{together}; {losses} may be lost without approval (safety.losses{held_back})")
}

impl Refusal {
    /// Whether consent lifts it; else something must be mended.
    pub fn can_be_approved(&self) -> bool {
        !self.effects.is_empty()
    }
}

/// Where a digest leads: what one consents to by approving it.
pub fn effects_of<'a>(plan: &'a super::Plan, approved: &Digest) -> Option<BTreeSet<&'a Effect>> {
    let open = || plan.refusals.iter().filter(|refusal| refusal.can_be_approved());
    if let Some(refusal) = open().find(|refusal| refusal.digest == *approved) {
        return Some(refusal.effects.iter().collect());
    }
    (*approved == plan.digest).then(|| open().flat_map(|refusal| &refusal.effects).collect())
}
