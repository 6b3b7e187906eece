//! Whether there is room for a restore, before anything of it is written.
//!
//! What is asked for is the least that it can take: a file's repeated parts count once, because runs of zeros become
//! holes, and what is replaced makes room. So nothing that would fit is refused, except where a file system compresses:
//! there it is only a warning.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::parent;
use crate::mover::job::{Failure, FailureKind};

/// `f_type` of file systems that may compress, see statfs(2): btrfs, ZFS, bcachefs, F2FS.
const COMPRESSING: [u32; 4] = [0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e, 0xf2f5_2010];

/// What a restore needs on each file system.
#[derive(Debug, Default)]
pub struct Needs {
    /// By device.
    devices: BTreeMap<u64, Need>,
    /// The directory that was looked at last: entries of one come one after the other.
    last: Option<(PathBuf, u64)>,
}

/// What it needs on one file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Need {
    /// A directory that is on it.
    place: PathBuf,
    new_bytes: u64,
    replaced_bytes: u64,
    largest_bytes: u64,
}

/// What a file system has.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Whether it may compress what is written.
    pub compresses: bool,
}

impl Needs {
    /// A file of `new_bytes` at least is written to `path`, over one that has `replaced_bytes`.
    ///
    /// # Errors
    /// No directory above it can be looked at.
    pub fn add(&mut self, path: &Path, new_bytes: u64, replaced_bytes: u64) -> Result<(), Failure> {
        let directory = parent(path);
        let device = match &self.last {
            Some((last, device)) if last == directory => *device,
            Some(_) | None => {
                let (place, device) =
                    existing(directory).map_err(|error| super::write::refused("look at", directory, &error))?;
                self.devices.entry(device).or_default().place.clone_from(&place);
                self.last = Some((directory.to_owned(), device));
                device
            }
        };
        let need = self.devices.entry(device).or_default();
        need.new_bytes = need.new_bytes.saturating_add(new_bytes);
        need.replaced_bytes = need.replaced_bytes.saturating_add(replaced_bytes);
        need.largest_bytes = need.largest_bytes.max(new_bytes);
        Ok(())
    }

    /// Looks whether every file system has room. Returns warnings.
    ///
    /// # Errors
    /// One has not; the failure says how much is missing where.
    pub fn check(&self, room: impl Fn(&Path) -> io::Result<Room>) -> Result<Vec<String>, Failure> {
        let mut warnings = Vec::new();
        for need in self.devices.values() {
            // One that does not tell has to be tried.
            let Ok(room) = room(&need.place) else { continue };
            let least = need.new_bytes.saturating_sub(need.replaced_bytes).max(need.largest_bytes);
            let Some(missing) = least.checked_sub(room.free_bytes).filter(|missing| *missing > 0) else { continue };
            let message = format!(
                "the file system of {} has {} MiB free and the restore needs {} MiB there: {} MiB are missing",
                need.place.display(),
                room.free_bytes >> 20,
                least.div_ceil(1 << 20),
                missing.div_ceil(1 << 20),
            );
            if !room.compresses {
                let message = format!("{message}; nothing was written");
                return Err(Failure::new(FailureKind::NoSpace, message)
                    .hint("free space at the destination, restore fewer sources, or restore elsewhere"));
            }
            warnings.push(format!("{message}, unless the file system compresses it"));
        }
        Ok(warnings)
    }
}

/// What the file system of a directory has.
///
/// # Errors
/// It cannot be asked.
pub fn room(place: &Path) -> io::Result<Room> {
    let status = rustix::fs::statfs(place)?;
    let blocks = if rustix::process::geteuid().is_root() { status.f_bfree } else { status.f_bavail };
    let block_bytes = u64::try_from(status.f_bsize).unwrap_or(1);
    // Some file systems have no number to tell.
    let free_bytes = if status.f_blocks == 0 { u64::MAX } else { blocks.saturating_mul(block_bytes) };
    let compresses = COMPRESSING.iter().any(|kind| i128::from(*kind) == i128::from(status.f_type & 0xffff_ffff));
    Ok(Room { free_bytes, compresses })
}

/// The nearest directory that is there, and its device.
fn existing(directory: &Path) -> io::Result<(PathBuf, u64)> {
    let mut last = io::ErrorKind::NotFound.into();
    for directory in directory.ancestors() {
        match fs::metadata(directory) {
            Ok(metadata) => return Ok((directory.to_owned(), metadata.dev())),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(u64, u64)], free_bytes: u64, compresses: bool) -> Result<Vec<String>, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let mut needs = Needs::default();
        for (number, (new, replaced)) in files.iter().enumerate() {
            needs.add(&directory.path().join(format!("not/there/{number}")), *new, *replaced).unwrap();
        }
        needs.check(|_| Ok(Room { free_bytes, compresses }))
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_written() {
        const MIB: u64 = 1 << 20;
        assert_eq!(check(&[(2 * MIB, 0), (3 * MIB, 0)], 5 * MIB, false), Ok(Vec::new()));
        let failure = check(&[(2 * MIB, 0), (3 * MIB, 0)], 4 * MIB, false).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert!(failure.message.contains("has 4 MiB free and the restore needs 5 MiB there: 1 MiB"), "{failure:?}");
        assert!(failure.message.ends_with("nothing was written"), "{failure:?}");
        // What is replaced makes room, but the first file has to fit beside what it replaces.
        assert_eq!(check(&[(4 * MIB, 4 * MIB), (4 * MIB, 4 * MIB)], 4 * MIB, false), Ok(Vec::new()));
        assert!(check(&[(4 * MIB, 4 * MIB)], 3 * MIB, false).is_err());
        assert_eq!(check(&[(4 * MIB, 0)], 3 * MIB, true).unwrap().len(), 1);
    }

    #[test]
    fn this_file_system_tells_how_much_it_has() {
        assert!(room(&std::env::temp_dir()).unwrap().free_bytes > 0);
    }
}
