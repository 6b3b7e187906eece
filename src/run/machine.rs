//! The run's state machine: what comes next, by the journal alone.
//!
//! Pure. The journal holds the *intent* of each step before its side effect, and its outcome after it. A process that
//! was killed leaves an intent without an outcome; [`Journal::interrupt`] closes it, and the same function [`next`]
//! then leads every run, whole or broken, to its end: a workload that was (or may have been) stopped is started, the
//! hooks after the capture are carried out, and nothing is recorded unless everything before it went well.

use serde::{Deserialize, Serialize};

/// How often the start of a stopped workload is tried in one run. The engine's guard goes on trying afterwards.
pub const START_ATTEMPTS: usize = 3;

/// One step with a side effect. A boundary format (JSON in the engine's journal).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The hook with this index before the capture.
    HookBefore(usize),
    /// Stop what writes to the sources.
    Stop,
    /// Capture one source into one repository; counted source by source.
    Capture(usize),
    /// Start again what was stopped.
    Start,
    /// The hook with this index after the capture.
    HookAfter(usize),
    /// Copy one volume snapshot into one repository, while the workload goes on already.
    Copy(usize),
    /// Look whether the repositories really hold what was captured.
    Check,
    /// Record the restore point.
    Record,
    /// Apply the retention rules, and clean up where the policy does that after each run.
    Cleanup,
}

/// How a step ended. A boundary format (JSON in the engine's journal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Well.
    Done,
    /// Badly, and why.
    Failed(String),
    /// The process went away in between: it may have happened, or not.
    Interrupted,
}

/// How many steps of each kind a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Hooks before the capture.
    pub hooks_before: usize,
    /// Whether the workload is stopped for the capture.
    pub cold: bool,
    /// Sources times repositories.
    pub captures: usize,
    /// Hooks after the capture.
    pub hooks_after: usize,
    /// Copies of what was captured as volume snapshots.
    pub copies: usize,
}

/// What was intended and what came of it, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Journal {
    entries: Vec<(Step, Option<Outcome>)>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Write the intent of this step, then carry it out.
    Do(Step),
    /// The run is over.
    End(Ending),
}

/// How a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// There is a restore point. The remarks are for a person: a hook after the capture failed, or the cleanup.
    Succeeded {
        /// What went wrong without harm to the restore point.
        remarks: Vec<String>,
    },
    /// Something failed, and why. `recorded`: the restore point is good all the same, but the workload did not start.
    Failed {
        /// What failed first, in a sentence.
        reason: String,
        /// Whether the restore point was recorded.
        recorded: bool,
        /// Whether nothing is known to have failed, but the process went away: what it captured may be good.
        interrupted: bool,
    },
}

