//! The forecast against replaying every run.

use jiff::tz::TimeZone;
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

fn schedule(expression: &str) -> Schedule {
    Schedule::parse(expression, &TimeZone::UTC).unwrap()
}

#[test]
fn a_week_of_nightly_points() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let mut points: Vec<RestorePoint> =
        (0..4).map(|day| point(now - SignedDuration::from_hours(10 + 24 * (3 - day)))).collect();
    let rules = KeepRules { last: 3, ..KeepRules::default() };
    let show = |points: &[RestorePoint], schedules: &[Schedule]| -> Vec<String> {
        let times = expires_at(&rules, points, schedules, now);
        times
            .into_iter()
            .map(|time| time.map_or("-".to_owned(), |time| time.strftime("%d %H:%M").to_string()))
            .collect()
    };
    let nightly = [schedule("0 2 * * *")];
    assert_eq!(show(&points, &nightly), ["21 12:00", "22 02:00", "23 02:00", "24 02:00"]);
    assert_eq!(show(&points, &[]), ["21 12:00", "-", "-", "-"]);
    points[2].held = true;
    points[0].expired_since = Some(now - SignedDuration::from_hours(5));
    assert_eq!(show(&points, &nightly), ["21 07:00", "22 02:00", "-", "24 02:00"]);
}

#[test]
fn the_walk_agrees_with_replaying_every_run() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let expressions = ["0 2 * * *", "*/20 * * * *", "0 */6 * * *", "30 1 * * 1", "0 0 1 * *", "@yearly"];
        let schedules: Vec<Schedule> =
            (0..random.random_range(1..3)).map(|_| schedule(expressions[random.random_range(0..6)])).collect();
        let spread_seconds: i64 = [7200, 86_400, 30 * 86_400, 900 * 86_400][random.random_range(0..4)];
        let points: Vec<RestorePoint> = (0..random.random_range(0..12))
            .map(|number| {
                let future = if random.random_bool(0.01) { 400_000 } else { 0 };
                let seconds = now.as_second() - random.random_range(0..spread_seconds) + future;
                let mut point = point(Timestamp::from_second(seconds).unwrap());
                point.id = RestorePointId(number.to_string());
                point.held = random.random_bool(0.05);
                point.verified_at = random.random_bool(0.3).then_some(point.time);
                point
            })
            .collect();
        let mut count = || match random.random_range(0..10) {
            0..6 => 0,
            6 => -1,
            _ => random.random_range(1..6),
        };
        let (last, hourly, daily, weekly, monthly, yearly) = (count(), count(), count(), count(), count(), count());
        let within = ["0h", "0h", "5h", "3d", "1mo", "1y"][random.random_range(0..6)].parse().unwrap();
        let verified = random.random_bool(0.3);
        let rules = KeepRules { last, hourly, daily, weekly, monthly, yearly, within, verified };
        // Decided already at `now`, or replayed for some runs.
        let mut judged: Vec<Option<Timestamp>> =
            decide(&rules, &points, now).into_iter().map(|decision| (!decision.keep).then_some(now)).collect();
        let replayed: Vec<Timestamp> = runs(&schedules, now).take(40).collect();
        replay(&rules, &points, replayed.iter().copied(), &mut judged);
        for (found, judged) in foretell(&rules, &points, &schedules, now, 60).into_iter().zip(judged) {
            match judged {
                Some(_) => assert_eq!(found, judged, "seed {seed} {rules:?} {points:?}"),
                None => assert!(found.is_none_or(|found| found > replayed[39]), "seed {seed} {rules:?} {points:?}"),
            }
        }
    }
}

#[test]
fn a_thousand_points_cost_a_bounded_walk() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let points: Vec<RestorePoint> = (1..=1000).map(|hours| point(now - SignedDuration::from_hours(hours))).collect();
    let rules = KeepRules { last: 1000, hourly: 2000, yearly: 4, ..KeepRules::default() };
    let times = expires_at(&rules, &points, &[schedule("0 * * * *")], now);
    // The oldest stays for `yearly` until 2026 to 2029 each have a newer one.
    assert_eq!(times.iter().filter(|time| time.is_none()).count(), 0);
    assert!(times.iter().flatten().max().is_some_and(|last| last.to_string() == "2029-01-01T00:00:00Z"), "{times:?}");
}
