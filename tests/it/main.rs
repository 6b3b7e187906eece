//! The hermetic tests: Rust and git are all that they need.

mod apply;
mod bad_input;
mod daemon;
mod documents;
mod engine;
mod examples;
mod folder_host;
mod git;
mod host;
mod kubernetes;
mod limits;
mod mover;
mod mover_install;
mod plan;
mod plan_cases;
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
