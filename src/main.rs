//! `mainstay`: arguments in, command, exit code out. The only place that exits.

use clap::Parser as _;
use mainstay::cli::Cli;

fn main() {
    let exit = Cli::parse().execute().unwrap_or_else(|failure| failure.report());
    std::process::exit(exit as i32);
}
