//! `mainstay points`.

use clap::Args;

use super::{CommandResult, Failure};

/// List, show, download, hold and release restore points.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay points` is not built yet"))
}
