//! Databases that a restore loads: what they held before is captured first, so that it can be put back.

use jiff::Timestamp;

use super::{
    Restoring,
    databases::{self, Load},
    prepare::Destination,
};
use crate::{
    engine::{
        kubernetes::{access, movers, site::SiteError, store::restores::Safety},
        local::runner::Notice,
        movers::Word,
    },
    mover::job::{Outcome, SnapshotLabel, Task},
    restore_point::RestorePointId,
};

impl Restoring<'_> {
    /// Loads captured streams into databases. What these held before is captured first, so that it can be put back.
    pub(super) async fn load(
        &mut self,
        index: usize,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, u64)>, SiteError> {
        if self.record.is_in_place() {
            let captured = self.safety(index, notice).await;
            if !matches!(captured, Ok(true)) {
                // Said before it is overwritten: nobody may think later that it could be put back.
                self.record.unsaved.push(self.prepared.items[index].part.source.clone());
                self.save().await?;
            }
            if let Err(error) = captured {
                // Often it is because the database is damaged that somebody restores it.
                warnings.push(format!(
                    "what the databases held before could not be captured, so a failure cannot be taken back: {}",
                    error.chain()
                ));
            }
        }
        let item = &self.prepared.items[index];
        let Destination::Programs { image, loads } = &item.destination else { return Ok(None) };
        let Some(place) = item.origin.place() else {
            return Err(SiteError::Refused(format!("source {} is in no repository", item.part.source)));
        };
        let (mut files, mut bytes) = (0, 0);
        for (number, load) in loads.iter().enumerate() {
            let Load { file_name, program, guard, into: _ } = load;
            let mut mover = self.mover_named(&format!("d{index}-{number}"), self.record.policy.namespace());
            mover.client_image = Some(image.clone());
            mover.nfs = access::nfs(place);
            let task = Task::RestoreStream {
                snapshot: item.part.snapshot.clone(),
                file_name: file_name.clone(),
                program: program.clone(),
                guard: guard.clone(),
            };
            let work = self.work(place, task).await?;
            let subject = format!("{} ← {}", item.part.source, item.part.repository);
            let hear = |word: Word| {
                if let Word::Warning(text) = &word {
                    warnings.push(text.clone());
                }
                notice(Notice::Word(subject.clone(), word));
            };
            if let Outcome::Restored { files: one, bytes: some } =
                movers::carry_out(self.site.client(), &mover, &work, &self.bounds, hear).await?
            {
                files += one;
                bytes += some;
            }
        }
        Ok(Some((files, bytes)))
    }

    /// Captures what the databases of a source hold now. False: it is no source of which that is possible.
    async fn safety(&mut self, index: usize, notice: &mut dyn FnMut(Notice)) -> Result<bool, SiteError> {
        let item = &self.prepared.items[index];
        let (Destination::Programs { image, loads: _ }, Some(place)) = (&item.destination, item.origin.place()) else {
            return Ok(false);
        };
        let source = self.prepared.policy.document.spec.sources.iter().find(|source| source.name == item.part.source);
        let Some(source) = source else { return Ok(false) };
        let Some(input) = databases::safety(self.site, &self.record.policy, source).await? else { return Ok(false) };
        notice(Notice::Step(format!("{}: capture what is there, so that it can be put back", source.name)));
        let mut mover = self.mover_named(&format!("s{index}"), self.record.policy.namespace());
        mover.client_image = Some(image.clone());
        mover.nfs = access::nfs(place);
        let now = Timestamp::now();
        let label = SnapshotLabel {
            policy: self.record.policy.clone(),
            // More parts than it has: it never counts as a restore point.
            run: RestorePointId::from_time(now),
            source: format!("{} before {}", source.name, self.record.mark()),
            sources: usize::from(u16::MAX),
            host: self.prepared.policy.cluster.clone(),
            maker: self.site.store.points(&self.record.policy).await?.maker,
        };
        let (definition, place_id) = (source.clone(), place.id);
        let work = self.work(place, Task::Capture { label, time: now, input }).await?;
        let outcome = movers::carry_out(self.site.client(), &mover, &work, &self.bounds, |_| ()).await?;
        let Outcome::Captured { snapshot, .. } = outcome else { return Ok(false) };
        let source = definition.name.clone();
        self.record.safeties.push(Safety { source, definition: Some(definition), place: place_id, snapshot });
        self.save().await?;
        Ok(true)
    }
}
