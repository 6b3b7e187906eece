//! `mainstay init`.

use clap::Args;

use super::{CommandResult, Failure};

/// Write a first backup.yaml.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay init` is not built yet"))
}
