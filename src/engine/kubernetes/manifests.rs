//! Manifests: what is sent to the API server, as a function of names and policies.
//!
//! Pure. Nothing here asks the cluster anything.

pub mod claim;
pub mod compare;
pub mod cron_job;
pub mod mover;
pub mod policy;
pub mod snapshot;
