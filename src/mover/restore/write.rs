//! Writes single files of a snapshot with their metadata.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use filetime::FileTime;
use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode};

use crate::mover::{
    draft::{self, Author},
    job::{Failure, FailureKind},
    repository::{Content, Contents, Entry, EntryKind, OpenSnapshot, xattrs},
};

/// Runs of zeros of at least this length become holes.
const HOLE_BYTES: usize = 64 << 10;

/// Files with more pieces than this are read ahead by further threads.
const MANY_PIECES: usize = 16;

/// Names the temporary files of a restore. Shared by its threads.
#[derive(Debug)]
pub struct Drafts {
    author: Author,
    next: AtomicU64,
}

impl Drafts {
    /// Those of this process.
    pub fn own() -> Self {
        Self { author: Author::own(), next: AtomicU64::new(0) }
    }

    /// Removes those of killed restores from a directory.
    pub fn sweep(&self, directory: &Path) {
        draft::sweep(directory, &self.author);
    }

    fn beside(&self, path: &Path) -> PathBuf {
        self.author.beside(path, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Writes entries; each thread of a restore has its own.
pub struct Writer<'a> {
    snapshot: &'a OpenSnapshot,
    contents: Contents<'a>,
    drafts: &'a Drafts,
    is_root: bool,
}

impl<'a> Writer<'a> {
    /// For the entries of this snapshot.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(snapshot: &'a OpenSnapshot, drafts: &'a Drafts) -> Result<Self, Failure> {
        let contents = snapshot.contents()?;
        Ok(Self { snapshot, contents, drafts, is_root: rustix::process::geteuid().is_root() })
    }

    /// Writes an entry beside its destination and then moves it there, over what is there.
    ///
    /// # Errors
    /// The destination or the repository refuses.
    pub fn write(&mut self, entry: &Entry, path: &Path) -> Result<(), Failure> {
        let temporary = self.drafts.beside(path);
        let written = self
            .write_to(entry, &temporary)
            .and_then(|()| fs::rename(&temporary, path).map_err(|error| refused("write", path, &error)));
        if written.is_err() {
            // It may not exist; the first failure is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Makes a further hard link to a file that was written.
    ///
    /// # Errors
    /// The destination refuses.
    pub fn link(&self, first: &Path, path: &Path) -> Result<(), Failure> {
        let temporary = self.drafts.beside(path);
        fs::hard_link(first, &temporary)
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| match fs::remove_file(&temporary) {
                // Renaming one link over another of the same file leaves both.
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            })
            .map_err(|error| refused("link", path, &error))
    }

    /// Sets owner, permissions, extended attributes and times. What cannot be set is a warning.
    pub fn set_metadata(&self, entry: &Entry, path: &Path) {
        if self.is_root {
            let set = std::os::unix::fs::lchown(path, entry.user_id, entry.group_id);
            self.warn_if("the owner", set, entry);
        }
        let is_link = matches!(entry.kind, EntryKind::Link(_));
        if let Some(mode) = entry.mode.filter(|_| !is_link) {
            self.warn_if("the permissions", fs::set_permissions(path, Permissions::from_mode(mode)), entry);
        }
        self.set_attributes(entry, path);
        if let Some(modified) = entry.modified {
            let time = file_time(modified);
            self.warn_if("the time", filetime::set_symlink_file_times(path, time, time), entry);
        }
    }

    /// The same for a file that is open: the kernel need not look for its path again and again.
    fn set_metadata_of(&self, entry: &Entry, file: &File, path: &Path) {
        if self.is_root {
            self.warn_if("the owner", std::os::unix::fs::fchown(file, entry.user_id, entry.group_id), entry);
        }
        if let Some(mode) = entry.mode {
            self.warn_if("the permissions", file.set_permissions(Permissions::from_mode(mode)), entry);
        }
        self.set_attributes(entry, path);
        if let Some(modified) = entry.modified {
            let time = Some(file_time(modified));
            self.warn_if("the time", filetime::set_file_handle_times(file, time, time), entry);
        }
    }

    fn set_attributes(&self, entry: &Entry, path: &Path) {
        let attributes = entry.attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.warn_if("the extended attributes", xattrs::write(path, attributes), entry);
    }

    fn warn_if(&self, what: &str, set: io::Result<()>, entry: &Entry) {
        if let Err(error) = set {
            self.snapshot.reporter().warn(format!("cannot set {what} of /{}: {error}", entry.path.display()));
        }
    }

    fn write_to(&mut self, entry: &Entry, path: &Path) -> Result<(), Failure> {
        let made = match &entry.kind {
            EntryKind::File { size_bytes, content } => {
                let file = self.write_file(*size_bytes, content, path)?;
                self.set_metadata_of(entry, &file, path);
                return Ok(());
            }
            EntryKind::Directory | EntryKind::Socket => Ok(()),
            EntryKind::Link(target) => std::os::unix::fs::symlink(target, path),
            EntryKind::Pipe => make_node(path, FileType::Fifo, 0),
            EntryKind::CharacterDevice(device) => make_node(path, FileType::CharacterDevice, *device),
            EntryKind::BlockDevice(device) => make_node(path, FileType::BlockDevice, *device),
        };
        made.map_err(|error| refused("make", path, &error))?;
        self.set_metadata(entry, path);
        Ok(())
    }

    fn write_file(&mut self, size_bytes: u64, content: &Content, path: &Path) -> Result<File, Failure> {
        let failed = |error: io::Error| refused("write", path, &error);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let mut offset = 0;
        let mut ends_in_hole = false;
        let mut write = |piece: &[u8]| {
            for part in piece.chunks(HOLE_BYTES) {
                ends_in_hole = part.len() == HOLE_BYTES && part.iter().all(|byte| *byte == 0);
                if !ends_in_hole {
                    file.write_all_at(part, offset).map_err(failed)?;
                }
                offset += part.len() as u64;
            }
            Ok(())
        };
        if content.pieces() > MANY_PIECES {
            self.snapshot.read_ahead(content, write)?;
        } else {
            for number in 0..content.pieces() {
                write(self.contents.piece(content, number)?)?;
            }
        }
        if offset != size_bytes {
            return Err(Failure::new(
                FailureKind::RepositoryDamaged,
                format!("{} has {offset} bytes in the repository, but should have {size_bytes}", path.display()),
            ));
        }
        // A hole at the end is made by the length alone.
        if ends_in_hole {
            file.set_len(offset).map_err(failed)?;
        }
        Ok(file)
    }
}

/// Makes a directory; true if it was not there.
///
/// # Errors
/// The destination refuses.
pub fn make_directory(path: &Path) -> Result<bool, Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(refused("make", path, &error)),
    }
}

/// When a file was changed last.
pub fn modified(metadata: &fs::Metadata) -> Option<Timestamp> {
    Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).ok()?).ok()
}

/// The failure for an error of the destination.
pub fn refused(operation: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot {operation} {}: {error}", path.display());
    let kind = error.kind();
    if kind == ErrorKind::PermissionDenied || kind == ErrorKind::ReadOnlyFilesystem {
        Failure::new(FailureKind::PermissionDenied, message)
            .hint("restore as a user that may write there, or into another directory")
    } else if kind == ErrorKind::StorageFull || kind == ErrorKind::QuotaExceeded {
        Failure::new(FailureKind::NoSpace, message).hint("free space at the destination, or restore elsewhere")
    } else {
        Failure::new(FailureKind::DestinationRefused, message)
    }
}

fn make_node(path: &Path, kind: FileType, device: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device)?)
}

fn file_time(time: Timestamp) -> FileTime {
    // `filetime` wants whole seconds rounded down and nanoseconds upwards from there.
    let nanoseconds = time.as_nanosecond();
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or_default();
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default();
    FileTime::from_unix_time(seconds, rest)
}
