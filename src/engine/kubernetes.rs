//! The engine for Kubernetes: runs are pods, movers are Jobs, and nothing is stored but native objects.

pub mod manifests;
