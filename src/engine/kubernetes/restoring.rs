//! Restoring, in the pod of a Job of its own: from a restore point to claims and databases.
//!
//! Everything that can be refused is refused before anything is written. A claim in place is not written into: a new
//! volume is filled beside it while the workload still runs, then takes its place, and the former volume is kept until
//! the workload is ready on the new one. So a failure at any step, and a pod that is gone at any step, leave or bring
//! back what was there: see [`undo`].

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    access, guard,
    labels::{self, Kind},
    manifests::{mover::MoverJob, snapshot::Identity},
    movers, names,
    runner::quiesce::{Started, Workload, WorkloadError},
    site::{Site, SiteError},
    store::{RestoreRecord, StoppedWorkload},
};
use crate::{
    actual::RestoreReport,
    engine::{
        local::{runner::Notice, state::places::PlaceRecord, test_pause::pause_at_point},
        movers::Bounds,
    },
    mover::job::{Job, Task},
    policy::PolicyName,
    run::{Phase, SourceReport, to_millisecond},
};

pub mod ask;
mod borrowed;
mod choice;
mod databases;
pub mod download;
mod fill;
mod load;
mod prepare;
pub mod undo;
mod volumes;

use prepare::{Destination, Item, Way};
pub use prepare::{Prepared, prepare};

/// How long a restore may take.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a restore in place waits for a run of its policy to end, and how often it looks.
const LEASE_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// See [`LEASE_WITHIN`].
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// How long a restore bears that nothing can be written down: the API server is away.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often it tries.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// How long a workload may take to be ready on what was restored.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// For tests: a shorter limit, in seconds.
const READY_VARIABLE: &str = "MAINSTAY_RESTORE_READY_SECONDS";

