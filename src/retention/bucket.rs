//! The calendar of retention: which hour, day, week, month or year a time belongs to, and spans counted back from it.
//!
//! Pure. Everything is in UTC.

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Date, tz::TimeZone};

use crate::policy::document::KeepWithinText;

/// What a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Period {
    /// Each point by itself: `keepLast`.
    Each,
    Hour,
    Day,
    /// ISO weeks: from Monday, and the days around New Year belong to the year that has most of the week.
    Week,
    Month,
    Year,
}

/// One hour, day, week, month or year. Only equality means anything, and only within one [`Period`].
pub(crate) type Bucket = i64;

impl Period {
    /// All of them, in the order in which reasons are named.
    pub(crate) const ALL: [Self; 6] = [Self::Each, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The bucket of a time; `position` tells points apart where each is its own bucket.
    pub(crate) fn bucket(self, time: Timestamp, position: usize) -> Bucket {
        let date = || TimeZone::UTC.to_datetime(time).date();
        match self {
            Self::Each => i64::try_from(position).unwrap_or(i64::MAX),
            Self::Hour => time.as_second().div_euclid(3600),
            Self::Day => time.as_second().div_euclid(86_400),
            // 1970-01-01 was a Thursday, so three days before it a week began.
            Self::Week => (time.as_second().div_euclid(86_400) + 3).div_euclid(7),
            Self::Month => i64::from(date().year()) * 12 + i64::from(date().month()),
            Self::Year => i64::from(date().year()),
        }
    }
}

/// Counts a span back from a time, as Go's calendar does and restic with it: years, months and days in one step, and a
/// day that a month does not have runs over into the next month (a month before March 31st is March 3rd, or 2nd).
/// Before the beginning of the calendar: its beginning.
pub(crate) fn back(from: Timestamp, span: KeepWithinText) -> Timestamp {
    let local = TimeZone::UTC.to_datetime(from);
    let KeepWithinText { years, months, days, hours } = span;
    let earlier = || {
        let month = i64::from(local.year()) * 12 + i64::from(local.month()) - 1 - years * 12 - months;
        let year = i16::try_from(month.div_euclid(12)).ok()?;
        let first = Date::new(year, i8::try_from(month.rem_euclid(12) + 1).ok()?, 1).ok()?;
        let date = first.checked_add((i64::from(local.day()) - 1 - days).days()).ok()?;
        let time = TimeZone::UTC.to_timestamp(date.to_datetime(local.time())).ok()?;
        time.checked_sub(SignedDuration::from_hours(hours)).ok()
    };
    earlier().unwrap_or(Timestamp::MIN)
}
