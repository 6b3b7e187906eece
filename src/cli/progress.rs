//! Progress of long work: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::engine::local::movers::Word;

/// Shows how far a piece of work is, on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar on a terminal, plain lines elsewhere.
    pub(super) fn new() -> Self {
        Self { bar: std::io::stderr().is_terminal().then(ProgressBar::new_spinner) }
    }

    /// A step begins.
    pub(super) fn step(&mut self, step: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(step.to_owned());
                bar.tick();
            }
            None => say(step),
        }
    }

    /// A mover says how far it is.
    pub(super) fn word(&mut self, subject: &str, word: &Word) {
        match (word, &self.bar) {
            (Word::Progress { step, done_bytes, total_bytes }, Some(bar)) => {
                let template = match total_bytes {
                    Some(total) => {
                        bar.set_length(*total);
                        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
                    }
                    // How much there is to read shows when it was read.
                    None => "{spinner} {msg} {bytes} {bytes_per_sec}",
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_position(*done_bytes);
                bar.set_message(format!("{subject}: {step}"));
            }
            (Word::Warning(text), Some(bar)) => bar.suspend(|| eprintln!("warning: {subject}: {text}")),
            (Word::Warning(text), None) => say(&format!("warning: {subject}: {text}")),
            (Word::Progress { .. } | Word::Started(_), _) => {}
        }
    }

    /// The work is over.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// One line on standard error. Whoever reads it may be gone, and the work must not end because of that.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
