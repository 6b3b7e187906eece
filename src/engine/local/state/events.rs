//! What happened, numbered from 1 without gaps, and small notes.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{State, StateError, decode, encode, time};
use crate::{
    policy::PolicyName,
    status::ledger::{Event, EventKind},
};

/// How many events one call returns at most.
const MOST_EVENTS: usize = 10_000;

/// Adds an event inside a transaction.
pub(super) fn add(
    transaction: &Transaction<'_>,
    at: Timestamp,
    policy: &PolicyName,
    kind: &EventKind,
) -> Result<(), rusqlite::Error> {
    transaction.execute(
        "INSERT INTO events (sequence, at, policy, kind) SELECT COALESCE(MAX(sequence), 0) + 1, ?1, ?2, ?3 FROM events",
        params![at.to_string(), policy.to_string(), encode(kind)],
    )?;
    Ok(())
}

impl State {
    /// Adds an event.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn add_event(&self, at: Timestamp, policy: &PolicyName, kind: &EventKind) -> Result<(), StateError> {
        self.write("adding an event", |transaction| add(transaction, at, policy, kind))
    }

    /// The events after a sequence number, oldest first, at most 10,000.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn events(&self, after_sequence: u64) -> Result<Vec<Event>, StateError> {
        let connection = self.connection();
        let query = StateError::query;
        let mut statement = connection
            .prepare_cached(
                "SELECT sequence, at, policy, kind FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            )
            .map_err(query("reading events"))?;
        let after = i64::try_from(after_sequence).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![after, MOST_EVENTS as i64], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, String>(3)?,
                ))
            })
            .map_err(query("reading events"))?;
        let mut events = Vec::new();
        for row in rows {
            let (sequence, at, policy, kind) = row.map_err(query("reading events"))?;
            let policy: String = policy;
            events.push(Event {
                sequence: sequence.unsigned_abs(),
                at: time(&at),
                policy: decode(|| format!("event {sequence}"), &serde_json::json!(policy).to_string())?,
                kind: decode(|| format!("event {sequence}"), &kind)?,
            });
        }
        Ok(events)
    }

    /// The number of the newest event; 0: there is none.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn newest_sequence(&self) -> Result<u64, StateError> {
        let newest: i64 = self
            .connection()
            .query_row("SELECT COALESCE(MAX(sequence), 0) FROM events", [], |row| row.get(0))
            .map_err(StateError::query("reading the newest event"))?;
        Ok(newest.unsigned_abs())
    }

    /// A note; see [`State::set_note`].
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn note(&self, name: &str) -> Result<Option<String>, StateError> {
        self.connection()
            .query_row("SELECT value FROM notes WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(StateError::query("reading a note"))
    }

    /// Writes a small fact that other processes read, such as whether everything is frozen. The same value writes
    /// nothing.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_note(&self, name: &str, value: &str) -> Result<(), StateError> {
        if self.note(name)?.as_deref() == Some(value) {
            return Ok(());
        }
        self.write("writing a note", |transaction| {
            transaction.execute("INSERT OR REPLACE INTO notes (name, value) VALUES (?1, ?2)", params![name, value])?;
            Ok(())
        })
    }

    /// When a policy's work (`cleanup`, `verify`, `prune NAME`, `check NAME`) was last begun.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn last_turn(&self, policy: &PolicyName, work: &str) -> Result<Option<Timestamp>, StateError> {
        let text: Option<String> = self
            .connection()
            .query_row(
                "SELECT at FROM turns WHERE policy = ?1 AND work = ?2",
                params![policy.to_string(), work],
                |row| row.get(0),
            )
            .optional()
            .map_err(StateError::query("reading a turn"))?;
        Ok(text.as_deref().map(time))
    }

    /// Remembers when a policy's work was last due.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_turn(&self, policy: &PolicyName, work: &str, at: Timestamp) -> Result<(), StateError> {
        self.write("writing a turn", |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO turns (policy, work, at) VALUES (?1, ?2, ?3)",
                params![policy.to_string(), work, at.to_string()],
            )?;
            Ok(())
        })
    }
}
