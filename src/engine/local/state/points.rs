//! Restore points: what the repositories were seen to hold, together with marks, holds and proofs.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{State, StateError, encode, events, time};
use crate::{
    engine::local::inventory::Merged,
    policy::{CompiledPolicy, PolicyName},
    restore_point::{Part, RestorePoint, RestorePointId},
    run::to_millisecond,
    status::ledger::EventKind,
};

/// A part, and the place that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPart {
    /// Number of the place.
    pub place: i64,
    /// The part.
    #[serde(flatten)]
    pub part: Part,
}

/// A restore point with what only the engine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPoint {
    /// The restore point; its `parts` are empty here.
    #[serde(flatten)]
    pub point: RestorePoint,
    /// Its parts with their places.
    pub parts: Vec<StoredPart>,
    /// A cleanup has begun to forget it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgetting: bool,
}

impl StoredPoint {
    /// What a run captured, as the restore point that it makes.
    pub fn of_run(report: &crate::run::RunReport, parts: Vec<StoredPart>) -> Self {
        let point = RestorePoint {
            id: report.id.clone(),
            time: report.started_at,
            size_bytes: crate::engine::local::inventory::size_of_one_copy(&parts),
            verified_at: None,
            held: false,
            found: false,
            missing_since: None,
            expired_since: None,
            parts: Vec::new(),
        };
        Self { point, parts, forgetting: false }
    }

    /// The restore point with its parts.
    pub fn into_point(self) -> RestorePoint {
        RestorePoint { parts: self.parts.into_iter().map(|part| part.part).collect(), ..self.point }
    }
}

/// What [`read`] reads.
pub(super) const COLUMNS: &str =
    "id, time, size_bytes, verified_at, held, expired_since, forgetting, parts, found, missing_since";

/// What version 3 of the schema added.
pub(super) const ADDED: &str = "ALTER TABLE points ADD COLUMN found INTEGER NOT NULL DEFAULT 0; \
                                ALTER TABLE points ADD COLUMN missing_since TEXT;";

/// Restore points of an older version as this one reads them, for a state that must not be written to.
pub(super) const VIEW_OF_OLDER: &str =
    "CREATE TEMP VIEW points AS SELECT *, 0 AS found, NULL AS missing_since FROM main.points;";

