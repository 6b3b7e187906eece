//! The hermetic tests: Rust and git are all that they need.

mod documents;
mod git;
mod mover;
mod plan;
mod plan_cases;
mod quickstart;
mod readme;
mod schedule;
mod simulator;
mod status;
mod tidy;
mod writeback;
mod engine;
mod runs;
