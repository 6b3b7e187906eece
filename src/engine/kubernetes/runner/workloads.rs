//! Workloads that stand still while a run captures: what is stopped is put down first, and started on every path.

use tokio::time::Instant;

use super::{
    BETWEEN_TRIES, DEFAULT_HOOK_TIMEOUT, Run, owner,
    quiesce::{Started, Workload, WorkloadError},
};
use crate::engine::kubernetes::{
    site::{Site, SiteError},
    store::StoppedWorkload,
};

/// Gives a stopped workload its replicas back, and goes on trying while the API server is away.
///
/// # Errors
/// In words.
pub async fn start(site: &Site, stopped: &StoppedWorkload, owner: &str) -> Result<(), String> {
    let until = Instant::now() + DEFAULT_HOOK_TIMEOUT;
    let text = format!("{}/{}", stopped.kind, stopped.name);
    let workload: Workload = text.parse().map_err(|error: WorkloadError| error.to_string())?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match workload.start(site.client(), &stopped.namespace, owner, left).await {
            Ok(Started::Ready | Started::Without) => return Ok(()),
            Err(WorkloadError::Api { .. }) if !left.is_zero() => tokio::time::sleep(BETWEEN_TRIES).await,
            Err(error) => {
                let reason = SiteError::from(error).chain();
                return Err(format!("{text} in namespace {} is not up again: {reason}", stopped.namespace));
            }
        }
    }
}

impl Run<'_> {
    /// Puts down what will be stopped, before it is.
    pub(super) async fn before_stop(&mut self) -> Result<(), String> {
        let owner = owner(&self.policy.name, &self.report.id);
        for workload in &self.pieces.workloads {
            let before = workload.before_stop(self.site.client(), self.policy.name.namespace(), &owner).await;
            let before = before.map_err(|error| {
                format!("stopping the workload failed, so nothing was captured: {}", SiteError::from(error).chain())
            })?;
            self.stopped.extend(before);
        }
        Ok(())
    }

    pub(super) async fn stop(&mut self) -> Result<(), String> {
        let owner = owner(&self.policy.name, &self.report.id);
        for stopped in &self.stopped {
            let limit = DEFAULT_HOOK_TIMEOUT.min(self.remaining());
            let workload: Workload = format!("{}/{}", stopped.kind, stopped.name)
                .parse()
                .map_err(|error: WorkloadError| error.to_string())?;
            match workload.stop(self.site.client(), &stopped.namespace, &owner, limit).await {
                Ok(remark) => self.remarks.extend(remark),
                Err(error) => {
                    let reason = SiteError::from(error).chain();
                    return Err(format!("stopping the workload failed, so nothing was captured: {reason}"));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn start(&self) -> Result<(), String> {
        let owner = owner(&self.policy.name, &self.report.id);
        let mut reasons = Vec::new();
        for stopped in &self.stopped {
            if let Err(reason) = start(self.site, stopped, &owner).await {
                reasons.push(reason);
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }

    /// Nothing can be written down any more, but workloads must not stay down for that.
    pub(super) async fn start_regardless(&self) {
        let owner = owner(&self.policy.name, &self.report.id);
        for stopped in &self.stopped {
            if let Err(reason) = start(self.site, stopped, &owner).await {
                tracing::error!(policy = %self.policy.name, "{reason}");
            }
        }
    }
}
