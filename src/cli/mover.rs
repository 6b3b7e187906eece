//! `mainstay mover`: a job as JSON on standard input, events as JSON lines on standard output.
//!
//! `mainstay mover install PATH` leaves the program in a folder that another container shares: the mover's own image has
//! no `cp`, and the image that has the database's client programs has no mover.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

mod install;

use super::{CommandResult, Exit};
use crate::mover::{
    self,
    job::{Event, Job},
};

/// A job names some paths and ids; this is far more than any needs.
const JOB_BYTES: u64 = 64 << 20;

/// Carry out one job, given as JSON on standard input.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Copy this program to a path, for a container that shares the folder
    Install {
        /// The file to make, or a folder to put `mainstay` into
        path: PathBuf,
    },
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    match arguments.action {
        None => job(),
        Some(Action::Install { path }) => install::install(&path),
    }
}

/// Carries one job out. The last line is `Done` or `Failed`.
fn job() -> CommandResult {
    let job = match read() {
        Ok(job) => job,
        Err(failure) => {
            let failed = mover::job::Failure::new(mover::job::FailureKind::Other, failure);
            tell(&Event::Failed(failed.hint("the mover is started by `mainstay run`, not by hand")));
            return Ok(Exit::Error);
        }
    };
    match mover::execute(job, &mut |event| tell(&event)) {
        Ok(outcome) => {
            tell(&Event::Done(outcome));
            Ok(Exit::Success)
        }
        Err(failure) => {
            tell(&Event::Failed(failure));
            Ok(Exit::Error)
        }
    }
}

fn read() -> Result<Job, String> {
    let mut text = Vec::new();
    let length = io::stdin()
        .lock()
        .take(JOB_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the job on standard input: {error}"))?;
    if length as u64 > JOB_BYTES {
        return Err("the job on standard input is too long".to_owned());
    }
    // What serde says could quote a secret; only the place is told.
    serde_json::from_slice(&text).map_err(|error| {
        format!("cannot read the job on standard input at line {}, column {}", error.line(), error.column())
    })
}

/// Writes one line. Whoever started the mover may be gone; the job goes on, and its snapshot is found by its label.
fn tell(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let mut output = io::stdout().lock();
    let _ = output.write_all(&line).and_then(|()| output.flush());
}
