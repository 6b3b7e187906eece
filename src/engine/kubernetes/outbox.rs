//! From what happened to the history: runs leave events in the records of their policies, and the daemon at work gives
//! them their numbers. It alone writes the history, in one write for everything that waits.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    KubernetesEngine,
    store::{History, PointsRecord, StoreError, codec::CodecError, points::WaitingEvent},
};
use crate::{engine::EngineError, policy::PolicyName, status::ledger::EventKind};

/// How often the history is cut in half to make it fit.
const MOST_CUTS: usize = 6;

/// What waits in this process, and the history as it was written last: the watch may be behind.
#[derive(Debug, Default)]
pub struct Outbox {
    events: Vec<(PolicyName, WaitingEvent)>,
    written: History,
}

/// Whether an event must outlive a crash of the daemon before it is in the history: who consented to a loss.
pub fn must_last(kind: &EventKind) -> bool {
    match kind {
        EventKind::LostByEdit { .. } | EventKind::Approved { .. } => true,
        EventKind::Applied { .. }
        | EventKind::RunEnded(_)
        | EventKind::Skipped { .. }
        | EventKind::RestoreEnded(_)
        | EventKind::Expired { .. }
        | EventKind::TakenBack { .. }
        | EventKind::Forgotten { .. }
        | EventKind::Verified { .. }
        | EventKind::Found { .. }
        | EventKind::Missing { .. }
        | EventKind::Returned { .. }
        | EventKind::GivenUp { .. }
        | EventKind::Held(_)
        | EventKind::Released(_) => false,
    }
}

impl Outbox {
    /// Keeps an event until the next write.
    pub fn add(&mut self, policy: &PolicyName, kind: EventKind, at: Timestamp) {
        self.events.push((policy.clone(), WaitingEvent { at, kind, restore: None }));
    }

    /// The newest history that is known.
    pub fn newest<'a>(&'a self, stored: Option<&'a History>) -> &'a History {
        stored.filter(|stored| stored.newest_sequence > self.written.newest_sequence).unwrap_or(&self.written)
    }

    /// How many events wait.
    pub fn waiting<'a>(&self, records: impl Iterator<Item = &'a Arc<PointsRecord>>, newest: &History) -> usize {
        let is_new = |record: &PointsRecord, event: &WaitingEvent| {
            !newest.has(event.at, event.subject(&record.policy), &event.kind)
        };
        let in_records = records.map(|record| record.events.iter().filter(|event| is_new(record, event)).count());
        self.events.len() + in_records.sum::<usize>()
    }
}

impl KubernetesEngine {
    /// Gives everything that waits its number. With nothing that waits, nothing is asked or written.
    pub(super) async fn collect(&self) -> Result<(), EngineError> {
        let records: Vec<Arc<PointsRecord>> = {
            let index = self.shared.look();
            index.all_points().filter(|record| !record.events.is_empty()).cloned().collect()
        };
        let own = std::mem::take(&mut self.outbox().events);
        if records.is_empty() && own.is_empty() {
            return Ok(());
        }
        let mut waiting = own.clone();
        for record in &records {
            let events = record.events.iter();
            waiting.extend(events.map(|event| (event.subject(&record.policy).clone(), event.clone())));
        }
        // In the order in which it happened; events of one moment keep theirs.
        waiting.sort_by_key(|(_, event)| event.at);
        if let Err(error) = self.number(&waiting).await {
            self.outbox().events.splice(..0, own);
            return Err(error);
        }
        for record in records {
            let taken = |event: &WaitingEvent| record.events.contains(event);
            self.store.change_points(&record.policy, |known| known.events.retain(|event| !taken(event))).await?;
        }
        Ok(())
    }

    async fn number(&self, waiting: &[(PolicyName, WaitingEvent)]) -> Result<(), EngineError> {
        self.may_write(|| "writing the history".to_owned())?;
        for cuts in 0..=MOST_CUTS {
            let change = |history: &mut History| {
                for _ in 0..cuts {
                    history.halve();
                }
                for (policy, event) in waiting {
                    history.add(event.at, policy, &event.kind);
                }
                history.clone()
            };
            match self.store.change_history(change).await {
                Ok(history) => {
                    self.outbox().written = history;
                    return Ok(());
                }
                Err(StoreError::Content { source: CodecError::Full { .. }, .. }) if cuts < MOST_CUTS => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
