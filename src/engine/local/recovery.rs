//! Recovery: runs and restores whose process is gone are brought to their end, and workloads that they stopped are
//! started again. Who is gone is told by identity, never by age.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};

use super::{
    context::{Context, WorkError},
    process::ProcessIdentity,
    runner::{self, finish},
    state::{runs::StoredRun, stopped::StoppedWorkload},
};
use crate::{
    policy::PolicyName,
    run::{
        Phase, SourceReport,
        machine::{self, Journal, Next, Outcome, Step},
    },
};

/// How often a guard tries to start a workload whose start command fails.
const BETWEEN_ATTEMPTS: SignedDuration = SignedDuration::from_secs(60);
/// How many policies are recovered at once: many start commands may hang, each until its own limit.
const AT_ONCE: usize = 64;

/// What a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Runs that were ended, and why.
    pub ended: Vec<(PolicyName, String)>,
    /// Policies whose workload was started again.
    pub started: Vec<PolicyName>,
    /// Policies whose workload is still stopped, and why.
    pub still_stopped: Vec<(PolicyName, String)>,
}

/// Recovers everything.
///
/// # Errors
/// The state cannot be used.
pub async fn recover(context: &Context, now: Timestamp) -> Result<Recovered, WorkError> {
    recover_policy(context, None, now).await
}

/// Recovers one policy, or everything. Nothing to do: nothing is written. Policies are recovered side by side: a start
/// command that hangs keeps no other workload down.
///
/// # Errors
/// The state cannot be used.
pub async fn recover_policy(
    context: &Context,
    only: Option<&PolicyName>,
    now: Timestamp,
) -> Result<Recovered, WorkError> {
    let concerns = |policy: &PolicyName| only.is_none_or(|only| only == policy);
    let mut policies: BTreeMap<PolicyName, Vec<StoredRun>> = BTreeMap::new();
    let under_way = context.state.runs_under_way()?;
    for run in under_way.into_iter().filter(|run| concerns(&run.report.policy) && !context.state.is_alive(&run.process))
    {
        match run.report.phase {
            Phase::Pending => {
                // Announced, but its process never began: the scheduled time is still due.
                let before = run.report.scheduled_at - SignedDuration::from_nanos(1);
                context.state.withdraw_announcement(&run.report, before)?;
            }
            Phase::Running | Phase::Succeeded | Phase::Failed => {
                policies.entry(run.report.policy.clone()).or_default().push(run);
            }
        }
    }
    // Before anything is started: what writes for a restore that is gone must not write on.
    context.state.end_abandoned()?;
    let mut recovered = fail_restores(context, &concerns, now)?;
    for workload in context.state.stopped_workloads()?.into_iter().filter(|workload| concerns(&workload.policy)) {
        policies.entry(workload.policy).or_default();
    }
    let each = policies.into_iter().map(|(policy, runs)| recover_one(context, policy, runs, now));
    let mut results = stream::iter(each).buffer_unordered(AT_ONCE);
    let mut failure = None;
    while let Some(result) = results.next().await {
        match result {
            Ok(Recovered { ended, started, still_stopped }) => {
                recovered.ended.extend(ended);
                recovered.started.extend(started);
                recovered.still_stopped.extend(still_stopped);
            }
            // The others are recovered all the same.
            Err(error) => failure = Some(error),
        }
    }
    let Recovered { ended, started, still_stopped } = &mut recovered;
    ended.sort();
    started.sort();
    still_stopped.sort();
    failure.map_or(Ok(recovered), Err)
}

/// Fails restores that had begun and whose process is gone. One that did not begin is taken up by the engine, see
/// `restoring::take_up`.
fn fail_restores(
    context: &Context,
    concerns: &dyn Fn(&PolicyName) -> bool,
    now: Timestamp,
) -> Result<Recovered, WorkError> {
    let mut recovered = Recovered::default();
    for restore in context.state.restores_under_way()? {
        let of_policy = restore.document.spec.policy.parse().is_ok_and(|policy| concerns(&policy));
        if restore.report.phase == Phase::Pending || !of_policy || context.state.is_alive(&restore.process) {
            continue;
        }
        let mut report = restore.report;
        report.phase = Phase::Failed;
        report.finished_at = Some(now);
        report.message =
            "the restore's process went away before it was done; what it wrote so far is there. Change the \
                          Restore document (for example its name) to try again"
                .to_owned();
        context.state.update_restore(&restore.name, &restore.content, &report, &restore.process, now)?;
        recovered.ended.push((restore.name, report.message));
    }
    Ok(recovered)
}

