//! `mainstay completions SHELL`.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, CommandResult, Exit};

/// Print shell completions.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Carries the command out.
pub fn execute(Arguments { shell }: Arguments) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mainstay", &mut script);
    // A reader that left early, such as `head`, is no failure of ours.
    let _ = std::io::stdout().write_all(&script);
    Ok(Exit::Success)
}
