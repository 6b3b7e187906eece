//! `mainstay verify`.

use clap::Args;

use super::{CommandResult, Failure};

/// Check the integrity of a policy's repositories.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay verify` is not built yet"))
}
