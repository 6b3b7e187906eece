//! Lives: each process that stands for something in the state holds a lock on a file of its own for as long as it lives.
//!
//! Whether a process is alive is told by `/proc` where its number means something. In another namespace of process
//! numbers (a container) that number is another process or none, and only this lock tells: the kernel takes it back when
//! the process ends, whichever way it ends.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustix::fs::{FlockOperation, flock};

use super::{State, StateError, make_private_directory};
use crate::engine::local::process::{ProcessIdentity, Whereabouts};

/// The directory of the locks, in the state directory.
const DIRECTORY: &str = "processes";
/// So much of the boot's id is in a name.
const BOOT_DIGITS: usize = 8;
/// How often a lock is tried for whose file was removed meanwhile by one that swept.
const ATTEMPTS_LIMIT: usize = 16;

/// What this process holds; several states of one directory in one process hold it together.
static HELD: Mutex<BTreeMap<PathBuf, Weak<Life>>> = Mutex::new(BTreeMap::new());

/// The lock of this process. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub(super) struct Life {
    path: PathBuf,
    _file: File,
}

impl Drop for Life {
    fn drop(&mut self) {
        // Before the lock is given back. One that stays is removed by the next process.
        let _ = fs::remove_file(&self.path);
    }
}

impl State {
    /// This process, for everything that is stored as its doing. From now on every other process can tell whether it is
    /// alive.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn own_process(&self) -> Result<ProcessIdentity, StateError> {
        let own = ProcessIdentity::own();
        let path = path_of(&self.directory, &own);
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.is_none() {
            *life = Some(held(&path).map_err(|source| StateError::Life { path, source })?);
        }
        Ok(own)
    }

    /// Whether this very process is still there. Where nobody can tell, it is: what it holds is not taken from it.
    pub fn is_alive(&self, process: &ProcessIdentity) -> bool {
        match process.whereabouts() {
            Whereabouts::Here => process.is_alive(),
            Whereabouts::Elsewhere => is_held(&path_of(&self.directory, process)),
            Whereabouts::Gone => false,
        }
    }
}

fn path_of(state_directory: &Path, process: &ProcessIdentity) -> PathBuf {
    let ProcessIdentity { pid, started_ticks, boot, namespace } = process;
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(BOOT_DIGITS).collect();
    state_directory.join(DIRECTORY).join(format!("{pid}-{started_ticks}-{boot}-{namespace}"))
}

/// The lock of this process, which it may hold already.
fn held(path: &Path) -> io::Result<Arc<Life>> {
    let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(life) = all.get(path).and_then(Weak::upgrade) {
        return Ok(life);
    }
    let life = Arc::new(take(path)?);
    all.retain(|_, life| life.strong_count() > 0);
    all.insert(path.to_owned(), Arc::downgrade(&life));
    Ok(life)
}

fn take(path: &Path) -> io::Result<Life> {
    if let Some(directory) = path.parent() {
        make_private_directory(directory)?;
        sweep(directory);
    }
    for _ in 0..ATTEMPTS_LIMIT {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // One that swept between these two lines has removed the file; a lock on it would be seen by nobody.
        if fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) {
            return Ok(Life { path: path.to_owned(), _file: file });
        }
    }
    Err(io::Error::other("others remove it again and again"))
}

/// Whether a living process holds this lock.
fn is_held(path: &Path) -> bool {
    match File::open(path) {
        // Shared, so that two who ask at the same time do not take each other for the process.
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Removes the files of processes that were killed.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            // While the lock is held: see `take`.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of another container, which only its lock tells of.
    fn elsewhere() -> ProcessIdentity {
        let own = ProcessIdentity::own();
        ProcessIdentity { namespace: own.namespace + 1, ..own }
    }

    #[test]
    fn a_process_in_another_container_is_alive_as_long_as_its_lock_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let other = elsewhere();
        assert!(!state.is_alive(&other), "it never was there");
        let life = take(&path_of(directory.path(), &other)).unwrap();
        assert!(state.is_alive(&other));
        drop(life);
        assert!(!state.is_alive(&other));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let place = directory.path().join(DIRECTORY);
        let other = elsewhere();
        let _life = take(&path_of(directory.path(), &other)).unwrap();
        fs::write(place.join("1-2-3-4"), "").unwrap();
        let own = state.own_process().unwrap();
        let names: Vec<PathBuf> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
        let expected = [&own, &other].map(|process| path_of(directory.path(), process));
        assert!(names.len() == 2 && expected.iter().all(|path| names.contains(path)), "{names:?}");
    }

    #[test]
    fn one_process_holds_its_lock_through_several_states() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| State::open(directory.path()).unwrap());
        let path = path_of(directory.path(), &first.own_process().unwrap());
        second.own_process().unwrap();
        drop(first);
        assert!(is_held(&path));
        drop(second);
        assert!(!path.exists());
    }
}
