//! Compiled policies.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{State, StateError, decode, encode, events, places, time};
use crate::{
    policy::{CompiledPolicy, PolicyName, PolicyNameError, secrets},
    restore_point::RestorePointId,
    status::ledger::EventKind,
};

/// A policy as it is stored.
#[derive(Debug, Clone)]
pub struct StoredPolicy {
    /// What was applied last.
    pub compiled: CompiledPolicy,
    /// Whether it was withdrawn: no more runs, only its restore points are left.
    pub withdrawn: bool,
    /// The scheduled time that was dealt with last.
    pub last_scheduled: Timestamp,
    /// The run that is under way, if any.
    pub running: Option<RestorePointId>,
}

impl State {
    /// Creates or replaces a policy. The same policy again writes nothing.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn put_policy(&self, policy: &CompiledPolicy, now: Timestamp) -> Result<(), StateError> {
        let stored = self.policy(&policy.name)?;
        if stored.as_ref().is_some_and(|stored| !stored.withdrawn && stored.compiled == *policy) {
            return Ok(());
        }
        // A schedule that was changed, resumed or made anew starts from now: what it "missed" before nobody asked for.
        let last_scheduled = match &stored {
            Some(stored) if !stored.withdrawn && same_schedule(&stored.compiled, policy) => stored.last_scheduled,
            Some(stored) => stored.last_scheduled.max(now),
            None => now,
        };
        self.write("storing a policy", |transaction| {
            transaction.execute(
                "INSERT INTO policies (name, compiled, withdrawn, last_scheduled) VALUES (?1, ?2, 0, ?3) \
                 ON CONFLICT (name) DO UPDATE SET compiled = ?2, withdrawn = 0, last_scheduled = ?3",
                params![policy.name.to_string(), encode(policy), last_scheduled.to_string()],
            )?;
            note_secret_variables(transaction, policy)?;
            places::put(transaction, policy)
        })
    }

    /// Withdraws a policy: its schedule ends, everything else stays. One that is not there, or withdrawn, is no error.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn withdraw_policy(&self, policy: &PolicyName) -> Result<(), StateError> {
        if self.policy(policy)?.is_none_or(|stored| stored.withdrawn) {
            return Ok(());
        }
        self.write("withdrawing a policy", |transaction| {
            transaction.execute("UPDATE policies SET withdrawn = 1 WHERE name = ?1", [policy.to_string()])?;
            places::withdraw(transaction, policy)
        })
    }

    /// One policy.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn policy(&self, name: &PolicyName) -> Result<Option<StoredPolicy>, StateError> {
        let row = self
            .connection()
            .query_row(
                "SELECT compiled, withdrawn, last_scheduled, running FROM policies WHERE name = ?1",
                [name.to_string()],
                |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get(3)?)),
            )
            .optional()
            .map_err(StateError::query("reading a policy"))?;
        let Some((compiled, withdrawn, last_scheduled, running)) = row else { return Ok(None) };
        let running: Option<String> = running;
        Ok(Some(StoredPolicy {
            compiled: decode(|| format!("policy {name}"), &compiled)?,
            withdrawn,
            last_scheduled: time(&last_scheduled),
            running: running.map(RestorePointId),
        }))
    }

    /// Remembers that a scheduled time was dealt with.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_last_scheduled(&self, policy: &PolicyName, scheduled: Timestamp) -> Result<(), StateError> {
        self.write("writing a policy", |transaction| {
            transaction.execute(
                "UPDATE policies SET last_scheduled = ?1 WHERE name = ?2",
                params![scheduled.to_string(), policy.to_string()],
            )?;
            Ok(())
        })
    }
}

impl State {
    /// Remembers that a scheduled time was given up, and says so. `missed`: how many times passed without a run, this one
    /// included.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn skip_run(
        &self,
        policy: &PolicyName,
        scheduled: Timestamp,
        missed: u32,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.write("giving up a scheduled time", |transaction| {
            transaction.execute(
                "UPDATE policies SET last_scheduled = ?1 WHERE name = ?2",
                params![scheduled.to_string(), policy.to_string()],
            )?;
            events::add(transaction, now, policy, &EventKind::Skipped { scheduled, missed })
        })
    }
}

impl State {
    /// The environment variables that the documents of any policy name, or ever named, as secrets.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn secret_variables(&self) -> Result<BTreeSet<String>, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT name FROM secret_variables")
            .map_err(StateError::query("reading the names of secrets"))?;
        let names = statement
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect::<Result<_, _>>)
            .map_err(StateError::query("reading the names of secrets"))?;
        Ok(names)
    }
}

/// Makes the table of variables that hold secrets, and fills it from the policies that are there.
pub(super) fn add_secret_variables(transaction: &Transaction<'_>) -> Result<(), rusqlite::Error> {
    transaction.execute_batch("CREATE TABLE secret_variables (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;")?;
    let texts: Vec<String> = transaction
        .prepare("SELECT compiled FROM policies")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // One that cannot be read does not run either.
    for policy in texts.iter().filter_map(|text| serde_json::from_str(text).ok()) {
        note_secret_variables(transaction, &policy)?;
    }
    Ok(())
}

/// Names are never taken out again: a process that was started with one before keeps it.
fn note_secret_variables(transaction: &Transaction<'_>, policy: &CompiledPolicy) -> Result<(), rusqlite::Error> {
    for name in secrets::named(policy).into_iter().filter_map(|reference| reference.env) {
        transaction.execute("INSERT OR IGNORE INTO secret_variables (name) VALUES (?1)", [name])?;
    }
    Ok(())
}

/// A stored name.
pub(super) fn policy_name(text: &str) -> Result<PolicyName, StateError> {
    text.parse().map_err(|error| StateError::Decode {
        what: format!("the name {text}"),
        source: <serde_json::Error as serde::de::Error>::custom::<PolicyNameError>(error),
    })
}

fn same_schedule(one: &CompiledPolicy, other: &CompiledPolicy) -> bool {
    let (one, other) = (&one.document.spec, &other.document.spec);
    one.schedule == other.schedule && one.time_zone == other.time_zone && one.suspend == other.suspend
}
