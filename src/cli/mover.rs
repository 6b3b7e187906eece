//! `mainstay mover`.

use clap::Args;

use super::{CommandResult, Failure};

/// Carry out one job, given as JSON on standard input.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay mover` is not built yet"))
}