impl Journal {
    /// From what was stored.
    pub fn new(entries: Vec<(Step, Option<Outcome>)>) -> Self {
        Self { entries }
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[(Step, Option<Outcome>)] {
        &self.entries
    }

    /// Adds an intent.
    pub fn intend(&mut self, step: Step) {
        self.entries.push((step, None));
    }

    /// Adds the outcome of the last intent.
    pub fn conclude(&mut self, outcome: Outcome) {
        if let Some(last) = self.entries.last_mut() {
            last.1 = Some(outcome);
        }
    }

    /// The step whose outcome is not known.
    pub fn open_step(&self) -> Option<Step> {
        self.entries.last().filter(|(_, outcome)| outcome.is_none()).map(|(step, _)| *step)
    }

    /// Closes the open step after its process went away; returns it.
    pub fn interrupt(&mut self) -> Option<Step> {
        let step = self.open_step()?;
        self.conclude(Outcome::Interrupted);
        Some(step)
    }

    /// Whether a step was begun at all.
    pub fn began(&self, step: Step) -> bool {
        self.entries.iter().any(|(entry, _)| *entry == step)
    }

    /// Whether a step went well.
    pub fn did(&self, step: Step) -> bool {
        self.entries.iter().any(|(entry, outcome)| *entry == step && *outcome == Some(Outcome::Done))
    }

    /// The first failure that keeps a restore point from being recorded.
    fn failure(&self) -> Option<String> {
        self.entries.iter().find_map(|(step, outcome)| match step {
            Step::HookBefore(_) | Step::Stop | Step::Capture(_) | Step::Copy(_) | Step::Check | Step::Record => {
                match outcome {
                    Some(Outcome::Failed(reason)) => Some(reason.clone()),
                    Some(Outcome::Interrupted) => {
                        Some(format!("the run's process went away while it was {}", doing(*step)))
                    }
                    Some(Outcome::Done) | None => None,
                }
            }
            Step::Start | Step::HookAfter(_) | Step::Cleanup => None,
        })
    }

    /// Whether the process went away before anything failed that keeps a restore point from being recorded.
    fn was_interrupted(&self) -> bool {
        !self.entries.iter().any(|(step, outcome)| match step {
            Step::HookBefore(_) | Step::Stop | Step::Capture(_) | Step::Copy(_) | Step::Check | Step::Record => {
                matches!(outcome, Some(Outcome::Failed(_)))
            }
            Step::Start | Step::HookAfter(_) | Step::Cleanup => false,
        })
    }

    /// Why the workload was not started again, when that was tried and never went well.
    fn start_failure(&self) -> Option<String> {
        if self.did(Step::Start) {
            return None;
        }
        self.entries.iter().rev().find_map(|(step, outcome)| match (step, outcome) {
            (Step::Start, Some(Outcome::Failed(reason))) => Some(reason.clone()),
            (Step::Start, Some(Outcome::Interrupted)) => {
                Some("the process went away while the workload was started again".to_owned())
            }
            _ => None,
        })
    }

    fn attempts(&self, step: Step) -> usize {
        self.entries.iter().filter(|(entry, _)| *entry == step).count()
    }
}

/// What comes next in a run of this shape. An open step must have been concluded or interrupted before.
pub fn next(shape: &Shape, journal: &Journal) -> Next {
    let failure = journal.failure();
    if failure.is_none()
        && let Some(step) = forward(shape).find(|step| !journal.began(*step))
    {
        return Next::Do(step);
    }
    // From here on: on every path.
    let must_start = journal.began(Step::Stop) && !journal.did(Step::Start);
    if must_start && journal.attempts(Step::Start) < START_ATTEMPTS {
        return Next::Do(Step::Start);
    }
    let hooks_after = (0..shape.hooks_after).map(Step::HookAfter);
    if let Some(hook) = hooks_after.into_iter().find(|hook| !journal.began(*hook)) {
        return Next::Do(hook);
    }
    if let Some(reason) = failure {
        return Next::End(Ending::Failed { reason, recorded: false, interrupted: journal.was_interrupted() });
    }
    let last = [Step::Check, Step::Record, Step::Cleanup];
    if let Some(step) = (0..shape.copies).map(Step::Copy).chain(last).find(|step| !journal.began(*step)) {
        return Next::Do(step);
    }
    match journal.start_failure() {
        Some(reason) => Next::End(Ending::Failed { reason, recorded: true, interrupted: false }),
        None => Next::End(Ending::Succeeded { remarks: remarks(journal) }),
    }
}

/// What a step does, to be put after "while it was".
pub fn doing(step: Step) -> &'static str {
    match step {
        Step::HookBefore(_) => "carrying out a hook before the capture",
        Step::Stop => "stopping the workload",
        Step::Capture(_) => "capturing a source",
        Step::Start => "starting the workload again",
        Step::HookAfter(_) => "carrying out a hook after the capture",
        Step::Copy(_) => "copying a volume snapshot",
        Step::Check => "checking what was captured",
        Step::Record => "recording the restore point",
        Step::Cleanup => "cleaning up",
    }
}

/// The steps up to the end of the capture, which a failure cuts short.
fn forward(shape: &Shape) -> impl Iterator<Item = Step> {
    let hooks = (0..shape.hooks_before).map(Step::HookBefore);
    let stop = shape.cold.then_some(Step::Stop);
    hooks.chain(stop).chain((0..shape.captures).map(Step::Capture))
}

