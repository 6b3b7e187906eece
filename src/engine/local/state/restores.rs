//! Restores that documents ask for: once for each document and content.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use jiff::Timestamp;

use super::{State, StateError, decode, encode, events, policies::policy_name, runs::phase_text};
use crate::{
    actual::RestoreReport,
    engine::local::process::ProcessIdentity,
    policy::{PolicyName, document::RestoreDocument},
    run::Phase,
    status::ledger::EventKind,
};

/// A restore as it is stored.
#[derive(Debug, Clone)]
pub struct StoredRestore {
    /// `NAMESPACE/NAME` of the document.
    pub name: PolicyName,
    /// Its content hash.
    pub content: String,
    /// The document.
    pub document: RestoreDocument,
    /// How far it is.
    pub report: RestoreReport,
    /// The process that carries it out.
    pub process: ProcessIdentity,
}

impl State {
    /// Announces a restore. False: this document with this content is known already.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn announce_restore(
        &self,
        name: &PolicyName,
        content: &str,
        document: &RestoreDocument,
        report: &RestoreReport,
    ) -> Result<bool, StateError> {
        let own = self.own_process()?;
        self.write("announcing a restore", |transaction| {
            let added = transaction.execute(
                "INSERT OR IGNORE INTO restores (name, content, document, report, phase, process) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    name.to_string(),
                    content,
                    encode(document),
                    encode(report),
                    phase_text(report.phase),
                    encode(&own)
                ],
            )?;
            Ok(added > 0)
        })
    }

    /// Stores how far a restore is, and who carries it out. One that has ended stays as it ended: two guards may find
    /// the same dead one.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn update_restore(
        &self,
        name: &PolicyName,
        content: &str,
        report: &RestoreReport,
        process: &ProcessIdentity,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.write("writing a restore", |transaction| {
            let updated = transaction.execute(
                "UPDATE restores SET report = ?3, phase = ?4, process = ?5 \
                 WHERE name = ?1 AND content = ?2 AND phase IN ('Pending', 'Running')",
                params![name.to_string(), content, encode(report), phase_text(report.phase), encode(process)],
            )?;
            if updated > 0 && matches!(report.phase, Phase::Succeeded | Phase::Failed) {
                events::add(transaction, now, name, &EventKind::RestoreEnded(Box::new(report.clone())))?;
            }
            Ok(())
        })
    }

    /// Begins an announced restore in this process. False: another process began it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn begin_restore(&self, name: &PolicyName, content: &str, report: &RestoreReport) -> Result<bool, StateError> {
        let own = self.own_process()?;
        self.write("beginning a restore", |transaction| {
            let begun = transaction.execute(
                "UPDATE restores SET report = ?3, phase = ?4, process = ?5 \
                 WHERE name = ?1 AND content = ?2 AND phase = 'Pending'",
                params![name.to_string(), content, encode(report), phase_text(report.phase), encode(&own)],
            )?;
            Ok(begun > 0)
        })
    }

    /// Passes a restore that did not begin yet from one process to another: from the one that announced it to the one
    /// that will carry it out, or from one that is gone to its heir. False: it began, or somebody else has it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn pass_restore(
        &self,
        name: &PolicyName,
        content: &str,
        from: &ProcessIdentity,
        to: &ProcessIdentity,
    ) -> Result<bool, StateError> {
        self.write("passing a restore on", |transaction| {
            let passed = transaction.execute(
                "UPDATE restores SET process = ?4 \
                 WHERE name = ?1 AND content = ?2 AND phase = 'Pending' AND process = ?3",
                params![name.to_string(), content, encode(from), encode(to)],
            )?;
            Ok(passed > 0)
        })
    }

    /// One restore.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn restore(&self, name: &PolicyName, content: &str) -> Result<Option<StoredRestore>, StateError> {
        let row = self
            .connection()
            .query_row(
                "SELECT name, content, document, report, process FROM restores WHERE name = ?1 AND content = ?2",
                params![name.to_string(), content],
                |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]),
            )
            .optional()
            .map_err(StateError::query("reading a restore"))?;
        row.map(stored).transpose()
    }

    /// The restores that are pending or under way.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn restores_under_way(&self) -> Result<Vec<StoredRestore>, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT name, content, document, report, process FROM restores WHERE phase IN ('Pending', 'Running')",
            )
            .map_err(StateError::query("reading restores"))?;
        let rows = statement
            .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(StateError::query("reading restores"))?;
        rows.into_iter().map(stored).collect()
    }
}

/// All restores by name and content hash.
pub(super) fn all(connection: &Connection) -> Result<BTreeMap<(PolicyName, String), RestoreReport>, StateError> {
    let mut statement = connection
        .prepare_cached("SELECT name, content, report FROM restores")
        .map_err(StateError::query("observing restores"))?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(StateError::query("observing restores"))?;
    rows.into_iter()
        .map(|(name, content, report)| {
            Ok(((policy_name(&name)?, content), decode(|| format!("restore {name}"), &report)?))
        })
        .collect()
}

fn stored([name, content, document, report, process]: [String; 5]) -> Result<StoredRestore, StateError> {
    let what = || format!("restore {name}");
    Ok(StoredRestore {
        document: decode(what, &document)?,
        report: decode(what, &report)?,
        process: decode(what, &process)?,
        name: policy_name(&name)?,
        content,
    })
}
