//! `mainstay approve`.

use clap::Args;

use super::{CommandResult, Failure};

/// Consent to what a plan refuses: writes a commit with the approval.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay approve` is not built yet"))
}