fn remarks(journal: &Journal) -> Vec<String> {
    journal
        .entries
        .iter()
        .filter_map(|(step, outcome)| match (step, outcome) {
            (Step::HookAfter(_) | Step::Cleanup, Some(Outcome::Failed(reason))) => Some(reason.clone()),
            (Step::HookAfter(_) | Step::Cleanup, Some(Outcome::Interrupted)) => {
                Some(format!("the process went away while it was {}", doing(*step)))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Shape = Shape { hooks_before: 1, cold: true, captures: 2, hooks_after: 1, copies: 1 };

    /// Plays a run in which `fail` says how each step ends.
    fn play(shape: &Shape, mut end: impl FnMut(Step) -> Outcome) -> (Vec<Step>, Ending) {
        let mut journal = Journal::default();
        let mut steps = Vec::new();
        for _ in 0..100 {
            match next(shape, &journal) {
                Next::Do(step) => {
                    steps.push(step);
                    journal.intend(step);
                    journal.conclude(end(step));
                }
                Next::End(ending) => return (steps, ending),
            }
        }
        panic!("the run does not end: {steps:?}");
    }

    #[test]
    fn a_good_run_takes_every_step_once_and_in_order() {
        use Step::*;
        let (steps, ending) = play(&FULL, |_| Outcome::Done);
        let expected =
            [HookBefore(0), Stop, Capture(0), Capture(1), Start, HookAfter(0), Copy(0), Check, Record, Cleanup];
        assert_eq!(steps, expected);
        assert_eq!(ending, Ending::Succeeded { remarks: vec![] });
    }

    #[test]
    fn whatever_fails_the_workload_is_started_and_the_after_hooks_run() {
        let (all, _) = play(&FULL, |_| Outcome::Done);
        for broken in all {
            for outcome in [Outcome::Failed("broken".into()), Outcome::Interrupted] {
                let (steps, ending) = play(&FULL, |step| if step == broken { outcome.clone() } else { Outcome::Done });
                let stopped = steps.iter().position(|step| *step == Step::Stop);
                let started = steps.iter().rposition(|step| *step == Step::Start);
                assert_eq!(stopped.is_some(), started.is_some(), "{broken:?}: {steps:?}");
                assert!(steps.contains(&Step::HookAfter(0)), "{broken:?}: {steps:?}");
                let harmless = matches!(broken, Step::HookAfter(_) | Step::Cleanup);
                match ending {
                    Ending::Succeeded { remarks } => {
                        assert!(harmless, "{broken:?}");
                        assert_eq!(remarks.len(), 1);
                    }
                    Ending::Failed { reason: _, recorded, interrupted } => {
                        assert!(!harmless, "{broken:?}");
                        assert_eq!(interrupted, !recorded && outcome == Outcome::Interrupted, "{broken:?}");
                        assert_eq!(recorded, broken == Step::Start, "{broken:?}");
                    }
                }
                let recorded_before_capture_failed =
                    matches!(broken, Step::HookBefore(_) | Step::Stop | Step::Capture(_) | Step::Copy(_))
                        && steps.contains(&Step::Record);
                assert!(!recorded_before_capture_failed, "{broken:?}: {steps:?}");
            }
        }
    }

    #[test]
    fn a_failing_hook_before_the_capture_copies_nothing() {
        let (steps, ending) = play(&FULL, |step| {
            if matches!(step, Step::HookBefore(_)) {
                Outcome::Failed("hook 1 ended with 3".into())
            } else {
                Outcome::Done
            }
        });
        assert_eq!(steps, [Step::HookBefore(0), Step::HookAfter(0)]);
        assert_eq!(
            ending,
            Ending::Failed { reason: "hook 1 ended with 3".into(), recorded: false, interrupted: false }
        );
    }

    #[test]
    fn a_start_that_fails_once_is_tried_again() {
        let mut tries = 0;
        let (steps, ending) = play(&FULL, |step| {
            tries += usize::from(step == Step::Start);
            if step == Step::Start && tries == 1 { Outcome::Failed("busy".into()) } else { Outcome::Done }
        });
        assert_eq!(steps.iter().filter(|step| **step == Step::Start).count(), 2);
        assert_eq!(ending, Ending::Succeeded { remarks: vec![] });
    }
}
