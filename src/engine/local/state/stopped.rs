//! The workloads that are stopped just now: from the intent to stop one until it was started again.

use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::{State, StateError, decode, encode};
use crate::{
    engine::local::process::ProcessIdentity,
    policy::{PolicyName, document::backup_policy::Quiesce},
};

/// A workload that a run or a restore stopped, and did not start again yet.
#[derive(Debug, Clone)]
pub struct StoppedWorkload {
    /// The policy whose it is.
    pub policy: PolicyName,
    /// The run or restore that stopped it, in words.
    pub owner: String,
    /// The process that stopped it.
    pub process: ProcessIdentity,
    /// How it is started.
    pub quiesce: Quiesce,
    /// When a guard last tried to start it.
    pub attempted_at: Option<Timestamp>,
}

impl State {
    /// Remembers a workload that a restore is about to stop.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn add_stopped(&self, workload: &StoppedWorkload, now: Timestamp) -> Result<(), StateError> {
        self.write("writing a stopped workload", |transaction| insert(transaction, workload, now))
    }

    /// A stopped workload was started again.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn remove_stopped(&self, workload: &StoppedWorkload) -> Result<(), StateError> {
        self.write("writing a started workload", |transaction| {
            // Only this record: another run may have stopped the workload since, and must be known to have.
            transaction.execute(
                "DELETE FROM stopped WHERE policy = ?1 AND process = ?2",
                params![workload.policy.to_string(), encode(&workload.process)],
            )?;
            Ok(())
        })
    }

    /// Remembers that a guard tried to start a workload.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_start_attempt(&self, policy: &PolicyName, now: Timestamp) -> Result<(), StateError> {
        self.write("writing a stopped workload", |transaction| {
            transaction.execute(
                "UPDATE stopped SET attempted_at = ?2 WHERE policy = ?1",
                params![policy.to_string(), now.to_string()],
            )?;
            Ok(())
        })
    }

    /// All workloads that count as stopped.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn stopped_workloads(&self) -> Result<Vec<StoppedWorkload>, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT policy, owner, process, quiesce, attempted_at FROM stopped ORDER BY policy")
            .map_err(StateError::query("reading stopped workloads"))?;
        let rows = statement
            .query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, String>(3)?,
                    row.get::<_, Option<String>>(4)?,
                ))
            })
            .map_err(StateError::query("reading stopped workloads"))?;
        let mut workloads = Vec::new();
        for row in rows {
            let (policy, owner, process, quiesce, attempted_at) =
                row.map_err(StateError::query("reading stopped workloads"))?;
            let what = || format!("the stopped workload of {policy}");
            workloads.push(StoppedWorkload {
                policy: super::policies::policy_name(&policy)?,
                owner,
                process: decode(what, &process)?,
                quiesce: decode(what, &quiesce)?,
                attempted_at: attempted_at.as_deref().map(super::time),
            });
        }
        Ok(workloads)
    }
}

/// Remembers a stopped workload inside a transaction.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    workload: &StoppedWorkload,
    now: Timestamp,
) -> Result<(), rusqlite::Error> {
    transaction.execute(
        "INSERT OR REPLACE INTO stopped (policy, owner, process, quiesce, since) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            workload.policy.to_string(),
            workload.owner,
            encode(&workload.process),
            encode(&workload.quiesce),
            now.to_string()
        ],
    )?;
    Ok(())
}
