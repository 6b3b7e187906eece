//! `mainstay man [COMMAND]`.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};

use super::{Cli, CommandResult, Exit, Failure};
use crate::policy::diagnostic::did_you_mean;

/// Print the manual page.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The page of one command; without it that of the program
    command: Option<String>,
}

/// Carries the command out.
pub fn execute(Arguments { command }: Arguments) -> CommandResult {
    let mut program = Cli::command();
    program.build();
    let page = match command {
        None => program,
        Some(name) => match program.find_subcommand(&name) {
            Some(found) => found.clone(),
            None => return Err(unknown(&program, &name)),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::new("the manual page could not be rendered").caused_by(error))?;
    // A reader that left early, such as `head`, is no failure of ours.
    let _ = std::io::stdout().write_all(&text);
    Ok(Exit::Success)
}

fn unknown(program: &clap::Command, name: &str) -> Failure {
    let failure = Failure::new(format!("there is no command `{name}`"));
    match did_you_mean(name, program.get_subcommands().map(clap::Command::get_name)) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`mainstay --help` lists the commands"),
    }
}
