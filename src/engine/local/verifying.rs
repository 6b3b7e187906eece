//! Verify: the integrity of a policy's repositories, and with it the proof of its restore points.

use std::fmt;

use jiff::Timestamp;

use super::{
    cleanup,
    context::{Context, WorkError},
    movers::{Bounds, MoverError, Word},
    runner,
};
use crate::{
    actual::checks::FailedCheck,
    mover::job::{FailureKind, Outcome, Task},
    policy::PolicyName,
    restore_point::RestorePointId,
    status::ledger::EventKind,
};

/// What to do about a repository that is damaged.
const DAMAGED: &str = "keep it as it is, look at its storage, and run the policy into another repository";

/// The result for one repository.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The repository.
    pub repository: String,
    /// Bytes that were read back.
    pub read_bytes: u64,
    /// What is wrong; none: it passed.
    pub problem: Option<Problem>,
    /// The restore points that are proven by it.
    pub points: Vec<RestorePointId>,
}

/// What is wrong with a repository. Displayed, it ends with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What, in words.
    pub what: String,
    /// What to do.
    pub hint: String,
    /// Whether damage was found; else nobody could look.
    pub is_damaged: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.what, self.hint)
    }
}

impl From<WorkError> for Problem {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Mover(MoverError::Failed(failure)) => {
                // The usual hint is to verify the repository, which was just done.
                let is_usual = failure.hint == FailureKind::RepositoryDamaged.hint();
                let hint = if is_usual { DAMAGED.to_owned() } else { failure.hint };
                Self { what: failure.message, hint, is_damaged: failure.kind == FailureKind::RepositoryDamaged }
            }
            WorkError::State(_)
            | WorkError::Repository(_)
            | WorkError::Mover(_)
            | WorkError::Busy { .. }
            | WorkError::Refused(_) => {
                let hint = "nothing was proven; verify it again".to_owned();
                Self { what: error.chain(), hint, is_damaged: false }
            }
        }
    }
}

/// Checks every repository of a policy, reading back a share of the data. `only`: just the one with this name.
///
/// # Errors
/// The state cannot be used, or there is nothing to verify. A repository that does not pass is a result.
pub async fn verify(
    context: &Context,
    policy: &PolicyName,
    only: Option<&str>,
    read_data_percent: f64,
    now: Timestamp,
    bounds: &Bounds,
    mut hear: impl FnMut(&str, Word),
) -> Result<Vec<Verified>, WorkError> {
    let places = context.state.places(policy)?;
    let mut results = Vec::new();
    for place in places.iter().filter(|place| place.initialised) {
        if only.is_some_and(|only| only != place.repository) {
            continue;
        }
        let points = context.state.points(policy)?;
        // Former places are looked at as long as they hold something.
        if !place.current && !points.iter().any(|point| point.parts.iter().any(|part| part.place == place.id)) {
            continue;
        }
        let _lease = cleanup::maintenance(context, place, now, bounds).await?;
        let task = Task::Check { read_data_percent };
        let outcome = context.job(place, task, None, bounds, |word| hear(&place.repository, word)).await;
        let (read_bytes, problem) = match outcome {
            Ok(Outcome::Checked { read_bytes }) => (read_bytes, None),
            Ok(_) => {
                let error = MoverError::WrongAnswer { repository: place.repository.clone() };
                (0, Some(Problem::from(WorkError::from(error))))
            }
            Err(error) => (0, Some(Problem::from(error))),
        };
        let sources = |parts: &[super::state::points::StoredPart]| {
            let mut names: Vec<String> = parts.iter().map(|part| part.part.source.clone()).collect();
            names.sort();
            names.dedup();
            names
        };
        let proven: Vec<RestorePointId> = points
            .iter()
            .filter(|point| problem.is_none() && !point.forgetting && point.point.missing_since.is_none())
            .filter(|point| {
                let here: Vec<_> = point.parts.iter().filter(|part| part.place == place.id).cloned().collect();
                sources(&here) == sources(&point.parts)
            })
            .map(|point| point.point.id.clone())
            .collect();
        context.state.set_verified(policy, &proven, now)?;
        let repository = place.repository.clone();
        // One that could not be carried out says nothing about the repository: it is in the history, and tried again.
        if problem.as_ref().is_none_or(|problem| problem.is_damaged) {
            let failed = problem.as_ref().map(|problem| FailedCheck {
                place: place.id,
                repository: repository.clone(),
                at: now,
                problem: problem.to_string(),
                read_data_percent,
            });
            context.state.note_check(policy, place.id, read_data_percent, failed)?;
        }
        context.state.add_event(
            now,
            policy,
            &EventKind::Verified { repository: repository.clone(), problem: problem.as_ref().map(ToString::to_string) },
        )?;
        results.push(Verified { repository, read_bytes, problem, points: proven });
    }
    if results.is_empty() {
        if context.state.policy(policy)?.is_none() {
            return Err(runner::no_such_policy(policy));
        }
        let what = only.map_or_else(|| "no repository".to_owned(), |only| format!("no repository {only}"));
        return Err(WorkError::Refused(format!(
            "there is nothing to verify: {what} of {policy} holds restore points yet; run the policy first"
        )));
    }
    Ok(results)
}

/// The share of data that is read back: `5%` or `5`; none or unreadable: structure only.
pub fn percent(text: Option<&str>) -> f64 {
    text.and_then(|text| text.trim().trim_end_matches('%').trim().parse::<f64>().ok())
        .filter(|percent| (0.0..=100.0).contains(percent))
        .unwrap_or(0.0)
}
