//! Runs: what is known of each, and whose they are.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{State, StateError, decode, encode, events, past, points, points::StoredPoint};
use crate::{
    engine::local::process::ProcessIdentity,
    policy::PolicyName,
    restore_point::RestorePointId,
    run::{Phase, RunReport},
    status::ledger::EventKind,
};

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

/// What came of the wish to begin a run.
#[derive(Debug)]
pub enum Begun {
    /// It is ours.
    Ours,
    /// It is under way in another process, or was; here is what is known of it.
    Theirs(Box<RunReport>),
    /// It was carried out so long ago that no more than that is known.
    Past,
}

const COLUMNS: &str = "report, process, child";

impl State {
    /// Announces a run that is about to be started, together with the scheduled time that it deals with. False: the
    /// run is known already, or was once.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn announce_run(&self, report: &RunReport) -> Result<bool, StateError> {
        let own = self.own_process()?;
        self.write("announcing a run", |transaction| {
            let added = !past::is_past(transaction, report)? && insert(transaction, report, &own, "OR IGNORE")?;
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
        let own = self.own_process()?;
        let known = self.write("beginning a run", |transaction| {
            let known: Option<(String, String)> = transaction
                .query_row(
                    "SELECT phase, report FROM runs WHERE policy = ?1 AND id = ?2",
                    params![report.policy.to_string(), report.id.0],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            match known {
                Some((phase, text)) if phase != phase_text(Phase::Pending) => Ok(Some(Some(text))),
                None if past::is_past(transaction, report)? => Ok(Some(None)),
                Some(_) | None => {
                    insert(transaction, report, &own, "OR REPLACE")?;
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
            Some(None) => Ok(Begun::Past),
            Some(Some(text)) => Ok(Begun::Theirs(decode(|| format!("run {} of {}", report.id, report.policy), &text)?)),
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
            points::put(
                transaction,
                &report.policy,
                point,
                "DO UPDATE SET size_bytes = ?4, parts = ?9, found = 0, missing_since = NULL",
            )?;
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
            past::drop_old(transaction, &name)?;
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

fn insert(
    transaction: &Transaction<'_>,
    report: &RunReport,
    process: &ProcessIdentity,
    conflict: &str,
) -> Result<bool, rusqlite::Error> {
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
            encode(process),
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

/// The phase as it stands in a column.
pub(super) fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}
