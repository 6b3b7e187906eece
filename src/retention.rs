//! Retention: which restore points the rules keep, and why; which may be forgotten.
//!
//! Pure. The semantics are those of `restic forget` (0.17 and later): all rules are cumulative, a bucket is the run of
//! neighbouring points of one hour, day, week (from Monday), month or year, its newest point counts, and the oldest
//! point of all stays as long as a rule has counts left. restic cuts the buckets in the zone that a snapshot was
//! written with; ours are written in UTC, so buckets are cut in UTC.
//!
//! Some rails go beyond restic: a held point stays, the newest point stays whatever the rules say, and where a policy
//! verifies its restore points, the newest verified one stays too. What is [`aside`] stays, and takes up no count of any
//! rule, so that it pushes nothing out either.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::{
    policy::document::{KeepWithinText, backup_policy::Retention},
    restore_point::{RestorePoint, RestorePointId},
};

mod aside;
pub(crate) mod bucket;
pub mod reach;

pub use aside::{aside, remarks};
use bucket::{Bucket, Period};

/// The keep rules of a policy. A count of `-1` keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepRules {
    /// The newest N.
    pub last: i64,
    /// The newest of each of the last N hours that have one.
    pub hourly: i64,
    /// The newest of each of the last N days that have one.
    pub daily: i64,
    /// The newest of each of the last N weeks that have one.
    pub weekly: i64,
    /// The newest of each of the last N months that have one.
    pub monthly: i64,
    /// The newest of each of the last N years that have one.
    pub yearly: i64,
    /// Everything within this long before the newest.
    pub within: KeepWithinText,
    /// The newest verified point stays, so that unverified ones never push it out: set where the policy has `verify`.
    pub verified: bool,
}

impl From<&Retention> for KeepRules {
    /// The rules of a document; `verified` is off, because the document has it elsewhere.
    fn from(retention: &Retention) -> Self {
        let Retention {
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within,
            grace: _,
        } = retention;
        Self {
            last: keep_last.unwrap_or(0),
            hourly: keep_hourly.unwrap_or(0),
            daily: keep_daily.unwrap_or(0),
            weekly: keep_weekly.unwrap_or(0),
            monthly: keep_monthly.unwrap_or(0),
            yearly: keep_yearly.unwrap_or(0),
            within: keep_within.unwrap_or_default(),
            verified: false,
        }
    }
}

impl KeepRules {
    /// The count of the rule for a period.
    pub(crate) fn count(&self, period: Period) -> i64 {
        match period {
            Period::Each => self.last,
            Period::Hour => self.hourly,
            Period::Day => self.daily,
            Period::Week => self.weekly,
            Period::Month => self.monthly,
            Period::Year => self.yearly,
        }
    }
}

/// Why a restore point stays. `oldest`: it is not the newest of its bucket, but the oldest point of all while the rule
/// has counts left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// Protected by hand.
    Held,
    /// Found in a repository and made by somebody else, see [`RestorePoint::found`].
    Found,
    /// No listing shows it, see [`RestorePoint::missing_since`].
    Missing,
    /// It is dated in the future by more than a day: a clock was wrong.
    Future,
    /// The newest one, which no rule can expire.
    Newest,
    /// The newest of all while the policy reaches none: where its repositories were is left behind, and where they are
    /// is empty. Its loss is approved, but waits until there is another.
    LastResort,
    /// The newest verified one, which unverified ones do not push out.
    Verified,
    /// `keepWithin`.
    Within(KeepWithinText),
    /// `keepLast`.
    Last,
    /// `keepHourly`.
    Hourly {
        /// See [`KeepReason`].
        oldest: bool,
    },
    /// `keepDaily`.
    Daily {
        /// See [`KeepReason`].
        oldest: bool,
    },
    /// `keepWeekly`.
    Weekly {
        /// See [`KeepReason`].
        oldest: bool,
    },
    /// `keepMonthly`.
    Monthly {
        /// See [`KeepReason`].
        oldest: bool,
    },
    /// `keepYearly`.
    Yearly {
        /// See [`KeepReason`].
        oldest: bool,
    },
}

impl KeepReason {
    fn of(period: Period, oldest: bool) -> Self {
        match period {
            Period::Each => Self::Last,
            Period::Hour => Self::Hourly { oldest },
            Period::Day => Self::Daily { oldest },
            Period::Week => Self::Weekly { oldest },
            Period::Month => Self::Monthly { oldest },
            Period::Year => Self::Yearly { oldest },
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = |oldest: bool, name: &str| format!("{}{name}", if oldest { "oldest " } else { "" });
        let text = match *self {
            Self::Held => "held".to_owned(),
            Self::Found => "found, until it is released".to_owned(),
            Self::Missing => "missing, until it is back or given up".to_owned(),
            Self::Future => "dated in the future".to_owned(),
            Self::Newest => "newest".to_owned(),
            Self::LastResort => "until there is another".to_owned(),
            Self::Verified => "newest verified".to_owned(),
            Self::Within(span) => format!("within {span}"),
            Self::Last => "last".to_owned(),
            Self::Hourly { oldest } => bucket(oldest, "hourly"),
            Self::Daily { oldest } => bucket(oldest, "daily"),
            Self::Weekly { oldest } => bucket(oldest, "weekly"),
            Self::Monthly { oldest } => bucket(oldest, "monthly"),
            Self::Yearly { oldest } => bucket(oldest, "yearly"),
        };
        formatter.write_str(&text)
    }
}

/// What the rules say of one restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it stays: there is a reason.
    pub keep: bool,
    /// Every reason for which it stays.
    pub reasons: Vec<KeepReason>,
}

