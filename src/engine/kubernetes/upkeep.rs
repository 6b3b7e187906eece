//! What the daemon does besides applying: freezing every schedule, and cleaning up what withdrawn policies left.

use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, api::PostParams};

use super::{
    KubernetesEngine,
    manifests::{cron_job, policy},
    names,
    objects::failed,
    store::{Limits, PointsRecord, is, post},
};
use crate::{
    engine::{EngineError, ScheduleTurn, local::state::points::grace_seconds},
    policy::{CompiledPolicy, document::SettingsSpec},
    restore_point::RestorePointId,
};

impl KubernetesEngine {
    /// Suspends every schedule, or lets them go on. Run pods need no daemon, so the freeze must stand in their CronJobs.
    pub(super) async fn freeze(&self, frozen: bool) -> Result<(), EngineError> {
        let policies = {
            let mut index = self.shared.look();
            if !index.is_ready() || index.installation().image.is_none() {
                return Ok(());
            }
            index.set_frozen(frozen);
            index.frozen_otherwise(frozen)
        };
        for policy in policies {
            let installation = self.shared.look().installation().clone();
            for manifest in policy::of(&policy, &installation) {
                self.apply(&manifest, &policy.name).await?;
            }
            tracing::info!(policy = %policy.name, frozen, "its schedules were set to what Settings.freeze says");
        }
        Ok(())
    }

    /// Tells run pods what the settings say, where they look for it. What was told already is not told again.
    pub(super) async fn tell_limits(&self, settings: &SettingsSpec) -> Result<(), EngineError> {
        let limits = Limits { freeze: settings.freeze, runs: settings.concurrency.runs };
        let known = || self.told_limits.lock().unwrap_or_else(PoisonError::into_inner);
        if known().as_ref() == Some(&limits) || self.shared.look().installation().image.is_none() {
            return Ok(());
        }
        self.may_write(|| "writing what the settings say to runs".to_owned())?;
        self.store.set_limits(&limits).await?;
        *known() = Some(limits);
        Ok(())
    }

    /// Starts the cleanup of withdrawn policies whose marked points have had their grace time.
    pub(super) async fn clean_withdrawn(
        &self,
        now: Timestamp,
        settings: &SettingsSpec,
    ) -> Result<ScheduleTurn, EngineError> {
        let mut turn = ScheduleTurn::default();
        let installation = self.shared.look().installation().clone();
        if settings.freeze || installation.image.is_none() {
            return Ok(turn);
        }
        let due: Vec<(CompiledPolicy, Timestamp)> = {
            let index = self.shared.look();
            let withdrawn = index.all_points().filter(|record| index.compiled(&record.policy).is_none());
            withdrawn.filter_map(|record| cleanup_due(record)).collect()
        };
        for (policy, at) in due {
            if at > now {
                turn.next_due = Some(turn.next_due.map_or(at, |known| known.min(at)));
                continue;
            }
            // Once an hour at most: one that is held up is tried again.
            let hour = Timestamp::from_second(now.as_second() / 3600 * 3600).unwrap_or(now);
            let name = names::cleanup_job(&policy.name, &RestorePointId::from_time(hour));
            if self.create_job(&name, &cron_job::cleanup_now(&policy, &name, &installation)).await? {
                turn.maintenance.push((policy.name, "cleanup".to_owned()));
            }
        }
        Ok(turn)
    }

    /// Creates a Job. False: it is there already.
    pub(super) async fn create_job(&self, name: &str, job: &serde_json::Value) -> Result<bool, EngineError> {
        self.may_write(|| format!("creating Job {name}"))?;
        let job: Job = serde_json::from_value(job.clone()).map_err(|error| EngineError::Permanent {
            operation: format!("creating Job {name}"),
            hint: "this is a defect of Mainstay, please report it".to_owned(),
            source: Some(error.into()),
        })?;
        let parameters: PostParams = post();
        let api: Api<Job> = Api::namespaced(self.store.client().clone(), self.store.namespace());
        match api.create(&parameters, &job).await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(false),
            Err(error) => Err(failed(format!("creating Job {name}"), error)),
        }
    }
}

/// When the marked points of a withdrawn policy are to be forgotten.
fn cleanup_due(record: &PointsRecord) -> Option<(CompiledPolicy, Timestamp)> {
    let policy = record.withdrawn.as_deref()?;
    let marked =
        record.points.iter().filter(|stored| !stored.point.held).filter_map(|stored| stored.point.expired_since);
    let since = marked.min()?;
    Some((policy.clone(), since + SignedDuration::from_secs(grace_seconds(policy))))
}
