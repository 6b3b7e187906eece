//! Carries a run out in the pod of its Job: the steps that [`machine::next`] names, each with its intent in the run's
//! record first.
//!
//! The pod may go at any moment. Its Job then starts another one, which finds the record, leads the run to its end and
//! starts what was stopped; so does the next run of the policy, and the daemon. See [`super::guard`].

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    cleanup::{self, Extent},
    guard, names,
    site::{Site, SiteError},
    store::{Begun, RunRecord, StoppedWorkload},
};
use crate::{
    engine::{
        local::{
            runner::{Notice, RunEnd, RunRequest, finish},
            state::{
                places::{PlaceRecord, fresh_maker, fresh_suffix},
                points::StoredPart,
            },
            test_pause::pause_at,
        },
        movers::Bounds,
    },
    policy::{
        CompiledPolicy, PolicyName,
        document::backup_policy::{Consistency, Hook},
    },
    restore_point::{MakerId, RestorePointId},
    run::{
        Phase, RunReport,
        machine::{self, Ending, Journal, Next, Outcome, Shape, Step},
        to_millisecond,
    },
};

pub mod admission;
pub mod capture;
pub mod claims;
pub mod hooks;
mod pieces;
mod prunes;
pub mod quiesce;
mod record;
pub mod snapshots;
mod workloads;

use pieces::Pieces;
pub use workloads::start;

/// How long a hook, a stop or a start may take where nothing is said.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a run may take where nothing is said.
const DEFAULT_RUN_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a run bears that nothing can be written down: the API server is away.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often it tries.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// Carries a run out to its end. `job`: the name of the Job that this pod belongs to.
///
/// # Errors
/// There is no such policy, or the cluster does not answer. A run that fails is a result, not an error.
pub async fn run(
    site: &Site,
    request: &RunRequest,
    job: Option<String>,
    notice: &mut dyn FnMut(Notice),
) -> Result<RunEnd, SiteError> {
    let name = &request.policy;
    let policy = site.store.policy(name).await?.ok_or_else(|| no_such_policy(site, name))?;
    let now = to_millisecond(Timestamp::now());
    let mut report = RunReport::begun(name.clone(), request.trigger, request.scheduled_at.unwrap_or(now), now);
    let lease = match site.leases.take(&names::policy_lease(name), &site.pod, now).await? {
        Ok(lease) => lease,
        Err(holder) => {
            // Ended by a pod that is this run's own, or another one.
            let running = site.store.points(name).await?.running;
            let other = match running {
                Some(id) => site.store.run(name, &id).await?,
                None => None,
            };
            return other.map(|other| RunEnd::Adopted(other.report)).ok_or_else(|| {
                SiteError::Refused(format!(
                    "a restore or cleanup of {name} is under way ({holder}); run it again when it is done"
                ))
            });
        }
    };
    let result = async {
        let recovered = guard::recover_policy(site, name, now).await?;
        if let Some((_, reason)) = recovered.still_stopped.first() {
            return Err(SiteError::Refused(format!(
                "a workload of {name} is still stopped from before, so no run begins: {reason}"
            )));
        }
        if request.scheduled_at.is_none() {
            // Two runs by hand in one second are two runs.
            let taken: Vec<RestorePointId> =
                site.store.runs(name).await?.into_iter().map(|run| run.report.id).collect();
            while taken.contains(&report.id) {
                report.scheduled_at += SignedDuration::from_secs(1);
                report.id = RestorePointId::from_time(report.scheduled_at);
            }
        }
        let record = RunRecord::new(report.clone(), site.pod.clone(), job);
        if let Begun::Theirs(known) = site.store.begin_run(&record).await? {
            return Ok(RunEnd::Adopted(known.report));
        }
        let compiled = policy.clone();
        let report = carry_out(site, policy, report, notice).await?;
        crate::engine::local::push::push(&compiled, &report).await;
        Ok(RunEnd::Ended(report))
    }
    .await;
    if let Err(error) = lease.release().await {
        tracing::debug!(policy = %name, "a lease was not given back; it ends with this pod: {error}");
    }
    result
}

/// There is no such policy.
pub fn no_such_policy(site: &Site, policy: &PolicyName) -> SiteError {
    SiteError::Refused(format!(
        "there is no policy {policy} in namespace {}: it is not applied yet, or was withdrawn; see `mainstay status`",
        site.store.namespace()
    ))
}

/// Who stopped a workload, as it stands on the workload.
pub fn owner(policy: &PolicyName, run: &RestorePointId) -> String {
    format!("{policy}/{run}")
}

