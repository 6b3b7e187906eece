//! `mainstay points`: restore points. Without a subcommand, the list.

use clap::{Args, Subcommand};

use super::CommandResult;

mod download;
mod hold;
mod list;
mod release;
mod show;

/// List, show, download, hold and release restore points.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<PointsCommand>,
    #[command(flatten)]
    list: list::ListArguments,
}

/// What to do with restore points.
#[derive(Debug, Subcommand)]
enum PointsCommand {
    /// List restore points, with what keeps each and when it goes
    List(list::ListArguments),
    /// Show one restore point with all its parts
    Show(show::Arguments),
    /// Write a restore point into a new file: files as tar.gz, a dump as it is
    Download(download::Arguments),
    /// Protect a restore point from expiry
    Hold(hold::Arguments),
    /// Take that protection away
    Release(release::Arguments),
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { command, list } = arguments;
    match command {
        None => list::execute(list),
        Some(PointsCommand::List(list)) => list::execute(list),
        Some(PointsCommand::Show(arguments)) => show::execute(arguments),
        Some(PointsCommand::Download(arguments)) => download::execute(arguments),
        Some(PointsCommand::Hold(arguments)) => hold::execute(arguments),
        Some(PointsCommand::Release(arguments)) => release::execute(arguments),
    }
}
