//! Leases: at most one holder of a name at a time. A lease whose process is gone is free, however young it is.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{State, StateError, encode};
use crate::engine::local::process::ProcessIdentity;

/// A lease that this process holds; it ends when this is dropped, or when the process does.
#[derive(Debug)]
pub struct Lease<'a> {
    state: &'a State,
    name: String,
    process: ProcessIdentity,
}

impl State {
    /// Takes the lease of a name; `Err` in the result: who holds it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn lease(&self, name: &str, now: Timestamp) -> Result<Result<Lease<'_>, ProcessIdentity>, StateError> {
        let own = ProcessIdentity::own();
        let holder = self.write("taking a lease", |transaction| {
            let holder: Option<String> = transaction
                .query_row("SELECT process FROM leases WHERE name = ?1", [name], |row| row.get(0))
                .optional()?;
            let holder = holder.and_then(|text| serde_json::from_str::<ProcessIdentity>(&text).ok());
            if let Some(holder) = holder.filter(ProcessIdentity::is_alive) {
                return Ok(Some(holder));
            }
            transaction.execute(
                "INSERT OR REPLACE INTO leases (name, process, since) VALUES (?1, ?2, ?3)",
                params![name, encode(&own), now.to_string()],
            )?;
            Ok(None)
        })?;
        Ok(match holder {
            Some(holder) => Err(holder),
            None => Ok(Lease { state: self, name: name.to_owned(), process: own }),
        })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let (name, process) = (&self.name, encode(&self.process));
        // If this fails the lease is free as soon as the process has ended.
        let _ = self.state.write("giving a lease back", |transaction| {
            transaction.execute("DELETE FROM leases WHERE name = ?1 AND process = ?2", params![name, process])
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_once_and_free_when_its_process_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let lease = state.lease("policy:shop/nightly", now).unwrap().unwrap();
        assert_eq!(state.lease("policy:shop/nightly", now).unwrap().unwrap_err(), ProcessIdentity::own());
        drop(lease);
        let gone = ProcessIdentity { started_ticks: 1, ..ProcessIdentity::own() };
        state
            .write("test", |transaction| {
                transaction.execute("INSERT INTO leases VALUES ('x', ?1, '2026-11-21T00:00:00Z')", [encode(&gone)])
            })
            .unwrap();
        assert!(state.lease("x", now).unwrap().is_ok());
    }
}
