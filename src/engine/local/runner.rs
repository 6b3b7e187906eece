//! Carries a run out: the steps that [`machine::next`] names, each with its intent on disk first.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    cleanup::{self, BETWEEN_LOOKS, Extent},
    context::{Context, WorkError},
    movers::{Bounds, Word},
    process::ProcessIdentity,
    recovery,
    repositories::{capture_lease, prune_lease},
    state::{leases::Lease, places::PlaceRecord, points::StoredPart, runs::Begun},
    test_pause::pause_at,
    verifying,
};
use crate::{
    policy::{CompiledPolicy, PolicyName, document::backup_policy::Consistency},
    restore_point::RestorePointId,
    run::{
        RunReport, Trigger,
        machine::{self, Ending, Journal, Next, Outcome, Shape, Step},
        to_millisecond,
    },
};

mod capture;
mod record;
mod report;
mod workload;

pub use report::{Size, chain, finish, first_report};
pub use workload::{hook, start};

/// How long a run may take where nothing is said.
const DEFAULT_RUN_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Which run.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Whose.
    pub policy: PolicyName,
    /// When it was due; none: it is asked for by hand, now.
    pub scheduled_at: Option<Timestamp>,
    /// Why it is started.
    pub trigger: Trigger,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum RunEnd {
    /// It was carried out here.
    Ended(RunReport),
    /// This run, or another one of the policy, is or was carried out by another process.
    Adopted(RunReport),
    /// This run was carried out so long ago that no more than that is known.
    Past(RestorePointId),
}

/// What happens in a run, for whoever looks on.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A step begins.
    Step(String),
    /// A mover says how far it is, or warns.
    Word(String, Word),
}

/// Carries a run out to its end.
///
/// # Errors
/// There is no such policy, or the state cannot be used. A run that fails is a result, not an error.
pub async fn run(context: &Context, request: &RunRequest, notice: &mut dyn FnMut(Notice)) -> Result<RunEnd, WorkError> {
    let stored = context.state.policy(&request.policy)?.ok_or_else(|| no_such_policy(&request.policy))?;
    if stored.withdrawn {
        return Err(WorkError::Refused(format!(
            "policy {} was withdrawn; its restore points can be restored, but it does not run: apply its document again",
            request.policy
        )));
    }
    let context = &context.knowing(&stored.compiled);
    let now = to_millisecond(Timestamp::now());
    let mut report = first_report(&stored.compiled, request, now);
    let lease_name = policy_lease(&request.policy);
    let _lease = match context.state.lease(&lease_name, now)? {
        Ok(lease) => lease,
        Err(holder) => return overlap(context, &report, request, &holder),
    };
    let recovered = recovery::recover_policy(context, Some(&request.policy), now).await?;
    if let Some((_, reason)) = recovered.still_stopped.first() {
        return Err(WorkError::Refused(format!(
            "no run of {} begins before what the last one left is in order: {reason}",
            request.policy
        )));
    }
    if request.scheduled_at.is_none() {
        // Two runs by hand in one second are two runs.
        while context.state.is_taken(&request.policy, &report.id)? {
            report.scheduled_at += jiff::SignedDuration::from_secs(1);
            report.id = RestorePointId::from_time(report.scheduled_at);
        }
    }
    match context.state.begin_run(&report)? {
        Begun::Ours => {}
        Begun::Theirs(report) => return Ok(RunEnd::Adopted(*report)),
        Begun::Past => return Ok(RunEnd::Past(report.id)),
    }
    let limits = stored.compiled.document.spec.limits.as_ref();
    let limit = limits.and_then(|limits| limits.timeout).map_or(DEFAULT_RUN_TIMEOUT, |timeout| timeout.std());
    let mut run = Run {
        context,
        places: places_in_order(context, &stored.compiled)?,
        bounds: Bounds::within(limit, context.stop.clone()),
        policy: stored.compiled,
        report,
        parts: Vec::new(),
        is_stopped: false,
        capturing: Vec::new(),
    };
    let report = match run.carry_out(notice).await {
        Ok(report) => report,
        Err(error) => {
            run.start_regardless().await;
            return Err(error);
        }
    };
    super::push::push(&run.policy, &report).await;
    Ok(RunEnd::Ended(report))
}

/// The lease that makes a policy's runs and restores in place one at a time.
pub fn policy_lease(policy: &PolicyName) -> String {
    format!("policy:{policy}")
}

/// The lease of a restore that waits for a policy's own: the scheduler starts no run of it meanwhile, or a restore could
/// wait for ever.
pub fn waiting_lease(policy: &PolicyName) -> String {
    format!("restore-waits:{policy}")
}

