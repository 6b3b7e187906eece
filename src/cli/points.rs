//! `mainstay points`: restore points. Without a subcommand, the list.

use clap::{Args, Subcommand};

use super::CommandResult;

mod list;

/// List, show, download, hold and release restore points.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<PointsCommand>,
    #[command(flatten)]
    list: list::Arguments,
}

/// What to do with restore points.
#[derive(Debug, Subcommand)]
enum PointsCommand {
    /// List restore points, with what keeps each and when it goes
    List(list::Arguments),
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { command, list } = arguments;
    match command {
        None => list::execute(list),
        Some(PointsCommand::List(list)) => list::execute(list),
    }
}
