//! Restore points that stay without taking part in the rules, because counting them would push others out.
//!
//! Pure. One that somebody else made is not ours to count. One that no listing shows may not be there. One from the
//! future was made by a clock that was wrong: were it the newest, every rule would count from a time that is not yet.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::KeepReason;
use crate::{policy::PolicyName, restore_point::RestorePoint};

/// How far ahead of the clock a point may be dated: clocks differ, and hosts disagree on their zone.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// Why a point stays without taking part in the rules; none: it takes part.
pub fn aside(point: &RestorePoint, now: Timestamp) -> Option<KeepReason> {
    match point {
        RestorePoint { missing_since: Some(_), .. } => Some(KeepReason::Missing),
        RestorePoint { found: true, .. } => Some(KeepReason::Found),
        RestorePoint { time, .. } => (time.duration_since(now) > AHEAD).then_some(KeepReason::Future),
    }
}

/// What a person should know of a policy's points that are aside, in sentences with what to do; empty: there is none.
pub fn remarks(policy: &PolicyName, points: &[RestorePoint], now: Timestamp) -> String {
    let (mut found, mut missing, mut future) = (Vec::new(), Vec::new(), Vec::new());
    for point in points {
        match aside(point, now) {
            Some(KeepReason::Found) => found.push(point),
            Some(KeepReason::Missing) => missing.push(point),
            Some(_) => future.push(point),
            None => {}
        }
    }
    let mut text = String::new();
    let mut tell = |points: &[&RestorePoint], one: &str, many: &str, rest: &str| {
        let Some(first) = points.first() else { return };
        let gap = if text.is_empty() { "" } else { " " };
        // Writing into a string cannot fail.
        let _ = match points.len() {
            1 => write!(text, "{gap}Restore point {} {one}{rest}", first.id),
            count => write!(text, "{gap}{count} restore points, the first of them {}, {many}{rest}", first.id),
        };
    };
    tell(
        &found,
        "was found",
        "were found",
        &format!(
            " that nothing known here made: no rule expires them. If nobody else needs them, `mainstay points release \
             {policy} found`."
        ),
    );
    tell(
        &missing,
        "is no longer in any repository",
        "are no longer in any repository",
        ": look at its storage. What is missing for 7 days and not held is given up.",
    );
    tell(
        &future,
        "is dated in the future",
        "are dated in the future",
        ": a clock was wrong. No rule counts them until that time.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore_point::RestorePointId;

    #[test]
    fn what_is_aside_is_named_with_what_to_do() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let point = |time: &str| RestorePoint {
            id: RestorePointId::from_time(time.parse().unwrap()),
            time: time.parse().unwrap(),
            size_bytes: 1,
            verified_at: None,
            held: false,
            found: false,
            missing_since: None,
            expired_since: None,
            parts: Vec::new(),
        };
        let policy: PolicyName = "shop/nightly".parse().unwrap();
        let mut points =
            ["2026-11-19T02:00:00Z", "2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-22T12:00:00Z"].map(point);
        assert_eq!(remarks(&policy, &points, now), "", "a day ahead may be");
        points[0].found = true;
        points[1].found = true;
        points[2].missing_since = Some(now);
        points[3].time = "2031-01-01T00:00:00Z".parse().unwrap();
        expect_test::expect![[r"
            2 restore points, the first of them 20261119-020000, were found that nothing known here made: no rule expires them. If nobody else needs them, `mainstay points release shop/nightly found`. Restore point 20261121-020000 is no longer in any repository: look at its storage. What is missing for 7 days and not held is given up. Restore point 20261122-120000 is dated in the future: a clock was wrong. No rule counts them until that time."]]
        .assert_eq(&remarks(&policy, &points, now));
    }
}
