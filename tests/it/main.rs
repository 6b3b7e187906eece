//! The hermetic tests: Rust and git are all that they need.

mod git;
mod plan;
mod plan_cases;
mod status;
mod writeback;
mod documents;
mod schedule;
mod simulator;
mod mover;
mod quickstart;
mod readme;
mod tidy;
