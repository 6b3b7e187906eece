//! A run that a person asks for now: a Job from the template of the policy's own CronJob, so that it is carried out
//! exactly as the scheduled ones are.

use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};

use super::{
    manifests::cron_job,
    names::{self, CronJobKind},
    objects::failed,
    store::{Store, is, post},
};
use crate::{engine::EngineError, policy::PolicyName, restore_point::RestorePointId, run::RunReport};

/// How long to wait for the pod of a Job to start.
const START_WITHIN: Duration = Duration::from_secs(300);
/// How often to look whether it did.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long after the end of its pod a run's record may lack its end: then nobody writes it any more.
const END_WITHIN: Duration = Duration::from_secs(15);

/// A run that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub id: RestorePointId,
    /// The Job that carries it out.
    pub job: String,
    /// False: the same run was asked for before.
    pub is_new: bool,
}

/// Refuses while everything is frozen.
///
/// # Errors
/// It is, or the cluster does not answer.
pub async fn check_freeze(store: &Store) -> Result<(), EngineError> {
    match store.limits().await?.is_some_and(|limits| limits.freeze) {
        true => Err(EngineError::Permanent {
            operation: "asking for a run".to_owned(),
            hint:
                "everything is frozen by `freeze: true` in the Settings; take it out and commit, or go on all the same \
                   with `mainstay run --despite-freeze`"
                    .to_owned(),
            source: None,
        }),
        false => Ok(()),
    }
}

/// Asks for a run. The same time gives the same run.
///
/// # Errors
/// There is no such policy, or the API server does not do it.
pub async fn ask(store: &Store, policy: &PolicyName, at: Timestamp) -> Result<Asked, EngineError> {
    let id = RestorePointId::from_time(at);
    let name = names::run_job(policy, &id);
    let template = template(store, policy).await?;
    let job = cron_job::run_now(&template, &name, store.namespace(), at);
    let is_new = create(store, &name, &job).await?;
    Ok(Asked { id, job: name, is_new })
}

/// Asks for other work of a policy than a run, as `mainstay run --only` takes it. Gives the name of the Job.
///
/// # Errors
/// There is no such policy, or the API server does not do it.
pub async fn ask_work(store: &Store, policy: &PolicyName, work: &str) -> Result<String, EngineError> {
    let template = template(store, policy).await?;
    let name = names::work_job(policy, rand::random());
    let job = cron_job::work_now(&template, &name, store.namespace(), policy, work);
    create(store, &name, &job).await?;
    Ok(name)
}

/// Whether a Job whose pod has ended did well.
///
/// # Errors
/// The API server does not say, or it does not end.
pub async fn succeeded(store: &Store, job: &str) -> Result<bool, EngineError> {
    succeeded_within(store, job, START_WITHIN).await
}