impl State {
    /// The restore points of one policy, oldest first.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn points(&self, policy: &PolicyName) -> Result<Vec<StoredPoint>, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM points WHERE policy = ?1"))
            .map_err(StateError::query("reading restore points"))?;
        let mut points = statement
            .query_map([policy.to_string()], |row| read(row, 0))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(StateError::query("reading restore points"))?;
        points.sort_by(|one, other| (one.point.time, &one.point.id).cmp(&(other.point.time, &other.point.id)));
        Ok(points)
    }

    /// Whether the last look at the repositories of a policy saw all of them. False, too: there was none yet.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn has_seen_all(&self, policy: &PolicyName) -> Result<bool, StateError> {
        let complete: Option<bool> = self
            .connection()
            .query_row("SELECT complete FROM inventories WHERE policy = ?1", [policy.to_string()], |row| row.get(0))
            .optional()
            .map_err(StateError::query("reading an inventory"))?;
        Ok(complete == Some(true))
    }

    /// Stores what an observation of the repositories found. Marks, holds and proofs stay as they are now, even if another
    /// process changed them meanwhile, and a point that another process recorded or removed meanwhile stays so.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_inventory(
        &self,
        policy: &PolicyName,
        observed_at: Timestamp,
        complete: bool,
        merged: &Merged,
    ) -> Result<(), StateError> {
        let Merged { seen, fresh, missing, gone, leftovers: _ } = merged;
        self.write("storing an inventory", |transaction| {
            let name = policy.to_string();
            let tell = |points: Vec<RestorePointId>, kind: fn(Vec<RestorePointId>) -> EventKind| match points.is_empty()
            {
                true => Ok(()),
                false => events::add(transaction, observed_at, policy, &kind(points)),
            };
            let mut returned = Vec::new();
            for StoredPoint { point, parts, forgetting: _ } in seen {
                let size_bytes = i64::try_from(point.size_bytes).unwrap_or(i64::MAX);
                transaction.execute(
                    "UPDATE points SET size_bytes = ?3, parts = ?4 WHERE policy = ?1 AND id = ?2",
                    params![name, point.id.0, size_bytes, encode(parts)],
                )?;
                let back = "UPDATE points SET missing_since = NULL \
                            WHERE policy = ?1 AND id = ?2 AND missing_since IS NOT NULL";
                if transaction.execute(back, params![name, point.id.0])? > 0 {
                    returned.push(point.id.clone());
                }
            }
            tell(returned, |points| EventKind::Returned { points })?;
            let mut vanished = Vec::new();
            for StoredPoint { point, .. } in missing {
                let miss = "UPDATE points SET missing_since = ?3 \
                            WHERE policy = ?1 AND id = ?2 AND missing_since IS NULL";
                let since = to_millisecond(observed_at).to_string();
                if transaction.execute(miss, params![name, point.id.0, since])? > 0 {
                    vanished.push(point.id.clone());
                }
            }
            tell(vanished, |points| EventKind::Missing { points })?;
            let mut found = Vec::new();
            for point in fresh {
                if put(transaction, policy, point, "DO NOTHING")? {
                    found.push(point.point.id.clone());
                }
            }
            tell(found, |points| EventKind::Found { points })?;
            let (mut forgotten, mut given_up) = (Vec::new(), Vec::new());
            for StoredPoint { point, forgetting, .. } in gone {
                // One that was held meanwhile stays.
                let remove = "DELETE FROM points WHERE policy = ?1 AND id = ?2 AND (held = 0 OR forgetting = 1)";
                if transaction.execute(remove, params![name, point.id.0])? > 0 {
                    if *forgetting { &mut forgotten } else { &mut given_up }.push(point.id.clone());
                }
            }
            tell(forgotten, |points| EventKind::Forgotten { points })?;
            tell(given_up, |points| EventKind::GivenUp { points })?;
            transaction.execute(
                "INSERT OR REPLACE INTO inventories (policy, observed_at, complete) VALUES (?1, ?2, ?3)",
                params![policy.to_string(), observed_at.to_string(), complete],
            )?;
            Ok(())
        })
    }

    /// Marks points as expired since `now`; those that are marked keep their mark. One that was found and is lost by an
    /// edit that a person has seen is like any other from then on. Returns which were marked.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn mark(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        now: Timestamp,
    ) -> Result<Vec<RestorePointId>, StateError> {
        self.change_points(
            policy,
            points,
            "UPDATE points SET expired_since = ?3, found = 0 \
             WHERE policy = ?1 AND id = ?2 AND expired_since IS NULL AND held = 0",
            now,
        )
    }

    /// Takes marks back. Returns which were marked.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn unmark(&self, policy: &PolicyName, points: &[RestorePointId]) -> Result<Vec<RestorePointId>, StateError> {
        self.change_points(
            policy,
            points,
            "UPDATE points SET expired_since = NULL WHERE policy = ?1 AND id = ?2 AND expired_since IS NOT NULL \
             AND ?3 IS NOT NULL",
            Timestamp::UNIX_EPOCH,
        )
    }

    /// Writes the intent to forget points. Those that a person holds meanwhile are left out. Returns the others.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_forgetting(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        now: Timestamp,
    ) -> Result<Vec<RestorePointId>, StateError> {
        self.change_points(
            policy,
            points,
            "UPDATE points SET forgetting = 1 WHERE policy = ?1 AND id = ?2 AND held = 0 AND expired_since IS NOT NULL \
             AND ?3 IS NOT NULL",
            now,
        )
    }

    /// Removes forgotten points, and says so in the history.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn remove_points(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        now: Timestamp,
    ) -> Result<(), StateError> {
        if points.is_empty() {
            return Ok(());
        }
        self.write("removing restore points", |transaction| {
            for id in points {
                transaction
                    .execute("DELETE FROM points WHERE policy = ?1 AND id = ?2", params![policy.to_string(), id.0])?;
            }
            events::add(transaction, now, policy, &EventKind::Forgotten { points: points.to_vec() })
        })
    }

    /// Remembers that points were proven.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_verified(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.change_points(policy, points, "UPDATE points SET verified_at = ?3 WHERE policy = ?1 AND id = ?2", now)?;
        Ok(())
    }

    /// When the oldest mark of a policy that was withdrawn has been there for its grace time; none: nothing is marked.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn marks_end(&self, policy: &CompiledPolicy) -> Result<Option<Timestamp>, StateError> {
        let oldest: Option<String> = self
            .connection()
            .query_row(
                "SELECT MIN(expired_since) FROM points WHERE policy = ?1 AND held = 0",
                [policy.name.to_string()],
                |row| row.get(0),
            )
            .map_err(StateError::query("reading marks"))?;
        Ok(oldest.map(|since| time(&since) + SignedDuration::from_secs(grace_seconds(policy))))
    }

    /// Holds a point, or releases it, from being found as well; both take its mark away, so that its grace time begins
    /// anew. False: there is no such point, or a cleanup has begun to forget it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_held(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        held: bool,
        now: Timestamp,
    ) -> Result<bool, StateError> {
        self.write("holding a restore point", |transaction| {
            let name = policy.to_string();
            let known: i64 = transaction.query_row(
                "SELECT COUNT(*) FROM points WHERE policy = ?1 AND id = ?2 AND forgetting = 0",
                params![name, id.0],
                |row| row.get(0),
            )?;
            let changed = transaction.execute(
                "UPDATE points SET held = ?3, found = found AND ?3, expired_since = NULL \
                 WHERE policy = ?1 AND id = ?2 AND (held <> ?3 OR found > ?3) AND forgetting = 0",
                params![name, id.0, held],
            )?;
            if changed > 0 {
                let kind = if held { EventKind::Held(id.clone()) } else { EventKind::Released(id.clone()) };
                events::add(transaction, now, policy, &kind)?;
            }
            Ok(known > 0)
        })
    }

    fn change_points(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        statement: &str,
        at: Timestamp,
    ) -> Result<Vec<RestorePointId>, StateError> {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        self.write("marking restore points", |transaction| {
            let mut statement = transaction.prepare_cached(statement)?;
            let mut changed = Vec::new();
            for id in points {
                if statement.execute(params![policy.to_string(), id.0, to_millisecond(at).to_string()])? > 0 {
                    changed.push(id.clone());
                }
            }
            Ok(changed)
        })
    }
}

