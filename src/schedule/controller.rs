//! The times that the Kubernetes CronJob controller takes, where they differ from those of the local engine.
//!
//! Pure. The controller asks its cron library for the next moment at which the clock of the zone shows a time that the
//! expression names (github.com/robfig/cron v3, `SpecSchedule.Next`). So a time that the clock skips is not run on that
//! day, and one that the clock shows twice is run twice.

use croner::Cron;
use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

/// How many changes of clocks are looked across. Two a year are usual, and an expression may name a day that comes once
/// in 40 years.
const MOST_CHANGES: usize = 200;

/// The first moment strictly after `after` at which the clock shows what the expression names.
pub(super) fn next_after(cron: &Cron, time_zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut changes = time_zone.following(after);
    // Without the part of the second that has passed: the search counts whole seconds.
    let after = Timestamp::from_second(after.as_second()).ok()?;
    let mut offset = time_zone.to_offset(after);
    let mut start = offset.to_datetime(after);
    let mut inclusive = false;
    for _ in 0..MOST_CHANGES {
        let change = changes.next();
        let found = first(cron, offset, start, inclusive)?;
        let Some(change) = change else { return Some(found) };
        if found < change.timestamp() {
            return Some(found);
        }
        // From the change on, the clock shows other times.
        offset = change.offset();
        start = offset.to_datetime(change.timestamp());
        inclusive = true;
    }
    None
}

/// The first match on a clock that never changes.
fn first(cron: &Cron, offset: Offset, start: DateTime, inclusive: bool) -> Option<Timestamp> {
    offset.to_timestamp(cron.find_next_occurrence(&start, inclusive).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use crate::schedule::Schedule;

    fn next(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let zone = jiff::tz::TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(expression, &zone).unwrap().by_controller();
        let times = crate::schedule::next_runs(&[schedule], after.parse().unwrap(), count);
        times.iter().map(|time| time.to_zoned(zone.clone()).strftime("%m-%d %H:%M %Z").to_string()).collect()
    }

    /// The expectations are those that the controller's cron library has in its own tests: skipped in spring, twice in
    /// autumn.
    #[test]
    fn a_skipped_time_is_not_run_and_a_repeated_one_is_run_twice() {
        let new_york = "America/New_York";
        let berlin = "Europe/Berlin";
        let cases = [
            ("0 2 * * *", new_york, "2012-03-11T05:00:00Z", vec!["03-12 02:00 EDT", "03-13 02:00 EDT"]),
            (
                "30 1 * * *",
                new_york,
                "2012-11-04T04:00:00Z",
                vec!["11-04 01:30 EDT", "11-04 01:30 EST", "11-05 01:30 EST"],
            ),
            (
                "0 * * * *",
                new_york,
                "2012-11-04T04:30:00Z",
                vec!["11-04 01:00 EDT", "11-04 01:00 EST", "11-04 02:00 EST"],
            ),
            ("0 * * * *", new_york, "2012-03-11T05:30:00Z", vec!["03-11 01:00 EST", "03-11 03:00 EDT"]),
            ("30 2 * * *", berlin, "2027-03-27T12:00:00Z", vec!["03-29 02:30 CEST"]),
            (
                "30 2 * * *",
                berlin,
                "2027-10-30T12:00:00Z",
                vec!["10-31 02:30 CEST", "10-31 02:30 CET", "11-01 02:30 CET"],
            ),
            // Half an hour.
            ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", vec!["04-05 01:45 +11", "04-05 01:45 +1030"]),
            ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T12:00:00Z", vec!["10-03 02:15 +1030", "10-05 02:15 +11"]),
            ("0 2 29 2 *", "UTC", "2026-11-21T12:00:00Z", vec!["02-29 02:00 UTC"]),
        ];
        for (expression, zone, after, expected) in cases {
            assert_eq!(next(expression, zone, after, expected.len()), expected, "{expression} {zone}");
        }
    }

    #[test]
    fn without_a_change_of_clocks_both_engines_agree() {
        let utc = jiff::tz::TimeZone::UTC;
        for expression in ["*/7 3 * * *", "0 2 1 * 1", "59 23 31 12 *", "@hourly"] {
            let schedule = Schedule::parse(expression, &utc).unwrap();
            let after = "2026-11-21T12:00:00.5Z".parse().unwrap();
            let local = crate::schedule::next_runs(std::slice::from_ref(&schedule), after, 20);
            assert_eq!(crate::schedule::next_runs(&[schedule.by_controller()], after, 20), local, "{expression}");
        }
    }
}
