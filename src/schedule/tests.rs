//! Tables of cron expressions, clock changes and missed runs.

use super::*;
use crate::policy::PolicyName;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(expression: &str, time_zone: &str) -> Schedule {
    Schedule::parse(expression, &zone(time_zone)).unwrap()
}

/// The next times, as text without the seconds and the `Z`.
fn next(expression: &str, time_zone: &str, after: &str, count: usize) -> Vec<String> {
    let times = next_runs(&[schedule(expression, time_zone)], time(after), count);
    times.iter().map(|time| time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string()).collect()
}

#[test]
fn times_of_a_zone() {
    for (expression, time_zone, after, expected) in [
        ("0 2 * * *", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 02:00", "2026-11-23 02:00"]),
        ("0 2 * * *", "UTC", "2026-11-22T02:00:00Z", vec!["2026-11-23 02:00"]),
        ("0 2 * * *", "UTC", "2026-11-22T01:59:59.5Z", vec!["2026-11-22 02:00"]),
        ("0 2 * * *", "Europe/Berlin", "2026-11-21T12:00:00Z", vec!["2026-11-22 01:00"]),
        ("@daily", "Asia/Kolkata", "2026-11-21T12:00:00Z", vec!["2026-11-21 18:30"]),
        ("@midnight", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 00:00"]),
        ("@hourly", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-21 13:00"]),
        ("@weekly", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 00:00"]),
        ("@monthly", "UTC", "2026-11-21T12:00:00Z", vec!["2026-12-01 00:00"]),
        ("@YEARLY", "UTC", "2026-11-21T12:00:00Z", vec!["2027-01-01 00:00"]),
        ("*/20 8-9 * * mon-FRI", "UTC", "2026-11-20T09:30:00Z", vec!["2026-11-20 09:40", "2026-11-23 08:00"]),
        ("0 5 * * 7", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 05:00", "2026-11-29 05:00"]),
        ("0 5 * * 5-7", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 05:00", "2026-11-27 05:00"]),
        ("0 5 * * FRI-SUN", "UTC", "2026-11-21T12:00:00Z", vec!["2026-11-22 05:00", "2026-11-27 05:00"]),
        (
            "0 5 * * 1/3",
            "UTC",
            "2026-11-21T12:00:00Z",
            vec!["2026-11-23 05:00", "2026-11-26 05:00", "2026-11-30 05:00"],
        ),
        // Both day fields: either is enough, unless one has a star; a star with a step is not one.
        ("0 0 1 * 1", "UTC", "2026-11-29T00:00:00Z", vec!["2026-11-30 00:00", "2026-12-01 00:00", "2026-12-07 00:00"]),
        ("0 0 */10 * 1", "UTC", "2026-11-29T00:00:00Z", vec!["2026-11-30 00:00", "2026-12-01 00:00"]),
        ("0 0 1 * */1", "UTC", "2026-11-29T00:00:00Z", vec!["2026-12-01 00:00", "2027-01-01 00:00"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", vec!["2104-02-29 00:00"]),
        (
            "5/20 0 * * ?",
            "UTC",
            "2026-11-29T00:00:00Z",
            vec!["2026-11-29 00:05", "2026-11-29 00:25", "2026-11-29 00:45"],
        ),
    ] {
        assert_eq!(next(expression, time_zone, after, expected.len()), expected, "{expression} {time_zone}");
    }
}

#[test]
fn changes_of_the_clock() {
    for (expression, time_zone, after, expected) in [
        // Spring: 02:00 to 03:00 does not exist. The run starts when the clock has jumped, and not twice.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", vec!["2026-03-29 01:00", "2026-03-30 00:30"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", vec!["2026-03-29 01:00", "2026-03-30 00:00"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", vec!["2026-03-29 00:30", "2026-03-29 01:00"]),
        ("30 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", vec!["2026-09-06 04:00", "2026-09-07 03:30"]),
        // Autumn: 02:00 to 03:00 comes twice. One time of day runs at the first.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", vec!["2026-10-25 00:30", "2026-10-26 01:30"]),
        // More than one time of day is a rhythm: it follows the clock.
        (
            "30 2,14 * * *",
            "Europe/Berlin",
            "2026-10-24T13:00:00Z",
            vec!["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 13:30"],
        ),
        ("30 2,14 * * *", "Europe/Berlin", "2026-03-28T14:00:00Z", vec!["2026-03-29 12:30", "2026-03-30 00:30"]),
        (
            "30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            vec!["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"],
        ),
        // Half an hour, on an island.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", vec!["2026-10-03 15:30", "2026-10-04 15:15"]),
        // A day that never was: nothing runs for it.
        ("0 2 * * *", "Pacific/Apia", "2011-12-29T13:00:00Z", vec!["2011-12-30 12:00", "2011-12-31 12:00"]),
    ] {
        assert_eq!(next(expression, time_zone, after, expected.len()), expected, "{expression} {time_zone}");
    }
}

/// Looking back finds the times that looking ahead does, on nights with a change of clocks too.
#[test]
fn the_latest_time_is_the_last_of_the_next_ones() {
    let nights = [("Europe/Berlin", "2026-03-28T12:00:00Z"), ("Europe/Berlin", "2026-10-24T12:00:00Z")];
    let islands = [("Australia/Lord_Howe", "2026-10-03T02:00:00Z"), ("America/Santiago", "2026-09-05T12:00:00Z")];
    for (time_zone, floor) in nights.into_iter().chain(islands) {
        for expression in
            ["30 2 * * *", "0 2 * * *", "0 3 * * *", "30 0 * * *", "*/20 * * * *", "15 2,3 * * *", "0 0 * * 0"]
        {
            let (schedule, floor) = (schedule(expression, time_zone), time(floor));
            let mut latest = None;
            for minutes in (0..2 * 24 * 60).step_by(5) {
                let now = floor + SignedDuration::from_mins(minutes);
                let from = latest.unwrap_or(floor);
                latest = schedule.next_after(from).filter(|next| *next <= now).or(latest);
                let message = format!("{expression} {time_zone} {now}");
                assert_eq!(schedule.latest_between(floor, now), latest, "{message}");
                assert_eq!(schedule.latest_between(now, now), None, "{message}");
            }
        }
    }
}

#[test]
fn wrong_expressions_say_what_to_do() {
    for (expression, part) in [
        ("", "is missing"),
        ("0 2 31 2 *", "never due"),
        ("0 0 31 4,6,9,11 *", "never due"),
        ("0 0 30 2 ?", "never due"),
        ("0 0 2 * * *", "no field for seconds"),
        ("0 2 * *", "has 4 fields"),
        ("TZ=Europe/Berlin 0 2 * * *", "`timeZone: Europe/Berlin`"),
        ("CRON_TZ=UTC @daily", "`timeZone: UTC`"),
        ("@nightly", "not a known name"),
        ("@every 1h", "not a known name"),
        ("60 2 * * *", "`60` is not a minute"),
        ("0 24 * * *", "Kubernetes reads 0-23,"),
        ("0 2 0 * *", "not a day of month"),
        ("0 2 L * *", "`L` is not a day of month"),
        ("0 2 * * 5L", "`5L` is not a day of week"),
        ("0 2 1 * +1", "`+1` is not a day of week"),
        ("0 2 * JANFEB *", "`JANFEB` is not a month"),
        ("0 2 * * 1-", "`1-` is not a day of week"),
        ("/5 2 * * *", "`/5` is not a minute"),
        ("*/5/5 2 * * *", "not a minute"),
        ("1,61 2 * * *", "`61` is not a minute"),
        ("@reboot", "write @hourly"),
        ("0 2 15W * *", "not a day of month"),
        ("0 2 * * 1#2", "not a day of week"),
        ("0 mon * * *", "not a hour"),
        ("0 2 * foo *", "1-12 or JAN-DEC"),
        ("0 22-4 * * *", "a rising range"),
        ("*/0 * * * *", "`*/0` is not a minute"),
        ("0 2,, * * *", "not a hour"),
        ("0 +2 * * *", "not a hour"),
        ("0 99999999999999999999 * * *", "not a hour"),
        ("0 2 * * 1-2-3", "not a day of week"),
        ("ü ü ü ü ü", "not a minute"),
    ] {
        let error = Schedule::parse(expression, &TimeZone::UTC).expect_err(expression).to_string();
        assert!(error.contains(part), "{expression}: {error}");
    }
    // With both day fields, a weekday is enough.
    assert!(Schedule::parse("0 2 31 2 1", &TimeZone::UTC).is_ok());
}

#[test]
fn kubernetes_gets_values_that_it_takes() {
    for (expression, normalised) in [
        ("0 2 * * 5-7", "0 2 * * 0,5,6"),
        ("@weekly", "0 0 * * 0"),
        ("*/30 2 ? jan *", "0,30 2 * 1 *"),
        ("0 2 */10 * 1", "0 2 1,11,21,31 * 1"),
    ] {
        assert_eq!(schedule(expression, "UTC").normalised(), normalised);
    }
}

#[test]
fn several_schedules_make_one_list() {
    let schedules = [schedule("0 2 * * *", "UTC"), schedule("0 */12 * * *", "UTC"), schedule("0 0 * * *", "UTC")];
    let hours: Vec<String> =
        next_runs(&schedules, time("2026-11-21T01:00:00Z"), 5).iter().map(|time| time.to_string()).collect();
    assert_eq!(
        hours,
        [
            "2026-11-21T02:00:00Z",
            "2026-11-21T12:00:00Z",
            "2026-11-22T00:00:00Z",
            "2026-11-22T02:00:00Z",
            "2026-11-22T12:00:00Z"
        ]
    );
    assert_eq!(next_runs(&[], Timestamp::UNIX_EPOCH, 3), []);
}

/// Asks `due` of a policy that runs at 02:00 UTC, without jitter.
fn nightly(deadline: Option<i64>, last: &str, now: &str) -> Due {
    let name = PolicyName::new("shop", "nightly");
    let deadline = deadline.map(SignedDuration::from_hours);
    due(&[schedule("0 2 * * *", "UTC")], SignedDuration::ZERO, deadline, &name, time(last), time(now))
}

#[test]
fn a_run_starts_once_and_late_ones_are_caught_up_once() {
    let scheduled = time("2026-11-22T02:00:00Z");
    let last = "2026-11-21T02:00:00Z";
    assert_eq!(nightly(None, last, "2026-11-22T01:59:59Z"), Due::NotYet { next: scheduled });
    assert_eq!(nightly(None, last, "2026-11-22T02:00:00Z"), Due::Now { scheduled, missed: 0, catch_up: false });
    assert_eq!(nightly(None, last, "2026-11-22T09:00:00Z"), Due::Now { scheduled, missed: 0, catch_up: true });
    assert_eq!(
        nightly(None, "2026-10-22T02:00:00Z", "2026-11-22T03:00:00Z"),
        Due::Now { scheduled, missed: 30, catch_up: true }
    );
    // Once it ran, neither the same moment nor a clock that went back starts it again.
    let next = time("2026-11-23T02:00:00Z");
    for now in ["2026-11-22T02:00:00Z", "2026-11-22T01:00:00Z", "2020-01-01T00:00:00Z", "2026-11-23T01:59:59Z"] {
        assert_eq!(nightly(None, "2026-11-22T02:00:00Z", now), Due::NotYet { next }, "{now}");
    }
}

#[test]
fn a_deadline_gives_up_what_is_too_late() {
    let (scheduled, next) = (time("2026-11-22T02:00:00Z"), time("2026-11-23T02:00:00Z"));
    let last = "2026-11-19T02:00:00Z";
    assert_eq!(nightly(Some(6), last, "2026-11-22T08:00:00Z"), Due::Now { scheduled, missed: 2, catch_up: true });
    assert_eq!(nightly(Some(6), last, "2026-11-22T08:00:01Z"), Due::Skipped { scheduled, missed: 3, next });
    assert_eq!(nightly(Some(6), last, "2026-11-23T02:00:00Z"), Due::Now { scheduled: next, missed: 3, catch_up: true });
}

#[test]
fn missed_times_are_counted_within_a_limit() {
    let name = PolicyName::new("shop", "busy");
    let every_minute = [schedule("* * * * *", "Europe/Berlin")];
    let now = time("2026-11-22T02:00:30Z");
    assert_eq!(
        due(&every_minute, SignedDuration::ZERO, None, &name, time("1990-01-01T00:00:00Z"), now),
        Due::Now { scheduled: time("2026-11-22T02:00:00Z"), missed: MISSED_LIMIT, catch_up: true }
    );
}

#[test]
fn jitter_is_stable_and_stays_before_the_next_time() {
    let (last, now) = (time("2026-11-21T02:00:00Z"), time("2026-11-21T03:00:00Z"));
    let hour = SignedDuration::from_hours(1);
    let mut starts = BTreeSet::new();
    for number in 0..50 {
        let name = PolicyName::new("shop", &format!("policy-{number}"));
        let start = |schedules: &[Schedule], jitter| match due(schedules, jitter, None, &name, last, now) {
            Due::NotYet { next } => next,
            other @ (Due::Now { .. } | Due::Skipped { .. }) => panic!("{other:?}"),
        };
        let nightly = [schedule("0 2 * * *", "UTC")];
        let next = start(&nightly, hour);
        assert_eq!(next, start(&nightly, hour));
        let scheduled = time("2026-11-22T02:00:00Z");
        assert!((scheduled..=scheduled + hour).contains(&next), "{next}");
        let waiting = |now| due(&nightly, hour, None, &name, last, now);
        assert_eq!(waiting(next - SignedDuration::from_secs(1)), Due::NotYet { next });
        assert_eq!(waiting(next), Due::Now { scheduled, missed: 0, catch_up: false });
        // A jitter of years for a schedule of minutes: every scheduled time still gets its own run.
        let minutes = [schedule("* * * * *", "UTC")];
        let scheduled = time("2026-11-21T02:01:00Z");
        let years = SignedDuration::from_hours(99_999);
        match due(&minutes, years, None, &name, last, scheduled + SignedDuration::from_secs(59)) {
            Due::Now { scheduled: found, missed: 0, .. } => assert_eq!(found, scheduled),
            other @ (Due::NotYet { .. } | Due::Now { .. } | Due::Skipped { .. }) => panic!("{other:?}"),
        }
        starts.insert(next);
    }
    assert!(starts.len() > 40, "the starts are spread: {}", starts.len());
}
