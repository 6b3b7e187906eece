//! `mainstay man`.

use clap::Args;

use super::{CommandResult, Failure};

/// Print the manual page.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay man` is not built yet"))
}
