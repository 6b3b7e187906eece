//! The hermetic tests: Rust and git are all that they need.

mod engine;
mod mover;
mod runs;
