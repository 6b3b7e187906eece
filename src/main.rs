//! `mainstay`: arguments in, command, exit code out. The only place that exits.

use clap::Parser as _;
use mainstay::cli::Cli;

/// musl's own allocator gives large blocks back to the kernel at once; see Cargo.toml.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let exit = Cli::parse().execute().unwrap_or_else(|failure| failure.report());
    std::process::exit(exit as i32);
}