/// Carries out a hook.
///
/// # Errors
/// In words: it could not be carried out, failed, or took too long.
pub async fn hook(
    site: &Site,
    policy: &PolicyName,
    hook: &Hook,
    when: &str,
    number: usize,
    remaining: Duration,
) -> Result<(), String> {
    let limit = hook.timeout.map_or(DEFAULT_HOOK_TIMEOUT, |timeout| timeout.std());
    // A hook after the capture runs on every path, so a wish to stop does not end it; its own limit does.
    let (limit, stop) = match when {
        "before" => (limit.min(remaining), site.stop.as_ref()),
        _ => (limit, None),
    };
    let failed = |reason: String| format!("hook {} {when} the capture failed: {reason}", number + 1);
    let Some(exec) = &hook.exec else {
        return Err(failed("it names a `command` of a host; on Kubernetes write `exec`".to_owned()));
    };
    let result = hooks::execute(site.client(), policy.namespace(), exec, limit, stop).await;
    result.map_err(|error| failed(SiteError::from(error).chain()))
}

/// A run under way.
pub struct Run<'a> {
    site: &'a Site,
    policy: CompiledPolicy,
    places: Vec<PlaceRecord>,
    pieces: Pieces,
    bounds: Bounds,
    report: RunReport,
    parts: Vec<StoredPart>,
    /// Who makes the snapshots.
    maker: MakerId,
    /// What is stopped, as far as this process knows.
    stopped: Vec<StoppedWorkload>,
    /// When the last claim was begun: the next one is staggered.
    claim_began: Option<(String, Instant)>,
    /// What a person should know.
    remarks: BTreeSet<String>,
    /// The leases that keep prunes of its repositories away.
    capturing: Vec<String>,
}

async fn carry_out(
    site: &Site,
    policy: CompiledPolicy,
    mut report: RunReport,
    notice: &mut dyn FnMut(Notice),
) -> Result<RunReport, SiteError> {
    let limits = policy.document.spec.limits.as_ref();
    let limit = limits.and_then(|limits| limits.timeout).map_or(DEFAULT_RUN_TIMEOUT, |timeout| timeout.std());
    let bounds = Bounds::within(limit, site.stop.clone());
    notice(Notice::Step("look for what is to be captured".to_owned()));
    // Where it goes is settled by the first run after an edit; a policy that was made anew gets a fresh path.
    let settled = site.store.change_points(&policy.name, |record| {
        record.settle_places(&policy, fresh_suffix);
        record.maker.get_or_insert_with(fresh_maker).clone()
    });
    let maker = settled.await?;
    let prepared = match places_in_order(site, &policy).await {
        Ok(places) => Pieces::find(site, &policy, &places).await.map(|pieces| (places, pieces)),
        Err(error) => Err(error),
    };
    let (places, pieces) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            finish(
                &mut report,
                Ending::Failed { reason: error.chain(), recorded: false, interrupted: false },
                Timestamp::now(),
            );
            site.store.end_run(&report, Timestamp::now()).await?;
            return Ok(report);
        }
    };
    report.sources = pieces.reports(&places);
    let mut run = Run {
        site,
        policy,
        places,
        pieces,
        bounds,
        report,
        parts: Vec::new(),
        maker,
        stopped: Vec::new(),
        claim_began: None,
        remarks: BTreeSet::new(),
        capturing: Vec::new(),
    };
    if let Err(reason) = run.keep_prunes_away(notice).await {
        run.let_prunes_in().await;
        finish(&mut run.report, Ending::Failed { reason, recorded: false, interrupted: false }, Timestamp::now());
        site.store.end_run(&run.report, Timestamp::now()).await?;
        return Ok(run.report);
    }
    let result = run.steps(notice).await;
    run.let_prunes_in().await;
    if result.is_err() {
        run.start_regardless().await;
    }
    result
}

