//! `mainstay schema`.

use clap::Args;

use super::{CommandResult, Failure};

/// Print the JSON schema of the documents.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay schema` is not built yet"))
}
