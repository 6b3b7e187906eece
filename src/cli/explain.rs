//! `mainstay explain`.

use clap::Args;

use super::{CommandResult, Failure};

/// Explain a field of the documents.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(_: Arguments) -> CommandResult {
    Err(Failure::new("`mainstay explain` is not built yet"))
}
