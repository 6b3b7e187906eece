//! Capturing: one source into one repository, by one mover.

use super::{Notice, Run, chain};
use crate::{
    engine::local::{
        context::{WorkError, bandwidth},
        inventory,
        movers::{MoverError, Word},
        sources,
        state::{places::PlaceRecord, points::StoredPart},
    },
    mover::job::{Input, Outcome, SnapshotLabel, Task},
    policy::document::Source,
    restore_point::Part,
    run::{Phase, SourceReport},
};

impl Run<'_> {
    pub(super) async fn capture(&mut self, index: usize, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let repositories = self.places.len().max(1);
        let source = self.policy.document.spec.sources.get(index / repositories).cloned();
        let place = self.places.get(index % repositories).cloned();
        let (Some(source), Some(place)) = (source, place) else {
            return Err("the policy has no source or no repository; apply its document again".to_owned());
        };
        notice(Notice::Step(format!("capture {} into {}", source.name, place.repository)));
        self.set_source(index, Phase::Running, |_| ());
        let began = std::time::Instant::now();
        let mut warnings = Vec::new();
        let result = self.capture_one(&source, &place, notice, &mut warnings).await;
        self.remember_child(None);
        let duration_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = crate::engine::movers::told(warnings);
        match result {
            Ok(mut part) => {
                part.part.duration_milliseconds = duration_milliseconds;
                let captured = part.part.clone();
                self.parts.push(part);
                self.set_source(index, Phase::Succeeded, |report| {
                    report.tell_captured(captured);
                    report.message = told;
                });
                Ok(())
            }
            Err(error) => {
                let reason = error.chain();
                self.set_source(index, Phase::Failed, |report| {
                    report.duration_milliseconds = duration_milliseconds;
                    report.message = Some(reason.clone());
                });
                Err(format!("source {} was not captured into {}: {reason}", source.name, place.repository))
            }
        }
    }

    async fn capture_one(
        &mut self,
        source: &Source,
        place: &PlaceRecord,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<StoredPart, WorkError> {
        if !place.initialised {
            inventory::check_beside(self.context, &self.policy.name, place).await?;
            self.context.job(place, Task::Initialise, None, &self.bounds, |_| ()).await?;
            self.context.state.set_initialised(place.id)?;
            if let Some(place) = self.places.iter_mut().find(|other| other.id == place.id) {
                place.initialised = true;
            }
        }
        let input = sources::input(source)?;
        let is_stream = matches!(input, Input::Streams(_));
        let task = Task::Capture {
            label: SnapshotLabel {
                policy: self.policy.name.clone(),
                run: self.report.id.clone(),
                source: source.name.clone(),
                sources: self.policy.document.spec.sources.len(),
                host: self.policy.cluster.clone(),
                maker: Some(self.context.state.maker()?),
            },
            time: self.report.started_at,
            input,
        };
        let subject = format!("{} → {}", source.name, place.repository);
        let outcome = self
            .context
            .job(place, task, bandwidth(&self.policy), &self.bounds, |word| {
                match &word {
                    Word::Started(child) => self.remember_child(Some(child)),
                    Word::Warning(text) => warnings.push(text.clone()),
                    Word::Progress { .. } => {}
                }
                notice(Notice::Word(subject.clone(), word));
            })
            .await?;
        let Outcome::Captured { snapshot, size_bytes, added_bytes, files, unreadable } = outcome else {
            return Err(MoverError::WrongAnswer { repository: place.repository.clone() }.into());
        };
        if is_stream && size_bytes == 0 {
            // The mover refuses an empty stream, too; a restore point of nothing must not depend on one guard.
            return Err(WorkError::Refused(format!("source {} gave nothing at all; look at its program", source.name)));
        }
        let part = Part {
            source: source.name.clone(),
            repository: place.repository.clone(),
            location: Some(place.location()),
            snapshot,
            size_bytes,
            added_bytes,
            files,
            unreadable,
            duration_milliseconds: 0,
        };
        Ok(StoredPart { place: place.id, part })
    }

    fn set_source(&mut self, index: usize, phase: Phase, change: impl FnOnce(&mut SourceReport)) {
        if let Some(report) = self.report.sources.get_mut(index) {
            report.phase = phase;
            change(report);
        }
        if let Err(error) = self.context.state.update_run(&self.report) {
            tracing::warn!("{}", chain("the state does not know how far this run is", &error));
        }
    }
}
