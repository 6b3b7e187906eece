//! Movers as Jobs: the work goes in as a Secret, events come out of the log, and the result is in the pod's status.
//!
//! What a pod's status says of its end counts; the log only tells how far it is. So a log that is cut off costs nothing.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use k8s_openapi::api::{
    batch::v1::Job as KubernetesJob,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, LogParams, PostParams},
    runtime::watcher,
};
use tokio::time::Instant;

use super::manifests::{
    mover::{self as manifest, MoverJob},
    snapshot::Identity,
};
use crate::{
    engine::{
        movers::{Bounds, Word},
        process::stopped,
    },
    mover::job::{Event, Failure, Job, Outcome},
};

mod pod;

pub use pod::obstacle;
use pod::{PodState, state_of, why_not};

/// How long a pod may wait for its node, its volumes and its image.
const START_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long an image may fail to be pulled: a registry that hiccups is given this time.
const IMAGE_LIMIT: Duration = Duration::from_secs(90);
/// How much of a log is read when its pod has ended.
const LONGEST_LOG_BYTES: i64 = 64 << 20;
/// How often is looked whether a limit is over.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How often a watch is begun anew before the cluster counts as away.
const MOST_WATCH_ERRORS: u32 = 120;

/// Why a mover's Job did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MoverJobError {
    /// The API server refused, or did not answer.
    #[error("{operation} did not go through; `kubectl describe job {job}` may say more")]
    Api {
        /// What was tried.
        operation: String,
        /// The Job, with its namespace.
        job: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The work could not be written down.
    #[error("the work of the mover {job} could not be written")]
    Work {
        /// The Job.
        job: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its pod did not start.
    #[error("the mover {job} did not start: {reason}")]
    NotStarted {
        /// The Job.
        job: String,
        /// What holds it up, and what to do.
        reason: String,
    },
    /// It ended without a result.
    #[error("the mover {job} ended without a result: {reason}")]
    Vanished {
        /// The Job.
        job: String,
        /// What is known.
        reason: String,
    },
    /// It said why it failed.
    #[error("{} ({})", .0.message, .0.hint)]
    Failed(Failure),
    /// It took longer than the run may take.
    #[error("the run took longer than its limit, and the mover {job} was ended; raise `limits.timeout`")]
    TimedOut {
        /// The Job.
        job: String,
    },
    /// The run was asked to stop.
    #[error("the run was asked to stop, and the mover {job} was ended")]
    Stopped {
        /// The Job.
        job: String,
    },
}

/// Carries out one job as a Job, and removes it when it went well. One that failed stays for an hour, for its log.
///
/// # Errors
/// It failed, was ended, or could not be started.
pub async fn carry_out(
    client: &Client,
    mover: &MoverJob,
    work: &Job,
    bounds: &Bounds,
    hear: impl FnMut(Word),
) -> Result<Outcome, MoverJobError> {
    let encode = |source| MoverJobError::Work { job: full_name(mover), source };
    let text = serde_json::to_string(work).map_err(encode)?;
    carry_out_text(client, mover, &text, bounds, hear).await
}

/// The same for work that needs no repository: what the arguments of the mover say.
///
/// # Errors
/// It failed, was ended, or could not be started.
pub async fn carry_out_arguments(
    client: &Client,
    mover: &MoverJob,
    bounds: &Bounds,
    hear: impl FnMut(Word),
) -> Result<Outcome, MoverJobError> {
    carry_out_text(client, mover, "{}", bounds, hear).await
}

async fn carry_out_text(
    client: &Client,
    mover: &MoverJob,
    work: &str,
    bounds: &Bounds,
    mut hear: impl FnMut(Word),
) -> Result<Outcome, MoverJobError> {
    let name = full_name(mover);
    let result = start(client, mover, work, &name).await;
    let result = match result {
        Ok(()) => follow(client, mover, &name, bounds, &mut hear).await,
        Err(error) => Err(error),
    };
    let keep = matches!(result, Err(MoverJobError::Failed(_) | MoverJobError::Vanished { .. }));
    if !keep {
        remove(client, &mover.namespace, &mover.name).await;
    }
    result
}

fn full_name(mover: &MoverJob) -> String {
    format!("{} -n {}", mover.name, mover.namespace)
}

/// Removes a Job with its pod and its Secret. What cannot be removed now goes an hour after its end.
pub async fn remove(client: &Client, namespace: &str, name: &str) {
    let jobs: Api<KubernetesJob> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = jobs.delete(name, &DeleteParams::background()).await {
        tracing::debug!(job = name, namespace, "a mover's Job was not removed: {error}");
    }
}

/// Starts a mover that waits for others to talk to it, and gives the name of its pod when it runs.
///
/// # Errors
/// It could not be started, or does not run in time.
pub async fn begin(client: &Client, mover: &MoverJob, work: &Job, bounds: &Bounds) -> Result<String, MoverJobError> {
    let name = full_name(mover);
    let encode = |source| MoverJobError::Work { job: full_name(mover), source };
    start(client, mover, &serde_json::to_string(work).map_err(encode)?, &name).await?;
    running_pod(client, &mover.namespace, &mover.name, bounds).await
}

/// The pod of a mover's Job, when it runs.
///
/// # Errors
/// It does not in time.
pub async fn running_pod(
    client: &Client,
    namespace: &str,
    job: &str,
    bounds: &Bounds,
) -> Result<String, MoverJobError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let until = bounds.deadline.min(Instant::now() + START_LIMIT);
    let name = format!("{job} -n {namespace}");
    loop {
        let listed = pods.list(&selector).await.map_err(|source| MoverJobError::Api {
            operation: "looking for the pod of a mover".to_owned(),
            job: name.clone(),
            source: Box::new(source),
        })?;
        let mut reason = "it has no pod".to_owned();
        for pod in &listed.items {
            match state_of(pod) {
                PodState::Running => return Ok(pod.metadata.name.clone().unwrap_or_default()),
                PodState::Ended { message, how } => {
                    let reason = format!("{how} {message}");
                    return Err(MoverJobError::Vanished { job: name, reason });
                }
                PodState::Waiting(why) | PodState::Trouble(why) if !why.is_empty() => reason = why,
                PodState::Absent | PodState::Waiting(_) | PodState::Trouble(_) | PodState::Deleted => {}
            }
        }
        if Instant::now() >= until {
            return Err(MoverJobError::NotStarted { job: name, reason });
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn start(client: &Client, mover: &MoverJob, work: &str, name: &str) -> Result<(), MoverJobError> {
    let api_error = |operation: &str| {
        let (operation, job) = (operation.to_owned(), name.to_owned());
        move |source| MoverJobError::Api { operation, job, source: Box::new(source) }
    };
    let encode = |source| MoverJobError::Work { job: name.to_owned(), source };
    let job: KubernetesJob = serde_json::from_value(manifest::job(mover)).map_err(encode)?;
    let jobs: Api<KubernetesJob> = Api::namespaced(client.clone(), &mover.namespace);
    let job = jobs.create(&PostParams::default(), &job).await.map_err(api_error("creating the Job of a mover"))?;
    // Its pod waits for the Secret, which goes with the Job: no crash leaves secrets behind.
    let uid = job.metadata.uid.unwrap_or_default();
    let secret: Secret = serde_json::from_value(manifest::secret(mover, &uid, work)).map_err(encode)?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &mover.namespace);
    let created = secrets.create(&PostParams::default(), &secret).await;
    created.map_err(api_error("writing the work of a mover")).map(|_| ())
}

/// Follows a Job to its end.
async fn follow(
    client: &Client,
    mover: &MoverJob,
    name: &str,
    bounds: &Bounds,
    hear: &mut impl FnMut(Word),
) -> Result<Outcome, MoverJobError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &mover.namespace);
    let selector = watcher::Config::default().labels(&format!("batch.kubernetes.io/job-name={}", mover.name));
    let mut watch = watcher(pods.clone(), selector).boxed();
    let mut log: BoxStream<'static, String> = futures_util::stream::pending().boxed();
    let (mut last, mut said, mut errors) = (PodState::Absent, None, 0);
    let (began, mut trouble_since, mut follows_log) = (Instant::now(), None::<Instant>, false);
    let stop_asked = async {
        match bounds.stop.clone() {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stop_asked);
    let mut looks = tokio::time::interval(BETWEEN_LOOKS);
    loop {
        tokio::select! {
            event = watch.next() => {
                let (state, pod) = match event {
                    Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => (state_of(&pod), pod),
                    Some(Ok(watcher::Event::Delete(pod))) => (PodState::Deleted, pod),
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => continue,
                    Some(Err(error)) => {
                        errors += 1;
                        tracing::debug!(job = name, "watching a mover: {error}");
                        if errors > MOST_WATCH_ERRORS {
                            let reason = format!("the API server does not answer: {error}");
                            return Err(MoverJobError::Vanished { job: name.to_owned(), reason });
                        }
                        tokio::time::sleep(BETWEEN_LOOKS).await;
                        continue;
                    }
                    None => {
                        let reason = "it cannot be watched any more".to_owned();
                        return Err(MoverJobError::Vanished { job: name.to_owned(), reason });
                    }
                };
                errors = 0;
                match &state {
                    PodState::Ended { message, how } => return ended(client, mover, &pod, message, how, said, hear, name).await,
                    PodState::Deleted => {
                        let reason = "its pod was deleted; was its node drained or lost?".to_owned();
                        return said.unwrap_or(Err(MoverJobError::Vanished { job: name.to_owned(), reason }));
                    }
                    PodState::Running if !follows_log => {
                        follows_log = true;
                        log = lines(&pods, pod.metadata.name.as_deref().unwrap_or_default()).await;
                    }
                    PodState::Trouble(_) => trouble_since = trouble_since.or(Some(Instant::now())),
                    PodState::Absent | PodState::Waiting(_) | PodState::Running => trouble_since = None,
                }
                last = state;
            }
            line = log.next() => match line.as_deref().map(serde_json::from_str::<Event>) {
                Some(Ok(Event::Done(outcome))) => said = Some(Ok(outcome)),
                Some(Ok(Event::Failed(failure))) => said = Some(Err(MoverJobError::Failed(failure))),
                Some(Ok(Event::Progress { step, done_bytes, total_bytes })) => {
                    hear(Word::Progress { step, done_bytes, total_bytes });
                }
                Some(Ok(Event::Warning(text))) => hear(Word::Warning(text)),
                // What a library writes there is no event, and files travel elsewhere.
                Some(Ok(Event::Data(_)) | Err(_)) => {}
                None => log = futures_util::stream::pending().boxed(),
            },
            () = &mut stop_asked => return Err(MoverJobError::Stopped { job: name.to_owned() }),
            _ = looks.tick() => {
                if Instant::now() >= bounds.deadline {
                    return Err(MoverJobError::TimedOut { job: name.to_owned() });
                }
                let late = match &last {
                    PodState::Trouble(_) => trouble_since.is_some_and(|since| since.elapsed() > IMAGE_LIMIT),
                    PodState::Absent | PodState::Waiting(_) => began.elapsed() > START_LIMIT,
                    PodState::Running | PodState::Ended { .. } | PodState::Deleted => false,
                };
                if late {
                    let reason = why_not(client, mover, &last).await;
                    return Err(MoverJobError::NotStarted { job: name.to_owned(), reason });
                }
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, and each is another thing")]
async fn ended(
    client: &Client,
    mover: &MoverJob,
    pod: &Pod,
    message: &str,
    how: &str,
    said: Option<Result<Outcome, MoverJobError>>,
    hear: &mut impl FnMut(Word),
    name: &str,
) -> Result<Outcome, MoverJobError> {
    // A mover that was quick left warnings in a log that nobody followed; one that was talkative left its result there.
    let pods: Api<Pod> = Api::namespaced(client.clone(), &mover.namespace);
    let parameters = LogParams {
        container: Some(manifest::CONTAINER.to_owned()),
        limit_bytes: Some(LONGEST_LOG_BYTES),
        ..LogParams::default()
    };
    let mut in_log = said;
    if in_log.is_none()
        && let Some(pod) = &pod.metadata.name
        && let Ok(text) = pods.logs(pod, &parameters).await
    {
        for event in text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
            match event {
                Event::Done(outcome) => in_log = Some(Ok(outcome)),
                Event::Failed(failure) => in_log = Some(Err(MoverJobError::Failed(failure))),
                Event::Warning(text) => hear(Word::Warning(text)),
                Event::Progress { .. } | Event::Data(_) => {}
            }
        }
    }
    match serde_json::from_str::<Event>(message) {
        Ok(Event::Done(outcome)) => Ok(outcome),
        Ok(Event::Failed(failure)) => Err(MoverJobError::Failed(failure)),
        Ok(Event::Progress { .. } | Event::Warning(_) | Event::Data(_)) | Err(_) => in_log.unwrap_or_else(|| {
            let shown: String = message.chars().take(500).collect();
            let said = if shown.is_empty() { String::new() } else { format!("; it said: {shown}") };
            let memory = if how.contains("OOMKilled") { "; raise `limits.resources.memory`" } else { "" };
            Err(MoverJobError::Vanished { job: name.to_owned(), reason: format!("{how}{memory}{said}") })
        }),
    }
}

/// The lines of a pod's log as they come. One that cannot be read is empty.
async fn lines(pods: &Api<Pod>, pod: &str) -> BoxStream<'static, String> {
    let parameters =
        LogParams { follow: true, container: Some(manifest::CONTAINER.to_owned()), ..LogParams::default() };
    match pods.log_stream(pod, &parameters).await {
        Ok(log) => log
            .lines()
            .into_stream()
            .take_while(|line| std::future::ready(line.is_ok()))
            .filter_map(|line| std::future::ready(line.ok()))
            .boxed(),
        Err(error) => {
            tracing::debug!(pod, "the log of a mover cannot be followed: {error}");
            futures_util::stream::pending().boxed()
        }
    }
}

/// A mover that mounts nothing and may run anywhere.
pub fn plain(identity: Identity, image: &str, bounds: &Bounds) -> MoverJob {
    let Identity { name, namespace, labels, annotations } = identity;
    // Kubernetes ends it only if nobody else does: this process may be gone.
    let left = bounds.deadline.saturating_duration_since(Instant::now()).as_secs().clamp(1, 31_536_000);
    MoverJob {
        name,
        namespace,
        labels,
        annotations,
        image: image.to_owned(),
        client_image: None,
        claim: None,
        nfs: None,
        arguments: Vec::new(),
        node: None,
        near: None,
        tolerations: Vec::new(),
        resources: BTreeMap::new(),
        limit_seconds: left,
    }
}

/// Labels of a mover that belongs to a run, added to those of its policy.
pub fn run_labels(mut labels: BTreeMap<String, String>, run: &str) -> BTreeMap<String, String> {
    labels.insert(RUN_LABEL.to_owned(), run.to_owned());
    labels
}

/// Label: the run that made a temporary object.
pub const RUN_LABEL: &str = "mainstay.dev/run";
