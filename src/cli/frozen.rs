//! Frozen: `Settings.freeze` also holds for whoever works by hand, who is told where it stands and how to go on.
//!
//! Where a daemon is at work, its documents say whether everything is frozen; else those that were applied last do.

use std::path::Path;

use super::{Exit, Failure};
use crate::{
    daemon::{LEASE, memory::Memory},
    engine::local::{
        cleanup::FREEZE_NOTE,
        state::{State, StateError},
    },
};

/// Refuses a run by hand while everything is frozen.
///
/// # Errors
/// It is, or nobody can tell.
pub fn check_run(state: &State) -> Result<(), Failure> {
    match is_frozen(state).map_err(unknown)? {
        true => Err(refusal("no run is started", state.directory())),
        false => Ok(()),
    }
}

/// Refuses to apply other documents while those of the daemon at work say that everything is frozen. Without a daemon
/// the documents that are applied count from now on.
///
/// # Errors
/// It is frozen, or nobody can tell.
pub fn check_apply(state_directory: &Path, documents_freeze: bool, despite_freeze: bool) -> Result<(), Failure> {
    let state = State::open(state_directory).map_err(unknown)?;
    if state.lease_holder(LEASE).map_err(unknown)?.is_none() {
        if documents_freeze != is_frozen(&state).map_err(unknown)? {
            state.set_note(FREEZE_NOTE, if documents_freeze { "true" } else { "false" }).map_err(unknown)?;
        }
        return Ok(());
    }
    // Documents that freeze by themselves get a plan that says so of each change.
    if !documents_freeze && !despite_freeze && is_frozen(&state).map_err(unknown)? {
        return Err(refusal("nothing is applied", state_directory));
    }
    Ok(())
}

fn is_frozen(state: &State) -> Result<bool, StateError> {
    Ok(state.note(FREEZE_NOTE)?.as_deref() == Some("true"))
}

fn unknown(error: StateError) -> Failure {
    Failure::new("cannot tell whether everything is frozen").caused_by(error)
}

fn refusal(what: &str, state_directory: &Path) -> Failure {
    // Only a daemon remembers where it stands.
    let place = Memory::load(state_directory).ok().and_then(|memory| memory.frozen_by);
    let place = place.map_or_else(|| "the Settings document".to_owned(), |place| place.to_string());
    Failure::new(format!("everything is frozen by `freeze: true` in {place}, so {what}"))
        .hint("take it out and commit, or go on all the same with --despite-freeze; restores are not held up")
        .exit(Exit::Refused)
}
