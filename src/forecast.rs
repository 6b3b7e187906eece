//! Forecast: when the rules let each restore point go, if runs go on as scheduled.
//!
//! Pure. Adding points one by one and applying the rules each time would cost runs × points; this walks the runs once.
//! A bucket rule with N counts keeps a point until N buckets are newer than it, and only a run that opens a new bucket
//! adds one; so it is known beforehand after how many new buckets each rule lets each point go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::{
    restore_point::{RestorePoint, RestorePointId},
    retention::{KeepRules, aside, bucket, bucket::Period, decide},
    schedule::{Schedule, runs},
};

/// Nothing is foretold beyond this.
const HORIZON: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// Nor beyond this many runs.
const HORIZON_RUNS: usize = 100_000;

/// Nor, where points bear times from the future and every run has to be replayed, beyond this many.
const REPLAYED_RUNS: usize = 500;

/// For each point, in the order of `points`: the first scheduled time after `now` at which the rules no longer keep it,
/// if every scheduled run makes one (verified) point. A point that has expired already: since when. None: not
/// foreseeable, because it is held, a rule keeps it for good, there is no schedule, or it lies beyond the horizon of
/// ten years or 100,000 runs.
pub fn expires_at(
    rules: &KeepRules,
    points: &[RestorePoint],
    schedules: &[Schedule],
    now: Timestamp,
) -> Vec<Option<Timestamp>> {
    foretell(rules, points, schedules, now, HORIZON_RUNS)
}

/// [`expires_at`] with a horizon of its own. What was found or is missing takes no part in it.
fn foretell(
    rules: &KeepRules,
    points: &[RestorePoint],
    schedules: &[Schedule],
    now: Timestamp,
    horizon_runs: usize,
) -> Vec<Option<Timestamp>> {
    let takes_part: Vec<bool> = points.iter().map(|point| !point.found && point.missing_since.is_none()).collect();
    if takes_part.iter().all(|part| *part) {
        return foretell_all(rules, points, schedules, now, horizon_runs);
    }
    let those: Vec<RestorePoint> =
        points.iter().zip(&takes_part).filter(|(_, part)| **part).map(|(point, _)| point.clone()).collect();
    let mut times = foretell_all(rules, &those, schedules, now, horizon_runs).into_iter();
    takes_part.into_iter().map(|part| if part { times.next().flatten() } else { None }).collect()
}

fn foretell_all(
    rules: &KeepRules,
    points: &[RestorePoint],
    schedules: &[Schedule],
    now: Timestamp,
    horizon_runs: usize,
) -> Vec<Option<Timestamp>> {
    let decisions = decide(rules, points, now);
    let mut times: Vec<Option<Timestamp>> = points
        .iter()
        .zip(&decisions)
        .map(|(point, decision)| (!decision.keep).then(|| point.expired_since.unwrap_or(now)))
        .collect();
    let end = now.checked_add(HORIZON).unwrap_or(Timestamp::MAX);
    let mut coming = runs(schedules, now).take_while(|time| *time <= end).take(horizon_runs).peekable();
    let Some(first) = coming.peek().copied() else {
        return times;
    };
    if points.iter().any(|point| point.time >= first || aside(point, now).is_some()) {
        replay(rules, points, coming, &mut times);
        return times;
    }
    let mut walk = Walk::new(rules, points, first, &times);
    for time in coming {
        if walk.is_over() {
            break;
        }
        for index in walk.step(time) {
            times[index] = Some(time);
        }
    }
    times
}

/// What is known of the points while the runs go on.
struct Walk<'a> {
    rules: &'a KeepRules,
    points: &'a [RestorePoint],
    /// For each bucket rule that is on: how many buckets the runs opened so far, and which one is the newest.
    opened: Vec<(Period, usize, bucket::Bucket)>,
    /// For each of them: after how many opened buckets it lets which points go.
    lets_go: Vec<BTreeMap<usize, Vec<usize>>>,
    /// For each point: how many bucket rules still keep it.
    keepers: Vec<usize>,
    /// Points that only `keepWithin` may still keep, by time.
    bare: BTreeSet<(Timestamp, usize)>,
    /// How many points can still be let go.
    pending: usize,
    /// How many runs there were.
    runs: usize,
}