/// There is no such policy.
pub fn no_such_policy(policy: &PolicyName) -> WorkError {
    WorkError::Refused(format!(
        "there is no policy {policy} in this state; see `mainstay status` for those that are, and --state for others"
    ))
}

/// The shape of a policy's runs.
pub fn shape(policy: &CompiledPolicy) -> Shape {
    let spec = &policy.document.spec;
    Shape {
        hooks_before: spec.hooks.before.len(),
        cold: spec.consistency == Consistency::Cold && spec.quiesce.is_some(),
        captures: spec.sources.len() * policy.repositories.len(),
        hooks_after: spec.hooks.after.len(),
        copies: 0,
    }
}

/// A run under way.
pub struct Run<'a> {
    context: &'a Context,
    policy: CompiledPolicy,
    places: Vec<PlaceRecord>,
    bounds: Bounds,
    report: RunReport,
    parts: Vec<StoredPart>,
    /// Whether the workload is stopped, as far as this process knows.
    is_stopped: bool,
    /// What keeps prunes of its repositories away.
    capturing: Vec<Lease<'a>>,
}

impl Run<'_> {
    async fn carry_out(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<RunReport, WorkError> {
        let shape = shape(&self.policy);
        let mut journal = Journal::default();
        let state = &self.context.state;
        if let Err(reason) = self.keep_prunes_away(notice).await {
            let ending = Ending::Failed { reason, recorded: false, interrupted: false };
            finish(&mut self.report, ending, Timestamp::now());
            state.end_run(&self.report, Timestamp::now())?;
            return Ok(self.report.clone());
        }
        loop {
            let step = match machine::next(&shape, &journal) {
                Next::Do(step) => step,
                Next::End(ending) => {
                    finish(&mut self.report, ending, Timestamp::now());
                    state.end_run(&self.report, Timestamp::now())?;
                    return Ok(self.report.clone());
                }
            };
            let (name, id) = (&self.policy.name, &self.report.id);
            let stopping = (step == Step::Stop).then(|| self.workload()).flatten();
            state.intend(name, id, step, stopping.as_ref(), Timestamp::now())?;
            self.is_stopped |= stopping.is_some();
            journal.intend(step);
            pause_at(step, "intended");
            let outcome = match self.carry_out_step(step, notice).await {
                Ok(()) => Outcome::Done,
                Err(reason) => {
                    tracing::debug!(policy = %self.policy.name, run = %self.report.id, "{reason}");
                    Outcome::Failed(reason)
                }
            };
            if step == Step::Start && outcome == Outcome::Done {
                self.is_stopped = false;
            }
            pause_at(step, "done");
            state.conclude(&self.policy.name, &self.report.id, step, &outcome)?;
            journal.conclude(outcome);
        }
    }

    async fn carry_out_step(&mut self, step: Step, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let (spec, confidential) = (&self.policy.document.spec, &self.context.confidential);
        if !matches!(step, Step::Start | Step::HookAfter(_)) {
            self.may_go_on()?;
        }
        match step {
            Step::HookBefore(index) => {
                notice(Notice::Step(format!("hook {} before the capture", index + 1)));
                match spec.hooks.before.get(index) {
                    Some(before) => hook(before, "before", index, confidential, Some(self)).await,
                    None => Ok(()),
                }
            }
            Step::HookAfter(index) => {
                notice(Notice::Step(format!("hook {} after the capture", index + 1)));
                match spec.hooks.after.get(index) {
                    Some(after) => hook(after, "after", index, confidential, Some(self)).await,
                    None => Ok(()),
                }
            }
            Step::Stop => {
                notice(Notice::Step("stop the workload".to_owned()));
                self.stop().await
            }
            Step::Start => {
                notice(Notice::Step("start the workload again".to_owned()));
                match self.workload() {
                    Some(workload) => start(&workload, confidential).await,
                    None => Ok(()),
                }
            }
            Step::Capture(index) => self.capture(index, notice).await,
            // There are no volume snapshots on one host; its shape has no such step.
            Step::Copy(_) => Ok(()),
            Step::Check => {
                notice(Notice::Step("check what was captured".to_owned()));
                self.check().await.map_err(|error| error.chain())
            }
            Step::Record => {
                notice(Notice::Step(format!("record restore point {}", self.report.id)));
                self.record().map_err(|error| error.chain())
            }
            Step::Cleanup => {
                // Everything is captured and recorded, so it may prune.
                self.capturing.clear();
                notice(Notice::Step("apply the retention rules".to_owned()));
                self.clean(notice).await
            }
        }
    }

    /// A run that was asked to stop, or is over its limit, begins nothing more.
    fn may_go_on(&self) -> Result<(), String> {
        if self.context.stop.as_ref().is_some_and(|stop| *stop.borrow()) {
            return Err("the run was asked to stop".to_owned());
        }
        if self.remaining().is_zero() {
            return Err("the run took longer than its limit; raise `limits.timeout`".to_owned());
        }
        Ok(())
    }

    /// Waits until no repository of the policy is being pruned, and keeps prunes away from then on: before anything is
    /// stopped, because a prune may take long.
    async fn keep_prunes_away(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let context = self.context;
        for place in &self.places {
            let (name, excluded) = (capture_lease(place, &self.policy.name), prune_lease(place));
            let lease = loop {
                let taken = context.state.lease_unless(&name, Some(&excluded), Timestamp::now());
                let holder = match taken.map_err(|error| crate::engine::chain(&error))? {
                    Ok(lease) => break lease,
                    Err(holder) => holder,
                };
                let waits = format!("repository {} is being pruned (process {})", place.repository, holder.pid);
                self.may_go_on().map_err(|reason| format!("{reason}; {waits}"))?;
                notice(Notice::Step(format!("wait: {waits}")));
                tokio::time::sleep(BETWEEN_LOOKS).await;
            };
            self.capturing.push(lease);
        }
        Ok(())
    }

    fn remaining(&self) -> Duration {
        self.bounds.deadline.saturating_duration_since(tokio::time::Instant::now())
    }

    fn remember_child(&self, child: Option<&ProcessIdentity>) {
        if let Err(error) = self.context.state.set_child(&self.policy.name, &self.report.id, child) {
            tracing::warn!("{}", chain("the state does not know the child process of this run", &error));
        }
    }

    async fn clean(&self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let spec = &self.policy.document.spec;
        let extent = if spec.cleanup.is_none() { Extent::Whole } else { Extent::Mark };
        let name = &self.policy.name;
        let cleaned = cleanup::clean(self.context, name, extent, Timestamp::now(), &self.bounds).await;
        let cleaned = cleaned.map_err(|error| format!("cleanup stopped: {}", error.chain()))?;
        if let Some(verify) = spec.verify.as_ref().filter(|verify| verify.schedule.is_none()) {
            notice(Notice::Step("verify the repositories".to_owned()));
            let percent = verifying::percent(verify.read_data.as_deref());
            let hear = |repository: &str, word: Word| notice(Notice::Word(repository.to_owned(), word));
            let now = Timestamp::now();
            let results = verifying::verify(self.context, name, None, percent, now, &self.bounds, hear).await;
            let results = results.map_err(|error| format!("verification stopped: {}", error.chain()))?;
            if let Some((repository, problem)) =
                results.into_iter().find_map(|result| Some((result.repository, result.problem?)))
            {
                return Err(format!("repository {repository} did not pass verification: {problem}"));
            }
        }
        match cleaned.held_up.is_empty() {
            true => Ok(()),
            false => Err(cleaned.held_up.join("; ")),
        }
    }
}

