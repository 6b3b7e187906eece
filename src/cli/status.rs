//! `mainstay status`.

use clap::Args;

use super::{CommandResult, Failure};

/// Show policies, their last and next runs, and their conditions.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay status` is not built yet"))
}