impl<'a> Walk<'a> {
    /// `known`: the points whose time is known already.
    fn new(rules: &'a KeepRules, points: &'a [RestorePoint], first: Timestamp, known: &[Option<Timestamp>]) -> Self {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|a, b| (points[*b].time, &points[*b].id).cmp(&(points[*a].time, &points[*a].id)));
        let mut walk = Self {
            rules,
            points,
            opened: Vec::new(),
            lets_go: Vec::new(),
            keepers: vec![0; points.len()],
            bare: BTreeSet::new(),
            pending: 0,
            runs: 0,
        };
        for period in Period::ALL {
            let count = rules.count(period);
            if count == -1 || count > 0 {
                walk.add_rule(period, usize::try_from(count).ok(), &order, first);
            }
        }
        for index in order {
            let foreseeable = !points[index].held && known[index].is_none();
            if foreseeable && walk.keepers[index] == 0 {
                walk.bare.insert((points[index].time, index));
            }
            // What a rule keeps for good would only end the walk at the horizon.
            walk.pending += usize::from(foreseeable && walk.keepers[index] < FOR_GOOD);
        }
        walk
    }

    /// Works out after how many new buckets one rule lets each point go. `count`: none keeps all.
    fn add_rule(&mut self, period: Period, count: Option<usize>, order: &[usize], first: Timestamp) {
        let Some(newest) = order.first() else { return };
        let newest_bucket = period.bucket(self.points[*newest].time, 0);
        let run_joins_newest = run_bucket(period, first, 1) == newest_bucket;
        let mut lets_go: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut newer_buckets = 0;
        let mut last = None;
        for (position, index) in order.iter().copied().enumerate() {
            let this = period.bucket(self.points[index].time, position);
            let is_head = last != Some(this);
            let is_oldest = position + 1 == order.len();
            // The first run may take over the bucket of the newest point, which is then only kept as the oldest.
            let (stays_head, newer) = if position == 0 {
                (!run_joins_newest, usize::from(run_joins_newest))
            } else {
                (is_head, newer_buckets)
            };
            if stays_head || is_oldest {
                match count {
                    None => self.keepers[index] = FOR_GOOD,
                    Some(count) if newer < count => {
                        lets_go.entry(count - newer).or_default().push(index);
                        self.keepers[index] = self.keepers[index].saturating_add(1);
                    }
                    Some(_) => {}
                }
            }
            newer_buckets += usize::from(is_head);
            last = Some(this);
        }
        self.opened.push((period, 0, newest_bucket));
        self.lets_go.push(lets_go);
    }

    fn is_over(&self) -> bool {
        self.pending == 0
    }

    /// One more run at `time`: the points that are let go at it.
    fn step(&mut self, time: Timestamp) -> Vec<usize> {
        self.runs += 1;
        for ((period, opened, newest), lets_go) in self.opened.iter_mut().zip(&mut self.lets_go) {
            let this = run_bucket(*period, time, self.runs);
            if this == *newest {
                continue;
            }
            (*opened, *newest) = (*opened + 1, this);
            for index in lets_go.remove(opened).unwrap_or_default() {
                if self.keepers[index] >= FOR_GOOD {
                    continue;
                }
                self.keepers[index] -= 1;
                if self.keepers[index] == 0 && !self.points[index].held {
                    self.bare.insert((self.points[index].time, index));
                }
            }
        }
        let cutoff = if self.rules.within.is_zero() { Timestamp::MAX } else { bucket::back(time, self.rules.within) };
        let mut gone = Vec::new();
        while let Some((time, index)) = self.bare.first().copied().filter(|(time, _)| *time <= cutoff) {
            self.bare.remove(&(time, index));
            gone.push(index);
        }
        self.pending -= gone.len();
        gone
    }
}

/// So many keepers that a point is never let go.
const FOR_GOOD: usize = usize::MAX / 2;

/// The bucket of the run with this number; where each point is its own bucket, one that no existing point has.
fn run_bucket(period: Period, time: Timestamp, number: usize) -> bucket::Bucket {
    match period {
        Period::Each => i64::try_from(number).map_or(i64::MIN, |number| -number),
        Period::Hour | Period::Day | Period::Week | Period::Month | Period::Year => period.bucket(time, 0),
    }
}

/// The slow way, right in every case: adds the runs one by one and asks the rules each time.
fn replay(
    rules: &KeepRules,
    points: &[RestorePoint],
    runs: impl Iterator<Item = Timestamp>,
    times: &mut [Option<Timestamp>],
) {
    let mut all = points.to_vec();
    for time in runs.take(REPLAYED_RUNS) {
        all.push(RestorePoint {
            id: RestorePointId::from_time(time),
            time,
            size_bytes: 0,
            verified_at: Some(time),
            held: false,
            found: false,
            missing_since: None,
            expired_since: None,
            parts: Vec::new(),
        });
        for (known, decision) in times.iter_mut().zip(decide(rules, &all, time)) {
            if known.is_none() && !decision.keep {
                *known = Some(time);
            }
        }
        if times.iter().all(Option::is_some) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