impl Run<'_> {
    async fn steps(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<RunReport, SiteError> {
        let spec = &self.policy.document.spec;
        let shape = Shape {
            hooks_before: spec.hooks.before.len(),
            cold: spec.consistency == Consistency::Cold && !self.pieces.workloads.is_empty(),
            captures: self.pieces.captures.len(),
            hooks_after: spec.hooks.after.len(),
            copies: self.pieces.copies.len(),
        };
        let mut journal = Journal::default();
        loop {
            let step = match machine::next(&shape, &journal) {
                Next::Do(step) => step,
                Next::End(ending) => {
                    self.save(&journal).await?;
                    finish(&mut self.report, ending, Timestamp::now());
                    for remark in &self.remarks {
                        self.report.message.push_str(&format!("; {remark}"));
                    }
                    if self.report.phase == Phase::Failed {
                        self.remove_temporary().await;
                    }
                    self.site.store.end_run(&self.report, Timestamp::now()).await?;
                    return Ok(self.report.clone());
                }
            };
            let put_down = match step {
                Step::Stop => self.before_stop().await,
                Step::HookBefore(_)
                | Step::Capture(_)
                | Step::Start
                | Step::HookAfter(_)
                | Step::Copy(_)
                | Step::Check
                | Step::Record
                | Step::Cleanup => Ok(()),
            };
            journal.intend(step);
            self.save(&journal).await?;
            pause_at(step, "intended");
            let result = match put_down {
                Ok(()) => self.carry_out_step(step, notice).await,
                Err(reason) => Err(reason),
            };
            let outcome = result.map_or_else(Outcome::Failed, |()| Outcome::Done);
            if let Outcome::Failed(reason) = &outcome {
                tracing::debug!(policy = %self.policy.name, run = %self.report.id, "{reason}");
            }
            if step == Step::Start && outcome == Outcome::Done {
                self.stopped.clear();
            }
            pause_at(step, "done");
            journal.conclude(outcome);
        }
    }

    /// Writes the journal and the report down. What is not written must not be done, so this tries for long.
    async fn save(&self, journal: &Journal) -> Result<(), SiteError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let saved = self.site.store.change_run(&self.policy.name, &self.report.id, |record| {
                record.set_journal(journal);
                record.report = self.report.clone();
                record.stopped.clone_from(&self.stopped);
            });
            match saved.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(policy = %self.policy.name, "{}", SiteError::from(error).chain());
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
            }
        }
    }

    /// What was captured and never copied is of no use any more. What stays is removed by its label some other time.
    async fn remove_temporary(&self) {
        let (name, run) = (&self.policy.name, &self.report.id);
        if let Err(error) = guard::remove_temporary(self.site, name, run).await {
            tracing::warn!(policy = %name, %run, "{}", error.chain());
        }
    }

    async fn carry_out_step(&mut self, step: Step, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        if !matches!(step, Step::Start | Step::HookAfter(_)) {
            self.may_go_on()?;
        }
        let (site, name) = (self.site, self.policy.name.clone());
        let hooks = &self.policy.document.spec.hooks;
        match step {
            Step::HookBefore(index) => {
                notice(Notice::Step(format!("hook {} before the capture", index + 1)));
                match hooks.before.get(index) {
                    Some(before) => hook(site, &name, before, "before", index, self.remaining()).await,
                    None => Ok(()),
                }
            }
            Step::HookAfter(index) => {
                notice(Notice::Step(format!("hook {} after the capture", index + 1)));
                match hooks.after.get(index) {
                    Some(after) => hook(site, &name, after, "after", index, self.remaining()).await,
                    None => Ok(()),
                }
            }
            Step::Stop => {
                notice(Notice::Step("scale the workloads to 0".to_owned()));
                self.stop().await
            }
            Step::Start => {
                notice(Notice::Step("scale the workloads back".to_owned()));
                self.start().await
            }
            Step::Capture(index) => self.capture(index, notice).await,
            Step::Copy(index) => self.copy(index, notice).await,
            Step::Check => {
                notice(Notice::Step("check what was captured".to_owned()));
                self.check().await.map_err(|error| error.chain())
            }
            Step::Record => {
                notice(Notice::Step(format!("record restore point {}", self.report.id)));
                self.record().await.map_err(|error| error.chain())
            }
            Step::Cleanup => {
                // Everything is captured and recorded, so it may prune.
                self.let_prunes_in().await;
                notice(Notice::Step("apply the retention rules".to_owned()));
                self.clean().await
            }
        }
    }

    /// A run that was asked to stop, or is over its limit, begins nothing more.
    fn may_go_on(&self) -> Result<(), String> {
        if self.site.stop.as_ref().is_some_and(|stop| *stop.borrow()) {
            return Err("the run was asked to stop".to_owned());
        }
        if self.remaining().is_zero() {
            return Err("the run took longer than its limit; raise `limits.timeout`".to_owned());
        }
        Ok(())
    }

    fn remaining(&self) -> Duration {
        self.bounds.deadline.saturating_duration_since(Instant::now())
    }

    async fn clean(&self) -> Result<(), String> {
        let extent = if self.policy.document.spec.cleanup.is_none() { Extent::Whole } else { Extent::Mark };
        let cleaned = cleanup::clean(self.site, &self.policy.name, extent, Timestamp::now(), &self.bounds).await;
        let cleaned = cleaned.map_err(|error| format!("cleanup stopped: {}", error.chain()))?;
        match cleaned.held_up.is_empty() {
            true => Ok(()),
            false => Err(cleaned.held_up.join("; ")),
        }
    }
}

/// The current places of a policy, in the order of its document.
async fn places_in_order(site: &Site, policy: &CompiledPolicy) -> Result<Vec<PlaceRecord>, SiteError> {
    let places = site.store.points(&policy.name).await?.places;
    let of = |document: &std::sync::Arc<crate::policy::document::RepositoryDocument>| {
        let name = &document.metadata.name;
        let place = places.iter().find(|place| place.current && place.repository == *name);
        place.cloned().ok_or_else(|| {
            SiteError::Refused(format!("repository {name} of {} has no place; apply its document again", policy.name))
        })
    };
    policy.repositories.iter().map(of).collect()
}
