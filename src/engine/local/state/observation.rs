//! The observation of everything at once: read from the tables the first time, and afterwards only where something
//! changed.
//!
//! What changed is written down by the database itself: triggers put the name of a policy into the table `changes`, in
//! the transaction of the change, whichever process and statement made it. No writer can forget to, and none knows of
//! it. So what is kept here is what a first observation would find; the tests compare the two after every kind of write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::{Arc, PoisonError},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Statement, fallible_streaming_iterator::FallibleStreamingIterator as _, params};

use super::{BUSY, FILE_NAME, State, StateError, checks, decode, points, policies::policy_name, time};
use crate::{
    actual::{ActualPolicy, ActualState, RestoreReport, checks::FailedCheck},
    policy::{CompiledPolicy, PolicyName, document::RepositoryDocument},
    restore_point::{Inventory, RestorePoint, RestorePointId},
};

/// What stands in `changes` for the restores, which are read as a whole: they are few. Policies have a `/` in their
/// names.
const RESTORES: &str = "restores";

/// The table of what changed, and the triggers that fill it. A name stands in it once, with the number of its newest
/// change. AUTOINCREMENT: the number of a row that was removed must never come back.
pub(super) fn schema() -> String {
    let mut schema =
        "CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, object TEXT NOT NULL UNIQUE) STRICT;"
            .to_owned();
    let whose = [("policies", "name"), ("points", "policy"), ("inventories", "policy")]
        .map(|(table, column)| (table, Some(column)));
    for (table, column) in whose.into_iter().chain([("restores", None)]) {
        for (event, row) in [("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")] {
            let object = column.map_or_else(|| format!("'{RESTORES}'"), |column| format!("{row}.{column}"));
            // Removed and added, not replaced: how a trigger replaces depends on the statement that fires it.
            let _ = write!(
                schema,
                "CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN \
                 DELETE FROM changes WHERE object = {object}; INSERT INTO changes (object) VALUES ({object}); END;"
            );
        }
    }
    schema
}

/// What was observed last, and the connection that observes: one of its own, so that a long reading of somebody else
/// does not hold a turn up.
#[derive(Debug, Default)]
pub(super) struct Observer {
    connection: Option<Connection>,
    seen: Option<Seen>,
}

/// Everything, as of a change.
#[derive(Debug)]
struct Seen {
    /// The number of the newest change that is in it.
    newest_change: i64,
    policies: BTreeMap<PolicyName, Arc<ActualPolicy>>,
    restores: BTreeMap<(PolicyName, String), RestoreReport>,
    repositories: Repositories,
}

/// The documents of repositories by name: ten thousand policies share a few.
type Repositories = BTreeMap<String, Arc<RepositoryDocument>>;

impl State {
    /// Everything that is managed, in one moment of the database.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn observe(&self, now: Timestamp) -> Result<ActualState, StateError> {
        let seen = |Seen { policies, restores, .. }: &Seen| ActualState {
            observed_at: now,
            complete: true,
            policies: policies.clone(),
            restores: restores.clone(),
            foreign: BTreeMap::new(),
        };
        match &self.observer {
            Some(observer) => {
                let mut observer = observer.lock().unwrap_or_else(PoisonError::into_inner);
                observer.look(&self.directory, now).map(seen)
            }
            // Only looked at once, by a command: nothing is kept.
            None => read_all(&self.connection(), now).map(|all| seen(&all)),
        }
    }
}

impl State {
    /// The newest change, and the policies that something was written of after that one: their own row, their restore
    /// points or their inventory. All policies, if nothing is known yet, or if more is known than there is: then another
    /// database was put in the place of this one.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn policies_changed_since(&self, known: Option<i64>) -> Result<(i64, Vec<PolicyName>), StateError> {
        let connection = self.connection();
        // First: what changes while the names are read is found once more the next time.
        let newest_change = newest_change(&connection)?;
        let names = match known.filter(|known| *known <= newest_change) {
            Some(known) if known == newest_change => Vec::new(),
            Some(known) => changed_since(&connection, known)?,
            None => names(&connection)?,
        };
        let policies = names.iter().filter(|name| *name != RESTORES);
        Ok((newest_change, policies.map(|name| policy_name(name)).collect::<Result<_, _>>()?))
    }
}

