//! Watching: a commit on a local repository wakes the daemon at once; a remote one is polled.
//!
//! Only a wake is sent, never what changed: the turn looks for itself. Losing the watcher costs speed, not commits, for
//! the daemon polls anyway.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};

use super::GitError;

/// Events this close together are one wake: a commit touches several files.
const DEBOUNCE: Duration = Duration::from_millis(20);

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
    _debouncer: Debouncer<RecommendedWatcher, NoCache>,
}

impl Watcher {
    /// Watches the references of a repository and calls `notice` from a thread of its own. `git_directory` is
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
        let handler = move |result: DebounceEventResult| {
            if let Some(message) = filter.judge(result) {
                notice(message);
            }
        };
        let mut debouncer =
            new_debouncer_opt(DEBOUNCE, Some(DEBOUNCE / 4), handler, NoCache::new(), notify::Config::default())
                .map_err(fail)?;
        debouncer.watch(&root, RecursiveMode::NonRecursive).map_err(fail)?;
        // `refs` is not there in a repository whose format is reftable only, and `reftable` in all others.
        for directory in ["refs", "reftable"].map(|name| root.join(name)).into_iter().filter(|path| path.is_dir()) {
            debouncer.watch(&directory, RecursiveMode::Recursive).map_err(fail)?;
        }
        let identity = identity(&root).map_err(|error| fail(notify::Error::io(error)))?;
        Ok(Self { identity, _debouncer: debouncer })
    }

    /// Whether this very directory is watched. One that was moved away is not noticed by a watcher inside it.
    pub fn watches(&self, git_directory: &Path) -> bool {
        identity(git_directory).is_ok_and(|identity| identity == self.identity)
    }
}

fn identity(directory: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = directory.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// How long to wait before polling again: `base`, give or take a tenth, so that many daemons do not poll at one moment.
/// The same seed gives the same delay.
pub fn poll_delay(base: Duration, seed: u64) -> Duration {
    // The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbouring seeds give unrelated values.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let permille = u32::try_from(mixed % 201).unwrap_or(100) + 900;
    base * permille / 1000
}

/// Which events matter.
struct Filter {
    root: PathBuf,
    branch: PathBuf,
}

impl Filter {
    fn judge(&self, result: DebounceEventResult) -> Option<Notice> {
        let events = match result {
            Ok(events) => events,
            Err(errors) => {
                let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return Some(Notice::Lost(reasons.join("; ")));
            }
        };
        if events.iter().any(|event| event.need_rescan()) {
            return Some(Notice::Lost("the system dropped events".to_owned()));
        }
        let is_root_gone = |kind: &EventKind| matches!(kind, EventKind::Remove(_)) && !self.root.exists();
        if events.iter().any(|event| is_root_gone(&event.kind)) {
            return Some(Notice::Lost(format!("{} was removed", self.root.display())));
        }
        // Reading a reference is an event, too; a turn that wakes itself by reading would never end.
        let is_write = |kind: &EventKind| !matches!(kind, EventKind::Access(_));
        let changed = |path: &PathBuf| {
            path.starts_with(&self.branch)
                || self.branch.starts_with(path) && path.starts_with(self.root.join("refs"))
                || path.starts_with(self.root.join("reftable"))
                || *path == self.root.join("packed-refs")
        };
        events.iter().any(|event| is_write(&event.kind) && event.paths.iter().any(changed)).then_some(Notice::Changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_near_its_base_and_differs_by_seed() {
        let base = Duration::from_secs(60);
        let delays: std::collections::BTreeSet<Duration> = (0..100).map(|seed| poll_delay(base, seed)).collect();
        assert!(delays.len() > 50);
        assert!(delays.iter().all(|delay| (54..=66).contains(&delay.as_secs())), "{delays:?}");
        assert_eq!(poll_delay(base, 7), poll_delay(base, 7));
    }
}
