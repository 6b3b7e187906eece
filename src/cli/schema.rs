//! `mainstay schema`.

use std::io::Write as _;

use clap::Args;

use super::{CommandResult, Exit};
use crate::policy::schema::schema_text;

/// Print the JSON schema of the documents.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Carries the command out.
pub fn execute(Arguments {}: Arguments) -> CommandResult {
    // A reader that left early, such as `head`, is no failure of ours.
    let _ = std::io::stdout().write_all(schema_text().as_bytes());
    Ok(Exit::Success)
}
