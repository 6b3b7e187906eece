//! The hermetic tests: Rust and git are all that they need.

mod quickstart;
mod readme;
mod tidy;