/// Ends the runs of one policy whose processes are gone, and starts its workload.
async fn recover_one(
    context: &Context,
    policy: PolicyName,
    gone: Vec<StoredRun>,
    now: Timestamp,
) -> Result<Recovered, WorkError> {
    let mut recovered = Recovered::default();
    for run in gone {
        // One run that cannot be ended (a full disk, for example) keeps no workload down.
        match end_once(context, run, now).await {
            Ok(Ending::Ended(message)) => recovered.ended.push((policy.clone(), message)),
            Ok(Ending::Over) => {}
            Ok(Ending::UnderWay(holder)) => {
                recovered.still_stopped.push((policy.clone(), format!("{holder} is ending its last run")));
            }
            Err(error) => {
                tracing::error!(%policy, reason = error.chain(), "a run that is gone cannot be ended")
            }
        }
    }
    if !recovered.still_stopped.is_empty() {
        return Ok(recovered);
    }
    for workload in context.state.stopped_workloads()?.into_iter().filter(|workload| workload.policy == policy) {
        let waits = |at: Timestamp| now >= at && now.duration_since(at) < BETWEEN_ATTEMPTS;
        if context.state.is_alive(&workload.process) || workload.attempted_at.is_some_and(waits) {
            continue;
        }
        match wake(context, &workload, now).await? {
            Ok(()) => recovered.started.push(workload.policy),
            Err(reason) => recovered.still_stopped.push((workload.policy, reason)),
        }
    }
    Ok(recovered)
}

/// What came of the wish to end a run whose process is gone.
enum Ending {
    /// It was ended here; its message.
    Ended(String),
    /// Another guard has ended it meanwhile.
    Over,
    /// Another guard is ending it.
    UnderWay(ProcessIdentity),
}

/// Ends a run whose process is gone, unless another guard does: two at once would carry out its last hooks twice.
async fn end_once(context: &Context, run: StoredRun, now: Timestamp) -> Result<Ending, WorkError> {
    let policy = &run.report.policy;
    let _lease = match context.state.lease(&format!("recover:{policy}"), now) {
        Ok(Ok(lease)) => Some(lease),
        Ok(Err(holder)) => return Ok(Ending::UnderWay(holder)),
        // Ending it twice is better than leaving a workload down because nothing can be written.
        Err(error) => {
            tracing::error!(%policy, reason = crate::engine::chain(&error), "ending a run without a lease");
            None
        }
    };
    let still = context.state.runs_under_way()?.into_iter().find(|other| {
        (&other.report.policy, &other.report.id) == (policy, &run.report.id) && other.process == run.process
    });
    match still {
        Some(run) => Ok(Ending::Ended(end(context, run, now).await?)),
        None => Ok(Ending::Over),
    }
}