impl Observer {
    fn look(&mut self, directory: &Path, now: Timestamp) -> Result<&Seen, StateError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(open(directory)?),
        };
        let failed = StateError::query("observing");
        let transaction = connection.transaction().map_err(failed)?;
        // Taken out, so that a failure half-way leaves nothing that looks whole.
        let seen = match self.seen.take() {
            Some(seen) => seen.brought_up_to_date(&transaction, now)?,
            None => Seen { newest_change: newest_change(&transaction)?, ..read_all(&transaction, now)? },
        };
        Ok(self.seen.insert(seen))
    }
}

impl Seen {
    fn brought_up_to_date(mut self, connection: &Connection, now: Timestamp) -> Result<Self, StateError> {
        let newest_change = newest_change(connection)?;
        if newest_change < self.newest_change {
            // Numbers only grow: the content of another database was put in the place of this one.
            return Ok(Self { newest_change, ..read_all(connection, now)? });
        }
        for object in changed_since(connection, self.newest_change)? {
            if object == RESTORES {
                self.restores = super::restores::all(connection)?;
                continue;
            }
            match read_policies(connection, Some(&object), now, &mut self.repositories)?.pop() {
                Some((name, policy)) => self.policies.insert(name, policy),
                None => self.policies.remove(&policy_name(&object)?),
            };
        }
        self.newest_change = newest_change;
        Ok(self)
    }
}

