//! Processes: who one is (so that a lock is never judged by its age), and programs with a time limit.

use std::{convert::Infallible, fmt, fs, os::unix::fs::MetadataExt as _, process::Stdio, time::Duration};

use rustix::{
    fs::{FallocateFlags, MemfdFlags},
    process::{Pid, Signal},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::secret::Confidential;

/// Which process this is: number, start time, boot and namespace together are never used twice. A boundary format (JSON
/// in the state).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks after boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub started_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Where the number means something: the inode of `/proc/self/ns/pid`, see pid_namespaces(7). 0: an older Mainstay
    /// wrote this, which knew of one namespace only.
    #[serde(default)]
    pub namespace: u64,
}

/// Where a process is, as seen from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its number means here what it means there: `/proc` tells whether it is alive.
    Here,
    /// On this boot, but in another namespace of process numbers, such as a container: `/proc` tells nothing of it.
    Elsewhere,
    /// On another boot, so it is gone.
    Gone,
}

impl ProcessIdentity {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id() as i32;
        // Not by its number: the /proc of another namespace may be mounted here. Without any /proc there are no
        // identities; every lock then looks left behind, which the next start corrects.
        let started_ticks = started_ticks("self").unwrap_or_default();
        Self { pid, started_ticks, boot: own_boot().unwrap_or_default(), namespace: own_namespace() }
    }

    /// The process that has this number now; none: there is none, or it ended and only waits to be collected.
    pub fn of(pid: u32) -> Option<Self> {
        let started_ticks = started_ticks(&pid.to_string())?;
        Some(Self { pid: i32::try_from(pid).ok()?, started_ticks, boot: own_boot()?, namespace: own_namespace() })
    }

    /// A child of this process that was started just now. One that ended meanwhile gets an identity that nobody has, so
    /// that it is known to be gone.
    pub fn of_child(pid: u32) -> Self {
        let gone = || Self {
            pid: i32::try_from(pid).unwrap_or_default(),
            started_ticks: 0,
            boot: String::new(),
            namespace: own_namespace(),
        };
        Self::of(pid).unwrap_or_else(gone)
    }

    /// Where it is.
    pub fn whereabouts(&self) -> Whereabouts {
        if Some(&self.boot) != own_boot().as_ref() {
            return Whereabouts::Gone;
        }
        let same = self.namespace == 0 || self.namespace == own_namespace();
        if same && proc_is_ours() { Whereabouts::Here } else { Whereabouts::Elsewhere }
    }

    /// Whether this very process is there, as far as `/proc` tells: one in another namespace is not. Whoever must know
    /// asks [`State::is_alive`](crate::engine::local::state::State::is_alive).
    pub fn is_alive(&self) -> bool {
        let Self { pid, started_ticks, boot, namespace: _ } = self;
        let now = u32::try_from(*pid).ok().and_then(Self::of);
        self.whereabouts() == Whereabouts::Here
            && now.is_some_and(|now| (now.started_ticks, &now.boot) == (*started_ticks, boot))
    }

    /// Ends a mover at once, and the programs that it started in groups of their own, if it is still this very process.
    pub fn kill_tree(&self) {
        if !self.is_alive() {
            return;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // Stopped first, so that it starts nothing more while its programs are looked for.
        let _ = rustix::process::kill_process_group(pid, Signal::STOP);
        kill_descendants(self.pid);
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }

    /// Ends this process at once, with the programs that it started: nobody is there any more for whom it works.
    pub fn end_own_tree() {
        let own = rustix::process::getpid();
        kill_descendants(own.as_raw_nonzero().get());
        let _ = rustix::process::kill_process(own, Signal::KILL);
    }

    /// Ends this process and its group at once, if it is still this very process. It must lead its own group.
    pub fn kill_group(&self) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended in between: nothing to do then.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.whereabouts() == Whereabouts::Elsewhere { " in another container" } else { "" };
        write!(formatter, "process {}{place}", self.pid)
    }
}

