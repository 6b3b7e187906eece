//! Schedules: when a policy is due. Cron expressions, time zones, clock changes, jitter, catch-up.
//!
//! Pure. The crate `croner` reads expressions and finds their times; `expression` refuses what Kubernetes would not
//! read, this file asks for times in a zone, `due` decides whether to start.
//!
//! # Clock changes
//!
//! As `croner` has it. An expression for one time of day (`30 2 * * *`) runs once: where the clock skips that time, at
//! the first moment after the gap; where the clock shows it twice, at the first of the two. Any other expression
//! (`*/15 * * * *`, and also `30 2,14 * * *`) follows the clock: skipped times are no times, repeated ones are two.
//! On Kubernetes its controller decides, and there every expression follows the clock: see `controller`.

use std::{collections::BTreeSet, sync::Arc};

use croner::Cron;
use jiff::{
    SignedDuration, Timestamp, Zoned,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};

pub use self::{
    due::{CLOCK_SLACK, Due, MISSED_LIMIT, due, start_of},
    expression::ScheduleError,
};

mod controller;
mod due;
mod expression;
mod shared;

/// A cron expression in a time zone, checked to have a next time.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As it was written.
    pub expression: String,
    /// The zone in which it is read.
    pub time_zone: TimeZone,
    /// The parsed expression, which all policies share that write it alike.
    cron: Arc<Cron>,
    /// Whether the Kubernetes controller starts it, which reads changes of clocks otherwise.
    by_controller: bool,
}

/// `croner` gives up in a gap of more than two hours: a day that never was, in a zone that moved over the date line. The
/// search then begins again an hour further on, up to this far. What such a day would have run is not run.
const LONGEST_GAP_HOURS: i64 = 26;

impl Schedule {
    /// Reads a 5-field cron expression, or `@daily` and the like, as Kubernetes reads them.
    ///
    /// # Errors
    /// The expression is malformed, or no date ever matches it.
    pub fn parse(expression: &str, time_zone: &TimeZone) -> Result<Self, ScheduleError> {
        Ok(Self {
            expression: expression.trim().to_owned(),
            time_zone: time_zone.clone(),
            cron: shared::read(expression.trim())?,
            by_controller: false,
        })
    }

    /// The same expression, started by the CronJob controller of Kubernetes.
    pub fn by_controller(self) -> Self {
        Self { by_controller: true, ..self }
    }

    /// Whether the CronJob controller of Kubernetes starts it.
    pub fn is_by_controller(&self) -> bool {
        self.by_controller
    }

    /// The expression with every value spelled as a number that the Kubernetes controller takes.
    pub fn normalised(&self) -> String {
        expression::normalised(&self.cron)
    }

    /// The first time that is strictly later than `after`, in whole minutes. None: only at the end of the calendar.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.by_controller {
            return controller::next_after(&self.cron, &self.time_zone, after);
        }
        (0..=LONGEST_GAP_HOURS).find_map(|hours| {
            let start = self.local(after)?.checked_add(SignedDuration::from_hours(hours)).ok()?;
            self.cron.find_next_occurrence(&start, hours > 0).ok().map(|next| next.timestamp())
        })
    }

    /// The last time that is not later than `now` and strictly later than `floor`.
    pub fn latest_between(&self, floor: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let latest = (0..=LONGEST_GAP_HOURS).find_map(|hours| {
            let start = self.local(now)?.checked_sub(SignedDuration::from_hours(hours)).ok()?;
            self.cron.find_previous_occurrence(&start, true).ok().map(|latest| latest.timestamp())
        });
        latest.filter(|latest| *latest > floor)
    }

    /// A moment on the clock of the zone, without the part of its second that has passed.
    fn local(&self, time: Timestamp) -> Option<Zoned> {
        Some(Timestamp::from_second(time.as_second()).ok()?.to_zoned(self.time_zone.clone()))
    }

    /// What the local clock does to the runs of a day, for people: none on most days.
    pub fn clock_change(&self, date: Date) -> Option<ClockChange> {
        let (before, after) = self.offsets_around(date)?;
        if before == after {
            return None;
        }
        let midnight = date.at(0, 0, 0, 0);
        let first = self.cron.find_next_occurrence(&midnight, true).ok()?;
        let mut times = self.cron.iter_from(first, croner::Direction::Forward).take_while(|time| time.date() == date);
        let is_affected = times.any(|local| {
            !matches!(self.time_zone.to_ambiguous_timestamp(local).offset(), AmbiguousOffset::Unambiguous { .. })
        });
        is_affected.then_some(if before < after { ClockChange::Skipped } else { ClockChange::Repeated })
    }

    /// The offsets from UTC half a day before and after a local day. Equal: the clock does not change on it.
    fn offsets_around(&self, date: Date) -> Option<(jiff::tz::Offset, jiff::tz::Offset)> {
        let noon = |date: Date| self.time_zone.to_timestamp(date.at(12, 0, 0, 0)).ok();
        let (before, after) = (noon(date.yesterday().ok()?)?, noon(date.tomorrow().ok()?)?);
        Some((self.time_zone.to_offset(before), self.time_zone.to_offset(after)))
    }
}

/// What a change of clocks does to the times of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// The clock skips a time that the schedule asks for.
    Skipped,
    /// The clock shows a time that the schedule asks for twice.
    Repeated,
}

/// The times of several schedules together after a time, sorted, each once. Endless for any practical purpose.
pub fn runs(schedules: &[Schedule], after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
    let next = |index: usize, after: Timestamp| Some((schedules[index].next_after(after)?, index));
    let mut waiting: BTreeSet<(Timestamp, usize)> =
        (0..schedules.len()).filter_map(|index| next(index, after)).collect();
    std::iter::from_fn(move || {
        let (time, _) = *waiting.first()?;
        while let Some((first, index)) = waiting.first().copied().filter(|(first, _)| *first == time) {
            waiting.pop_first();
            waiting.extend(next(index, first));
        }
        Some(time)
    })
}

/// The next `count` times of several schedules together, sorted, each once.
pub fn next_runs(schedules: &[Schedule], after: Timestamp, count: usize) -> Vec<Timestamp> {
    runs(schedules, after).take(count).collect()
}

#[cfg(test)]
mod tests;
