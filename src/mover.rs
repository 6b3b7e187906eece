//! The mover: what a Job's process executes. It moves bytes between sources and a restic-format repository.
//!
//! It runs as a process of its own (`mainstay mover`), because rustic_core cannot be cancelled: a time limit ends the
//! process. The job arrives as JSON on standard input, so that no secret is ever in an argument vector; events leave as
//! JSON lines on standard output.

pub mod job;
