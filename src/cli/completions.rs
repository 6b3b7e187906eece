//! `mainstay completions`.

use clap::Args;

use super::{CommandResult, Failure};

/// Print shell completions.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay completions` is not built yet"))
}