impl Decision {
    /// Whether it stays for good as far as the rules go, and not only until there is another.
    pub fn is_kept_by_rules(&self) -> bool {
        self.keep && self.reasons != [KeepReason::LastResort]
    }
}

/// Applies the rules at `now`; the decisions are in the order of `points`. Points that are marked as expired but still
/// there take part: taking their marks back is what a reverted edit does.
pub fn decide(rules: &KeepRules, points: &[RestorePoint], now: Timestamp) -> Vec<Decision> {
    let mut decisions = vec![Decision { keep: false, reasons: Vec::new() }; points.len()];
    let mut order = newest_first(points);
    let mut keep = |index: usize, reason: KeepReason| {
        decisions[index].keep = true;
        decisions[index].reasons.push(reason);
    };
    for index in order.iter().copied().filter(|index| points[*index].held) {
        keep(index, KeepReason::Held);
    }
    order.retain(|index| match aside(&points[*index], now) {
        Some(reason) => {
            keep(*index, reason);
            false
        }
        None => true,
    });
    if !rules.within.is_zero() {
        let cutoff = cutoff(rules.within, order.iter().map(|index| points[*index].time), now);
        for index in order.iter().copied().filter(|index| points[*index].time > cutoff) {
            keep(index, KeepReason::Within(rules.within));
        }
    }
    for period in Period::ALL {
        keep_buckets(period, rules.count(period), points, &order, &mut keep);
    }
    if rules.verified
        && let Some(index) = order.iter().copied().find(|index| points[*index].verified_at.is_some())
    {
        keep(index, KeepReason::Verified);
    }
    if let Some(index) = order.first() {
        keep(*index, KeepReason::Newest);
    }
    decisions
}

/// Points in the order in which rules count them. Equal times are told apart by the id, so that the order in which they
/// were found does not matter.
fn newest_first(points: &[RestorePoint]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| (points[*b].time, &points[*b].id).cmp(&(points[*a].time, &points[*a].id)));
    order
}

/// One rule: the newest of each of the last `count` buckets, and the oldest point while counts are left.
fn keep_buckets(
    period: Period,
    count: i64,
    points: &[RestorePoint],
    newest_first: &[usize],
    keep: &mut impl FnMut(usize, KeepReason),
) {
    let mut left = match count {
        -1 => usize::MAX,
        count => usize::try_from(count).unwrap_or(0),
    };
    let mut bucket: Option<Bucket> = None;
    for (position, index) in newest_first.iter().copied().enumerate() {
        if left == 0 {
            return;
        }
        let this = period.bucket(points[index].time, position);
        let is_oldest = position + 1 == newest_first.len();
        let is_newest_of_bucket = bucket != Some(this);
        if is_newest_of_bucket || is_oldest {
            keep(index, KeepReason::of(period, !is_newest_of_bucket));
            bucket = Some(this);
            left -= 1;
        }
    }
}

/// `keepWithin` keeps what is strictly later than this: the span, counted back from the newest point that is not in the
/// future. If all are in the future, it keeps all.
pub(crate) fn cutoff(span: KeepWithinText, times: impl Iterator<Item = Timestamp>, now: Timestamp) -> Timestamp {
    times.filter(|time| *time <= now).max().map_or(Timestamp::MIN, |newest| bucket::back(newest, span))
}

/// What cleanup does to the marks of a policy's restore points.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Expired now: their grace begins.
    pub mark: Vec<RestorePointId>,
    /// The rules keep them again: their marks are taken back.
    pub unmark: Vec<RestorePointId>,
    /// Expired for at least the grace time: they leave the index.
    pub forget: Vec<RestorePointId>,
}

/// Decides what cleanup does at `now`. A mark from the future (a clock that went back) forgets nothing.
pub fn sweep(rules: &KeepRules, grace: SignedDuration, points: &[RestorePoint], now: Timestamp) -> Sweep {
    sweep_by(decide(rules, points, now), grace, points, now)
}

fn sweep_by(decisions: Vec<Decision>, grace: SignedDuration, points: &[RestorePoint], now: Timestamp) -> Sweep {
    let mut sweep = Sweep::default();
    for (point, decision) in points.iter().zip(decisions) {
        // The last resort keeps its mark, if it has one, and waits.
        if decision.keep && !decision.is_kept_by_rules() {
            continue;
        }
        match (decision.keep, point.expired_since) {
            (true, None) => {}
            (true, Some(_)) => sweep.unmark.push(point.id.clone()),
            (false, None) => sweep.mark.push(point.id.clone()),
            (false, Some(since)) if since <= now && now.duration_since(since) >= grace => {
                sweep.forget.push(point.id.clone());
            }
            (false, Some(_)) => {}
        }
    }
    sweep
}

#[cfg(test)]
mod tests;
