//! How far a restore came with the dumps of a source: what is half overwritten must be said.

use crate::{
    engine::{local::context::WorkError, movers::MoverError},
    mover::job::Task,
};

/// The dumps of a source, in the order in which they are written; none: it is files, each of which is written whole.
#[derive(Debug)]
pub struct Dumps {
    names: Vec<String>,
    written: usize,
}

impl Dumps {
    /// Of what movers will do for the source.
    pub fn of(tasks: &[Task]) -> Self {
        let name = |task: &Task| match task {
            Task::RestoreStream { file_name, .. } => Some(file_name.clone()),
            Task::Initialise
            | Task::Capture { .. }
            | Task::Beside { .. }
            | Task::List { .. }
            | Task::Forget { .. }
            | Task::Prune
            | Task::Check { .. }
            | Task::RestoreFiles { .. }
            | Task::Download { .. }
            | Task::Send { .. } => None,
        };
        Self { names: tasks.iter().filter_map(name).collect(), written: 0 }
    }

    /// The next one was written.
    pub fn wrote_one(&mut self) {
        self.written += 1;
    }

    /// Whether some were written.
    pub fn any_written(&self) -> bool {
        self.written > 0 && !self.names.is_empty()
    }

    /// The reason of a failure, with what is written by now and what is not.
    pub fn told(&self, error: &WorkError) -> String {
        let names = |names: &[String]| names.join(", ");
        let (written, others) = self.names.split_at(self.written.min(self.names.len()));
        let mut parts = vec![error.chain()];
        if !written.is_empty() {
            parts.push(format!("{} was written", names(written)));
        }
        if let Some((failed, untried)) = others.split_first() {
            if was_cut_off(error) {
                parts.push(format!("what {failed} goes into may be partly written"));
            } else if self.names.len() > 1 {
                parts.push(format!("{failed} was not restored"));
            }
            if !untried.is_empty() {
                parts.push(format!("{} was not begun", names(untried)));
            }
        }
        parts.join("; ")
    }
}

/// Whether a mover ended before it could say how far its program was.
fn was_cut_off(error: &WorkError) -> bool {
    match error {
        WorkError::Mover(error) => match error {
            MoverError::Vanished { .. }
            | MoverError::TimedOut { .. }
            | MoverError::Stopped { .. }
            | MoverError::Talk { .. }
            | MoverError::WrongAnswer { .. } => true,
            MoverError::Failed(_) => false,
        },
        WorkError::State(_) | WorkError::Repository(_) | WorkError::Busy { .. } | WorkError::Refused(_) => false,
    }
}
