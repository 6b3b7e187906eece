//! Waiting: a restore that a document asks for meets a run of its policy, and goes on when that has ended.
//!
//! While it waits nothing of it is begun: a process that is killed meanwhile is followed by another.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::LIMIT;
use crate::{
    actual::RestoreReport,
    engine::local::{
        context::{Context, WorkError},
        process::{ProcessIdentity, stopped},
        runner,
        state::{leases::Lease, restores::StoredRestore},
    },
    policy::PolicyName,
};

/// How often to look whether a run has ended. It is another process, of whose end nobody tells.
const LOOK: Duration = Duration::from_millis(500);

/// The turn of one restore, among the runs of its policy.
pub struct Turn<'a> {
    context: &'a Context,
    restore: &'a StoredRestore,
    until: Instant,
    /// Held from the first wait to the end of the restore: no run is started in between. None: it does not wait, or
    /// another restore waits, too.
    lease: Option<Lease<'a>>,
}

/// What came of waiting.
pub enum Waited {
    /// Nothing is in the way any more.
    Free,
    /// This process was asked to stop; the restore waits for the next one.
    Stopped(RestoreReport),
}

impl<'a> Turn<'a> {
    /// Its turn begins now, and it waits for 7 days at most.
    pub fn new(context: &'a Context, restore: &'a StoredRestore) -> Self {
        Self { context, restore, until: Instant::now() + LIMIT, lease: None }
    }

    /// Waits until what is in the way has ended, and says in the state what that is.
    ///
    /// # Errors
    /// Nothing is in the way, so `error` is what it is; or it took too long, or the state cannot be used.
    pub async fn wait(&mut self, error: WorkError, report: &RestoreReport) -> Result<Waited, WorkError> {
        let (context, restore) = (self.context, self.restore);
        let WorkError::Busy { policy, what, holder } = &error else { return Err(error) };
        if self.lease.is_none() {
            self.lease = context.state.lease(&runner::waiting_lease(policy), Timestamp::now())?.ok();
        }
        let waiting = report.clone().waiting(&format!("{what} of {policy} ({holder}) to end"));
        let own = context.state.own_process()?;
        context.state.update_restore(&restore.name, &restore.content, &waiting, &own, Timestamp::now())?;
        tracing::info!(restore = %restore.name, "{}", waiting.message);
        let name = runner::policy_lease(policy);
        while context.state.lease_holder(&name)?.as_ref() == Some(holder) {
            let mut stop = context.stop.clone();
            let asked_to_stop = async {
                match &mut stop {
                    Some(stop) => stopped(stop).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = asked_to_stop => return Ok(Waited::Stopped(waiting)),
            }
            if Instant::now() >= self.until {
                return Err(error);
            }
        }
        Ok(Waited::Free)
    }
}

/// What is in the way of a restore in place.
///
/// # Errors
/// The state cannot be read.
pub fn busy(context: &Context, policy: &PolicyName, holder: ProcessIdentity) -> Result<WorkError, WorkError> {
    let under_way = context.state.runs_under_way()?;
    let run = under_way.into_iter().find(|run| run.report.policy == *policy && run.process == holder);
    let what = run.map_or_else(|| "another restore".to_owned(), |run| format!("run {}", run.report.id));
    Ok(WorkError::Busy { policy: policy.clone(), what, holder })
}
