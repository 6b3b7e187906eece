//! There are two judges: a second implementation, written the other way round, that asks for each point whether a rule
//! keeps it, and the results that restic publishes.

use jiff::{ToSpan as _, tz::TimeZone};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

fn point(time: Timestamp) -> RestorePoint {
    RestorePoint {
        id: RestorePointId::from_time(time),
        time,
        size_bytes: 1,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    }
}

fn points(times: &[&str]) -> Vec<RestorePoint> {
    times.iter().map(|time| point(time.parse().unwrap())).collect()
}

/// The kept points with their reasons, a line each.
fn kept(rules: KeepRules, points: &[RestorePoint]) -> String {
    let now = "2026-12-31T23:59:59Z".parse().unwrap();
    let lines = points.iter().zip(decide(&rules, points, now)).filter(|(_, decision)| decision.keep).map(
        |(point, decision)| {
            let reasons: Vec<String> = decision.reasons.iter().map(KeepReason::to_string).collect();
            format!("{} {}\n", point.id, reasons.join(", "))
        },
    );
    lines.collect()
}

#[test]
fn reasons_read_as_restic_says_them() {
    let points = points(&[
        "2024-06-30T02:00:00Z",
        "2026-10-31T02:00:00Z",
        "2026-11-01T02:00:00Z",
        "2026-11-20T02:00:00Z",
        "2026-11-21T02:00:00Z",
        "2026-11-21T14:00:00Z",
    ]);
    let rules = KeepRules { last: 1, daily: 2, monthly: 2, within: "12h".parse().unwrap(), ..KeepRules::default() };
    expect_test::expect![[r"
        20261031-020000 monthly
        20261120-020000 daily
        20261121-140000 within 12h, last, daily, monthly, newest
    "]]
    .assert_eq(&kept(rules, &points));
    // The oldest stays while a rule has counts left, though its bucket has a newer one.
    let rules = KeepRules { weekly: 9, yearly: -1, ..KeepRules::default() };
    expect_test::expect![[r"
        20261031-020000 oldest weekly, oldest yearly
        20261101-020000 weekly
        20261121-140000 weekly, yearly, newest
    "]]
    .assert_eq(&kept(rules, &points[1..]));
}

/// Each rule, alone and with others, keeps what current restic keeps, and for the same reasons. The file says whence it is.
#[test]
fn current_restic_agrees() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/it/cases/retention/restic.json")).unwrap();
    let times = |list: &serde_json::Value| -> Vec<Timestamp> {
        list.as_array().unwrap().iter().map(|time| time.as_str().unwrap().parse().unwrap()).collect()
    };
    let all = times(&file["times"]);
    let points: Vec<RestorePoint> = all.iter().map(|time| point(*time)).collect();
    let now = "2016-12-31T00:00:00Z".parse().unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let count = |rule: &str| case["rules"][rule].as_i64().unwrap_or(0);
        let rules = KeepRules {
            last: count("last"),
            hourly: count("hourly"),
            daily: count("daily"),
            weekly: count("weekly"),
            monthly: count("monthly"),
            yearly: count("yearly"),
            within: case["rules"]["within"].as_str().map(|span| span.parse().unwrap()).unwrap_or_default(),
            verified: false,
        };
        let mut expected: Vec<(Timestamp, &str)> = Vec::new();
        for (reasons, kept) in case["kept"].as_object().unwrap() {
            let kept = if kept == "all" { all.clone() } else { times(kept) };
            expected.extend(kept.into_iter().map(|time| (time, reasons.as_str())));
        }
        expected.sort_unstable();
        let decisions = decide(&rules, &points, now);
        let reasons = |decision: &Decision| {
            // That the newest stays is a rail of our own.
            let rules = decision.reasons.iter().filter(|reason| **reason != KeepReason::Newest);
            rules.map(KeepReason::to_string).collect::<Vec<_>>().join(", ")
        };
        let reasons: Vec<String> = decisions.iter().map(reasons).collect();
        let mut kept: Vec<(Timestamp, &str)> = all
            .iter()
            .copied()
            .zip(reasons.iter().map(String::as_str))
            .filter(|(_, reasons)| !reasons.is_empty())
            .collect();
        kept.sort_unstable();
        assert!(kept == expected, "{}", case["rules"]);
    }
}

#[test]
fn rails_hold_what_rules_would_not() {
    let mut points =
        points(&["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"]);
    points[0].held = true;
    points[1].verified_at = Some(points[1].time);
    expect_test::expect![[r"
        20260101-000000 held
        20260401-000000 newest
    "]]
    .assert_eq(&kept(KeepRules::default(), &points));
    expect_test::expect![[r"
        20260101-000000 held
        20260201-000000 newest verified
        20260401-000000 newest
    "]]
    .assert_eq(&kept(KeepRules { verified: true, ..KeepRules::default() }, &points));
}

#[test]
fn spans_count_back_as_go_does() {
    for (from, span, expected) in [
        ("2026-03-31T05:00:00Z", "1mo", "2026-03-03T05:00:00Z"),
        ("2024-03-31T05:00:00Z", "1mo", "2024-03-02T05:00:00Z"),
        ("2024-02-29T05:00:00Z", "1y", "2023-03-01T05:00:00Z"),
        ("2026-11-21T05:00:00Z", "1y2mo3d4h", "2025-09-18T01:00:00Z"),
        ("2026-01-15T05:00:00Z", "2mo", "2025-11-15T05:00:00Z"),
        ("2026-11-21T05:00:00Z", "2w", "2026-11-07T05:00:00Z"),
        ("2026-11-21T05:00:00Z", "1000y1000y", ""),
    ] {
        let Ok(span) = span.parse::<KeepWithinText>() else { continue };
        assert_eq!(bucket::back(from.parse().unwrap(), span).to_string(), expected, "{from} - {span}");
    }
    let beginning: Timestamp = "-009998-01-05T00:00:00Z".parse().unwrap();
    assert_eq!(bucket::back(beginning, "1000y".parse().unwrap()), Timestamp::MIN);
}

#[test]
fn weeks_are_iso_weeks() {
    let mut time: Timestamp = "1999-12-20T12:00:00Z".parse().unwrap();
    for _ in 0..12_000 {
        let next = time.checked_add(24.hours()).unwrap();
        let week = |time: Timestamp| {
            let week = TimeZone::UTC.to_datetime(time).date().iso_week_date();
            (week.year(), week.week())
        };
        assert_eq!(week(time) == week(next), Period::Week.bucket(time, 0) == Period::Week.bucket(next, 0), "{time}");
        time = next;
    }
}

/// Random points: dense and sparse stretches, some at the same time, some in the future, some held or marked.
fn random_points(random: &mut StdRng, now: Timestamp) -> Vec<RestorePoint> {
    let count = random.random_range(0..25);
    let spread_seconds: i64 = [7200, 86_400, 30 * 86_400, 900 * 86_400][random.random_range(0..4)];
    let mut points: Vec<RestorePoint> = (0..count)
        .map(|number| {
            let future = if random.random_bool(0.03) { 90_000 } else { 0 };
            let mut seconds = now.as_second() - random.random_range(0..spread_seconds) + future;
            if random.random_bool(0.3) {
                seconds = seconds.div_euclid(3600) * 3600;
            }
            let mut point = point(Timestamp::from_second(seconds).unwrap());
            point.id = RestorePointId(format!("{}-{number}", point.id));
            point.held = random.random_bool(0.05);
            point.found = random.random_bool(0.05);
            point.missing_since = random.random_bool(0.05).then_some(now);
            point.verified_at = random.random_bool(0.3).then_some(point.time);
            point.expired_since = random
                .random_bool(0.3)
                .then(|| Timestamp::from_second(now.as_second() - random.random_range(-3600..180_000)).unwrap());
            point
        })
        .collect();
    if random.random_bool(0.5) {
        points.sort_by_key(|point| point.time);
    }
    points
}

fn random_rules(random: &mut StdRng) -> KeepRules {
    let mut count = || match random.random_range(0..10) {
        0..5 => 0,
        5 => -1,
        _ => random.random_range(1..8),
    };
    let (last, hourly, daily, weekly, monthly, yearly) = (count(), count(), count(), count(), count(), count());
    let within = ["0h", "0h", "0h", "5h", "3d", "2w", "1mo", "1y6mo"][random.random_range(0..8)].parse().unwrap();
    KeepRules { last, hourly, daily, weekly, monthly, yearly, within, verified: random.random_bool(0.2) }
}

/// Whether a point stays, from the words of the documentation: count how many hits lie before it.
fn stays(rules: &KeepRules, points: &[RestorePoint], judged: &RestorePoint, now: Timestamp) -> bool {
    let is_far_ahead = |point: &RestorePoint| point.time > now + SignedDuration::from_hours(24);
    let takes_part = |point: &&RestorePoint| !point.found && point.missing_since.is_none() && !is_far_ahead(point);
    if !takes_part(&judged) {
        return true;
    }
    let mut sorted: Vec<&RestorePoint> = points.iter().filter(takes_part).collect();
    sorted.sort_by_key(|point| std::cmp::Reverse((point.time, point.id.clone())));
    let place = sorted.iter().position(|point| point.id == judged.id).unwrap();
    let date = |place: usize| sorted[place].time.to_zoned(TimeZone::UTC);
    let name = |format: &str, place: usize| date(place).strftime(format).to_string();
    let rule = |count: i64, format: Option<&str>| {
        let bucket = |place: usize| format.map_or_else(|| place.to_string(), |format| name(format, place));
        let is_hit = |place: usize| place == 0 || bucket(place) != bucket(place - 1);
        let hits_before = (0..place).filter(|place| is_hit(*place)).count() as i64;
        (count == -1 || hits_before < count) && (is_hit(place) || place + 1 == sorted.len())
    };
    let newest_past = sorted.iter().find(|point| point.time <= now);
    let within = !rules.within.is_zero()
        && newest_past.is_none_or(|newest| {
            let KeepWithinText { years, months, days, hours } = rules.within;
            let date = newest.time.to_zoned(TimeZone::UTC);
            let first = date.first_of_month().unwrap() - years.years() - months.months();
            judged.time > (first + (i64::from(date.day()) - 1 - days).days() - hours.hours()).timestamp()
        });
    judged.held
        || place == 0
        || within
        || rule(rules.last, None)
        || rule(rules.hourly, Some("%F %H"))
        || rule(rules.daily, Some("%F"))
        || rule(rules.weekly, Some("%G %V"))
        || rule(rules.monthly, Some("%Y %m"))
        || rule(rules.yearly, Some("%Y"))
        || (rules.verified && judged.verified_at.is_some() && !sorted[..place].iter().any(|p| p.verified_at.is_some()))
}

#[test]
fn a_second_implementation_agrees_and_the_laws_hold() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    for seed in 0..5000 {
        let mut random = StdRng::seed_from_u64(seed);
        let points = random_points(&mut random, now);
        let rules = random_rules(&mut random);
        let decisions = decide(&rules, &points, now);
        for (point, decision) in points.iter().zip(&decisions) {
            assert_eq!(decision.keep, stays(&rules, &points, point, now), "seed {seed}: {} {decision:?}", point.id);
            assert_eq!(decision.keep, !decision.reasons.is_empty(), "seed {seed}");
        }
        // The newest stays.
        if let Some(newest) = points.iter().zip(&decisions).max_by_key(|(point, _)| (point.time, &point.id)) {
            assert!(newest.1.keep, "seed {seed}");
        }
        // Forgetting what expired changes nothing for the rest.
        let kept: Vec<RestorePoint> = points
            .iter()
            .zip(&decisions)
            .filter(|(_, decision)| decision.keep)
            .map(|(point, _)| point.clone())
            .collect();
        assert!(decide(&rules, &kept, now).iter().all(|decision| decision.keep), "seed {seed}");
        // More rules never expire more.
        let more = |count: i64, random: &mut StdRng| match count {
            -1 => -1,
            count => [count, count + random.random_range(0..5), -1][random.random_range(0..3)],
        };
        let wider = KeepRules {
            last: more(rules.last, &mut random),
            hourly: more(rules.hourly, &mut random),
            daily: more(rules.daily, &mut random),
            weekly: more(rules.weekly, &mut random),
            monthly: more(rules.monthly, &mut random),
            yearly: more(rules.yearly, &mut random),
            within: rules.within,
            verified: true,
        };
        for (narrow, wide) in decisions.iter().zip(decide(&wider, &points, now)) {
            assert!(wide.keep || !narrow.keep, "seed {seed}");
        }
    }
}

#[test]
fn sweeping_marks_first_and_forgets_after_the_grace() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let grace = SignedDuration::from_hours(24);
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut points = random_points(&mut random, now);
        let rules = random_rules(&mut random);
        let decisions = decide(&rules, &points, now);
        let swept = sweep(&rules, grace, &points, now);
        for (point, decision) in points.iter().zip(&decisions) {
            let in_grace =
                point.expired_since.is_none_or(|since| since > now || now < since.checked_add(24.hours()).unwrap());
            let (marked, id) = (point.expired_since.is_some(), &point.id);
            assert_eq!(swept.mark.contains(id), !decision.keep && !marked, "seed {seed}");
            assert_eq!(swept.unmark.contains(id), decision.keep && marked, "seed {seed}");
            assert_eq!(swept.forget.contains(id), !decision.keep && !in_grace, "seed {seed}");
            assert!(!(point.held && swept.forget.contains(id)), "seed {seed}");
        }
        // Carried out, there is nothing left to do.
        points.retain(|point| !swept.forget.contains(&point.id));
        for point in &mut points {
            if swept.unmark.contains(&point.id) {
                point.expired_since = None;
            } else if swept.mark.contains(&point.id) {
                point.expired_since = Some(now);
            }
        }
        assert_eq!(sweep(&rules, grace, &points, now), Sweep::default(), "seed {seed}");
    }
}

#[test]
fn what_is_found_stays_and_pushes_nothing_out() {
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let mut points =
        points(&["2026-11-18T02:00:00Z", "2026-11-19T02:00:00Z", "2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"]);
    points[0].found = true;
    points[3].found = true;
    let rules = KeepRules { last: 1, ..KeepRules::default() };
    let kept = |points: &[RestorePoint]| -> Vec<Vec<KeepReason>> {
        decide(&rules, points, now).into_iter().map(|decision| decision.reasons).collect()
    };
    let found = || vec![KeepReason::Found];
    assert_eq!(kept(&points), [found(), vec![], vec![KeepReason::Last, KeepReason::Newest], found()]);
    points[1].found = true;
    points[2].found = true;
    assert_eq!(kept(&points), [found(), found(), found(), found()]);
}

/// A clock that was years ahead for one night: its point is kept, and nothing expires because of it.
#[test]
fn a_point_from_the_future_pushes_nothing_out() {
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let times = ["2026-11-19T02:00:00Z", "2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z", "2031-01-01T02:00:00Z"];
    let rules = KeepRules { last: 2, ..KeepRules::default() };
    let kept: Vec<bool> = decide(&rules, &points(&times), now).into_iter().map(|decision| decision.keep).collect();
    assert_eq!(kept, [false, true, true, true]);
    // When its time has come it is like any other.
    let later = "2031-01-01T12:00:00Z".parse().unwrap();
    let kept: Vec<bool> = decide(&rules, &points(&times), later).into_iter().map(|decision| decision.keep).collect();
    assert_eq!(kept, [false, false, true, true]);
}
