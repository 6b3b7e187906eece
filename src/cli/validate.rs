//! `mainstay validate`.

use clap::Args;

use super::{CommandResult, Failure};

/// Check documents: all findings at once, each with its place and a hint.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay validate` is not built yet"))
}
