//! `mainstay apply`.

use clap::Args;

use super::{CommandResult, Failure};

/// Carry out a plan.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay apply` is not built yet"))
}
