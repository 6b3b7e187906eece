//! Programs whose standard output is captured, or whose standard input is fed.
//!
//! No shell, no temporary file. A program counts as successful only if it ended with 0; its last words on standard
//! error are part of the failure, with every secret of its environment cut out.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, PipeWriter, Read},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use super::job::{Failure, FailureKind, Program, Stream};
use crate::secret::Confidential;

mod watch;
mod wholeness;

pub use watch::watch;
pub use wholeness::Wholeness;

use watch::Watch;

/// So much of a program's standard error is kept, from its end.
const LAST_WORDS_BYTES: usize = 4096;
/// A program's grandchild may keep standard error open after it; we do not wait for that.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// A program that was started.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    /// Of one whose input is fed.
    watch: Option<Watch>,
    last_words: Receiver<Vec<u8>>,
    confidential: Confidential,
    ended: bool,
}

impl Running {
    /// Starts a program and captures its standard output.
    ///
    /// # Errors
    /// It is not there, or may not be executed.
    pub fn reading(program: &Program) -> Result<(Self, ChildStdout), Failure> {
        let mut running = Self::start(program, Stdio::null(), Stdio::piped(), None)?;
        match running.child.stdout.take() {
            Some(stdout) => Ok((running, stdout)),
            None => Err(running.failed("has no standard output")),
        }
    }

    /// Starts a program whose standard input will be fed. That input ends only once it was dropped and [`Running::wait`]
    /// called: when this mover is killed, the program is ended first.
    ///
    /// # Errors
    /// It is not there, or may not be executed.
    pub fn feeding(program: &Program) -> Result<(Self, PipeWriter), Failure> {
        let failed = |error: io::Error| {
            let text = format!("cannot prepare the input of the program that takes the stream: {error}");
            Failure::new(FailureKind::Other, text)
                .hint("see whether memory or processes are short; nothing was written")
        };
        let (output, input) = io::pipe().map_err(failed)?;
        let watch = Watch::start(&input).map_err(failed)?;
        let running = Self::start(program, output.into(), Stdio::null(), Some(watch))?;
        Ok((running, input))
    }

    fn start(program: &Program, stdin: Stdio, stdout: Stdio, watch: Option<Watch>) -> Result<Self, Failure> {
        let Some((name, arguments)) = program.arguments.split_first() else {
            return Err(Failure::new(FailureKind::Other, "the job names no program")
                .hint("give the command at least one element"));
        };
        let group = watch.as_ref().and_then(|watch| i32::try_from(watch.group()).ok()).unwrap_or_default();
        let mut child = Command::new(name)
            .args(arguments)
            .envs(program.environment.iter().map(|(name, value)| (name, value.expose())))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            // A group of its own, so that a failed dump ends with all the processes that it started.
            .process_group(group)
            .spawn()
            .map_err(|error| cannot_start(name, &error))?;
        let (sender, last_words) = mpsc::channel();
        let confidential = Confidential::new(BTreeSet::new(), program.environment.values().cloned().collect());
        let most_bytes = LAST_WORDS_BYTES + confidential.longest_bytes();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                // Nobody listens any more once the program was given up.
                let _ = sender.send(tail_of(stderr, most_bytes));
            });
        }
        Ok(Self { name: name.clone(), child, watch, last_words, confidential, ended: false })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It ended with something else than 0; the message has its last words.
    pub fn wait(&mut self) -> Result<(), Failure> {
        if let Some(watch) = &mut self.watch {
            watch.let_go();
        }
        let status = self.child.wait();
        self.ended = true;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(&describe(status))),
            Err(error) => Err(self.failed(&format!("cannot be waited for: {error}"))),
        }
    }

    /// Ends the program and all that it started.
    pub fn kill(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let group = self.watch.as_ref().map_or(self.child.id(), Watch::group);
        if let Some(group) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself just now.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// A failure of this program, with its last words.
    pub fn failed(&mut self, what: &str) -> Failure {
        let mut message = format!("`{}` {what}", self.name);
        let words = self.last_words.recv_timeout(LAST_WORDS_WAIT).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let words = self.confidential.redact_tail(&words, LAST_WORDS_BYTES);
        let words = words.trim();
        if !words.is_empty() {
            message.push_str("; it said: ");
            message.push_str(words);
        }
        Failure::new(FailureKind::SourceFailed, message)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The standard output of a program. The end of it is an end only if the program succeeded and the stream is whole;
/// else it is an error, and [`StreamReader::failure`] was called.
pub struct StreamReader<F: FnMut(Result<u64, Failure>)> {
    running: Running,
    stdout: ChildStdout,
    wholeness: Wholeness,
    file_name: String,
    /// Called once: with the length, or with the failure.
    ended: Option<F>,
}

impl<F: FnMut(Result<u64, Failure>)> StreamReader<F> {
    /// Starts the program of a stream.
    ///
    /// # Errors
    /// As [`Running::reading`].
    pub fn start(stream: &Stream, ended: F) -> Result<Self, Failure> {
        let (running, stdout) = Running::reading(&stream.program)?;
        let wholeness = Wholeness::new(stream.check.clone());
        Ok(Self { running, stdout, wholeness, file_name: stream.file_name.clone(), ended: Some(ended) })
    }

    fn end(&mut self) -> io::Result<()> {
        let result = self.running.wait().and_then(|()| {
            self.wholeness.verdict().map_err(|what| {
                let file = self.file_name.clone();
                self.running.failed(&format!("ended well, but its stream for {file} {what}"))
            })
        });
        self.tell(result.map(|()| self.wholeness.length()))
    }

    fn tell(&mut self, result: Result<u64, Failure>) -> io::Result<()> {
        let error = result.as_ref().err().map(|failure| io::Error::other(failure.message.clone()));
        if let Some(mut ended) = self.ended.take() {
            ended(result);
        }
        error.map_or(Ok(()), Err)
    }
}

impl<F: FnMut(Result<u64, Failure>)> Read for StreamReader<F> {
    /// Fills the buffer or reaches the end: the chunker behind it gets forty times slower with short reads.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while self.ended.is_some() && filled < buffer.len() {
            match self.stdout.read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.wholeness.feed(&buffer[..filled]);
                    return self.end().map(|()| filled);
                }
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let failure = self.running.failed(&format!("cannot be read from: {error}"));
                    return self.tell(Err(failure)).map(|()| 0);
                }
            }
        }
        self.wholeness.feed(&buffer[..filled]);
        Ok(filled)
    }
}

fn cannot_start(name: &str, error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::NotFound {
        Failure::new(FailureKind::ProgramMissing, format!("the program `{name}` is not there"))
    } else if error.kind() == ErrorKind::PermissionDenied {
        Failure::new(FailureKind::ProgramMissing, format!("the program `{name}` may not be executed: {error}"))
            .hint("make it executable for the user that runs Mainstay")
    } else {
        Failure::new(FailureKind::SourceFailed, format!("the program `{name}` cannot be started: {error}"))
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

fn tail_of(mut reader: impl Read, most_bytes: usize) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return tail,
            Ok(length) => {
                tail.extend_from_slice(&buffer[..length]);
                let surplus = tail.len().saturating_sub(most_bytes);
                tail.drain(..surplus);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return tail,
        }
    }
}
