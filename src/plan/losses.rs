//! Losses: the restore points that the former rules keep and the new ones let go.
//!
//! Pure. Decisions that are not obvious, and why:
//!
//! - **Suspension changes no rule.** A rule that is tightened on a suspended policy counts at once, so that resuming it
//!   later loses nothing unseen.
//! - **A repository that is left behind is a loss.** Where an edit takes a repository away from a policy, or moves it,
//!   the restore points that are only there can no longer be reached by the policy. They count as lost; the reason says
//!   which repository it was. What is within reach is decided in [`crate::retention::reach`], for the engine as well.
//! - **Unknown rules keep everything.** Where nobody can say what the former rules were, or where a removed policy's
//!   points were simply left in peace, each point that the new rules let go is a loss.
//! - **A removal with `deletion: Confirm` loses every point, the newest too**, except those that are held, and those that
//!   somebody else made. It is the only way to that end, and it always needs approval.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Loss, Reach};
use crate::{
    policy::{
        CompiledPolicy, PolicyName,
        document::{DurationText, RepositoryDocument, backup_policy::Deletion},
    },
    restore_point::{RestorePoint, RestorePointId},
    retention::{
        self, KeepRules,
        reach::{Reach as Reached, decide_for, location, rules_of},
    },
};

/// The grace time of a policy that names none.
pub const DEFAULT_GRACE: DurationText = DurationText::from_seconds(24 * 3600);

/// What kept the restore points until now.
#[derive(Debug, Clone, Copy)]
pub enum Former<'a> {
    /// What was applied last.
    Applied(&'a CompiledPolicy),
    /// The schedule runs, but only an inventory was read: its rules are not known.
    Unknown,
    /// The policy was removed and its points were left in peace.
    Withdrawn,
}

/// What one change loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Losses {
    /// Sorted by time.
    pub losses: Vec<Loss>,
    /// Points that are marked as expired and that the new rules keep: their marks are taken back.
    pub taken_back: Vec<RestorePointId>,
    /// How far back one can go.
    pub reach: Reach,
}

/// What an edit loses at `now`.
pub fn by_edit(former: Former<'_>, after: &CompiledPolicy, points: &[RestorePoint], now: Timestamp) -> Losses {
    let new = rules_of(after);
    let kept_before = kept_by(former, points, now);
    let left_behind = LeftBehind::between(former, after);
    let reachable: Vec<RestorePoint> = points.iter().filter(|point| !left_behind.is_stranded(point)).cloned().collect();
    let kept_after: BTreeSet<_> = reachable
        .iter()
        .zip(decide_for(after, &reachable, now))
        .filter_map(|(point, decision)| decision.is_kept_by_rules().then_some(&point.id))
        .collect();
    let lost = points
        .iter()
        .zip(&kept_before)
        .filter(|(point, kept)| **kept && !kept_after.contains(&point.id))
        .map(|(point, _)| point);
    let explain = Explanation::new(former, &new, points, now);
    let mut losses: Vec<Loss> =
        lost.map(|point| loss(&after.name, point, explain.reason(point, &left_behind))).collect();
    losses.extend(
        points
            .iter()
            .filter(|point| !kept_after.contains(&point.id))
            .filter_map(|point| cut_short(former, after, point, now)),
    );
    losses.sort_by_key(|loss| (loss.time, loss.id.clone()));
    losses.dedup_by(|one, other| one.id == other.id);
    let reach = Reach {
        before: oldest(points.iter().zip(&kept_before).filter(|(_, kept)| **kept).map(|(point, _)| point)),
        after: oldest(points.iter().filter(|point| kept_after.contains(&point.id))),
    };
    let is_back = |point: &&RestorePoint| point.expired_since.is_some() && kept_after.contains(&point.id);
    let taken_back = points.iter().filter(is_back).map(|point| point.id.clone()).collect();
    Losses { losses, taken_back, reach }
}

/// A marked point that the former grace time still holds and the new one lets go at once.
fn cut_short(former: Former<'_>, after: &CompiledPolicy, point: &RestorePoint, now: Timestamp) -> Option<Loss> {
    let (Former::Applied(before), Some(since)) = (former, point.expired_since) else { return None };
    let (old, new) = (grace(before), grace(after));
    let age = now.duration_since(since);
    (age < old.duration() && age >= new.duration())
        .then(|| loss(&after.name, point, format!("retention.grace {old} → {new}")))
}

