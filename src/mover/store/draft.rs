//! Files of a repository that are being written: their names say by whom, so that what a killed mover left is told from
//! what another one is writing just now.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::engine::local::process::ProcessIdentity;

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

/// Whether nobody writes this draft any more.
pub fn is_abandoned(path: &Path, name: &str, own: &Author) -> bool {
    match Author::of(name) {
        Some(author) if (&author.boot, author.namespace) == (&own.boot, own.namespace) => !author.is_alive(),
        Some(_) | None => {
            let age = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
            age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LONG_AGO))
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
}
