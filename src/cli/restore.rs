//! `mainstay restore`.

use clap::Args;

use super::{CommandResult, Failure};

/// Restore from a restore point.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay restore` is not built yet"))
}
