//! rustic_core's progress bars, turned into progress events.

use std::sync::atomic::{AtomicU64, Ordering};

use rustic_core::{Progress, ProgressBars, ProgressType, RusticProgress};

use crate::mover::progress::Reporter;

/// Makes the meters of a job.
#[derive(Debug)]
pub struct Meters {
    reporter: Reporter,
}

impl Meters {
    /// Tells progress to this reporter.
    pub fn new(reporter: Reporter) -> Self {
        Self { reporter }
    }
}

impl ProgressBars for Meters {
    fn progress(&self, progress_type: ProgressType, prefix: &str) -> Progress {
        match progress_type {
            ProgressType::Bytes => Progress::new(Meter {
                reporter: self.reporter.clone(),
                // `backing up...` and the like.
                step: if prefix.starts_with("backing up") { "reading" } else { "checking" },
                done_bytes: AtomicU64::new(0),
                total_bytes: AtomicU64::new(0),
            }),
            ProgressType::Spinner | ProgressType::Counter => Progress::hidden(),
        }
    }
}

/// Counts bytes.
#[derive(Debug)]
struct Meter {
    reporter: Reporter,
    step: &'static str,
    done_bytes: AtomicU64,
    /// 0: not known.
    total_bytes: AtomicU64,
}

impl RusticProgress for Meter {
    fn is_hidden(&self) -> bool {
        false
    }

    fn set_length(&self, length: u64) {
        self.total_bytes.store(length, Ordering::Relaxed);
    }

    fn set_title(&self, _: &str) {}

    fn inc(&self, more: u64) {
        let done = self.done_bytes.fetch_add(more, Ordering::Relaxed) + more;
        let total = self.total_bytes.load(Ordering::Relaxed);
        self.reporter.progress(self.step, done, (total > 0).then_some(total));
    }

    fn finish(&self) {}
}
