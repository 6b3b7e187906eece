//! The engine for a Kubernetes cluster. A policy becomes a ConfigMap and CronJobs in Mainstay's own namespace; the pods
//! of these carry out the runs, with or without a daemon.

pub mod access;
pub mod cleanup;
pub mod guard;
pub mod inventory;
pub mod labels;
pub mod lease;
pub mod manifests;
pub mod movers;
pub mod names;
pub mod runner;
pub mod site;
pub mod store;
