//! Restores that were announced: the daemon starts the Job of each, tells why one does not begin, and starts another Job
//! where the pods of a restore left it half done. It touches neither volumes nor databases itself: only the account of
//! runs may.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use serde_json::json;

use super::{KubernetesEngine, movers, names, objects::failed, restoring::ask, store::RestoreRecord};
use crate::{
    actual::RestoreReport,
    engine::EngineError,
    restore_point::RestorePointId,
    run::{Phase, to_millisecond},
};

/// A restore that could not be taken back is tried again once in this time.
const AGAIN_SECONDS: i64 = 3600;

/// How far the Job of a restore is.
#[derive(Debug, PartialEq, Eq)]
enum JobState {
    /// There is none.
    Absent,
    /// It has a pod, or will have one.
    AtWork,
    /// It went well.
    Complete,
    /// It starts no pod any more, for this reason.
    Failed(String),
}

impl KubernetesEngine {
    /// Starts the Job of a restore that nobody began. One that is there stays as it is.
    pub(super) async fn start_restore(&self, record: &RestoreRecord) -> Result<(), EngineError> {
        let installation = self.shared.look().installation().clone();
        if installation.image.is_none() {
            return Ok(());
        }
        let (name, manifest) = ask::job(record, &installation);
        self.create_job(&name, &manifest).await.map(|_| ())
    }

    /// Looks after a restore that nobody began: its Job is started, and what keeps its pod from beginning is told.
    pub(super) async fn look_after_pending(&self, record: &RestoreRecord, now: Timestamp) -> Result<(), EngineError> {
        self.start_restore(record).await?;
        let job = record.mark();
        match self.state_of_job(&job).await? {
            JobState::Failed(reason) => self.end_unbegun(record, &job, &reason, now).await,
            JobState::AtWork => {
                let unheard = record.report.clone();
                let told = match self.obstacle(&job).await? {
                    Some(reason) => unheard.waiting(&reason),
                    None if unheard.waits_for().is_some() => ask::unbegun(unheard.started_at),
                    None => unheard,
                };
                self.tell(record, &told).await
            }
            JobState::Absent | JobState::Complete => Ok(()),
        }
    }

    /// Starts another Job for each restore that its pods left half done, if its own starts no pod any more.
    pub(super) async fn take_back(&self, left: &[RestoreRecord], now: Timestamp) -> Result<(), EngineError> {
        let installation = self.shared.look().installation().clone();
        for record in left {
            let (own, mut manifest) = ask::job(record, &installation);
            let job = match self.state_of_job(&own).await? {
                // Its next pod does it.
                JobState::AtWork => continue,
                JobState::Absent => own,
                JobState::Complete | JobState::Failed(_) => {
                    let second = now.as_second() / AGAIN_SECONDS * AGAIN_SECONDS;
                    let since = Timestamp::from_second(second).unwrap_or(now);
                    names::take_back_job(&own, &RestorePointId::from_time(since))
                }
            };
            if installation.image.is_none() {
                tracing::error!(restore = %record.name, "it was left half done; name an image for the Job that takes it back");
                continue;
            }
            manifest["metadata"]["name"] = json!(job);
            if self.create_job(&job, &manifest).await? {
                tracing::warn!(restore = %record.name, job, "its pod went away; this Job takes it back");
            }
        }
        Ok(())
    }

    async fn state_of_job(&self, name: &str) -> Result<JobState, EngineError> {
        let jobs: Api<Job> = Api::namespaced(self.store.client().clone(), self.store.namespace());
        let found = jobs.get_opt(name).await.map_err(|error| failed(format!("reading Job {name}"), error))?;
        let Some(found) = found else { return Ok(JobState::Absent) };
        Ok(state(&found.status.and_then(|status| status.conditions).unwrap_or_default()))
    }

    /// What keeps the pod of a Job from beginning; none: nothing is known.
    async fn obstacle(&self, job: &str) -> Result<Option<String>, EngineError> {
        let namespace = self.store.namespace();
        let pods: Api<Pod> = Api::namespaced(self.store.client().clone(), namespace);
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let listed =
            pods.list(&of_job).await.map_err(|error| failed(format!("looking at the pod of Job {job}"), error))?;
        let obstacle = listed.items.iter().find_map(movers::obstacle);
        Ok(obstacle.map(|reason| {
            format!(
                "its pod, which does not start: {reason} (`kubectl describe pod -n {namespace} -l job-name={job}`); once \
                 that is mended, delete Job {job} to start it anew"
            )
        }))
    }

    /// Writes down what holds a restore up, unless it is written down.
    async fn tell(&self, record: &RestoreRecord, told: &RestoreReport) -> Result<(), EngineError> {
        if *told == record.report {
            return Ok(());
        }
        self.may_write(|| format!("telling what the restore {} waits for", record.name))?;
        tracing::warn!(restore = %record.name, "{}", told.message);
        let RestoreRecord { name, content, .. } = record;
        let changed = self.store.change_restore(name, content, |known| {
            if known.is_pending() {
                known.report.message.clone_from(&told.message);
            }
        });
        Ok(changed.await?)
    }

    /// Ends a restore whose Job is over, and which nobody began.
    async fn end_unbegun(
        &self,
        record: &RestoreRecord,
        job: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        self.may_write(|| format!("ending the restore {}", record.name))?;
        // It may have begun, or ended, since the watches told of it.
        let known = self.store.restore(&record.name, &record.content).await?;
        let Some(mut known) = known.filter(RestoreRecord::is_pending) else { return Ok(()) };
        known.report = RestoreReport {
            phase: Phase::Failed,
            finished_at: Some(to_millisecond(now)),
            message: format!(
                "nothing was written: Job {job} ended before it began ({reason}); see `kubectl logs -n {} -l \
                 job-name={job}`, and ask for it again",
                self.store.namespace()
            ),
            ..known.report
        };
        tracing::error!(restore = %known.name, "{}", known.report.message);
        Ok(self.store.end_restore(&known, now).await?)
    }
}

fn state(conditions: &[JobCondition]) -> JobState {
    let is_true = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        found.map(|condition| condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default())
    };
    match (is_true("Failed"), is_true("Complete")) {
        (Some(reason), _) => JobState::Failed(reason),
        (None, Some(_)) => JobState::Complete,
        (None, None) => JobState::AtWork,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_at_work_until_a_condition_says_that_it_is_over() {
        let condition = |kind: &str, status: &str| -> JobCondition {
            serde_json::from_value(json!({"type": kind, "status": status, "message": "why"})).unwrap()
        };
        assert_eq!(state(&[]), JobState::AtWork);
        assert_eq!(state(&[condition("Failed", "False"), condition("FailureTarget", "True")]), JobState::AtWork);
        assert_eq!(state(&[condition("Complete", "True")]), JobState::Complete);
        assert_eq!(state(&[condition("Failed", "True")]), JobState::Failed("why".into()));
    }
}