/// Carries an announced restore out to its end. One that another pod began and left is put back, and ended.
///
/// # Errors
/// It is not known, or the cluster does not answer. A restore that fails is a report.
pub async fn carry_out(
    site: &Site,
    name: &PolicyName,
    content: &str,
    notice: &mut dyn FnMut(Notice),
) -> Result<RestoreReport, SiteError> {
    let record = site.store.restore(name, content).await?.ok_or_else(|| unknown(name, content))?;
    if record.report.finished_at.is_some() {
        return Ok(record.report);
    }
    let lease_name = match record.is_in_place() {
        true => names::policy_lease(&record.policy),
        // One elsewhere is in nobody's way; its lease only tells who writes for it.
        false => record.mark(),
    };
    let until = Instant::now() + LEASE_WITHIN;
    let lease = loop {
        match site.leases.take(&lease_name, &site.pod, Timestamp::now()).await? {
            Ok(lease) => break lease,
            Err(holder) if Instant::now() >= until => {
                let mut record = record;
                let hours = LEASE_WITHIN.as_secs() / 3600;
                let policy = &record.policy;
                let reason = format!("a run or another restore of {policy} was under way for {hours} hours ({holder})");
                end(&mut record, Phase::Failed, format!("nothing was written: {reason}"));
                site.store.end_restore(&record, Timestamp::now()).await?;
                return Ok(record.report);
            }
            Err(holder) => {
                notice(Notice::Step(format!("wait for {holder}, which works on {}", record.policy)));
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
    };
    // While this pod waited, another one may have carried it out, or taken it back.
    let result = match site.store.restore(name, content).await {
        Ok(Some(record)) if record.report.finished_at.is_some() => Ok(record.report),
        Ok(Some(record)) => with_lease(site, record, notice).await,
        Ok(None) => Err(unknown(name, content)),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = lease.release().await {
        tracing::debug!(restore = %name, "a lease was not given back; it ends with this pod: {error}");
    }
    result
}

fn unknown(name: &PolicyName, content: &str) -> SiteError {
    SiteError::Refused(format!("no restore {name} with content {content} was asked for; see `mainstay status`"))
}

async fn with_lease(
    site: &Site,
    record: RestoreRecord,
    notice: &mut dyn FnMut(Notice),
) -> Result<RestoreReport, SiteError> {
    let (name, content) = (record.name.clone(), record.content.clone());
    if let Some(pod) = &record.pod {
        let gone = *pod == site.pod || guard::is_gone(site, pod, Timestamp::now()).await?;
        return match gone {
            false => Err(SiteError::Refused(format!("the restore {name} is under way in {pod}"))),
            true => undo::recover(site, record, Timestamp::now()).await,
        };
    }
    if record.is_in_place() {
        let recovered = guard::recover_policy(site, &record.policy, Timestamp::now()).await?;
        if let Some((_, reason)) = recovered.still_stopped.first() {
            return Err(SiteError::Refused(format!("a workload is still stopped from before: {reason}")));
        }
    }
    let own = site.pod.clone();
    let begun = site.store.change_restore(&name, &content, |known| {
        let is_free = known.is_pending();
        if is_free {
            known.pod = Some(own.clone());
            known.report.phase = Phase::Running;
            known.report.started_at = to_millisecond(Timestamp::now());
            known.report.message = "under way".to_owned();
        }
        is_free.then(|| known.clone())
    });
    let Some(mut record) = begun.await? else {
        return Err(SiteError::Refused(format!("the restore {name} was begun by another pod just now")));
    };
    let prepared = match prepare(site, &record.policy, &record.spec, record.upload.as_deref()).await {
        Ok(prepared) => prepared,
        // The cluster is away: nothing was done, so another pod may begin.
        Err(error) if error.may_pass() => {
            let given_back = site.store.change_restore(&name, &content, |known| {
                known.pod = None;
                known.report.phase = Phase::Pending;
            });
            given_back.await?;
            return Err(error);
        }
        Err(error) => {
            end(&mut record, Phase::Failed, format!("nothing was written: {}", error.chain()));
            site.store.end_restore(&record, Timestamp::now()).await?;
            return Ok(record.report);
        }
    };
    record.report.restore_point = prepared.point.as_ref().map(|point| point.point.id.clone());
    record.report.sources = prepared.items.iter().map(Item::report).collect();
    let bounds = Bounds::within(LIMIT, site.stop.clone());
    Restoring { site, record, prepared, bounds }.carry_out(notice).await
}

/// Writes the end of a restore into its report.
fn end(record: &mut RestoreRecord, phase: Phase, message: String) {
    record.report.phase = phase;
    record.report.message = message;
    record.report.finished_at = Some(to_millisecond(Timestamp::now()));
    SourceReport::fail_running(&mut record.report.sources, None);
}

/// A restore under way.
struct Restoring<'a> {
    site: &'a Site,
    record: RestoreRecord,
    prepared: Prepared,
    bounds: Bounds,
}

impl Restoring<'_> {
    async fn carry_out(mut self, notice: &mut dyn FnMut(Notice)) -> Result<RestoreReport, SiteError> {
        match self.steps(notice).await {
            Ok(()) => {
                self.record.proven = true;
                self.save().await?;
                undo::settle(self.site, &self.record).await?;
                let mut message = match &self.record.report.restore_point {
                    Some(point) => format!("restore point {point} was restored"),
                    None => "the archive was unpacked".to_owned(),
                };
                let kept = undo::kept(&self.record).join(", ");
                if !kept.is_empty() {
                    message.push_str(&format!(
                        "; {}, so what was there before stays in the volume {kept}: delete that when you are sure",
                        undo::unproven(&self.record)
                    ));
                }
                end(&mut self.record, Phase::Succeeded, message);
            }
            Err(reason) => {
                notice(Notice::Step(format!("put back what was there: {reason}")));
                let lost = undo::put_back(self.site, &mut self.record).await?;
                let message = format!("{reason}; {}", undo::told(&self.record, &lost));
                end(&mut self.record, Phase::Failed, message);
            }
        }
        self.site.store.end_restore(&self.record, Timestamp::now()).await?;
        Ok(self.record.report)
    }

    async fn steps(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        self.save().await.map_err(|error| error.chain())?;
        for index in 0..self.prepared.items.len() {
            if matches!(self.prepared.items[index].destination, Destination::Claim(_)) {
                self.item(index, notice).await?;
            }
        }
        pause_at_point("fill:done");
        self.stop(notice).await?;
        pause_at_point("restoreStop:done");
        for index in 0..self.prepared.items.len() {
            if matches!(self.prepared.items[index].destination, Destination::Programs { .. }) {
                self.item(index, notice).await?;
            }
        }
        pause_at_point("load:done");
        self.swap(notice).await?;
        pause_at_point("swap:done");
        self.start(notice).await
    }

    /// Restores one part and tells how it went.
    async fn item(&mut self, index: usize, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        self.may_go_on()?;
        let (name, told) = {
            let item = &self.prepared.items[index];
            (item.part.source.clone(), item.told())
        };
        notice(Notice::Step(format!("{name}: {told}")));
        if let Some(report) = self.record.report.sources.get_mut(index) {
            report.phase = Phase::Running;
        }
        self.save().await.map_err(|error| error.chain())?;
        let began = std::time::Instant::now();
        let mut warnings = Vec::new();
        let result = self.one(index, notice, &mut warnings).await;
        let duration_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(report) = self.record.report.sources.get_mut(index) else { return Ok(()) };
        report.duration_milliseconds = duration_milliseconds;
        let result = match result {
            Ok(restored) => {
                report.phase = Phase::Succeeded;
                report.message = crate::engine::movers::told(warnings);
                if let Some((files, bytes)) = restored {
                    (report.files, report.size_bytes) = (files, bytes);
                }
                Ok(())
            }
            Err(error) => {
                let reason = error.chain();
                report.phase = Phase::Failed;
                report.message = Some(reason.clone());
                Err(format!("source {name} was not restored: {reason}"))
            }
        };
        self.save().await.map_err(|error| error.chain())?;
        result
    }

    async fn one(
        &mut self,
        index: usize,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, u64)>, SiteError> {
        let item = &self.prepared.items[index];
        match &item.destination {
            Destination::Claim(to) => match &to.way {
                Way::Fill { overwrite, node, tolerations } => {
                    let mut mover = self.mover(index, &to.namespace);
                    (mover.node, mover.tolerations) = (node.clone(), tolerations.clone());
                    self.fill(index, to, &to.claim, *overwrite, mover, notice, warnings).await
                }
                Way::Make { .. } => self.make(index, notice, warnings).await,
                Way::Replace { .. } => self.beside(index, notice, warnings).await,
            },
            Destination::Programs { .. } => self.load(index, notice, warnings).await,
        }
    }

    /// Stops what uses the claims, with the count on the workload as runs do it.
    async fn stop(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        self.may_go_on()?;
        if self.prepared.workloads.is_empty() {
            return Ok(());
        }
        notice(Notice::Step("scale the workloads to 0".to_owned()));
        let failed = |error: WorkloadError| format!("stopping the workload failed: {}", SiteError::from(error).chain());
        let (client, namespace) = (self.site.client(), self.record.policy.namespace().to_owned());
        let owner = undo::owner(&self.record);
        for workload in &self.prepared.workloads {
            self.record.stopped.extend(workload.before_stop(client, &namespace, &owner).await.map_err(failed)?);
        }
        self.save().await.map_err(|error| error.chain())?;
        for stopped in &self.record.stopped {
            undo::stop(self.site, stopped, &owner).await.map_err(|error| error.chain())?;
        }
        Ok(())
    }

    /// Gives each claim its new volume.
    async fn swap(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        for index in 0..self.record.swaps.len() {
            self.may_go_on()?;
            let claim = self.record.swaps[index].claim.clone();
            notice(Notice::Step(format!("give claim {claim} its new volume")));
            self.record.swaps[index].begun = true;
            self.save().await.map_err(|error| error.chain())?;
            pause_at_point("swap:intended");
            let swap = &self.record.swaps[index];
            volumes::forward(self.site.client(), swap)
                .await
                .map_err(|error| format!("claim {claim} did not get its new volume: {}", error.chain()))?;
        }
        Ok(())
    }

    /// Starts what was stopped. That it becomes ready is the proof of what was restored.
    async fn start(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        if self.record.stopped.is_empty() {
            return Ok(());
        }
        notice(Notice::Step("scale the workloads back, and wait for them to be ready".to_owned()));
        let owner = undo::owner(&self.record);
        let asked = std::env::var(READY_VARIABLE).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let limit = asked.unwrap_or(READY_WITHIN);
        let mut without_pods = Vec::new();
        for stopped in &self.record.stopped {
            let workload = workload(stopped).map_err(|error| error.to_string())?;
            let started = workload.start(self.site.client(), &stopped.namespace, &owner, limit).await;
            match started.map_err(|error| SiteError::from(error).chain())? {
                Started::Ready => {}
                Started::Without => without_pods.push(workload.to_string()),
            }
        }
        self.record.without_pods = without_pods;
        Ok(())
    }

    /// A restore that was asked to stop begins nothing more.
    fn may_go_on(&self) -> Result<(), String> {
        match self.site.stop.as_ref().is_some_and(|stop| *stop.borrow()) {
            true => Err("the restore was asked to stop".to_owned()),
            false => Ok(()),
        }
    }

    /// Writes the record down. What is not written must not be done, so this tries for long.
    async fn save(&self) -> Result<(), SiteError> {
        let until = Instant::now() + PATIENCE;
        let RestoreRecord { name, content, .. } = &self.record;
        loop {
            let saved = self.site.store.change_restore(name, content, |known| known.clone_from(&self.record)).await;
            match saved {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(restore = %name, "{}", SiteError::from(error).chain());
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
            }
        }
    }

    async fn work(&self, place: &PlaceRecord, task: Task) -> Result<Job, SiteError> {
        let repository = access::repository(self.site.client(), self.site.store.namespace(), place).await?;
        Ok(Job { repository, cache_directory: None, bandwidth_bytes_per_second: None, task })
    }

    fn mover(&self, index: usize, namespace: &str) -> MoverJob {
        self.mover_named(&format!("m{index}"), namespace)
    }

    fn mover_named(&self, suffix: &str, namespace: &str) -> MoverJob {
        let identity = self.identity(&self.object_name(suffix), namespace);
        let mut mover = movers::plain(identity, &self.site.image, &self.bounds);
        if let Some(limits) = &self.prepared.policy.document.spec.limits {
            mover.resources = limits.resources.clone().unwrap_or_default();
        }
        mover
    }

    fn identity(&self, name: &str, namespace: &str) -> Identity {
        let policy = &self.record.policy;
        Identity {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            labels: movers::run_labels(labels::labels(Kind::Mover, Some(policy)), &self.record.mark()),
            annotations: labels::annotations(Some(policy)),
        }
    }

    fn object_name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.record.mark())
    }
}

fn workload(stopped: &StoppedWorkload) -> Result<Workload, WorkloadError> {
    format!("{}/{}", stopped.kind, stopped.name).parse()
}
