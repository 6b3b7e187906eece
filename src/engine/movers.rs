//! Movers: one child process for each job. The job goes in as JSON on standard input, so that no secret is in an
//! argument vector; events come out as JSON lines.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::Instant,
};

use super::process::{ProcessIdentity, Stop, describe, stopped};
use crate::{
    mover::job::{Event, Failure, FailureKind, Job, Outcome, Snapshot},
    secret::Confidential,
};

/// How many warnings of a mover are kept in a report.
const MOST_WARNINGS: usize = 5;
/// The longest event that is read: a list of some 500,000 snapshots.
const LONGEST_EVENT_BYTES: u64 = 256 * 1024 * 1024;
/// How long a mover may take to go after its last word.
const FAREWELL: Duration = Duration::from_secs(30);

/// Why a job did not go through.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// The mover could not be started, or does not speak.
    #[error("the mover for repository {repository} could not be talked to; try again, and if it stays so report it")]
    Talk {
        /// The repository.
        repository: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended without a result.
    #[error("the mover for repository {repository} ended with {status} and gave no result; is memory short?")]
    Vanished {
        /// The repository.
        repository: String,
        /// Exit status or signal.
        status: String,
    },
    /// It said why it failed.
    #[error("{} ({})", .0.message, .0.hint)]
    Failed(Failure),
    /// It took longer than the run may take.
    #[error(
        "the run took longer than its limit, and the mover for repository {repository} was ended; raise `limits.timeout`"
    )]
    TimedOut {
        /// The repository.
        repository: String,
    },
    /// The run was asked to stop.
    #[error("the run was asked to stop, and the mover for repository {repository} was ended")]
    Stopped {
        /// The repository.
        repository: String,
    },
    /// It answered something that this job cannot give.
    #[error("the mover for repository {repository} gave an answer to another question; update Mainstay everywhere")]
    WrongAnswer {
        /// The repository.
        repository: String,
    },
}

impl MoverError {
    /// Whether the mover said that it failed in this way.
    pub fn is(&self, kind: FailureKind) -> bool {
        matches!(self, Self::Failed(failure) if failure.kind == kind)
    }
}

/// How long a job may take, and who may end it.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// When it is ended.
    pub deadline: Instant,
    /// Asked to stop.
    pub stop: Option<Stop>,
}

impl Bounds {
    /// At most this long from now.
    pub fn within(limit: Duration, stop: Option<Stop>) -> Self {
        // A limit beyond what a clock can count is no limit in practice: a year.
        let year = Duration::from_secs(366 * 86_400);
        Self { deadline: Instant::now() + limit.min(year), stop }
    }
}

/// What a mover says on its way, for whoever looks on.
#[derive(Debug, Clone)]
pub enum Word {
    /// The process that now works.
    Started(ProcessIdentity),
    /// How far it is.
    Progress {
        /// What is done just now.
        step: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: Option<u64>,
    },
    /// Something a person should know.
    Warning(String),
}

/// Carries out one job with `program` (this very program) as the mover. Neither it nor the programs that it starts inherit
/// what is confidential.
///
/// # Errors
/// It failed, was ended, or could not be started.
pub async fn carry_out(
    program: &Path,
    job: &Job,
    bounds: &Bounds,
    confidential: &Confidential,
    mut hear: impl FnMut(Word),
) -> Result<Outcome, MoverError> {
    let repository = job.repository.name.clone();
    let talk = |source| MoverError::Talk { repository: job.repository.name.clone(), source };
    let mut command = tokio::process::Command::new(program);
    for variable in confidential.variables() {
        command.env_remove(variable);
    }
    let mut child = command
        .arg("mover")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(talk)?;
    let identity = child.id().and_then(ProcessIdentity::of);
    if let Some(identity) = &identity {
        hear(Word::Started(identity.clone()));
    }
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let conversation = async {
        let text = serde_json::to_vec(job).map_err(std::io::Error::other)?;
        if let Some(mut input) = input {
            // A mover that fails at once does not read; its result says why.
            if let Err(error) = input.write_all(&text).await
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                return Err(error);
            }
        }
        let Some(output) = output else { return Ok(None) };
        let mut lines = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            let read = (&mut lines).take(LONGEST_EVENT_BYTES).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Ok(None);
            }
            match serde_json::from_slice::<Event>(&line).map_err(std::io::Error::other)? {
                Event::Progress { step, done_bytes, total_bytes } => {
                    hear(Word::Progress { step, done_bytes, total_bytes });
                }
                Event::Warning(text) => hear(Word::Warning(text)),
                // Nobody here asked for a file.
                Event::Data(_) => {}
                Event::Done(outcome) => return Ok(Some(Ok(outcome))),
                Event::Failed(failure) => return Ok(Some(Err(failure))),
            }
        }
    };
    let stop_asked = async {
        match bounds.stop.clone() {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        said = conversation => said.map_err(talk),
        () = tokio::time::sleep_until(bounds.deadline) => Err(MoverError::TimedOut { repository: repository.clone() }),
        () = stop_asked => Err(MoverError::Stopped { repository: repository.clone() }),
    };
    let kill = || {
        if let Some(identity) = &identity {
            identity.kill_tree()
        }
    };
    let said = match result {
        Ok(said) => said,
        Err(error) => {
            kill();
            let _ = child.wait().await;
            return Err(error);
        }
    };
    let status = match tokio::time::timeout(FAREWELL, child.wait()).await {
        Ok(status) => status.map_err(talk)?,
        Err(_) => {
            kill();
            child.wait().await.map_err(talk)?
        }
    };
    match said {
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(failure)) => Err(MoverError::Failed(failure)),
        None => Err(MoverError::Vanished { repository, status: describe(status) }),
    }
}

/// The warnings of a mover in one line, cut after a few; none: it had none.
pub fn told(mut warnings: Vec<String>) -> Option<String> {
    let more = warnings.len().saturating_sub(MOST_WARNINGS);
    warnings.truncate(MOST_WARNINGS);
    if more > 0 {
        warnings.push(format!("and {more} more warnings"));
    }
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// The snapshots of a list.
///
/// # Errors
/// It is the answer to another question.
pub fn snapshots(repository: &str, outcome: Outcome) -> Result<Vec<Snapshot>, MoverError> {
    if let Outcome::Listed(snapshots) = outcome {
        return Ok(snapshots);
    }
    Err(MoverError::WrongAnswer { repository: repository.to_owned() })
}
