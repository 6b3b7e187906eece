//! Notifications: somebody is told when a policy fails, when it falls silent, and when it is well again; each once.
//!
//! `judge` and `message` are pure. `memory` is what was told, `send` tells it, and `watcher` is the task of the daemon
//! that does so after each turn. A receiver that does not answer is told later, and holds up nothing but itself.

pub mod judge;
pub mod message;

pub mod memory;
pub mod send;
pub mod watcher;
