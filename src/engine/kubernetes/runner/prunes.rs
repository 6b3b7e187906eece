//! A run keeps prunes of its repositories away while it captures.

use jiff::Timestamp;

use super::Run;
use crate::engine::{
    kubernetes::{cleanup, names, site::SiteError},
    local::{repositories::prune_lease, runner::Notice},
};

impl Run<'_> {
    /// Waits until no repository of the policy is being pruned, and keeps prunes away from then on: before anything is
    /// stopped, because a prune may take long.
    pub(super) async fn keep_prunes_away(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let site = self.site;
        for place in &self.places {
            let name = names::prune_lease(&prune_lease(place));
            loop {
                let entered = site.leases.enter(&name, &site.pod, Timestamp::now()).await;
                let holder = match entered.map_err(|error| SiteError::from(error).chain())? {
                    Ok(()) => break,
                    Err(holder) => holder,
                };
                let waits = format!("repository {} is being pruned ({holder})", place.repository);
                self.may_go_on().map_err(|reason| format!("{reason}; {waits}"))?;
                notice(Notice::Step(format!("wait: {waits}")));
                tokio::time::sleep(cleanup::BETWEEN_LOOKS).await;
            }
            self.capturing.push(name);
        }
        Ok(())
    }

    /// Lets prunes of its repositories begin again.
    pub(super) async fn let_prunes_in(&mut self) {
        for name in std::mem::take(&mut self.capturing) {
            if let Err(error) = self.site.leases.leave(&name, &self.site.pod, Timestamp::now()).await {
                tracing::debug!("a lease was not left; it is with the end of this pod: {error}");
            }
        }
    }
}