fn grace(policy: &CompiledPolicy) -> DurationText {
    policy.document.spec.retention.grace.unwrap_or(DEFAULT_GRACE)
}

/// What the removal of a policy loses. Nothing where its points are retained, or where nobody knows.
pub fn by_removal(name: &PolicyName, before: Option<&CompiledPolicy>, points: &[RestorePoint]) -> Losses {
    let there = || points.iter().filter(|point| point.expired_since.is_none());
    let deletion = before.map_or(Deletion::Retain, |before| before.document.spec.deletion);
    let losses: Vec<Loss> = match deletion {
        Deletion::Retain => Vec::new(),
        Deletion::Confirm => there()
            .filter(|point| !stays_by_itself(point))
            .map(|point| loss(name, point, "policy removed, deletion: Confirm".to_owned()))
            .collect(),
    };
    let stays = |point: &&RestorePoint| losses.is_empty() || stays_by_itself(point);
    let reach = Reach { before: oldest(there()), after: oldest(there().filter(stays)) };
    Losses { losses, taken_back: Vec::new(), reach }
}

/// Whether a person must release a point before its policy's removal can take it.
fn stays_by_itself(point: &RestorePoint) -> bool {
    point.held || point.found
}

/// Whether an edit could let a restore point go by the rules that nobody has seen: a rule is tighter, or the former
/// rules are not known.
pub fn could_lose(former: Former<'_>, after: &CompiledPolicy) -> bool {
    match former {
        Former::Unknown | Former::Withdrawn => true,
        Former::Applied(before) => is_tighter(&rules_of(before), &rules_of(after)),
    }
}

/// Whether an edit leaves a repository behind.
pub fn leaves_behind(former: Former<'_>, after: &CompiledPolicy) -> bool {
    !LeftBehind::between(former, after).repositories.is_empty()
}

/// Whether any one of the new rules keeps less than it did.
fn is_tighter(old: &KeepRules, new: &KeepRules) -> bool {
    let less = |old: i64, new: i64| new >= 0 && (old < 0 || new < old);
    rules(old).iter().zip(rules(new)).any(|((_, old), (_, new))| less(*old, new))
        || (old.verified && !new.verified)
        || (old.within != new.within && hours(old, 31, 366) > hours(new, 28, 365))
}

fn kept_by(former: Former<'_>, points: &[RestorePoint], now: Timestamp) -> Vec<bool> {
    match former {
        Former::Applied(before) => {
            decide_for(before, points, now).into_iter().map(|decision| decision.is_kept_by_rules()).collect()
        }
        Former::Unknown | Former::Withdrawn => points.iter().map(|point| point.expired_since.is_none()).collect(),
    }
}

fn loss(policy: &PolicyName, point: &RestorePoint, reason: String) -> Loss {
    Loss { policy: policy.clone(), id: point.id.clone(), time: point.time, size_bytes: point.size_bytes, reason }
}

fn oldest<'a>(points: impl Iterator<Item = &'a RestorePoint>) -> Option<Timestamp> {
    points.map(|point| point.time).min()
}

