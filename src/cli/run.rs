//! `mainstay run`.

use clap::Args;

use super::{CommandResult, Failure};

/// Run a policy now.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay run` is not built yet"))
}