/// The current places of a policy, in the order of its document.
fn places_in_order(context: &Context, policy: &CompiledPolicy) -> Result<Vec<PlaceRecord>, WorkError> {
    let places = context.state.places(&policy.name)?;
    policy
        .repositories
        .iter()
        .map(|document| {
            let name = &document.metadata.name;
            let place = places.iter().find(|place| place.current && place.repository == *name);
            place.cloned().ok_or_else(|| {
                WorkError::Refused(format!(
                    "repository {name} of {} has no place; apply its document again",
                    policy.name
                ))
            })
        })
        .collect()
}

/// Another run or restore of the policy is under way: one at a time.
fn overlap(
    context: &Context,
    report: &RunReport,
    request: &RunRequest,
    holder: &ProcessIdentity,
) -> Result<RunEnd, WorkError> {
    let under_way = context.state.runs_under_way()?;
    let other = under_way.into_iter().find(|run| run.report.policy == request.policy && run.process == *holder);
    if let (Some(scheduled_at), true) =
        (request.scheduled_at, other.as_ref().is_some_and(|other| other.report.id != report.id))
    {
        // Announced for this process, and skipped: the scheduled time is dealt with by the run that is under way.
        context.state.withdraw_announcement(report, scheduled_at)?;
    }
    match other {
        Some(other) => Ok(RunEnd::Adopted(other.report)),
        None => Err(WorkError::Refused(format!(
            "a restore of {} is under way ({holder}); start the run again when it is done",
            request.policy
        ))),
    }
}
