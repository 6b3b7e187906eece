//! The hermetic tests: Rust and git are all that they need.

mod mover;
mod runs;
