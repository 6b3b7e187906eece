//! Runs, their journals, and the workloads that are stopped just now.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{State, StateError, decode, encode, events, points, points::StoredPoint};
use crate::{
    engine::local::process::ProcessIdentity,
    policy::{PolicyName, document::backup_policy::Quiesce},
    restore_point::RestorePointId,
    run::{
        Phase, RunReport,
        machine::{Journal, Outcome, Step},
    },
    status::ledger::EventKind,
};

/// How many ended runs of a policy are remembered.
const MOST_RUNS: usize = 200;

/// A run as it is stored.
#[derive(Debug, Clone)]
pub struct StoredRun {
    /// What is known of it.
    pub report: RunReport,
    /// The process that carries it out; for a pending one, the process that starts it.
    pub process: ProcessIdentity,
    /// The program that it waits for just now: a hook, or a mover. It leads its own process group.
    pub child: Option<ProcessIdentity>,
}

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

/// What came of the wish to begin a run.
#[derive(Debug)]
pub enum Begun {
    /// It is ours.
    Ours,
    /// It is under way in another process, or was; here is what is known of it.
    Theirs(Box<RunReport>),
}

const COLUMNS: &str = "report, process, child";

impl State {
    /// Announces a run that is about to be started, together with the scheduled time that it deals with. False: the
    /// run is known already.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn announce_run(&self, report: &RunReport) -> Result<bool, StateError> {
        self.write("announcing a run", |transaction| {
            let added = insert(transaction, report, "OR IGNORE")?;
            transaction.execute(
                "UPDATE policies SET last_scheduled = ?1 WHERE name = ?2",
                params![report.scheduled_at.to_string(), report.policy.to_string()],
            )?;
            Ok(added)
        })
    }

    /// Takes an announcement back after the process could not be started, or vanished before it began.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn withdraw_announcement(&self, report: &RunReport, last_scheduled: Timestamp) -> Result<(), StateError> {
        self.write("taking a run back", |transaction| {
            let removed = transaction.execute(
                "DELETE FROM runs WHERE policy = ?1 AND id = ?2 AND phase = 'Pending'",
                params![report.policy.to_string(), report.id.0],
            )?;
            if removed > 0 {
                transaction.execute(
                    "UPDATE policies SET last_scheduled = ?1 WHERE name = ?2",
                    params![last_scheduled.to_string(), report.policy.to_string()],
                )?;
            }
            Ok(())
        })
    }

    /// Names the process that will carry out an announced run.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_run_process(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        process: &ProcessIdentity,
    ) -> Result<(), StateError> {
        self.write("writing a run", |transaction| {
            transaction.execute(
                "UPDATE runs SET process = ?3 WHERE policy = ?1 AND id = ?2 AND phase = 'Pending'",
                params![policy.to_string(), id.0, encode(process)],
            )?;
            Ok(())
        })
    }

    /// Begins a run in this process: a pending one is taken over, any other that is known stays whose it is.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn begin_run(&self, report: &RunReport) -> Result<Begun, StateError> {
        let known = self.write("beginning a run", |transaction| {
            let known: Option<(String, String)> = transaction
                .query_row(
                    "SELECT phase, report FROM runs WHERE policy = ?1 AND id = ?2",
                    params![report.policy.to_string(), report.id.0],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            match known {
                Some((phase, text)) if phase != phase_text(Phase::Pending) => Ok(Some(text)),
                Some(_) | None => {
                    insert(transaction, report, "OR REPLACE")?;
                    transaction.execute(
                        "UPDATE policies SET running = ?1, last_run = ?2 WHERE name = ?3",
                        params![report.id.0, encode(report), report.policy.to_string()],
                    )?;
                    Ok(None)
                }
            }
        })?;
        match known {
            None => Ok(Begun::Ours),
            Some(text) => Ok(Begun::Theirs(decode(|| format!("run {} of {}", report.id, report.policy), &text)?)),
        }
    }

    /// Stores how far a run is.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn update_run(&self, report: &RunReport) -> Result<(), StateError> {
        self.write("writing a run", |transaction| update(transaction, report))
    }

    /// Records the restore point of a run: only now it exists.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn record_point(&self, report: &RunReport, point: &StoredPoint) -> Result<(), StateError> {
        self.write("recording a restore point", |transaction| {
            points::put(transaction, &report.policy, point)?;
            update(transaction, report)
        })
    }

    /// Ends a run: its report, the history, and what is shown of its policy.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn end_run(&self, report: &RunReport, now: Timestamp) -> Result<(), StateError> {
        self.write("ending a run", |transaction| {
            let name = report.policy.to_string();
            let ended = transaction.execute(
                "UPDATE runs SET phase = ?3, report = ?4, child = NULL \
                 WHERE policy = ?1 AND id = ?2 AND phase IN ('Pending', 'Running')",
                params![name, report.id.0, phase_text(report.phase), encode(report)],
            )?;
            if ended == 0 {
                // Another process ended it already, and told so.
                return Ok(());
            }
            let success = (report.phase == Phase::Succeeded).then(|| report.finished_at.unwrap_or(now).to_string());
            transaction.execute(
                "UPDATE policies SET running = NULL, last_run = ?2, last_success = COALESCE(?3, last_success) \
                 WHERE name = ?1",
                params![name, encode(report), success],
            )?;
            // A journal is needed only while its run is under way.
            transaction.execute("DELETE FROM journal WHERE policy = ?1 AND run = ?2", params![name, report.id.0])?;
            transaction.execute(
                "DELETE FROM runs WHERE policy = ?1 AND (phase = 'Succeeded' OR swept = 1) AND id NOT IN \
                 (SELECT id FROM runs WHERE policy = ?1 ORDER BY started_at DESC LIMIT ?2)",
                params![name, MOST_RUNS as i64],
            )?;
            events::add(transaction, now, &report.policy, &EventKind::RunEnded(Box::new(report.clone())))
        })
    }

    /// All runs that are pending or under way, whether their process is still there or not.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn runs_under_way(&self) -> Result<Vec<StoredRun>, StateError> {
        self.select_runs(
            &format!("SELECT {COLUMNS} FROM runs WHERE phase IN ('Pending', 'Running') ORDER BY policy, id"),
            &[],
        )
    }

    /// The remembered runs of a policy, oldest first.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn runs(&self, policy: &PolicyName) -> Result<Vec<StoredRun>, StateError> {
        self.select_runs(
            &format!("SELECT {COLUMNS} FROM runs WHERE policy = ?1 ORDER BY started_at, id"),
            &[&policy.to_string()],
        )
    }

    /// Remembers that the snapshots which a failed run left behind are gone.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_swept(&self, policy: &PolicyName, runs: &[RestorePointId]) -> Result<(), StateError> {
        if runs.is_empty() {
            return Ok(());
        }
        self.write("writing runs", |transaction| {
            for id in runs {
                transaction.execute(
                    "UPDATE runs SET swept = 1 WHERE policy = ?1 AND id = ?2",
                    params![policy.to_string(), id.0],
                )?;
            }
            Ok(())
        })
    }

    /// Remembers the program that a run waits for.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_child(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        child: Option<&ProcessIdentity>,
    ) -> Result<(), StateError> {
        self.write("writing a run", |transaction| {
            transaction.execute(
                "UPDATE runs SET child = ?3 WHERE policy = ?1 AND id = ?2",
                params![policy.to_string(), id.0, child.map(encode)],
            )?;
            Ok(())
        })
    }

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
            stopping.map_or(Ok(()), |workload| insert_stopped(transaction, workload, now))
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

    /// Remembers a workload that a restore is about to stop.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn add_stopped(&self, workload: &StoppedWorkload, now: Timestamp) -> Result<(), StateError> {
        self.write("writing a stopped workload", |transaction| insert_stopped(transaction, workload, now))
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

    fn select_runs(&self, statement: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<Vec<StoredRun>, StateError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(statement).map_err(StateError::query("reading runs"))?;
        let texts =
            |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?));
        let rows = statement
            .query_map(parameters, texts)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(StateError::query("reading runs"))?;
        rows.into_iter()
            .map(|(report, process, child)| {
                let what = || "a run".to_owned();
                Ok(StoredRun {
                    report: decode(what, &report)?,
                    process: decode(what, &process)?,
                    child: child.map(|text| decode(what, &text)).transpose()?,
                })
            })
            .collect()
    }
}

fn insert(transaction: &Transaction<'_>, report: &RunReport, conflict: &str) -> Result<bool, rusqlite::Error> {
    let added = transaction.execute(
        &format!(
            "INSERT {conflict} INTO runs (policy, id, started_at, phase, report, process, swept) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)"
        ),
        params![
            report.policy.to_string(),
            report.id.0,
            report.started_at.to_string(),
            phase_text(report.phase),
            encode(report),
            encode(&ProcessIdentity::own()),
        ],
    )?;
    Ok(added > 0)
}

fn update(transaction: &Transaction<'_>, report: &RunReport) -> Result<(), rusqlite::Error> {
    let (name, text) = (report.policy.to_string(), encode(report));
    transaction
        .execute("UPDATE runs SET report = ?3 WHERE policy = ?1 AND id = ?2", params![name, report.id.0, text])?;
    transaction.execute(
        "UPDATE policies SET last_run = ?3 WHERE name = ?1 AND running = ?2",
        params![name, report.id.0, text],
    )?;
    Ok(())
}

fn insert_stopped(
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

/// The phase as it stands in a column.
pub(super) fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}
