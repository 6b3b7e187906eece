//! `mainstay daemon`.

use clap::Args;

use super::{CommandResult, Failure};

/// Watch a git repository and make what it asks for so.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay daemon` is not built yet"))
}
