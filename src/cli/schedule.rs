//! `mainstay schedule`.

use clap::Args;

use super::{CommandResult, Failure};

/// Show the next times of a cron expression.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay schedule` is not built yet"))
}
