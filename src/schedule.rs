//! Schedules: when a policy is due. Cron expressions, time zones, clock changes, jitter, catch-up.
//!
//! Pure. `expression` reads the five fields, this file finds the times, `due` decides whether to start.
//!
//! # Clock changes
//!
//! An expression that names its hours (`30 2 * * *`) asks for a time of day: where the clock skips that time, the run
//! starts at the first moment after the gap; where the clock shows it twice, the run starts at the first of the two.
//! An expression with `*` for the hour (`*/15 * * * *`) asks for a rhythm: skipped times are no times, repeated ones
//! are two.

use std::collections::BTreeSet;

use jiff::{
    SignedDuration, Timestamp,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};

use self::expression::Fields;
pub use self::{
    due::{Due, MISSED_LIMIT, due},
    expression::ScheduleError,
};

mod due;
mod expression;

/// A cron expression in a time zone, checked to have a next time.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As it was written.
    pub expression: String,
    /// The zone in which it is read.
    pub time_zone: TimeZone,
    /// The parsed expression.
    fields: Fields,
}

/// How far ahead a next time is looked for. February 29th on a given weekday cannot be asked for (the two day fields
/// are alternatives), so the longest wait is the eight years around 2100.
const SEARCH_DAYS: u32 = 9 * 366;

impl Schedule {
    /// Reads a 5-field cron expression, or `@daily` and the like, as Kubernetes reads them.
    ///
    /// # Errors
    /// The expression is malformed, or no date ever matches it.
    pub fn parse(expression: &str, time_zone: &TimeZone) -> Result<Self, ScheduleError> {
        let schedule = Self {
            expression: expression.trim().to_owned(),
            time_zone: time_zone.clone(),
            fields: Fields::parse(expression)?,
        };
        if schedule.fields.can_match() {
            Ok(schedule)
        } else {
            Err(ScheduleError::NeverDue { expression: schedule.expression })
        }
    }

    /// The expression with every value spelled as a number that the Kubernetes controller takes.
    pub fn normalised(&self) -> String {
        self.fields.to_string()
    }

    /// The first time that is strictly later than `after`, in whole minutes. None: only at the end of the calendar.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut date = self.time_zone.to_datetime(after).date();
        for _ in 0..SEARCH_DAYS {
            if self.fields.is_day(date)
                && let Some(next) = self.first_of_day(date, after)
            {
                return Some(next);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time that is not later than `now` and strictly later than `floor`.
    pub fn latest_between(&self, floor: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let mut latest = self.next_after(floor).filter(|first| *first <= now)?;
        // Between `latest` and `end` lie all that are left; each round halves that stretch, so there are at most about
        // 40 rounds between the ends of the calendar.
        let mut end = now;
        while let Some(next) = self.next_after(latest).filter(|next| *next <= end) {
            let middle = Timestamp::from_second(latest.as_second().midpoint(end.as_second())).unwrap_or(latest);
            match self.next_after(middle.max(latest)) {
                Some(found) if found <= end => latest = found,
                Some(_) | None => {
                    // Nothing later than the middle: the answer is `next` or lies between it and the middle.
                    latest = next;
                    end = middle.max(next);
                }
            }
        }
        Some(latest)
    }

    /// What the local clock does to the runs of a day, for people: none on most days.
    pub fn clock_change(&self, date: Date) -> Option<ClockChange> {
        let (before, after) = self.offsets_around(date)?;
        let is_affected = |(hour, minute): (i8, i8)| {
            let local = date.at(hour, minute, 0, 0);
            !matches!(self.time_zone.to_ambiguous_timestamp(local).offset(), AmbiguousOffset::Unambiguous { .. })
        };
        (before != after && self.fields.is_day(date) && self.fields.times().any(is_affected))
            .then_some(if before < after { ClockChange::Skipped } else { ClockChange::Repeated })
    }

    /// The first time of one local day that is later than `after`.
    fn first_of_day(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let regular = match self.offsets_around(date) {
            Some((before, tomorrow)) => before == tomorrow,
            None => false,
        };
        if !regular {
            return self.irregular(date, after);
        }
        let after = self.time_zone.to_datetime(after);
        let local =
            self.fields.times().map(|(hour, minute)| date.at(hour, minute, 0, 0)).find(|local| *local > after)?;
        self.time_zone.to_timestamp(local).ok()
    }

    /// Around a change of clocks, the order on the wall is not the order in time: look at all of three days.
    fn irregular(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let days = [date.yesterday().ok(), Some(date), date.tomorrow().ok()];
        let times = days
            .into_iter()
            .flatten()
            .filter(|day| self.fields.is_day(*day))
            .flat_map(|day| self.fields.times().flat_map(move |(hour, minute)| self.instants(day, hour, minute)));
        times.filter(|time| *time > after).min()
    }

    /// The moments at which a local time asks for a run: one, two or none.
    fn instants(&self, date: Date, hour: i8, minute: i8) -> impl Iterator<Item = Timestamp> + use<> {
        let local = date.at(hour, minute, 0, 0);
        let names_hours = self.fields.names_hours();
        let (first, second) = match self.time_zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset.to_timestamp(local).ok(), None),
            AmbiguousOffset::Gap { before, .. } if names_hours => {
                // Read with the offset from before the gap, a skipped time lies after it; the transition is the last
                // one up to there.
                let past = before.to_timestamp(local).ok();
                let transition = past.and_then(|past| {
                    let next_second = past.checked_add(SignedDuration::from_secs(1)).ok()?;
                    self.time_zone.preceding(next_second).next().map(|transition| transition.timestamp())
                });
                (transition, None)
            }
            AmbiguousOffset::Gap { .. } => (None, None),
            AmbiguousOffset::Fold { before, .. } if names_hours => (before.to_timestamp(local).ok(), None),
            AmbiguousOffset::Fold { before, after } => {
                (before.to_timestamp(local).ok(), after.to_timestamp(local).ok())
            }
        };
        first.into_iter().chain(second)
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

/// The next times of several schedules together, sorted, each once.
pub fn next_runs(schedules: &[Schedule], after: Timestamp, count: usize) -> Vec<Timestamp> {
    let mut waiting: BTreeSet<(Timestamp, usize)> = schedules
        .iter()
        .enumerate()
        .filter_map(|(index, schedule)| Some((schedule.next_after(after)?, index)))
        .collect();
    let mut times: Vec<Timestamp> = Vec::new();
    while times.len() < count
        && let Some((time, index)) = waiting.pop_first()
    {
        if times.last() != Some(&time) {
            times.push(time);
        }
        waiting.extend(schedules[index].next_after(time).map(|next| (next, index)));
    }
    times
}

#[cfg(test)]
mod tests;
