//! Manifests: what is sent to the API server, as a function of names and policies.
//!
//! Pure. Nothing here asks the cluster anything.

pub mod mover;
pub mod snapshot;
