//! What the threads of a job say while they work; bounded and throttled, so that telling never slows the work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    time::Instant,
};

use super::job::Event;

/// Between two progress events.
const INTERVAL_MILLISECONDS: u64 = 250;
/// More warnings than this are only counted.
const WARNINGS: u64 = 50;

/// Where a job's threads tell how far they are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: SyncSender<Event>,
    started: Instant,
    last_milliseconds: AtomicU64,
    warnings: AtomicU64,
}

impl Reporter {
    /// Sends to a bounded channel whose other end is drained.
    pub fn new(events: SyncSender<Event>) -> Self {
        Self(Arc::new(Shared {
            events,
            started: Instant::now(),
            last_milliseconds: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
        }))
    }

    /// Tells how far it is, at most a few times each second.
    pub fn progress(&self, step: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let now = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.0.last_milliseconds.load(Ordering::Relaxed);
        if now.saturating_sub(last) < INTERVAL_MILLISECONDS {
            return;
        }
        if self.0.last_milliseconds.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let event = Event::Progress { step: step.to_owned(), done_bytes, total_bytes };
            // A full channel: the next one tells more.
            let _ = self.0.events.try_send(event);
        }
    }

    /// Tells something that a person should know. After many, only counts.
    pub fn warn(&self, message: impl Into<String>) {
        if self.0.warnings.fetch_add(1, Ordering::Relaxed) < WARNINGS {
            // The other end is gone only when the job is over.
            let _ = self.0.events.send(Event::Warning(message.into()));
        }
    }

    /// Passes a piece of a file on. It waits for whoever listens; false: nobody does any more.
    pub fn data(&self, piece: String) -> bool {
        self.0.events.send(Event::Data(piece)).is_ok()
    }

    /// Says how many warnings were only counted.
    pub fn finish(&self) {
        let more = self.0.warnings.load(Ordering::Relaxed).saturating_sub(WARNINGS);
        if more > 0 {
            let _ = self.0.events.send(Event::Warning(format!("and {more} more of such warnings")));
        }
    }
}
