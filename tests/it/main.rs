//! The hermetic tests: Rust and git are all that they need.

mod plan;
mod plan_cases;
mod schedule;
