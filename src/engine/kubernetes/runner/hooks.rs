//! Hooks: a command in a running pod of a workload.
//!
//! The exit status comes through the API's status channel, never from the output. Nothing is sent to the command.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, ListParams},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::quiesce::{Workload, WorkloadError};
use crate::{
    engine::process::{Stop, stopped},
    policy::document::backup_policy::Exec,
};

/// How much of what a command said goes into a message.
const TAIL_BYTES: usize = 2048;

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The workload could not be looked up.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// No pod can carry it out.
    #[error("{workload} has no running pod, so `{program}` cannot be carried out in it; look at its pods")]
    NoPod {
        /// The workload.
        workload: String,
        /// The program.
        program: String,
    },
    /// The API server refused, or the connection broke.
    #[error("`{program}` could not be carried out in pod {pod}")]
    Api {
        /// The program.
        program: String,
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// It ended with something else than 0.
    #[error("`{program}` ended with {status} in pod {pod}{tail}")]
    Failed {
        /// The program.
        program: String,
        /// The pod.
        pod: String,
        /// How it ended.
        status: String,
        /// The end of what it said, or nothing.
        tail: String,
    },
    /// It took too long. It may go on in its pod: there is no way to end it from outside.
    #[error(
        "`{program}` took longer than {seconds} s in pod {pod}; it may still be at work there. If it needs more time, raise its `timeout`"
    )]
    TimedOut {
        /// The program.
        program: String,
        /// The pod.
        pod: String,
        /// The limit.
        seconds: u64,
    },
    /// The run was asked to stop.
    #[error("`{program}` was left because the run was asked to stop")]
    Stopped {
        /// The program.
        program: String,
    },
}

/// Carries a hook out.
///
/// # Errors
/// There is no pod, or the command failed or took too long.
pub async fn execute(
    client: &Client,
    namespace: &str,
    exec: &Exec,
    limit: Duration,
    stop: Option<&Stop>,
) -> Result<(), HookError> {
    let program = exec.command.first().cloned().unwrap_or_default();
    let workload: Workload = exec.workload.parse()?;
    let pod = pod_of(client, namespace, &workload, exec.container.as_deref())
        .await?
        .ok_or_else(|| HookError::NoPod { workload: workload.to_string(), program: program.clone() })?;
    let stop_asked = async {
        match stop.cloned() {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = attached(client, namespace, &pod, exec, &program) => result,
        () = tokio::time::sleep(limit) => Err(HookError::TimedOut { program: program.clone(), pod, seconds: limit.as_secs() }),
        () = stop_asked => Err(HookError::Stopped { program: program.clone() }),
    }
}

/// The oldest running pod of a workload: it is the least likely to go away.
async fn pod_of(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    container: Option<&str>,
) -> Result<Option<String>, HookError> {
    let selector = workload.selector(client, namespace).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().labels(&selector)).await;
    let listed = listed.map_err(|source| WorkloadError::api(format!("listing the pods of {workload}"), source))?;
    let runs = |pod: &&Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let is_up = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            status.state.as_ref().is_some_and(|state| state.running.is_some())
        };
        pod.metadata.deletion_timestamp.is_none()
            && match container {
                Some(name) => statuses.clone().any(|status| status.name == name && is_up(status)),
                None => statuses.clone().any(is_up),
            }
    };
    let oldest =
        listed.items.iter().filter(runs).min_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    Ok(oldest.and_then(|pod| pod.metadata.name.clone()))
}

async fn attached(client: &Client, namespace: &str, pod: &str, exec: &Exec, program: &str) -> Result<(), HookError> {
    let api_error =
        |source| HookError::Api { program: program.to_owned(), pod: pod.to_owned(), source: Box::new(source) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut parameters = AttachParams::default().stdin(false).stdout(true).stderr(true);
    parameters.container.clone_from(&exec.container);
    if parameters.container.is_none() {
        let found = pods.get(pod).await.map_err(api_error)?;
        parameters.container = found.spec.and_then(|spec| spec.containers.first().map(|first| first.name.clone()));
    }
    let mut process = pods.exec(pod, exec.command.iter(), &parameters).await.map_err(api_error)?;
    let status = process.take_status();
    let (output, errors) = (process.stdout(), process.stderr());
    let (said, failed) = tokio::join!(tail(output), tail(errors));
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    match verdict(status.as_ref()) {
        Ok(()) => Ok(()),
        Err(status) => {
            let text = if failed.is_empty() { said } else { failed };
            let tail = if text.is_empty() { String::new() } else { format!(": {text}") };
            Err(HookError::Failed { program: program.to_owned(), pod: pod.to_owned(), status, tail })
        }
    }
}

/// Reads to the end and keeps the end.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    // Bounded by the time limit of the hook, and in memory by what is kept.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let more = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..more);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// What the status channel says. No status at all is a failure: nobody knows what happened.
pub fn verdict(status: Option<&Status>) -> Result<(), String> {
    let Some(status) = status else {
        return Err("an unknown status, because the connection was cut off".to_owned());
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    Err(match codes.next().and_then(|cause| cause.message.clone()) {
        Some(code) => format!("exit status {code}"),
        None => status.message.clone().unwrap_or_else(|| "an unknown status".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_success_that_was_told_is_one() {
        let status = |value: serde_json::Value| serde_json::from_value::<Status>(value).unwrap();
        assert_eq!(verdict(Some(&status(json!({"status": "Success"})))), Ok(()));
        assert!(verdict(None).is_err());
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(verdict(Some(&status(failed))), Err("exit status 3".to_owned()));
    }
}
