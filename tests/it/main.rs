//! The hermetic tests: Rust and git are all that they need.

mod daemon;
mod documents;
mod engine;
mod git;
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
