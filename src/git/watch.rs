//! Watching: a commit on a local repository wakes the daemon at once; a remote one is polled.
//!
//! Only a wake is sent, never what changed: the turn looks for itself. Losing the watcher costs speed, not commits, for
//! the daemon polls anyway.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::GitError;

/// Events this close together are one wake: git moves a branch by one rename, which is several events at once.
const WINDOW: Duration = Duration::from_millis(5);
/// Notices that wait to be passed on. With more, the system keeps the events, and says so if it drops some.
const QUEUE: usize = 64;

/// What a watcher has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The branch may have moved.
    Changed,
    /// Events were lost, or the directory is gone. Look now, and poll from here on.
    Lost(String),
}

/// Watches as long as it lives.
pub struct Watcher {
    /// Device and number of the directory: another one may stand at the same path later.
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl Watcher {
    /// Watches the references of a repository and calls `notice` from a thread of its own, which sleeps as long as
    /// nothing happens. `git_directory` is
    /// [`super::checkout::Checkout::watch_directory`]: that of the main repository, also for a linked work tree.
    ///
    /// # Errors
    /// The directory is not there, or the system has no watches left.
    pub fn start(
        git_directory: &Path,
        branch: &str,
        notice: impl Fn(Notice) + Send + 'static,
    ) -> Result<Self, GitError> {
        let fail = |source| GitError::Watch { path: git_directory.to_owned(), source };
        // Events carry canonical paths on some systems and given ones on others; the filter compares either.
        let root = git_directory.canonicalize().map_err(|error| fail(notify::Error::io(error)))?;
        let filter = Filter { root: root.clone(), branch: root.join("refs/heads").join(branch) };
        let (sender, notices) = mpsc::sync_channel(QUEUE);
        let handler = move |result: Result<Event, notify::Error>| {
            if let Some(notice) = filter.judge(result) {
                // The receiver ends when this sender does.
                let _ = sender.send(notice);
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(fail)?;
        watcher.watch(&root, RecursiveMode::NonRecursive).map_err(fail)?;
        // `refs` is not there in a repository whose format is reftable only, and `reftable` in all others.
        for directory in ["refs", "reftable"].map(|name| root.join(name)).into_iter().filter(|path| path.is_dir()) {
            watcher.watch(&directory, RecursiveMode::Recursive).map_err(fail)?;
        }
        let identity = identity(&root).map_err(|error| fail(notify::Error::io(error)))?;
        std::thread::spawn(move || pass_on(&notices, notice));
        Ok(Self { identity, _watcher: watcher })
    }

    /// Whether this very directory is watched. One that was moved away is not noticed by a watcher inside it.
    pub fn watches(&self, git_directory: &Path) -> bool {
        identity(git_directory).is_ok_and(|identity| identity == self.identity)
    }
}

/// Passes notices on until the watcher ends: those that come close together as one.
fn pass_on(notices: &mpsc::Receiver<Notice>, notice: impl Fn(Notice)) {
    while let Ok(mut said) = notices.recv() {
        let end = Instant::now() + WINDOW;
        while let Ok(next) = notices.recv_timeout(end.saturating_duration_since(Instant::now())) {
            // That something was lost says more than that something changed.
            if said == Notice::Changed {
                said = next;
            }
        }
        notice(said);
    }
}

fn identity(directory: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = directory.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Which events matter.
struct Filter {
    root: PathBuf,
    branch: PathBuf,
}

impl Filter {
    fn judge(&self, result: Result<Event, notify::Error>) -> Option<Notice> {
        let event = match result {
            Ok(event) => event,
            Err(error) => return Some(Notice::Lost(error.to_string())),
        };
        if event.need_rescan() {
            return Some(Notice::Lost("the system dropped events".to_owned()));
        }
        if matches!(event.kind, EventKind::Remove(_)) && !self.root.exists() {
            return Some(Notice::Lost(format!("{} was removed", self.root.display())));
        }
        // Reading a reference is an event, too; a turn that wakes itself by reading would never end.
        let is_write = !matches!(event.kind, EventKind::Access(_));
        let changed = |path: &PathBuf| {
            path.starts_with(&self.branch)
                || self.branch.starts_with(path) && path.starts_with(self.root.join("refs"))
                || path.starts_with(self.root.join("reftable"))
                || *path == self.root.join("packed-refs")
        };
        (is_write && event.paths.iter().any(changed)).then_some(Notice::Changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is said within a moment is one wake, and what was lost is never hidden by what changed.
    #[test]
    fn notices_that_come_together_are_one() {
        let (sender, notices) = mpsc::sync_channel(QUEUE);
        for notice in [Notice::Changed, Notice::Lost("dropped".to_owned()), Notice::Changed] {
            sender.send(notice).unwrap();
        }
        drop(sender);
        let said = std::cell::RefCell::new(Vec::new());
        pass_on(&notices, |notice| said.borrow_mut().push(notice));
        assert_eq!(said.into_inner(), [Notice::Lost("dropped".to_owned())]);
    }
}
