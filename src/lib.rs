//! Mainstay plans backups in git.
//!
//! A daemon watches a git repository of `backup.yaml` documents, compares what they ask for with the schedules and
//! restore points that really exist, and drives the runs. Before an edit is merged, its plan shows what it would
//! create, change, and which restore points it would lose.
//!
//! Two short functions are the whole program; each step is a module of its own:
//!
//! ```text
//! a turn:  git → documents → policy → desired ┐
//!                            engine → actual ┴→ plan → safety → apply → status → write-back
//! a run:   lock → hooks → quiesce → capture → resume → hooks → check → record → expire, cleanup → report
//! ```
//!
//! # Reading order and invariants
//!
//! - [`policy`], [`schedule`], [`retention`], [`restore_point`], [`desired`], [`actual`], [`plan`] are pure: no clock,
//!   no files, no network; `now` is an argument. Everything that decides is there.
//! - [`engine`] is the only way to act. There are no CRDs and no objects of ours but those that the engine stores. In
//!   [`engine::kubernetes`] `names`, `labels`, `manifests`, `index` and the records of `store` are pure, too.
//! - [`policy::Policy`] is made by validation only, so code that has one need not check it again.
//! - Nothing but a [`plan::Plan`] reaches the engine, and a plan names exact restore points: apply has no choice left.
//! - [`forge`] brings plans to change requests and consent back. What it hears is untrusted: only approvals, which are
//!   bound to exact restore points, reach a turn. Its `command`, `comment`, `consent`, `done` and `webhook` are pure.
//! - [`notify`] tells people of failure and silence, once each. Its `judge` and `message` are pure.
//! - `mover::repository` is the only file that imports rustic_core.

pub mod actual;
pub mod apply;
pub mod cli;
pub mod daemon;
pub mod desired;
pub mod engine;
pub mod forecast;
pub mod forge;
pub mod git;
pub mod mover;
pub mod notify;
pub mod plan;
pub mod policy;
pub mod restore_point;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod status;
pub mod telemetry;
pub mod turn;
pub mod web;