fn open(directory: &Path) -> Result<Connection, StateError> {
    let path = directory.join(FILE_NAME);
    let failed = |source: rusqlite::Error| StateError::Open { path: path.clone(), source: source.into() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    Ok(connection)
}

/// Everything, read from the tables.
fn read_all(connection: &Connection, now: Timestamp) -> Result<Seen, StateError> {
    let mut repositories = Repositories::new();
    // Through a list: a map that is filled in order one by one has room for nearly twice as many.
    let policies = read_policies(connection, None, now, &mut repositories)?.into_iter().collect();
    Ok(Seen { newest_change: 0, policies, restores: super::restores::all(connection)?, repositories })
}

fn newest_change(connection: &Connection) -> Result<i64, StateError> {
    connection
        .query_row("SELECT COALESCE(MAX(number), 0) FROM changes", [], |row| row.get(0))
        .map_err(StateError::query("observing changes"))
}

fn changed_since(connection: &Connection, number: i64) -> Result<Vec<String>, StateError> {
    let failed = || StateError::query("observing changes");
    let mut statement = connection.prepare_cached("SELECT object FROM changes WHERE number > ?1").map_err(failed())?;
    let objects = statement.query_map([number], |row| row.get(0)).map_err(failed())?;
    objects.collect::<Result<_, _>>().map_err(failed())
}

fn names(connection: &Connection) -> Result<Vec<String>, StateError> {
    let failed = || StateError::query("reading the names of the policies");
    let mut statement = connection.prepare_cached("SELECT name FROM policies").map_err(failed())?;
    let names = statement.query_map([], |row| row.get(0)).map_err(failed())?;
    names.collect::<Result<_, _>>().map_err(failed())
}

/// All policies, or only one: what there is of it. One pass over each table, side by side in the order of the names.
fn read_policies(
    connection: &Connection,
    only: Option<&str>,
    now: Timestamp,
    repositories: &mut Repositories,
) -> Result<Vec<(PolicyName, Arc<ActualPolicy>)>, StateError> {
    let failed = || StateError::query("observing policies");
    let select = |columns: &str, table: &str, name: &str| {
        let only = if only.is_some() { format!("WHERE {name} = ?1") } else { String::new() };
        connection.prepare_cached(&format!("SELECT {columns} FROM {table} {only} ORDER BY {name}")).map_err(failed())
    };
    let mut inventories = select("policy, observed_at, complete", "inventories", "policy")?;
    let mut inventories = Rows::of(&mut inventories, only)?;
    let mut points = select(&format!("policy, {}", points::COLUMNS), "points", "policy")?;
    let mut points = Rows::of(&mut points, only)?;
    let columns = "name, compiled, withdrawn, last_run, last_success, running, failed_checks";
    let mut statement = select(columns, "policies", "name")?;
    let mut rows = match only {
        Some(name) => statement.query(params![name]),
        None => statement.query([]),
    }
    .map_err(failed())?;
    let mut policies = Vec::new();
    while let Some(row) = rows.next().map_err(failed())? {
        let text = |index: usize| row.get_ref(index)?.as_str_or_null().map_err(rusqlite::Error::from);
        let key = text(0).map_err(failed())?.unwrap_or_default();
        let withdrawn: bool = row.get(2).map_err(failed())?;
        let running = text(5).map_err(failed())?.map(|id| RestorePointId(id.to_owned()));
        let mut found: Vec<RestorePoint> = Vec::new();
        points.each_of(key, |row| {
            found.push(points::read(row, 1)?.into_point());
            Ok(())
        })?;
        found.shrink_to_fit();
        found.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
        // A policy that never looked at its repositories never wrote to them either.
        let (mut observed_at, mut complete) = (now, true);
        inventories.each_of(key, |row| {
            (observed_at, complete) = (time(row.get_ref(1)?.as_str()?), row.get(2)?);
            Ok(())
        })?;
        if withdrawn && found.is_empty() && running.is_none() {
            continue;
        }
        let compiled = match withdrawn {
            true => None,
            false => Some(decode(|| format!("policy {key}"), text(1).map_err(failed())?.unwrap_or_default())?),
        };
        let last_run = text(3).map_err(failed())?;
        let policy = ActualPolicy {
            compiled: compiled.map(|compiled| shared(compiled, repositories)),
            schedule: None,
            inventory: Inventory { observed_at, complete, points: found },
            last_run: last_run.map(|json| decode(|| format!("the last run of {key}"), json)).transpose()?,
            last_success: text(4).map_err(failed())?.map(time),
            running,
            drift: None,
            failed_checks: failed_checks(connection, key, text(6).map_err(failed())?)?,
        };
        policies.push((policy_name(key)?, Arc::new(policy)));
    }
    Ok(policies)
}

/// The checks that did not pass, of places that still matter: new restore points go there, or some are there. What was left
/// behind is not told for ever.
fn failed_checks(connection: &Connection, policy: &str, text: Option<&str>) -> Result<Vec<FailedCheck>, StateError> {
    let mut known = checks::parse(text, policy)?;
    if known.is_empty() {
        return Ok(known);
    }
    let failed = || StateError::query("observing checks");
    let mut statement = connection
        .prepare_cached(
            "SELECT id FROM places WHERE policy = ?1 AND current = 1 UNION \
             SELECT json_extract(part.value, '$.place') FROM points, json_each(points.parts) AS part WHERE policy = ?1",
        )
        .map_err(failed())?;
    let places = statement.query_map([policy], |row| row.get(0)).map_err(failed())?;
    let places = places.collect::<Result<BTreeSet<i64>, _>>().map_err(failed())?;
    known.retain(|check| places.contains(&check.place));
    Ok(known)
}

/// A policy whose repositories are those that are known, where they say the same.
fn shared(mut compiled: CompiledPolicy, repositories: &mut Repositories) -> CompiledPolicy {
    for document in &mut compiled.repositories {
        match repositories.get(&document.metadata.name) {
            Some(known) if known == document => *document = Arc::clone(known),
            Some(_) | None => {
                repositories.insert(document.metadata.name.clone(), Arc::clone(document));
            }
        }
    }
    compiled
}

/// Rows of a table in the order of the policies whose they are, which is their first column.
struct Rows<'s> {
    rows: rusqlite::Rows<'s>,
    /// Whether the row that the cursor is on was passed on.
    is_used: bool,
}

impl<'s> Rows<'s> {
    fn of(statement: &'s mut Statement<'_>, only: Option<&str>) -> Result<Self, StateError> {
        let rows = match only {
            Some(name) => statement.query(params![name]),
            None => statement.query([]),
        };
        Ok(Self { rows: rows.map_err(StateError::query("observing policies"))?, is_used: true })
    }

    /// Passes on each row of a policy. Names must be asked for in their order; rows of names in between are passed over.
    fn each_of(
        &mut self,
        policy: &str,
        mut take: impl FnMut(&rusqlite::Row<'_>) -> Result<(), rusqlite::Error>,
    ) -> Result<(), StateError> {
        let failed = || StateError::query("observing policies");
        loop {
            if self.is_used {
                self.rows.advance().map_err(failed())?;
                self.is_used = false;
            }
            let Some(row) = self.rows.get() else { return Ok(()) };
            let whose = row.get_ref(0).map_err(failed())?.as_str().map_err(|error| failed()(error.into()))?;
            if whose > policy {
                return Ok(());
            }
            if whose == policy {
                take(row).map_err(failed())?;
            }
            self.is_used = true;
        }
    }
}

#[cfg(test)]
mod tests;
