//! The journals of runs: the intent of each step is on disk before anything is done, the outcome after it.

use jiff::Timestamp;
use rusqlite::params;

use super::{
    State, StateError, decode, encode,
    stopped::{self, StoppedWorkload},
};
use crate::{
    policy::PolicyName,
    restore_point::RestorePointId,
    run::machine::{Journal, Outcome, Step},
};

impl State {
    /// The journal of a run that is under way.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn journal(&self, policy: &PolicyName, id: &RestorePointId) -> Result<Journal, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT step, outcome FROM journal WHERE policy = ?1 AND run = ?2 ORDER BY sequence")
            .map_err(StateError::query("reading a journal"))?;
        let rows = statement
            .query_map(params![policy.to_string(), id.0], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
            })
            .map_err(StateError::query("reading a journal"))?;
        let mut entries: Vec<(Step, Option<Outcome>)> = Vec::new();
        for row in rows {
            let (step, outcome) = row.map_err(StateError::query("reading a journal"))?;
            let what = || format!("the journal of run {id} of {policy}");
            entries.push((decode(what, &step)?, outcome.map(|text| decode(what, &text)).transpose()?));
        }
        Ok(Journal::new(entries))
    }

    /// Writes the intent of a step. For [`Step::Stop`], `stopping` is remembered in the same transaction: from then on
    /// the workload counts as stopped.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn intend(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        step: Step,
        stopping: Option<&StoppedWorkload>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.write("writing an intent", |transaction| {
            transaction.execute(
                "INSERT INTO journal (policy, run, sequence, step, at) \
                 SELECT ?1, ?2, COALESCE(MAX(sequence), 0) + 1, ?3, ?4 FROM journal WHERE policy = ?1 AND run = ?2",
                params![policy.to_string(), id.0, encode(&step), now.to_string()],
            )?;
            stopping.map_or(Ok(()), |workload| stopped::insert(transaction, workload, now))
        })
    }

    /// Writes the outcome of the newest intent. After [`Step::Start`] went well the workload no longer counts as
    /// stopped.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn conclude(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        step: Step,
        outcome: &Outcome,
    ) -> Result<(), StateError> {
        self.write("writing an outcome", |transaction| {
            let name = policy.to_string();
            transaction.execute(
                "UPDATE journal SET outcome = ?3 WHERE policy = ?1 AND run = ?2 AND sequence = \
                 (SELECT MAX(sequence) FROM journal WHERE policy = ?1 AND run = ?2)",
                params![name, id.0, encode(outcome)],
            )?;
            if step == Step::Start && *outcome == Outcome::Done {
                // Only what this run stopped: another one may have stopped the workload since.
                transaction.execute(
                    "DELETE FROM stopped WHERE policy = ?1 AND process = \
                     (SELECT process FROM runs WHERE policy = ?1 AND id = ?2)",
                    params![name, id.0],
                )?;
            }
            Ok(())
        })
    }
}
