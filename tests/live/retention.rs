//! Retention against the real restic: the same points and the same rules, and both keep the same.
//!
//! Debian's restic is 0.14. It lacks a rule of the current one, by which the oldest point of all stays while a rule has
//! counts left: what our decision keeps for that reason alone is left out of the comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use mainstay::{
    restore_point::{RestorePoint, RestorePointId},
    retention::{Decision, KeepReason, KeepRules, decide},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

/// How many points there are.
const POINTS: usize = 40;
/// How many sets of rules are compared.
const RULE_SETS: usize = 12;

fn restic(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("restic")
        .args(["--no-cache", "--json", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", "correct horse")
        // restic reads `--time` and cuts its buckets in the local zone; ours are in UTC.
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .expect("restic is installed by tests/run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// Times from years down to minutes apart, and a few around the turn of a year, where weeks and years disagree.
fn times(random: &mut StdRng) -> BTreeSet<Timestamp> {
    let mut times: BTreeSet<Timestamp> =
        ["2024-12-29T23:59:59Z", "2024-12-30T00:00:00Z", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z"]
            .map(|text| text.parse().expect("a time"))
            .into();
    let newest: Timestamp = "2026-03-31T12:00:00Z".parse().expect("a time");
    times.insert(newest);
    while times.len() < POINTS {
        let widest_minutes = [120, 3 * 24 * 60, 60 * 24 * 60, 900 * 24 * 60][random.random_range(0..4)];
        times.insert(newest - SignedDuration::from_mins(random.random_range(1..widest_minutes)));
    }
    times
}

fn rules(random: &mut StdRng) -> KeepRules {
    let mut count = |most: i64| if random.random_bool(0.5) { random.random_range(1..=most) } else { 0 };
    let mut rules = KeepRules {
        last: count(6),
        hourly: count(8),
        daily: count(8),
        weekly: count(12),
        monthly: count(12),
        yearly: count(5),
        ..KeepRules::default()
    };
    if random.random_bool(0.5) || rules == KeepRules::default() {
        let spans = ["90h", "7d", "1m", "1y2m3d4h", "2m"];
        // restic calls a month `m`; documents call it `mo`.
        let span = spans[random.random_range(0..spans.len())].replace('m', "mo");
        rules.within = span.parse().expect("a span");
    }
    rules
}

/// The rules as restic's arguments.
fn arguments(rules: &KeepRules) -> Vec<String> {
    let KeepRules { last, hourly, daily, weekly, monthly, yearly, within, verified: _ } = rules;
    let counts = [
        ("last", last),
        ("hourly", hourly),
        ("daily", daily),
        ("weekly", weekly),
        ("monthly", monthly),
        ("yearly", yearly),
    ];
    let mut arguments: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(rule, count)| format!("--keep-{rule}={count}")).collect();
    if !within.is_zero() {
        arguments.push(format!("--keep-within={}", within.to_string().replace("mo", "m")));
    }
    arguments
}

/// Whether restic 0.14 keeps a point for one of these reasons.
fn is_kept_by_restic(decision: &Decision) -> bool {
    decision.reasons.iter().any(|reason| match reason {
        KeepReason::Within(_) | KeepReason::Last => true,
        KeepReason::Hourly { oldest }
        | KeepReason::Daily { oldest }
        | KeepReason::Weekly { oldest }
        | KeepReason::Monthly { oldest }
        | KeepReason::Yearly { oldest } => !oldest,
        // Rails of ours; with at least one rule, restic keeps the newest by it.
        KeepReason::Held
        | KeepReason::Found
        | KeepReason::Missing
        | KeepReason::Future
        | KeepReason::Newest
        | KeepReason::LastResort
        | KeepReason::Verified => false,
    })
}

#[test]
fn the_real_restic_keeps_the_same() {
    let mut random = StdRng::seed_from_u64(20_261_121);
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repository");
    let data = directory.path().join("data");
    std::fs::write(&data, "tiny").unwrap();
    restic(&repository, &["init"]);
    for time in times(&mut random) {
        let time = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string();
        restic(&repository, &["backup", data.to_str().unwrap(), "--host=local", "--time", &time]);
    }
    let snapshots = json(&restic(&repository, &["snapshots"]));
    let points: Vec<RestorePoint> = snapshots.as_array().unwrap().iter().map(point).collect();
    assert_eq!(points.len(), POINTS);

    let now = Timestamp::now();
    let mut kept_counts = BTreeSet::new();
    for _ in 0..RULE_SETS {
        let rules = rules(&mut random);
        let given = arguments(&rules);
        let mut command = vec!["forget", "--dry-run", "--group-by="];
        command.extend(given.iter().map(String::as_str));
        let groups = json(&restic(&repository, &command));
        let theirs: BTreeSet<String> = ids(&groups[0]["keep"]);
        let decisions = decide(&rules, &points, now);
        let ours = points.iter().zip(&decisions).filter(|(_, decision)| is_kept_by_restic(decision));
        let ours: BTreeSet<String> = ours.map(|(point, _)| point.id.0.clone()).collect();
        assert!(ours == theirs, "{given:?}\n{}", difference(&points, &decisions, &ours, &theirs));
        kept_counts.insert(theirs.len());
    }
    // Rules that keep everything, or nothing, agree easily.
    assert!(kept_counts.len() > RULE_SETS / 3, "{kept_counts:?}");
}

fn point(snapshot: &Value) -> RestorePoint {
    RestorePoint {
        id: RestorePointId(snapshot["id"].as_str().unwrap().to_owned()),
        time: snapshot["time"].as_str().unwrap().parse().unwrap(),
        size_bytes: 0,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    }
}

fn ids(snapshots: &Value) -> BTreeSet<String> {
    snapshots.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

/// What one side keeps and the other does not, with times and our reasons.
fn difference(
    points: &[RestorePoint],
    decisions: &[Decision],
    ours: &BTreeSet<String>,
    theirs: &BTreeSet<String>,
) -> String {
    let by_time: BTreeMap<_, _> = points.iter().zip(decisions).map(|pair| (pair.0.time, pair)).collect();
    let mut text = String::new();
    for (time, (point, decision)) in by_time {
        let (our, their) = (ours.contains(&point.id.0), theirs.contains(&point.id.0));
        if our != their {
            let _ = writeln!(text, "{time}: we keep: {our}, restic keeps: {their}; {:?}", decision.reasons);
        }
    }
    text
}
