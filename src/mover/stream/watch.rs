//! Watches over the input of a restore's program: its end must mean that the stream is whole.
//!
//! When a mover is killed, the kernel closes what it had open, and `cat >new && mv new db` would put half a dump in place.
//! So a process of its own holds that input open, too, and leads the program's group. Told that nothing more comes, it
//! lets go. Told nothing, because the mover is gone, it ends the group while the input is still open. (A signal at the
//! death of the parent would come after the input ended, and reach neither what the program started nor one that changed
//! its user.)

use std::{
    io::{self, PipeWriter, Read, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};

/// What the mover tells before the input may end.
const LET_GO: &[u8] = b".";

/// The process that watches, as the mover has it.
#[derive(Debug)]
pub struct Watch {
    child: Child,
}

impl Watch {
    /// Starts it, for the program that will read the other end of `input`.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start(input: &PipeWriter) -> io::Result<Self> {
        let child = Command::new(own_program()?)
            .args(["mover", "watch"])
            .stdin(Stdio::piped())
            // It writes nothing: that is only how it gets to hold it.
            .stdout(input.try_clone()?)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// The process group that it leads. Its number is not used again before this is dropped.
    pub fn group(&self) -> u32 {
        self.child.id()
    }

    /// Lets the input end.
    pub fn let_go(&mut self) {
        if let Some(mut line) = self.child.stdin.take() {
            // Whoever was ended holds nothing any more.
            let _ = line.write_all(LET_GO);
        }
    }
}

impl Drop for Watch {
    /// Unless it was told to let go, this ends the group.
    fn drop(&mut self) {
        let _ = self.child.wait();
    }
}

/// What that process does. `line`: on which the mover tells.
pub fn watch(mut line: impl Read) {
    let mut told = [0];
    // Only a leader: the group of whoever starts this by hand is not ours to end.
    if line.read_exact(&mut told).is_err() && getpgrp() == getpid() {
        // With this process, which is gone then.
        let _ = kill_current_process_group(Signal::KILL);
    }
}

/// This program, also after its file was replaced by a newer one.
fn own_program() -> io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Ok(own.to_owned()) } else { std::env::current_exe() }
}
