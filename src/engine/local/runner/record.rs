//! Recording: a restore point exists only if every repository really lists every part of it.

use super::Run;
use crate::{
    engine::local::{context::WorkError, movers, state::points::StoredPoint},
    mover::job::Task,
};

impl Run<'_> {
    /// Looks whether every repository lists every snapshot of this run: a store may say yes and have kept nothing.
    pub(super) async fn check(&self) -> Result<(), WorkError> {
        for place in &self.places {
            let task = Task::List { policy: Some(self.policy.name.clone()) };
            let outcome = self.context.job(place, task, None, &self.bounds, |_| ()).await?;
            let listed = movers::snapshots(&place.repository, outcome)?;
            for part in self.parts.iter().filter(|part| part.place == place.id) {
                let there = listed.iter().any(|snapshot| {
                    snapshot.id == part.part.snapshot
                        && snapshot.label.run == self.report.id
                        && snapshot.size_bytes == part.part.size_bytes
                });
                if !there {
                    return Err(WorkError::Refused(format!(
                        "repository {} does not list what source {} was captured into; look at its storage",
                        place.repository, part.part.source
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn record(&mut self) -> Result<(), WorkError> {
        let expected = self.policy.document.spec.sources.len() * self.places.len();
        if self.parts.len() != expected {
            return Err(WorkError::Refused(format!(
                "only {} of {expected} parts were captured; this is a defect of Mainstay, please report it",
                self.parts.len()
            )));
        }
        let stored = StoredPoint::of_run(&self.report, self.parts.clone());
        Ok(self.context.state.record_point(&self.report, &stored)?)
    }
}