/// The rules that count, with the names that a person writes.
fn rules(rules: &KeepRules) -> [(&'static str, i64); 6] {
    let KeepRules { last, hourly, daily, weekly, monthly, yearly, within: _, verified: _ } = *rules;
    [
        ("keepLast", last),
        ("keepHourly", hourly),
        ("keepDaily", daily),
        ("keepWeekly", weekly),
        ("keepMonthly", monthly),
        ("keepYearly", yearly),
    ]
}

/// `keepWithin` in hours, with months and years of these many days: the old one is taken at its longest and the new one
/// at its shortest, so that a doubt counts as "less than before".
fn hours(rules: &KeepRules, month_days: i64, year_days: i64) -> i64 {
    let within = rules.within;
    within.hours + 24 * (within.days + month_days * within.months + year_days * within.years)
}

/// Repositories that the former policy wrote to and the new one no longer reads.
struct LeftBehind {
    repositories: BTreeSet<String>,
    /// Whether none of the former repositories is read any more.
    all: bool,
    /// What the new one reads.
    reached: Reached,
}

impl LeftBehind {
    fn between(former: Former<'_>, after: &CompiledPolicy) -> Self {
        let reached = Reached::of(after);
        let Former::Applied(before) = former else {
            return Self { repositories: BTreeSet::new(), all: false, reached };
        };
        let is_left = |repository: &&RepositoryDocument| {
            !reached.holds_place(&repository.metadata.name, &location(repository, &before.cluster))
        };
        let left = before.repositories.iter().map(AsRef::as_ref).filter(is_left);
        let repositories: BTreeSet<String> = left.map(|repository| repository.metadata.name.clone()).collect();
        let all = !before.repositories.is_empty() && repositories.len() == before.repositories.len();
        Self { repositories, all, reached }
    }

    /// Whether a point is nowhere but in repositories that are left behind. A point that names no parts (that of an
    /// offline inventory) is in all repositories of its policy; a part that does not say where it is, is where the
    /// repository of its name was.
    fn is_stranded(&self, point: &RestorePoint) -> bool {
        match point.parts.as_slice() {
            [] => self.all,
            parts => {
                !self.reached.holds(point)
                    || parts.iter().all(|part| part.location.is_none() && self.repositories.contains(&part.repository))
            }
        }
    }

    /// Where a stranded point is.
    fn names(&self, point: &RestorePoint) -> BTreeSet<String> {
        match point.parts.as_slice() {
            [] => self.repositories.clone(),
            parts => parts.iter().map(|part| part.repository.clone()).collect(),
        }
    }
}

/// Says which rule it was that kept a point.
struct Explanation {
    /// Each rule that keeps less than before, in words, with what it alone kept.
    tightened: Vec<(String, BTreeSet<RestorePointId>)>,
    otherwise: &'static str,
}

impl Explanation {
    fn new(former: Former<'_>, new: &KeepRules, points: &[RestorePoint], now: Timestamp) -> Self {
        let before = match former {
            Former::Applied(before) => before,
            Former::Unknown => {
                return Self {
                    tightened: Vec::new(),
                    otherwise: "not kept by the new rules; the former are not known",
                };
            }
            Former::Withdrawn => {
                return Self { tightened: Vec::new(), otherwise: "left in peace while its policy was removed" };
            }
        };
        let old = rules_of(before);
        let mut tightened = Vec::new();
        let mut add = |words: String, alone: KeepRules| {
            let kept = points.iter().zip(retention::decide(&alone, points, now));
            tightened
                .push((words, kept.filter(|(_, decision)| decision.keep).map(|(point, _)| point.id.clone()).collect()));
        };
        for ((name, old), (_, new)) in rules(&old).into_iter().zip(rules(new)) {
            if old != 0 && old != new {
                add(format!("{name} {} → {}", count(old), count(new)), only(name, old));
            }
        }
        if old.within != new.within && !old.within.is_zero() {
            let alone = KeepRules { within: old.within, ..KeepRules::default() };
            add(format!("keepWithin {} → {}", old.within, new.within), alone);
        }
        if old.verified && !new.verified {
            add("verify removed".to_owned(), KeepRules { verified: true, ..KeepRules::default() });
        }
        Self { tightened, otherwise: "no longer kept" }
    }

    fn reason(&self, point: &RestorePoint, left_behind: &LeftBehind) -> String {
        if left_behind.is_stranded(point) {
            let names: Vec<String> = left_behind.names(point).into_iter().collect();
            return format!("left behind in repository {}", names.join(", "));
        }
        let kept_it = |(words, kept): &(String, BTreeSet<_>)| kept.contains(&point.id).then(|| words.clone());
        let words: Vec<String> = self.tightened.iter().filter_map(kept_it).collect();
        if words.is_empty() { self.otherwise.to_owned() } else { words.join(", ") }
    }
}

fn only(name: &str, value: i64) -> KeepRules {
    let mut rules = KeepRules::default();
    match name {
        "keepLast" => rules.last = value,
        "keepHourly" => rules.hourly = value,
        "keepDaily" => rules.daily = value,
        "keepWeekly" => rules.weekly = value,
        "keepMonthly" => rules.monthly = value,
        _ => rules.yearly = value,
    }
    rules
}

fn count(value: i64) -> String {
    if value < 0 { "all".to_owned() } else { value.to_string() }
}
