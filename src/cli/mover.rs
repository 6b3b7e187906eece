//! `mainstay mover`: a job as JSON on standard input (or in a file), events as JSON lines on standard output.
//!
//! `mainstay mover install PATH` leaves the program in a folder that another container shares: the mover's own image has
//! no `cp`, and the image that has the database's client programs has no mover.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};

mod install;

use super::{CommandResult, Exit};
use crate::{
    engine::process::ProcessIdentity,
    mover::{
        self,
        job::{Event, Failure, FailureKind, Job, Outcome},
    },
};

/// A job names some paths and ids; this is far more than any needs.
const JOB_BYTES: u64 = 64 << 20;
/// What Kubernetes keeps of a container's last words.
const RESULT_BYTES: usize = 4096;

/// Where an upload waits until it is unpacked.
const UPLOAD: &str = "/tmp/upload.tar.gz";
/// How often is looked for it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Carry out one job, given as JSON on standard input.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Read the job from this file instead
    #[arg(long, value_name = "FILE")]
    job: Option<PathBuf>,
    /// Write the result into this file, too, as far as it is short
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
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
    /// Wait, for others to start movers in this container
    Hold {
        /// For how long at most
        #[arg(long)]
        seconds: u64,
    },
    /// Take a tar.gz that `mainstay mover receive` gets in this container, and unpack it
    Unpack {
        /// Where to
        path: PathBuf,
        /// How long to wait for it
        #[arg(long)]
        seconds: u64,
        /// Overwrite what is there
        #[arg(long)]
        overwrite: bool,
    },
    /// Read a file, as a mover sends it, from standard input
    Receive,
    /// Hold the input of a restore's program open, and end the program when its mover is gone
    Watch,
    /// Look at every file below a path, and read a little of each
    Look {
        /// Where to look
        path: PathBuf,
    },
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    match &arguments.action {
        None => job(&arguments),
        Some(Action::Install { path }) => install::install(path),
        Some(Action::Look { path }) => told(&arguments, &event(mover::look(path))),
        Some(Action::Hold { seconds }) => {
            std::thread::sleep(Duration::from_secs(*seconds));
            Ok(Exit::Success)
        }
        Some(Action::Watch) => {
            mover::watch(io::stdin().lock());
            Ok(Exit::Success)
        }
        Some(Action::Receive) => {
            let received = mover::parcel::receive(io::stdin().lock(), Path::new(UPLOAD));
            told(&arguments, &event(received))
        }
        Some(Action::Unpack { path, seconds, overwrite }) => {
            let unpacked = unpack(path, Duration::from_secs(*seconds), *overwrite);
            told(&arguments, &event(unpacked))
        }
    }
}

fn event(result: Result<Outcome, Failure>) -> Event {
    match result {
        Ok(outcome) => Event::Done(outcome),
        Err(failure) => Event::Failed(failure),
    }
}

/// Waits for an upload and unpacks it.
fn unpack(path: &Path, within: Duration, overwrite: bool) -> Result<Outcome, Failure> {
    let until = Instant::now() + within;
    let upload = Path::new(UPLOAD);
    while !upload.exists() {
        if Instant::now() >= until {
            return Err(Failure::new(FailureKind::SourceFailed, "no archive arrived")
                .hint("start `mainstay restore --archive` again, and let it run to its end"));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let options = mover::archive::Options { overwrite, owners: true };
    let unpacked = mover::archive::unpack_with(upload, path, options).map_err(|error| {
        Failure::new(FailureKind::DestinationRefused, crate::engine::chain(&error)).hint("look at the archive with tar")
    })?;
    Ok(Outcome::Restored { files: unpacked.files, bytes: unpacked.bytes })
}

/// Carries one job out. The last line is `Done` or `Failed`.
fn job(arguments: &Arguments) -> CommandResult {
    let has_asker = arguments.job.is_none();
    let mut hear = |event: Event| match tell(&event) {
        // Whoever gave the job on standard input was killed. What takes its place may be in another container and not
        // be able to end this mover, which must not write beside it.
        Err(error) if has_asker && error.kind() == io::ErrorKind::BrokenPipe => ProcessIdentity::end_own_tree(),
        // The log of a pod may be gone; the job goes on, and its snapshot is found by its label.
        Err(_) | Ok(()) => {}
    };
    let last = match read(arguments.job.as_deref()) {
        Ok(job) => match mover::execute(job, &mut hear) {
            Ok(outcome) => Event::Done(outcome),
            Err(failure) => Event::Failed(failure),
        },
        Err(failure) => {
            let failed = mover::job::Failure::new(mover::job::FailureKind::Other, failure);
            Event::Failed(failed.hint("the mover is started by `mainstay run`, not by hand"))
        }
    };
    told(arguments, &last)
}

/// Says how it ended, where whoever waits looks for it.
fn told(arguments: &Arguments, last: &Event) -> CommandResult {
    if let Some(path) = &arguments.result {
        keep(path, last);
    }
    // Who is gone needs no answer.
    let _ = tell(last);
    match last {
        Event::Failed(_) => Ok(Exit::Error),
        Event::Done(_) | Event::Progress { .. } | Event::Warning(_) | Event::Data(_) => Ok(Exit::Success),
    }
}

/// Writes the result where it outlives the standard output: the status of a pod shows it. A long one is left to that
/// output.
fn keep(path: &Path, event: &Event) {
    let Ok(text) = serde_json::to_vec(event) else { return };
    if text.len() <= RESULT_BYTES {
        // Whoever waits has the standard output as well.
        let _ = std::fs::write(path, text);
    }
}

fn read(file: Option<&Path>) -> Result<Job, String> {
    let mut text = Vec::new();
    let (input, name): (Box<dyn io::Read>, String) = match file {
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| format!("cannot open the job in {name}: {error}"))?;
            (Box::new(file), name)
        }
        None => (Box::new(io::stdin().lock()), "standard input".to_owned()),
    };
    let length = input
        .take(JOB_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the job on {name}: {error}"))?;
    if length as u64 > JOB_BYTES {
        return Err(format!("the job on {name} is too long"));
    }
    // What serde says could quote a secret; only the place is told.
    serde_json::from_slice(&text)
        .map_err(|error| format!("cannot read the job on {name} at line {}, column {}", error.line(), error.column()))
}

/// Writes one line.
fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line).and_then(|()| output.flush())
}
