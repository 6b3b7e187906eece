//! Recording: a restore point exists only if every repository really lists every part of it.

use super::Run;
use crate::{
    engine::{
        kubernetes::{
            inventory::{self, IN_CLUSTER},
            manifests::claim::ClaimShape,
            site::SiteError,
        },
        local::state::points::StoredPoint,
        movers,
    },
    mover::job::{Snapshot, Task},
    restore_point,
};

impl Run<'_> {
    /// Looks whether every repository lists every snapshot of this run, and the cluster every volume snapshot: a store
    /// may say yes and have kept nothing.
    pub(super) async fn check(&self) -> Result<(), SiteError> {
        for place in &self.places {
            if !self.parts.iter().any(|part| part.place == place.id) {
                continue;
            }
            let task = Task::List { policy: Some(self.policy.name.clone()) };
            let outcome = self.site.job(place, task, &self.bounds, |_| ()).await?;
            self.check_listed(place.id, &place.repository, &movers::snapshots(&place.repository, outcome)?)?;
        }
        if self.parts.iter().any(|part| part.place == IN_CLUSTER) {
            let listed = inventory::volume_snapshots(self.site, &self.policy).await?;
            self.check_listed(IN_CLUSTER, restore_point::VOLUME_SNAPSHOT, &listed)?;
        }
        Ok(())
    }

    fn check_listed(&self, place: i64, repository: &str, listed: &[Snapshot]) -> Result<(), SiteError> {
        for part in self.parts.iter().filter(|part| part.place == place) {
            let there = listed.iter().any(|snapshot| {
                snapshot.id == part.part.snapshot
                    && snapshot.label.run == self.report.id
                    && (place == IN_CLUSTER || snapshot.size_bytes == part.part.size_bytes)
            });
            if !there {
                return Err(SiteError::Refused(format!(
                    "repository {repository} does not list what source {} was captured into; look at its storage",
                    part.part.source
                )));
            }
        }
        Ok(())
    }

    pub(super) async fn record(&mut self) -> Result<(), SiteError> {
        let expected = self.pieces.expected_parts();
        if self.parts.len() != expected {
            return Err(SiteError::Refused(format!(
                "only {} of {expected} parts were captured; this is a defect of Mainstay, please report it",
                self.parts.len()
            )));
        }
        let stored = StoredPoint::of_run(&self.report, self.parts.clone());
        let claims = self.pieces.all.iter().filter_map(|piece| piece.claim.as_ref());
        let shapes: Vec<(String, ClaimShape)> = claims.map(|claim| (claim.name.clone(), claim.shape.clone())).collect();
        let change = self.site.store.change_points(&self.policy.name, |record| {
            record.record_point(&stored);
            record.claims.extend(shapes.clone());
        });
        Ok(change.await?)
    }
}
