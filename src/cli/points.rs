//! `mainstay points`: restore points.

use clap::{Args, Subcommand};

use super::CommandResult;

mod download;
mod hold;
mod release;
mod show;

/// List, show, download, hold and release restore points.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: PointsCommand,
}

/// What to do with restore points.
#[derive(Debug, Subcommand)]
enum PointsCommand {
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
    match arguments.command {
        PointsCommand::Show(arguments) => show::execute(arguments),
        PointsCommand::Download(arguments) => download::execute(arguments),
        PointsCommand::Hold(arguments) => hold::execute(arguments),
        PointsCommand::Release(arguments) => release::execute(arguments),
    }
}
