//! What is wrong with a policy, as far as somebody should be told, and what of it is news.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    actual::{ActualPolicy, checks},
    policy::{CompiledPolicy, document::DurationText},
    run::Phase,
};

/// What somebody is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trouble {
    /// Its last run failed.
    Failed,
    /// It has not succeeded within its RPO.
    Silent,
    /// A repository did not pass its newest check.
    CheckFailed,
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What it is about.
    pub trouble: Trouble,
    /// Why; none: it is over.
    pub why: Option<String>,
}

/// What is wrong with a policy, and why. `seen_since` is when it was seen first: one that never ran is silent from its
/// RPO after that on.
pub fn troubles(there: &ActualPolicy, seen_since: Timestamp, now: Timestamp) -> BTreeMap<Trouble, String> {
    let mut found = BTreeMap::new();
    // One that was withdrawn asks for nothing.
    let Some(compiled) = &there.compiled else { return found };
    if let Some(run) = there.last_run.as_ref().filter(|run| run.phase == Phase::Failed) {
        found.insert(Trouble::Failed, format!("run {} failed: {}", run.id, run.message));
    }
    if let Some(why) = checks::message(&there.failed_checks, &compiled.name) {
        found.insert(Trouble::CheckFailed, why);
    }
    if let Some(rpo) = rpo(compiled).filter(|_| silent_after(there, seen_since).is_some_and(|at| now > at)) {
        let why = match there.last_success {
            Some(time) => format!("no run has succeeded since {time}; its RPO is {rpo}"),
            None => format!("no run has ever succeeded; its RPO is {rpo}"),
        };
        found.insert(Trouble::Silent, why);
    }
    found
}

/// The time after which a policy is silent if nothing succeeds until then; none: it has no RPO.
pub fn silent_after(there: &ActualPolicy, seen_since: Timestamp) -> Option<Timestamp> {
    let rpo = rpo(there.compiled.as_ref()?)?;
    there.last_success.unwrap_or(seen_since).checked_add(rpo.duration()).ok()
}

fn rpo(compiled: &CompiledPolicy) -> Option<DurationText> {
    let spec = &compiled.document.spec;
    spec.objectives.as_ref().and_then(|objectives| objectives.rpo).filter(|_| !spec.suspend)
}

/// Whether a run is under way, so that nobody knows yet whether what failed fails again.
pub fn is_under_way(there: &ActualPolicy) -> bool {
    there.last_run.as_ref().is_some_and(|run| matches!(run.phase, Phase::Pending | Phase::Running))
}

/// What of the troubles was not told, and what was told and is over. A failure is not over as long as a run is under way.
pub fn news(told: &BTreeSet<Trouble>, troubles: &BTreeMap<Trouble, String>, is_under_way: bool) -> Vec<News> {
    let begins = troubles.iter().filter(|(trouble, _)| !told.contains(trouble));
    let ends = told.iter().filter(|trouble| !troubles.contains_key(trouble));
    let ends = ends.filter(|trouble| !(is_under_way && **trouble == Trouble::Failed));
    begins
        .map(|(trouble, why)| News { trouble: *trouble, why: Some(why.clone()) })
        .chain(ends.map(|trouble| News { trouble: *trouble, why: None }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transition_is_news_once() {
        let failed = || BTreeMap::from([(Trouble::Failed, "why".to_owned())]);
        let begins = News { trouble: Trouble::Failed, why: Some("why".to_owned()) };
        let ends = News { trouble: Trouble::Failed, why: None };
        let told = BTreeSet::from([Trouble::Failed, Trouble::Silent]);
        let silence_ends = News { trouble: Trouble::Silent, why: None };
        assert_eq!(news(&BTreeSet::new(), &failed(), false), [begins]);
        assert_eq!(news(&BTreeSet::from([Trouble::Failed]), &failed(), false), []);
        assert_eq!(news(&told, &BTreeMap::new(), false), [ends, silence_ends.clone()]);
        assert_eq!(news(&told, &BTreeMap::new(), true), [silence_ends], "the run that is under way may fail, too");
        assert_eq!(news(&BTreeSet::new(), &BTreeMap::new(), false), []);
    }
}
