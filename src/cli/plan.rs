//! `mainstay plan`.

use clap::Args;

use super::{CommandResult, Failure};

/// Show what the documents would change, and which restore points would be lost.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay plan` is not built yet"))
}
