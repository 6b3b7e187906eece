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
        self.lease_unless(name, None, now)
    }

    /// Takes the lease of a name unless somebody holds one whose name begins with `excluded`; `Err` in the result: who
    /// holds it, or that one. Of two processes that want what excludes the other, one gets it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn lease_unless(
        &self,
        name: &str,
        excluded: Option<&str>,
        now: Timestamp,
    ) -> Result<Result<Lease<'_>, ProcessIdentity>, StateError> {
        let own = self.own_process()?;
        let holder = self.write("taking a lease", |transaction| {
            if let Some(excluded) = excluded {
                let mut others =
                    transaction.prepare_cached("SELECT process FROM leases WHERE substr(name, 1, length(?1)) = ?1")?;
                let others = others.query_map([excluded], |row| row.get::<_, String>(0))?;
                for other in others {
                    if let Some(other) = identity(&other?).filter(|other| self.is_alive(other)) {
                        return Ok(Some(other));
                    }
                }
            }
            let known: Option<(String, Option<String>)> = transaction
                .query_row("SELECT process, child FROM leases WHERE name = ?1", [name], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            let (holder, child) = known.unzip();
            if let Some(holder) = holder.as_deref().and_then(identity).filter(|holder| self.is_alive(holder)) {
                return Ok(Some(holder));
            }
            // What works for a holder that is gone must not work beside us.
            if let Some(child) = child.flatten().as_deref().and_then(identity) {
                child.kill_tree();
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

    /// Who holds the lease of a name; none: it is free, or its holder is gone.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn lease_holder(&self, name: &str) -> Result<Option<ProcessIdentity>, StateError> {
        let holder: Option<String> = self
            .connection()
            .query_row("SELECT process FROM leases WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(StateError::query("reading a lease"))?;
        Ok(holder.as_deref().and_then(identity).filter(|holder| self.is_alive(holder)))
    }

    /// Ends the movers that work on under leases whose holders are gone.
    ///
    /// # Errors
    /// The state cannot be read or written.
    pub fn end_abandoned(&self) -> Result<(), StateError> {
        let held: Vec<(String, String, String)> = self
            .connection()
            .prepare_cached("SELECT name, process, child FROM leases WHERE child IS NOT NULL")
            .and_then(|mut statement| {
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .map_err(StateError::query("reading leases"))?;
        for (name, process, child) in held {
            if identity(&process).is_some_and(|holder| self.is_alive(&holder)) {
                continue;
            }
            if let Some(child) = identity(&child) {
                child.kill_tree();
            }
            self.write("ending a lease", |transaction| {
                transaction.execute("DELETE FROM leases WHERE name = ?1 AND process = ?2", params![name, process])
            })?;
        }
        Ok(())
    }
}

impl Lease<'_> {
    /// Remembers the mover that works under this lease, so that it can be ended when its holder is gone.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_child(&self, child: Option<&ProcessIdentity>) -> Result<(), StateError> {
        self.state.write("writing a lease", |transaction| {
            transaction.execute(
                "UPDATE leases SET child = ?3 WHERE name = ?1 AND process = ?2",
                params![self.name, encode(&self.process), child.map(encode)],
            )?;
            Ok(())
        })
    }
}

fn identity(text: &str) -> Option<ProcessIdentity> {
    serde_json::from_str(text).ok()
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
                transaction
                    .execute("INSERT INTO leases VALUES ('x', ?1, '2026-11-21T00:00:00Z', NULL)", [encode(&gone)])
            })
            .unwrap();
        assert!(state.lease("x", now).unwrap().is_ok());
    }

    #[test]
    fn captures_go_side_by_side_and_exclude_a_prune() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let capture =
            |policy: &str| state.lease_unless(&format!("capture:/disk by {policy}"), Some("prune:/disk"), now);
        let prune = || state.lease_unless("prune:/disk", Some("capture:/disk by "), now);
        let one = capture("shop/nightly").unwrap().unwrap();
        let two = capture("shop/hourly").unwrap().unwrap();
        assert!(prune().unwrap().is_err());
        drop(one);
        assert!(prune().unwrap().is_err());
        drop(two);
        let pruning = prune().unwrap().unwrap();
        assert!(capture("shop/nightly").unwrap().is_err());
        assert!(state.lease_unless("capture:/other by shop/nightly", Some("prune:/other"), now).unwrap().is_ok());
        drop(pruning);
        assert!(capture("shop/nightly").unwrap().is_ok());
    }
}