/// Brings a run whose process is gone to its end: the same machine, with the open step interrupted.
async fn end(context: &Context, run: StoredRun, now: Timestamp) -> Result<String, WorkError> {
    let StoredRun { mut report, process: _, child } = run;
    // Its mover or hook may have survived it, and must not write on.
    if let Some(child) = child {
        child.kill_tree();
    }
    let (policy, id) = (report.policy.clone(), report.id.clone());
    let mut journal = context.state.journal(&policy, &id)?;
    conclude_interrupted(context, &policy, &id, &mut journal)?;
    let stored = context.state.policy(&policy)?;
    let knowing = stored.as_ref().map(|stored| context.knowing(&stored.compiled));
    let confidential = &knowing.as_ref().unwrap_or(context).confidential;
    let shape = stored.as_ref().map(|stored| runner::shape(&stored.compiled)).unwrap_or_default();
    let workload = context.state.stopped_workloads()?.into_iter().find(|workload| workload.policy == policy);
    loop {
        let step = match machine::next(&shape, &journal) {
            Next::Do(step) => step,
            Next::End(ending) => {
                finish(&mut report, ending, now);
                break;
            }
        };
        let outcome = match step {
            Step::Start => {
                context.state.intend(&policy, &id, step, None, now)?;
                journal.intend(step);
                let result = match &workload {
                    Some(workload) => runner::start(workload, confidential).await,
                    None => Ok(()),
                };
                result.map_or_else(Outcome::Failed, |()| Outcome::Done)
            }
            Step::HookAfter(index) => {
                context.state.intend(&policy, &id, step, None, now)?;
                journal.intend(step);
                let after = stored.as_ref().and_then(|stored| stored.compiled.document.spec.hooks.after.get(index));
                let result = match after {
                    Some(after) => runner::hook(after, "after", index, confidential, None).await,
                    None => Ok(()),
                };
                result.map_or_else(Outcome::Failed, |()| Outcome::Done)
            }
            // Nothing more is captured or recorded for a process that is gone; the snapshots that it left are
            // forgotten by the next cleanup, and marks are made by it, too.
            Step::HookBefore(_)
            | Step::Stop
            | Step::Capture(_)
            | Step::Copy(_)
            | Step::Check
            | Step::Record
            | Step::Cleanup => {
                context.state.intend(&policy, &id, step, None, now)?;
                journal.intend(step);
                Outcome::Interrupted
            }
        };
        context.state.conclude(&policy, &id, step, &outcome)?;
        journal.conclude(outcome);
    }
    SourceReport::fail_running(&mut report.sources, Some("the run's process went away"));
    context.state.end_run(&report, now)?;
    tracing::warn!(%policy, run = %id, "{}", report.message);
    Ok(report.message)
}

/// The open step of a dead process. Recording happens in one transaction, so whether it happened can be looked up.
fn conclude_interrupted(
    context: &Context,
    policy: &PolicyName,
    id: &crate::restore_point::RestorePointId,
    journal: &mut Journal,
) -> Result<(), WorkError> {
    let Some(step) = journal.open_step() else { return Ok(()) };
    let recorded = step == Step::Record && context.state.points(policy)?.iter().any(|point| point.point.id == *id);
    let outcome = if recorded { Outcome::Done } else { Outcome::Interrupted };
    context.state.conclude(policy, id, step, &outcome)?;
    journal.conclude(outcome);
    Ok(())
}

/// Starts a workload that nobody else will start.
async fn wake(context: &Context, workload: &StoppedWorkload, now: Timestamp) -> Result<Result<(), String>, WorkError> {
    // Two guards at once (a daemon and a run) start it once.
    let name = format!("wake:{}", workload.policy);
    let _lease = match context.state.lease(&name, now) {
        Ok(Ok(lease)) => Some(lease),
        Ok(Err(holder)) => return Ok(Err(format!("{holder} is starting it"))),
        // Starting it twice is better than leaving it down because nothing can be written.
        Err(error) => {
            tracing::error!(policy = %workload.policy, reason = crate::engine::chain(&error), "starting without a lease");
            None
        }
    };
    let still = context.state.stopped_workloads()?.into_iter().any(|other| {
        other.policy == workload.policy && other.process == workload.process && !context.state.is_alive(&other.process)
    });
    if !still {
        return Ok(Ok(()));
    }
    if let Err(error) = context.state.set_start_attempt(&workload.policy, now) {
        tracing::error!(policy = %workload.policy, reason = crate::engine::chain(&error), "the attempt cannot be noted");
    }
    let stored = context.state.policy(&workload.policy)?;
    let knowing = stored.map(|stored| context.knowing(&stored.compiled));
    let result = runner::start(workload, &knowing.as_ref().unwrap_or(context).confidential).await;
    if result.is_ok() {
        context.state.remove_stopped(workload)?;
        tracing::warn!(policy = %workload.policy, "started the workload that {} had left stopped", workload.owner);
    }
    Ok(result)
}
