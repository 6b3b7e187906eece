//! The engine for one host: state in SQLite, runs as child processes of the same program.

pub mod process;
pub mod state;