/// How long an expired point can be taken back, in seconds. Default: 24 hours.
pub fn grace_seconds(policy: &CompiledPolicy) -> i64 {
    policy.document.spec.retention.grace.map_or(24 * 3600, |grace| grace.seconds())
}

/// Adds a point. `conflict`: what to do where it is known already, in SQL. False: nothing was to be done.
pub(super) fn put(
    transaction: &Transaction<'_>,
    policy: &PolicyName,
    stored: &StoredPoint,
    conflict: &str,
) -> Result<bool, rusqlite::Error> {
    let point = &stored.point;
    let changed = transaction.execute(
        &format!(
            "INSERT INTO points \
             (policy, id, time, size_bytes, verified_at, held, expired_since, forgetting, parts, found, missing_since) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (policy, id) {conflict}"
        ),
        params![
            policy.to_string(),
            point.id.0,
            point.time.to_string(),
            i64::try_from(point.size_bytes).unwrap_or(i64::MAX),
            point.verified_at.map(|at| at.to_string()),
            point.held,
            point.expired_since.map(|at| at.to_string()),
            stored.forgetting,
            encode(&stored.parts),
            point.found,
            point.missing_since.map(|at| at.to_string()),
        ],
    )?;
    Ok(changed > 0)
}

/// A point from [`COLUMNS`], the first of which is the column `first`.
pub(super) fn read(row: &Row<'_>, first: usize) -> Result<StoredPoint, rusqlite::Error> {
    let optional_time = |index: usize| -> Result<Option<Timestamp>, rusqlite::Error> {
        Ok(row.get::<_, Option<String>>(index)?.as_deref().map(time))
    };
    let parts: String = row.get(first + 7)?;
    let parts = serde_json::from_str(&parts).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(first + 7, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(StoredPoint {
        point: RestorePoint {
            id: RestorePointId(row.get(first)?),
            time: time(&row.get::<_, String>(first + 1)?),
            size_bytes: row.get::<_, i64>(first + 2)?.unsigned_abs(),
            verified_at: optional_time(first + 3)?,
            held: row.get(first + 4)?,
            found: row.get(first + 8)?,
            missing_since: optional_time(first + 9)?,
            expired_since: optional_time(first + 5)?,
            parts: Vec::new(),
        },
        parts,
        forgetting: row.get(first + 6)?,
    })
}
