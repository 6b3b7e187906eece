//! The engine's state on disk: SQLite in write-ahead mode, shared by the daemon, its runs and every command.
//!
//! Each call is one transaction. Nothing secret is stored here. The child modules hold the calls, one file for each
//! kind of thing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};

use crate::{engine::EngineError, restore_point::MakerId};

pub mod checks;
pub mod events;
pub mod journal;
pub mod leases;
mod lives;
pub mod observation;
mod past;
pub mod places;
pub mod points;
pub mod policies;
pub mod restores;
pub mod runs;
pub mod stopped;

use observation::Observer;

/// The file in the state directory.
const FILE_NAME: &str = "state.sqlite";
/// How long a call waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(30);
/// How soon what SQLite does not wait for is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The version of the schema, in `user_version`. 2 added the table `changes`, with which nothing but an observation by a
/// daemon has to do; 3 added what [`points::ADDED`] says, `past_runs` and `secret_variables`; 4 added what
/// [`checks::ADDED`] says.
const VERSION: i64 = 4;
/// The note that says who this installation is, see [`MakerId`].
const MAKER_NOTE: &str = "maker";

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory or the file cannot be opened or made.
    #[error("the state in {} cannot be opened; check that this user may write there", path.display())]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A newer Mainstay wrote it.
    #[error("the state in {} was written by a newer Mainstay (format {found}); use that one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A query failed.
    #[error("{operation} in the state failed; check the disk that holds it")]
    Query {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Others could not tell whether this process is alive.
    #[error("the lock {} of this process cannot be taken; check that this user may write there, and that the disk has room", path.display())]
    Life {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something stored cannot be read back.
    #[error("{what} in the state cannot be read; apply the documents again, or restore the state directory")]
    Decode {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl StateError {
    /// Wraps a failed query.
    pub(super) fn query(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Query { operation, source }
    }
}

impl From<StateError> for EngineError {
    fn from(error: StateError) -> Self {
        let operation = error.to_string();
        match error {
            StateError::Query { source, .. } => Self::Transient { operation, source: Box::new(source) },
            StateError::Open { source, .. } => {
                Self::Permanent { operation, hint: "name another directory with --state".into(), source: Some(source) }
            }
            StateError::Life { source, .. } => Self::Transient { operation, source: Box::new(source) },
            StateError::Newer { .. } => {
                Self::Permanent { operation, hint: "update this Mainstay".into(), source: None }
            }
            StateError::Decode { source, .. } => Self::Permanent {
                operation,
                hint: "restore the state directory from a copy; do not remove it: it holds generated repository \
                       passwords (keys/) and the places of the restore points"
                    .into(),
                source: Some(Box::new(source)),
            },
        }
    }
}

/// The state of one engine.
#[derive(Debug)]
pub struct State {
    connection: Mutex<Connection>,
    /// None: the state is only looked at, once.
    observer: Option<Mutex<Observer>>,
    directory: PathBuf,
    /// None: this process stands for nothing in the state so far.
    life: Mutex<Option<Arc<lives::Life>>>,
}

impl State {
    /// Opens the state in a directory, and makes both where they are missing. The directory is for its owner alone.
    ///
    /// # Errors
    /// It cannot be made or read, or is from a newer version.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let open_error =
            |source: Box<dyn std::error::Error + Send + Sync>| StateError::Open { path: directory.to_owned(), source };
        make_private_directory(directory).map_err(|error| open_error(error.into()))?;
        let connection = Connection::open(directory.join(FILE_NAME)).map_err(|error| open_error(error.into()))?;
        connection.busy_timeout(BUSY).map_err(|error| open_error(error.into()))?;
        write_ahead(&connection).map_err(|error| open_error(error.into()))?;
        // FULL: an intent must be on disk before its side effect happens, even if the machine loses power.
        connection
            .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            .map_err(|error| open_error(error.into()))?;
        let observer = Some(Mutex::default());
        let state = Self {
            connection: Mutex::new(connection),
            observer,
            directory: directory.to_owned(),
            life: Mutex::default(),
        };
        state.migrate()?;
        Ok(state)
    }

    /// Opens the state for reading only; a missing directory is an empty state.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn open_read_only(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(FILE_NAME);
        let open_error = |source: rusqlite::Error| StateError::Open { path: path.clone(), source: source.into() };
        if !path.exists() {
            let connection = Connection::open_in_memory().map_err(open_error)?;
            empty(&connection).map_err(open_error)?;
            connection.pragma_update(None, "query_only", true).map_err(open_error)?;
            return Ok(Self::looked_at(connection, directory));
        }
        let connection =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(open_error)?;
        connection.busy_timeout(BUSY).map_err(open_error)?;
        let state = Self::looked_at(connection, directory);
        match state.version()? {
            VERSION => Ok(state),
            // An older one is brought up to date by the next process that writes. Until then it looks as if it were.
            version @ 1..VERSION => {
                if version < 3 {
                    state.connection().execute_batch(points::VIEW_OF_OLDER).map_err(open_error)?;
                }
                state.connection().execute_batch(checks::VIEW_OF_OLDER).map_err(open_error)?;
                Ok(state)
            }
            found if found > VERSION => Err(StateError::Newer { path, found }),
            // Just being made by another process: nothing is in it yet.
            _ => {
                let connection = Connection::open_in_memory().map_err(open_error)?;
                empty(&connection).map_err(open_error)?;
                Ok(Self::looked_at(connection, directory))
            }
        }
    }

    fn looked_at(connection: Connection, directory: &Path) -> Self {
        Self {
            connection: Mutex::new(connection),
            observer: None,
            directory: directory.to_owned(),
            life: Mutex::default(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn version(&self) -> Result<i64, StateError> {
        self.connection()
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(StateError::query("reading the version"))
    }

    fn migrate(&self) -> Result<(), StateError> {
        let path = self.directory.join(FILE_NAME);
        match self.version()? {
            VERSION => Ok(()),
            found if found > VERSION => Err(StateError::Newer { path, found }),
            _ => self.write("making the tables", |transaction| {
                // Another process may have been quicker.
                let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
                if version == 0 {
                    transaction.execute_batch(SCHEMA)?;
                }
                if version < 2 {
                    transaction.execute_batch(&observation::schema())?;
                }
                if version < 3 {
                    transaction.execute_batch(points::ADDED)?;
                    let MakerId(maker) = places::fresh_maker();
                    transaction.execute("INSERT OR IGNORE INTO notes VALUES (?1, ?2)", [MAKER_NOTE, &maker])?;
                    transaction.execute_batch(past::PAST_RUNS)?;
                    policies::add_secret_variables(transaction)?;
                }
                if version < 4 {
                    transaction.execute_batch(checks::ADDED)?;
                }
                transaction.pragma_update(None, "user_version", VERSION.max(version))?;
                Ok(())
            }),
        }
    }

    /// Who this installation is.
    ///
    /// # Errors
    /// The state cannot be read, or nobody ever wrote to it.
    pub fn maker(&self) -> Result<MakerId, StateError> {
        let missing = || StateError::query("reading who this installation is")(rusqlite::Error::QueryReturnedNoRows);
        self.note(MAKER_NOTE)?.map(MakerId).ok_or_else(missing)
    }

    /// The connection, for reading.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic in another call left no half transaction behind: it was rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction that writes.
    fn write<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StateError> {
        let mut connection = self.connection();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StateError::query(operation))?;
        let result = change(&transaction).map_err(StateError::query(operation))?;
        transaction.commit().map_err(StateError::query(operation))?;
        Ok(result)
    }
}

/// Makes what a look at a state needs that holds nothing.
fn empty(connection: &Connection) -> Result<(), rusqlite::Error> {
    [SCHEMA, points::ADDED, checks::ADDED].iter().try_for_each(|statements| connection.execute_batch(statements))
}

/// Sets a database to write ahead. SQLite does not wait for others here, whatever `busy_timeout` says: of two who do this
/// to a new database at the same time, one is told at once that it is locked.
fn write_ahead(connection: &Connection) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + BUSY;
    loop {
        match connection.execute_batch("PRAGMA journal_mode = WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

/// Makes a directory that only its owner can read, with its parents.
///
/// # Errors
/// It cannot be made.
pub fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Text of a boundary type for a column.
fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the stored types are plain data with string keys")
}

/// A boundary type from the text of a column.
fn decode<T: DeserializeOwned>(what: impl FnOnce() -> String, text: &str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|source| StateError::Decode { what: what(), source })
}

/// A time from the text of a column; a broken one is as old as can be, which makes things due rather than forgotten.
fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

const SCHEMA: &str = "
CREATE TABLE policies (
    name TEXT PRIMARY KEY, compiled TEXT NOT NULL, withdrawn INTEGER NOT NULL, last_scheduled TEXT NOT NULL,
    last_run TEXT, last_success TEXT, running TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE places (
    id INTEGER PRIMARY KEY, policy TEXT NOT NULL, repository TEXT NOT NULL, location TEXT NOT NULL,
    document TEXT NOT NULL, path TEXT NOT NULL, current INTEGER NOT NULL, initialised INTEGER NOT NULL
) STRICT;
CREATE INDEX places_of_policy ON places (policy);
CREATE TABLE points (
    policy TEXT NOT NULL, id TEXT NOT NULL, time TEXT NOT NULL, size_bytes INTEGER NOT NULL, verified_at TEXT,
    held INTEGER NOT NULL, expired_since TEXT, forgetting INTEGER NOT NULL, parts TEXT NOT NULL,
    PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE inventories (
    policy TEXT PRIMARY KEY, observed_at TEXT NOT NULL, complete INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    policy TEXT NOT NULL, id TEXT NOT NULL, started_at TEXT NOT NULL, phase TEXT NOT NULL, report TEXT NOT NULL,
    process TEXT NOT NULL, child TEXT, swept INTEGER NOT NULL, PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_under_way ON runs (phase) WHERE phase IN ('Pending', 'Running');
CREATE TABLE journal (
    policy TEXT NOT NULL, run TEXT NOT NULL, sequence INTEGER NOT NULL, step TEXT NOT NULL, outcome TEXT,
    at TEXT NOT NULL, PRIMARY KEY (policy, run, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE stopped (
    policy TEXT PRIMARY KEY, owner TEXT NOT NULL, process TEXT NOT NULL, quiesce TEXT NOT NULL, since TEXT NOT NULL,
    attempted_at TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    name TEXT PRIMARY KEY, process TEXT NOT NULL, since TEXT NOT NULL, child TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, at TEXT NOT NULL, policy TEXT NOT NULL, kind TEXT NOT NULL
) STRICT;
CREATE TABLE restores (
    name TEXT NOT NULL, content TEXT NOT NULL, document TEXT NOT NULL, report TEXT NOT NULL, phase TEXT NOT NULL,
    process TEXT NOT NULL, PRIMARY KEY (name, content)
) STRICT, WITHOUT ROWID;
CREATE TABLE turns (
    policy TEXT NOT NULL, work TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (policy, work)
) STRICT, WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyName;

    /// A daemon and a command that are started together on a new host both make the state.
    #[test]
    fn a_new_state_is_made_by_many_at_once() {
        for _ in 0..40 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                let open = |number| {
                    start.wait();
                    if number % 4 == 0 { State::open_read_only(&path) } else { State::open(&path) }.map(|_| ())
                };
                let all: Vec<_> = (0..8).map(|number| scope.spawn(move || open(number))).collect();
                for opened in all {
                    opened.join().unwrap().unwrap();
                }
            });
        }
    }

    /// `mainstay plan` looks at a state that an older version wrote, before any process of this version wrote to it.
    #[test]
    fn a_state_of_an_older_version_is_read_without_being_changed() {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.execute_batch(&observation::schema()).unwrap();
        let point =
            "INSERT INTO points VALUES ('shop/nightly', 'old', '2026-11-20T02:00:00Z', 1, NULL, 1, NULL, 0, '[]')";
        connection.execute_batch(point).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        let policy = PolicyName::new("shop", "nightly");
        let look = |state: &State| state.points(&policy).unwrap().remove(0).point;
        let before = look(&State::open_read_only(directory.path()).unwrap());
        assert!(before.held && !before.found);
        let state = State::open(directory.path()).unwrap();
        assert_eq!(look(&state), before);
        let maker = state.maker().unwrap();
        assert_eq!(State::open(directory.path()).unwrap().maker().unwrap(), maker, "it is made once");
        assert_eq!(look(&State::open_read_only(directory.path()).unwrap()), before);
    }
}
