//! Files that are being written, in a repository or where a restore goes: their names say by whom, so that what a killed
//! mover left is told from what another one is writing just now.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::engine::local::process::ProcessIdentity;

/// How the names of drafts begin where a restore goes.
const RESTORED: &str = ".mainstay";
/// Marks files that are being written; such a name is never listed.
const MARK: &str = "-tmp-";
/// So much of the boot's id is in a name.
const BOOT_DIGITS: usize = 8;
/// What a process of another host, container or boot wrote cannot be judged by its identity. Writing one file takes
/// seconds.
const LONG_AGO: Duration = Duration::from_secs(24 * 3600);

/// Who writes: the process, and where its number means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pid: i32,
    started_ticks: u64,
    boot: String,
    /// Inode of the namespace of process numbers, see pid_namespaces(7).
    namespace: u64,
}

impl Author {
    /// This process.
    pub fn own() -> Self {
        let ProcessIdentity { pid, started_ticks, boot, namespace } = ProcessIdentity::own();
        let boot = boot.chars().take(BOOT_DIGITS).collect();
        Self { pid, started_ticks, boot, namespace }
    }

    /// The name under which the file `name` is written; `number` tells several apart.
    pub fn draft(&self, name: &str, number: u64) -> String {
        let Self { pid, started_ticks, boot, namespace } = self;
        format!("{name}{MARK}{pid}-{started_ticks}-{boot}-{namespace}-{number}")
    }

    /// Where an entry is written before it is moved to `path`; `number` tells several apart.
    pub fn beside(&self, path: &Path, number: u64) -> PathBuf {
        // Not with the name of the entry in it, which may be as long as a name can be.
        path.parent().unwrap_or(path).join(self.draft(RESTORED, number))
    }

    fn of(name: &str) -> Option<Self> {
        let (_, author) = name.split_once(MARK)?;
        let mut fields = author.split('-');
        let author = Self {
            pid: fields.next()?.parse().ok()?,
            started_ticks: fields.next()?.parse().ok()?,
            boot: fields.next()?.to_owned(),
            namespace: fields.next()?.parse().ok()?,
        };
        let _number: u64 = fields.next()?.parse().ok()?;
        fields.next().is_none().then_some(author)
    }

    fn is_alive(&self) -> bool {
        let now = u32::try_from(self.pid).ok().and_then(ProcessIdentity::of);
        now.is_some_and(|process| process.started_ticks == self.started_ticks)
    }
}

/// Whether a file is being written, or was when its writer went away.
pub fn is_draft(name: &str) -> bool {
    name.contains(MARK)
}

/// Whether nobody writes this draft of a repository's file any more.
pub fn is_abandoned(path: &Path, name: &str, own: &Author) -> bool {
    has_no_writer(name, own, || fs::symlink_metadata(path)?.modified())
}

/// Removes what killed movers left of files and links in a directory that is restored into.
pub fn sweep(directory: &Path, own: &Author) {
    // What cannot be looked at or removed is in nobody's way; the restore itself tells of what is.
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(RESTORED) && is_draft(name)) else { continue };
        let path = entry.path();
        // A file that is whole already has the time of the one that it replaces; its own status was changed just now.
        let touched = || {
            let metadata = fs::symlink_metadata(&path)?;
            Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or_default()))
        };
        if Author::of(name).is_some() && has_no_writer(name, own, touched) {
            // Another restore may have been quicker.
            let _ = fs::remove_file(path);
        }
    }
}

fn has_no_writer(name: &str, own: &Author, touched: impl FnOnce() -> io::Result<SystemTime>) -> bool {
    match Author::of(name) {
        Some(author) if (&author.boot, author.namespace) == (&own.boot, own.namespace) => !author.is_alive(),
        Some(_) | None => {
            touched().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LONG_AGO))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_writes_is_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        let own = Author::own();
        let check = |name: &str, hours: u64| {
            let path = directory.path().join(name);
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            fs::File::create(&path).unwrap().set_modified(time).unwrap();
            is_abandoned(&path, name, &own)
        };
        let dead = Author { started_ticks: own.started_ticks + 1, ..own.clone() };
        assert!(!check(&own.draft("ab", 1), 48), "it is ours");
        assert!(check(&dead.draft("ab", 1), 0), "its process is gone");
        for (name, author) in [
            ("another boot or host", Author { boot: "00000000".into(), ..dead.clone() }),
            ("another container", Author { namespace: 1, ..dead.clone() }),
        ] {
            assert!(!check(&author.draft("ab", 1), 1), "{name}");
            assert!(check(&author.draft("ab", 2), 48), "{name}");
        }
        assert!(!check("ab-tmp-nonsense", 1));
        assert_eq!(Author::of(&own.draft("ab", 7)), Some(own.clone()));
    }

    #[test]
    fn what_a_killed_restore_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let own = Author::own();
        let dead = Author { started_ticks: own.started_ticks + 1, ..own.clone() };
        let target = directory.path().join("file");
        let other_boot = Author { boot: "00000000".into(), ..dead.clone() };
        let kept =
            [own.beside(&target, 1), other_boot.beside(&target, 2), directory.path().join(".mainstay-tmp-notes")];
        let foreign = directory.path().join(dead.draft("file", 3));
        let left = [dead.beside(&target, 4), dead.beside(&target, 5)];
        for path in kept.iter().chain([&foreign, &left[0]]) {
            fs::File::create(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", &left[1]).unwrap();
        sweep(directory.path(), &own);
        for path in kept.iter().chain([&foreign]) {
            assert!(path.exists(), "{} is gone", path.display());
        }
        for path in left {
            assert!(fs::symlink_metadata(&path).is_err(), "{} is left", path.display());
        }
    }
}
