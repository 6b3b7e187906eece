//! Asking for a restore: its record first, then the Job that carries it out. Both have names that follow from what is
//! asked for, so a second wish adopts the first.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Api;

use crate::{
    actual::RestoreReport,
    engine::{
        EngineError,
        kubernetes::{
            manifests::{cron_job, policy::Installation},
            names,
            objects::failed,
            store::{RestoreRecord, Store, is, post},
        },
    },
    policy::{PolicyName, document::restore::RestoreSpec},
    run::{Phase, to_millisecond},
};

/// How long after the end of its pod a restore's record may lack its end: another pod may put it back.
const END_WITHIN: Duration = Duration::from_secs(300);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A restore that nobody began.
pub fn record(
    name: &PolicyName,
    content: &str,
    policy: &PolicyName,
    spec: &RestoreSpec,
    now: Timestamp,
) -> RestoreRecord {
    RestoreRecord::new(name, content, policy, spec, unbegun(to_millisecond(now)))
}

/// The report of a restore that nobody began, and that nothing holds up.
pub fn unbegun(started_at: Timestamp) -> RestoreReport {
    RestoreReport {
        restore_point: None,
        phase: Phase::Pending,
        started_at,
        finished_at: None,
        message: "about to start".to_owned(),
        sources: Vec::new(),
    }
}

/// Where the mover of an archive's claim is: its namespace and the name of its Job.
pub fn receiver(record: &RestoreRecord) -> (String, String) {
    let into = record.spec.into.as_ref().and_then(|into| into.namespace.clone());
    (into.unwrap_or_else(|| record.policy.namespace().to_owned()), format!("{}-m0", record.mark()))
}

/// What the Job of a restore that a person asks for is made of: the image and the service account that the policy's
/// runs have, where they are not said.
///
/// # Errors
/// The API server does not say, or nobody names an image.
pub async fn installation_of(
    store: &Store,
    policy: &PolicyName,
    installation: Installation,
) -> Result<Installation, EngineError> {
    let name = names::cron_job(policy, names::CronJobKind::Run(0));
    let api: Api<CronJob> = Api::namespaced(store.client().clone(), store.namespace());
    let found = api.get_opt(&name).await.map_err(|error| failed(format!("reading CronJob {name}"), error))?;
    let pod = found.and_then(|found| found.spec?.job_template.spec?.template.spec);
    let image = pod.as_ref().and_then(|pod| pod.containers.first()?.image.clone());
    let account = pod.and_then(|pod| pod.service_account_name);
    let image = installation.image.clone().or(image).ok_or_else(|| EngineError::Permanent {
        operation: format!("restoring {policy}"),
        hint: "it has no CronJob whose image could be used; name one with --image or MAINSTAY_IMAGE".to_owned(),
        source: None,
    })?;
    let run_service_account = account.unwrap_or_else(|| installation.run_service_account.clone());
    Ok(Installation { image: Some(image), run_service_account, ..installation })
}

/// How a restore ended, after its pod did.
///
/// # Errors
/// Its record cannot be read, or says nothing of an end.
pub async fn ending(store: &Store, name: &PolicyName, content: &str) -> Result<RestoreReport, EngineError> {
    let until = tokio::time::Instant::now() + END_WITHIN;
    loop {
        let record = store.restore(name, content).await?;
        if let Some(report) = record.map(|record| record.report).filter(|report| report.finished_at.is_some()) {
            return Ok(report);
        }
        if tokio::time::Instant::now() >= until {
            return Err(EngineError::Permanent {
                operation: format!("the restore of {name}"),
                hint: "its pod ended without a report; the daemon puts back what was there, see `mainstay status`"
                    .to_owned(),
                source: None,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The Job that carries a restore out.
pub fn job(record: &RestoreRecord, installation: &Installation) -> (String, serde_json::Value) {
    let RestoreRecord { name, content, .. } = record;
    let job = names::restore_mark(name, content);
    let arguments = ["restore", "--engine", "kubernetes", "--document", &name.to_string(), "--content", content];
    let arguments = arguments.map(str::to_owned).to_vec();
    let manifest = cron_job::restore(name, &job, arguments, installation);
    (job, manifest)
}

/// Starts the Job of a restore. False: it is there already.
///
/// # Errors
/// The API server does not do it.
pub async fn start(store: &Store, name: &str, manifest: &serde_json::Value) -> Result<bool, EngineError> {
    let job: Job = serde_json::from_value(manifest.clone()).map_err(|error| EngineError::Permanent {
        operation: format!("creating Job {name}"),
        hint: "this is a defect of Mainstay, please report it".to_owned(),
        source: Some(error.into()),
    })?;
    let api: Api<Job> = Api::namespaced(store.client().clone(), store.namespace());
    match api.create(&post(), &job).await {
        Ok(_) => Ok(true),
        Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(false),
        Err(error) => Err(failed(format!("creating Job {name}"), error)),
    }
}
