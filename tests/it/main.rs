//! The hermetic tests: Rust and git are all that they need. What needs another program is here with the live tests only.

mod apply;
mod bad_input;
mod canaries;
mod daemon;
mod deploy;
mod documents;
mod engine;
mod examples;
mod folder_host;
mod forge;
mod frozen;
mod git;
mod host;
mod host_folder;
mod judge;
mod kubernetes;
mod limits;
mod lost_state;
mod mover;
mod mover_install;
mod namespaces;
mod notify;
mod plan;
mod plan_cases;
#[cfg(feature = "live")]
mod quickstart;
mod readme;
mod restores;
mod retained;
mod runs;
mod schedule;
mod simulator;
mod status;
mod status_command;
mod tidy;
mod writeback;
