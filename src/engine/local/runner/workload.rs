//! The programs around a capture: hooks, and those that stop and start the workload.

use std::time::Duration;

use super::{Run, chain};
use crate::{
    engine::local::{
        context::Context,
        process::{self, ProcessIdentity},
        state::stopped::StoppedWorkload,
    },
    policy::document::backup_policy::Hook,
    secret::Confidential,
};

/// How long a hook, a stop or a start may take where nothing is said.
const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// Carries out a hook. `run`: the run that waits for it.
///
/// # Errors
/// In words: it could not be started, failed, or took too long.
pub async fn hook(
    hook: &Hook,
    when: &str,
    number: usize,
    confidential: &Confidential,
    run: Option<&Run<'_>>,
) -> Result<(), String> {
    let command = hook.command.as_deref().unwrap_or_default();
    let limit = hook.timeout.map_or(DEFAULT_HOOK_TIMEOUT, |timeout| timeout.std());
    // A hook after the capture runs on every path, so a wish to stop does not end it; its own limit does.
    let stop = run.filter(|_| when == "before").and_then(|run| run.context.stop.clone());
    let limit = if when == "before" { run.map_or(limit, |run| limit.min(run.remaining())) } else { limit };
    let started = |child: &ProcessIdentity| {
        if let Some(run) = run {
            run.remember_child(Some(child));
        }
    };
    let result = process::execute(command, limit, stop.as_ref(), confidential, started).await;
    if let Some(run) = run {
        run.remember_child(None);
    }
    result.map_err(|error| chain(&format!("hook {} {when} the capture failed", number + 1), &error))
}

/// Starts a workload that was stopped.
///
/// # Errors
/// In words.
pub async fn start(workload: &StoppedWorkload, confidential: &Confidential) -> Result<(), String> {
    let limit = workload.quiesce.timeout.map_or(DEFAULT_HOOK_TIMEOUT, |timeout| timeout.std());
    process::execute(&workload.quiesce.start, limit, None, confidential, |_| ()).await.map_err(|error| {
        let message = format!(
            "the workload of {} is still stopped, because starting it failed; Mainstay goes on trying, or start it by hand",
            workload.policy
        );
        chain(&message, &error)
    })
}

impl Run<'_> {
    /// The state cannot be written (a full disk, for example), but the workload must not stay down for that.
    pub(super) async fn start_regardless(&self) {
        if !self.is_stopped {
            return;
        }
        if let Some(workload) = self.workload()
            && let Err(reason) = start(&workload, &self.context.confidential).await
        {
            tracing::error!(policy = %self.policy.name, "{reason}");
        }
    }

    pub(super) fn workload(&self) -> Option<StoppedWorkload> {
        let quiesce = self.policy.document.spec.quiesce.clone()?;
        Some(StoppedWorkload {
            policy: self.policy.name.clone(),
            owner: format!("run {}", self.report.id),
            process: ProcessIdentity::own(),
            quiesce,
            attempted_at: None,
        })
    }

    pub(super) async fn stop(&self) -> Result<(), String> {
        let Some(quiesce) = &self.policy.document.spec.quiesce else { return Ok(()) };
        let limit = quiesce.timeout.map_or(DEFAULT_HOOK_TIMEOUT, |timeout| timeout.std()).min(self.remaining());
        let started = |child: &ProcessIdentity| self.remember_child(Some(child));
        let Context { stop, confidential, .. } = self.context;
        let result = process::execute(&quiesce.stop, limit, stop.as_ref(), confidential, started).await;
        self.remember_child(None);
        result.map_err(|error| chain("stopping the workload failed, so nothing was captured", &error))
    }
}