/// When the process of an entry of `/proc` started; none: it is gone, or only waits to be collected.
fn started_ticks(entry: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{entry}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold spaces and brackets itself.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn own_boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn own_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |link| link.ino())
}

/// Whether the `/proc` that is mounted here counts as this process does; after `unshare --pid` alone it does not.
fn proc_is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

/// Ends everything that a process started, and what that started.
fn kill_descendants(pid: i32) {
    let children = children();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(children.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    for child in found.into_iter().skip(1).filter_map(Pid::from_raw) {
        // It may have ended in between: nothing to do then.
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
}

/// Every process with its parent, as `/proc` has them now.
fn children() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

/// Set to true when the run is asked to stop (by a signal).
pub type Stop = watch::Receiver<bool>;

/// Waits until the run is asked to stop.
pub async fn stopped(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody can ask any more.
        std::future::pending::<()>().await;
    }
}

/// Why a program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("`{program}` could not be started; is it installed and executable?")]
    NotStarted {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with something else than 0.
    #[error("`{program}` ended with {status}{tail}")]
    Failed {
        /// The program.
        program: String,
        /// Exit status or signal.
        status: String,
        /// The end of what it said, or nothing.
        tail: String,
    },
    /// It took too long and was ended.
    #[error("`{program}` took longer than {} s and was ended; if it needs more, raise its `timeout`", .limit.as_secs())]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// The run was asked to stop, and it was ended.
    #[error("`{program}` was ended because the run was asked to stop")]
    Stopped {
        /// The program.
        program: String,
    },
}

/// How much of what a program said goes into a message.
const TAIL_BYTES: usize = 2048;
/// How often the memory of what is older than that is given back.
const BETWEEN_FORGETTING: Duration = Duration::from_secs(1);

/// Carries out a program in a process group of its own, at most for `limit`; then the whole group is ended.
/// `started` learns its identity before this waits for it. What a good program leaves running in the background stays.
/// It does not inherit what is confidential, and an error repeats nothing of that.
///
/// # Errors
/// It cannot be started, takes too long, is stopped, or ends with something else than 0.
pub async fn execute(
    arguments: &[String],
    limit: Duration,
    stop: Option<&Stop>,
    confidential: &Confidential,
    started: impl FnOnce(&ProcessIdentity),
) -> Result<(), ProgramError> {
    let program = arguments.first().cloned().unwrap_or_default();
    let not_started = |source| ProgramError::NotStarted { program: program.clone(), source };
    // A file and not a pipe: a service that the program starts keeps its output open, and must neither keep us waiting
    // nor die when nobody reads any more. In memory where no temporary file can be made: a workload is started again there,
    // too.
    let in_memory = |_| rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).map(fs::File::from);
    let output = tempfile::tempfile().or_else(in_memory).map_err(|error| not_started(error.into()))?;
    let mut command = tokio::process::Command::new(&program);
    for variable in confidential.variables() {
        command.env_remove(variable);
    }
    let mut child = command
        .args(arguments.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(not_started)?)
        .stderr(output.try_clone().map_err(not_started)?)
        .process_group(0)
        .spawn()
        .map_err(not_started)?;
    let identity = child.id().and_then(ProcessIdentity::of);
    if let Some(identity) = &identity {
        started(identity);
    }
    let stop_asked = async {
        match stop.cloned() {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        status = child.wait() => Ok(status),
        never = forget(&output, tail_bytes(confidential)) => match never {},
        () = tokio::time::sleep(limit) => Err(ProgramError::TimedOut { program: program.clone(), limit }),
        () = stop_asked => Err(ProgramError::Stopped { program: program.clone() }),
    };
    match ended {
        Ok(status) => {
            let status = status.map_err(not_started)?;
            if status.success() {
                return Ok(());
            }
            Err(ProgramError::Failed { program, status: describe(status), tail: tail(&output, confidential) })
        }
        Err(error) => {
            if let Some(identity) = identity {
                identity.kill_group();
            }
            // Collected, so that no dead entry stays in the process table.
            let _ = child.wait().await;
            Err(error)
        }
    }
}

/// An exit status in words.
pub fn describe(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// So much of the end of an output is needed: a secret may be cut by where a message begins.
fn tail_bytes(confidential: &Confidential) -> usize {
    TAIL_BYTES + confidential.longest_bytes()
}

/// Gives the memory of all but the end of an output back, again and again: a program may say much for hours.
async fn forget(output: &fs::File, most_bytes: usize) -> Infallible {
    loop {
        tokio::time::sleep(BETWEEN_FORGETTING).await;
        let length = output.metadata().map_or(0, |metadata| metadata.len());
        let old = length.saturating_sub(most_bytes as u64);
        if old > 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // What cannot be given back now may be later.
            let _ = rustix::fs::fallocate(output, flags, 0, old);
        }
    }
}

/// The end of an output file as `: TEXT`, or nothing.
fn tail(output: &fs::File, confidential: &Confidential) -> String {
    use std::os::unix::fs::FileExt as _;
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let most_bytes = tail_bytes(confidential);
    let mut buffer = vec![0; most_bytes];
    let Ok(read) = output.read_at(&mut buffer, length.saturating_sub(most_bytes as u64)) else {
        return String::new();
    };
    let text = confidential.redact_tail(&String::from_utf8_lossy(&buffer[..read]), TAIL_BYTES);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_child_that_ended_at_once_is_known_to_be_gone() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!ProcessIdentity::of_child(child.id()).is_alive());
        let own = std::process::id();
        assert!(ProcessIdentity::of_child(own).is_alive());
    }

    #[test]
    fn an_identity_is_alive_only_as_itself() {
        let own = ProcessIdentity::own();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { started_ticks: own.started_ticks + 1, ..own.clone() }.is_alive());
        assert!(!ProcessIdentity { boot: "another".into(), ..own.clone() }.is_alive());
        // Its number is that of another process there.
        let elsewhere = ProcessIdentity { namespace: own.namespace + 1, ..own.clone() };
        assert_eq!((elsewhere.is_alive(), elsewhere.whereabouts()), (false, Whereabouts::Elsewhere));
        assert_eq!(elsewhere.to_string(), format!("process {} in another container", own.pid));
        assert!(ProcessIdentity { namespace: 0, ..own }.is_alive(), "of an older Mainstay");
    }

    #[tokio::test]
    async fn a_program_says_why_it_failed() {
        let limit = Duration::from_secs(20);
        let error = execute(
            &argv(&["sh", "-c", "echo no such table >&2; exit 3"]),
            limit,
            None,
            &Confidential::default(),
            |_| (),
        )
        .await;
        assert_eq!(error.unwrap_err().to_string(), "`sh` ended with exit status 3: no such table");
        let error =
            execute(&argv(&["/nonexistent/program"]), limit, None, &Confidential::default(), |_| ()).await.unwrap_err();
        assert!(error.to_string().contains("could not be started"), "{error}");
    }

    /// Hooks and the start of a stopped workload need no room anywhere. The test above, where no temporary file can be.
    #[test]
    fn a_program_is_started_where_no_temporary_file_can_be_made() {
        let above = "engine::process::tests::a_program_says_why_it_failed";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", above])
            .env("TMPDIR", "/nonexistent/folder")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let mut identity = None;
        let program = argv(&["sh", "-c", "sleep 1000 & wait"]);
        let (limit, confidential) = (Duration::from_millis(50), Confidential::default());
        let error = execute(&program, limit, None, &confidential, |started| identity = Some(started.clone())).await;
        assert!(matches!(error, Err(ProgramError::TimedOut { .. })), "{error:?}");
        assert!(!identity.unwrap().is_alive());
    }
}
