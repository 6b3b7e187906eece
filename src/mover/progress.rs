//! What the threads of a job say while they work; bounded and throttled, so that telling never slows the work.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use super::job::Event;

/// Between two progress events.
const INTERVAL: Duration = Duration::from_millis(250);
/// More warnings than this are only counted.
const WARNINGS: u64 = 50;

/// Where a job's threads tell how far they are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: SyncSender<Event>,
    pace: Untold,
    warnings: AtomicU64,
}

/// The progress that came too soon after what was told last. Whoever drains the channel tells it late: an upload may take
/// long after everything was read.
#[derive(Debug, Clone, Default)]
pub struct Untold(Arc<Mutex<Pace>>);

#[derive(Debug, Default)]
struct Pace {
    told: Option<Instant>,
    untold: Option<Event>,
}

impl Reporter {
    /// Sends to a bounded channel whose other end [`drain`] reads, with the same `untold`.
    pub fn new(events: SyncSender<Event>, untold: Untold) -> Self {
        Self(Arc::new(Shared { events, pace: untold, warnings: AtomicU64::new(0) }))
    }

    /// Tells how far it is, at most a few times each second.
    pub fn progress(&self, step: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let event = Event::Progress { step: step.to_owned(), done_bytes, total_bytes };
        let mut pace = self.0.pace.0.lock().unwrap_or_else(PoisonError::into_inner);
        pace.untold = match pace.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            true => Some(event),
            false => {
                pace.told = Some(Instant::now());
                // A full channel: it is told late.
                self.0.events.try_send(event.clone()).err().map(|_| event)
            }
        };
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

/// Tells every event until all who send are gone, and between them the progress that came too soon.
pub fn drain(receiver: &Receiver<Event>, untold: &Untold, events: &mut dyn FnMut(Event)) {
    loop {
        match receiver.recv_timeout(INTERVAL) {
            Ok(event) => events(event),
            Err(RecvTimeoutError::Timeout) => {
                let mut pace = untold.0.lock().unwrap_or_else(PoisonError::into_inner);
                let late = pace.untold.take();
                pace.told = late.is_some().then(Instant::now).or(pace.told);
                drop(pace);
                late.into_iter().for_each(&mut *events);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What is told while a thread tells progress twice in a moment, and then works on in silence until that was heard.
    #[test]
    fn progress_that_came_too_soon_is_told_late() {
        let (sender, receiver) = mpsc::sync_channel(4);
        let untold = Untold::default();
        let (heard_all, until) = mpsc::channel();
        let reporter = Reporter::new(sender, untold.clone());
        let worker = std::thread::spawn(move || {
            reporter.progress("reading", 1, None);
            reporter.progress("reading", 2, None);
            until.recv_timeout(Duration::from_secs(10)).is_ok()
        });
        let mut told = Vec::new();
        drain(&receiver, &untold, &mut |event| {
            if let Event::Progress { done_bytes, .. } = event {
                told.push(done_bytes);
                if done_bytes == 2 {
                    heard_all.send(()).expect("the worker waits");
                }
            }
        });
        assert!(worker.join().unwrap(), "the end came before it was told");
        assert_eq!(told, [1, 2]);
    }
}
