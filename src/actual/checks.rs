//! Checks of repositories that found damage, and what proves that it is mended. One that could not be carried out says
//! nothing about its repository, and is none of these.
//!
//! Pure. A boundary format (JSON in the engine's state).

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::policy::PolicyName;

/// The newest check of a repository that found damage. It stays until a check passes that looks where this one looked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedCheck {
    /// Number of the place that was checked.
    pub place: i64,
    /// The repository.
    pub repository: String,
    /// When it was checked.
    pub at: Timestamp,
    /// What is wrong, and what to do.
    pub problem: String,
    /// Share of the data that was to be read back.
    pub read_data_percent: f64,
}

impl FailedCheck {
    /// The share of the data that a check must read back to prove that nothing of this is left. Which share was read is
    /// left to chance, so only all of it is sure to hold what was damaged.
    fn proof_percent(&self) -> f64 {
        if self.read_data_percent > 0.0 { 100.0 } else { 0.0 }
    }

    /// What was found and what to do, in sentences.
    pub fn message(&self, policy: &PolicyName) -> String {
        let Self { place: _, repository, at, problem, read_data_percent: _ } = self;
        let at = at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC");
        let share = match self.proof_percent() {
            0.0 => String::new(),
            percent => format!(" --read-data {percent}%"),
        };
        format!(
            "Repository {repository} did not pass its check of {at}: {problem}. Once it is mended: `mainstay verify {policy} \
             --repository {repository}{share}`"
        )
    }
}

/// What was found and what to do, in sentences; none: no check failed.
pub fn message(failed: &[FailedCheck], policy: &PolicyName) -> Option<String> {
    let messages: Vec<String> = failed.iter().map(|check| check.message(policy)).collect();
    (!messages.is_empty()).then(|| messages.join(". "))
}

/// Notes how a check of a place ended that was to read back this share of the data. `failed` is none where it passed.
pub fn note(known: &mut Vec<FailedCheck>, place: i64, read_data_percent: f64, failed: Option<FailedCheck>) {
    let before = known.iter().position(|check| check.place == place);
    match (failed, before) {
        (None, _) => known.retain(|check| check.place != place || check.proof_percent() > read_data_percent),
        (Some(failed), None) => known.push(failed),
        (Some(failed), Some(before)) => {
            let known = &mut known[before];
            let read_data_percent = failed.read_data_percent.max(known.read_data_percent);
            *known = FailedCheck { read_data_percent, ..failed };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(read_data_percent: f64) -> FailedCheck {
        FailedCheck {
            place: 1,
            repository: "disk".to_owned(),
            at: "2026-11-22T05:00:00Z".parse().unwrap(),
            problem: "no (mend it)".to_owned(),
            read_data_percent,
        }
    }

    /// What was found by reading data is not proven mended by a check that reads less.
    #[test]
    fn only_a_check_that_looks_there_clears_what_another_found() {
        // The share that it read; that of a check that passes; whether it is cleared.
        for (found_by, passed, is_cleared) in
            [(100.0, 0.0, false), (5.0, 5.0, false), (5.0, 100.0, true), (0.0, 0.0, true)]
        {
            let mut known = vec![FailedCheck { place: 2, ..check(100.0) }];
            note(&mut known, 1, found_by, Some(check(found_by)));
            note(&mut known, 1, passed, None);
            assert_eq!(known.len(), 2 - usize::from(is_cleared), "by {found_by}%, then {passed}%");
        }
    }

    #[test]
    fn damage_that_was_read_stays_known_when_a_later_check_reads_less() {
        let mut known = Vec::new();
        note(&mut known, 1, 100.0, Some(check(100.0)));
        note(&mut known, 1, 0.0, Some(check(0.0)));
        assert_eq!(known, [check(100.0)]);
        let policy = PolicyName::new("shop", "nightly");
        assert_eq!(
            message(&known, &policy).unwrap(),
            "Repository disk did not pass its check of 2026-11-22 05:00 UTC: no (mend it). Once it is mended: \
             `mainstay verify shop/nightly --repository disk --read-data 100%`"
        );
        assert_eq!(message(&[], &policy), None);
    }
}
