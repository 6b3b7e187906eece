//! The hermetic tests: Rust and git are all that they need.

mod bad_input;
mod documents;
mod engine;
mod examples;
mod git;
mod host;
mod mover;
mod plan;
mod plan_cases;
mod quickstart;
mod readme;
mod runs;
mod schedule;
mod simulator;
mod status;
mod tidy;
mod writeback;