/// Waits for the end of a Job, and says whether it did well.
///
/// # Errors
/// The API server does not say, or it does not end.
pub async fn succeeded_within(store: &Store, job: &str, limit: Duration) -> Result<bool, EngineError> {
    let jobs: Api<Job> = Api::namespaced(store.client().clone(), store.namespace());
    let until = tokio::time::Instant::now() + limit;
    loop {
        let found = jobs.get_opt(job).await.map_err(|error| failed(format!("reading Job {job}"), error))?;
        let status = found.and_then(|found| found.status).unwrap_or_default();
        let is = |kind: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|condition| condition.type_ == kind && condition.status == "True")
        };
        match (is("Complete"), is("Failed")) {
            (true, _) => return Ok(true),
            (_, true) => return Ok(false),
            (false, false) if tokio::time::Instant::now() >= until => {
                return Err(EngineError::Permanent {
                    operation: format!("waiting for Job {job}"),
                    hint: "its pod ended, but it did not; see `kubectl describe job`".to_owned(),
                    source: None,
                });
            }
            (false, false) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// What the Jobs of a policy's runs are made from.
async fn template(store: &Store, policy: &PolicyName) -> Result<serde_json::Value, EngineError> {
    let cron_job = names::cron_job(policy, CronJobKind::Run(0));
    let cron_jobs: Api<CronJob> = Api::namespaced(store.client().clone(), store.namespace());
    let found =
        cron_jobs.get_opt(&cron_job).await.map_err(|error| failed(format!("reading CronJob {cron_job}"), error))?;
    let template = found.and_then(|found| found.spec).map(|spec| serde_json::json!(spec.job_template));
    template.ok_or_else(|| EngineError::Permanent {
        operation: format!("running policy {policy}"),
        hint: format!("there is no CronJob {cron_job} in namespace {}; apply the policy first", store.namespace()),
        source: None,
    })
}

/// Creates a Job. False: it is there already.
async fn create(store: &Store, name: &str, job: &serde_json::Value) -> Result<bool, EngineError> {
    let operation = || format!("creating Job {name}");
    let job: Job = serde_json::from_value(job.clone()).map_err(|error| EngineError::Permanent {
        operation: operation(),
        hint: "this is a defect of Mainstay, please report it".to_owned(),
        source: Some(error.into()),
    })?;
    let jobs: Api<Job> = Api::namespaced(store.client().clone(), store.namespace());
    match jobs.create(&post(), &job).await {
        Ok(_) => Ok(true),
        Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(false),
        Err(error) => Err(failed(operation(), error)),
    }
}

/// Prints the log of a Job's pod line by line until the pod ends.
///
/// # Errors
/// Its pod does not start, or the API server does not answer.
pub async fn follow(store: &Store, job: &str, mut hear: impl FnMut(&str)) -> Result<(), EngineError> {
    let pods: Api<Pod> = Api::namespaced(store.client().clone(), store.namespace());
    let pod = started_pod(&pods, job).await?;
    let parameters = LogParams { follow: true, ..LogParams::default() };
    let operation = || format!("reading the log of pod {pod}");
    let log = pods.log_stream(&pod, &parameters).await.map_err(|error| failed(operation(), error))?;
    let mut lines = std::pin::pin!(log.lines());
    while let Some(line) = lines.next().await {
        hear(&line.map_err(|error| EngineError::Transient { operation: operation(), source: error.into() })?);
    }
    Ok(())
}

/// How a run ended, after its pod did.
///
/// # Errors
/// Its record cannot be read, or says nothing of an end.
pub async fn ending(store: &Store, policy: &PolicyName, id: &RestorePointId) -> Result<RunReport, EngineError> {
    let until = tokio::time::Instant::now() + END_WITHIN;
    loop {
        let run = store.run(policy, id).await?;
        if let Some(report) = run.map(|run| run.report).filter(|report| report.finished_at.is_some()) {
            return Ok(report);
        }
        if tokio::time::Instant::now() >= until {
            return Err(EngineError::Permanent {
                operation: format!("run {id} of {policy}"),
                hint: "its pod ended without a report; see its log and `mainstay status`".to_owned(),
                source: None,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for the pod of a Job to run, or to have ended.
async fn started_pod(pods: &Api<Pod>, job: &str) -> Result<String, EngineError> {
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let until = tokio::time::Instant::now() + START_WITHIN;
    loop {
        let list =
            pods.list(&selector).await.map_err(|error| failed(format!("finding the pod of Job {job}"), error))?;
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let started = list.items.iter().find(|pod| matches!(phase(pod).as_str(), "Running" | "Succeeded" | "Failed"));
        if let Some(name) = started.and_then(|pod| pod.metadata.name.clone()) {
            return Ok(name);
        }
        if tokio::time::Instant::now() >= until {
            let why = list.items.first().map_or_else(|| "it has no pod".to_owned(), waits_for);
            return Err(EngineError::Permanent {
                operation: format!("starting Job {job}"),
                hint: format!("its pod did not start within {} s: {why}", START_WITHIN.as_secs()),
                source: None,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why a pod does not run, as far as it says.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = status
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|statuses| statuses.first()?.state.as_ref()?.waiting.as_ref())
        .and_then(|waiting| waiting.message.clone().or_else(|| waiting.reason.clone()));
    let unscheduled = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|condition| condition.status == "False"))
        .and_then(|condition| condition.message.clone());
    waiting.or(unscheduled).unwrap_or_else(|| "it says no reason".to_owned())
}

/// The client of this process: of its service account in a pod, else of the kubeconfig.
///
/// # Errors
/// There is neither.
pub async fn client() -> Result<Client, EngineError> {
    Client::try_default().await.map_err(|error| EngineError::Permanent {
        operation: "finding the cluster".to_owned(),
        hint: "set KUBECONFIG, or run in a pod with a service account".to_owned(),
        source: Some(error.into()),
    })
}
