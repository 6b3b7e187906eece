//! The live tests: the real binary against real servers and the real restic. `tests/run` starts the peers.
//!
//! A test whose peer is missing fails and says what to do; none is skipped. Nothing here looks inside the program: what
//! counts is what a user could see.

#[path = "../it/judge.rs"]
mod judge;
mod peers;
mod world;

mod cluster;
mod editor;
mod examples;
mod faults;
mod files;
mod forge;
mod git;
mod kubernetes_control;
mod kubernetes_deploy;
mod kubernetes_faults;
mod kubernetes_forge;
mod kubernetes_runs;
mod mariadb;
mod postgres;
mod promises;
mod quickstart;
mod restic;
mod retention;
mod rights;
mod s3;
mod several;
mod sqlite;
