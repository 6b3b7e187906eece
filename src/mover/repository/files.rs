//! Files as a capture finds and reads them. What cannot be read is counted and told, and the rest goes on.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Read},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use rustix::{fs::OFlags, io::Errno};

use super::{
    entry,
    node::{self, Node, NodeKind},
    pipeline::{Opening, Sighted},
    xattrs,
};
use crate::mover::{
    progress::Reporter,
    walk::{Found, Roots, Unreadable, Walk},
};

/// Names of users and groups are read from files of at most this size.
const ACCOUNTS_BYTES: u64 = 4 << 20;

/// What a capture of files met; shared by its threads.
#[derive(Debug)]
pub struct Tally {
    reporter: Reporter,
    /// Handed on: all but directories.
    given: AtomicU64,
    /// Could not be opened or read to the end.
    unreadable: AtomicU64,
    /// Given, but lost on the way because they could not be read.
    lost: AtomicU64,
    /// What is captured.
    roots: Vec<PathBuf>,
    /// The first of them that could not be read, and why.
    lost_root: Mutex<Option<String>>,
}

impl Tally {
    /// Nothing met yet.
    pub fn new(reporter: Reporter, roots: &[PathBuf]) -> Arc<Self> {
        Arc::new(Self {
            reporter,
            given: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            roots: roots.to_vec(),
            lost_root: Mutex::new(None),
        })
    }

    /// A path of the source, whole, that could not be read, and why. A restore point without it would be taken for a
    /// good one, and push those that have it out.
    pub fn lost_root(&self) -> Option<String> {
        self.lost_root.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Files and directories that could not be read and are not in the snapshot.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::SeqCst)
    }

    /// How many files must be in the snapshot, now that all were read.
    pub fn expected(&self) -> u64 {
        self.given.load(Ordering::SeqCst).saturating_sub(self.lost.load(Ordering::SeqCst))
    }

    fn skipped(&self, path: &Path, error: &io::Error) {
        if self.roots.iter().any(|root| root == path) {
            let mut lost = self.lost_root.lock().unwrap_or_else(PoisonError::into_inner);
            lost.get_or_insert_with(|| format!("cannot read {}: {error}", path.display()));
        }
        if error.kind() == ErrorKind::NotFound {
            self.reporter.warn(format!("{} vanished before it was read", path.display()));
        } else {
            self.unreadable.fetch_add(1, Ordering::SeqCst);
            self.reporter.warn(format!("cannot read {}: {error}; it is not in the restore point", path.display()));
        }
    }
}

/// The walk, turned into entries.
#[derive(Debug)]
pub struct Entries {
    walk: Walk,
    tally: Arc<Tally>,
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Iterator for Entries {
    type Item = Sighted;

    fn next(&mut self) -> Option<Sighted> {
        loop {
            match self.walk.next()? {
                Ok(found) => match self.node(&found) {
                    Ok(node) => {
                        if node.kind != NodeKind::Dir {
                            self.tally.given.fetch_add(1, Ordering::SeqCst);
                        }
                        let Found { path, metadata, above: _ } = found;
                        let opening = (node.kind == NodeKind::File).then(|| {
                            let tally = self.tally.clone();
                            Opening::File(OpenFile { path: path.clone(), size: metadata.size(), tally })
                        });
                        return Some(Sighted { path, node, opening });
                    }
                    Err(error) => self.tally.skipped(&found.path, &error),
                },
                Err(Unreadable { path, error }) => self.tally.skipped(&path, &error),
            }
        }
    }
}

impl Entries {
    /// The files below these roots.
    pub fn new(roots: &Roots, tally: Arc<Tally>) -> Self {
        let users = account_names(Path::new("/etc/passwd"));
        let groups = account_names(Path::new("/etc/group"));
        Self { walk: roots.walk(), tally, users, groups }
    }

    fn node(&self, found: &Found) -> io::Result<Node> {
        let Found { path, metadata, above } = found;
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        let extended_attributes = match xattrs::read(path) {
            Ok(attributes) => attributes,
            Err(error) => {
                let text = format!("cannot read the extended attributes of {}: {error}", path.display());
                self.tally.reporter.warn(text);
                Vec::new()
            }
        };
        let kind = kind(metadata);
        let is_dir = kind == NodeKind::Dir;
        // Only the ends of hard links need the device; elsewhere it would make equal trees differ after a reboot.
        let device_id = if !is_dir && metadata.nlink() > 1 { metadata.dev() } else { 0 };
        // Times of directories above the source would make every tree a changed one whenever a neighbour changes.
        let changed = |seconds, nanoseconds| if *above { None } else { time(seconds, nanoseconds) };
        let modified = changed(metadata.mtime(), metadata.mtime_nsec());
        let (linktarget, linktarget_raw) =
            if kind == NodeKind::Symlink { node::link_target(&fs::read_link(path)?) } else { (None, None) };
        Ok(Node {
            name: node::name(name),
            kind,
            linktarget,
            linktarget_raw,
            device: matches!(kind, NodeKind::Dev | NodeKind::Chardev).then(|| metadata.rdev()),
            mode: Some(entry::go_mode(metadata.permissions().mode())),
            mtime: modified,
            atime: modified,
            ctime: changed(metadata.ctime(), metadata.ctime_nsec()),
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
            user: self.users.get(&metadata.uid()).cloned(),
            group: self.groups.get(&metadata.gid()).cloned(),
            inode: metadata.ino(),
            device_id,
            size: if metadata.is_file() { metadata.size() } else { 0 },
            links: if is_dir { 0 } else { metadata.nlink() },
            extended_attributes,
            content: None,
            subtree: None,
        })
    }
}

/// A file that is opened when its turn comes.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    size: u64,
    tally: Arc<Tally>,
}

impl OpenFile {
    /// The length that it had when it was looked at.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened; that was told.
    pub fn open(self) -> io::Result<FileReader> {
        match open_regular(&self.path) {
            Ok(file) => Ok(FileReader { file, left: self.size, opened: self }),
            Err(error) => {
                self.tally.lost.fetch_add(1, Ordering::SeqCst);
                self.tally.skipped(&self.path, &error);
                Err(error)
            }
        }
    }
}

/// Opens a file that was a regular one when it was looked at. What took its place since may be anything: a pipe would keep
/// the capture waiting for ever, and a link would bring in a file from elsewhere.
fn open_regular(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NOCTTY;
        File::options().read(true).custom_flags(flags.bits() as i32).open(path)
    };
    let replaced = || io::Error::other("it was replaced by something that is no file while it was captured");
    let file = match open(OFlags::NONBLOCK) {
        // A lease on it (fcntl(2)), which only regular files have: its holder gives it up soon.
        Err(error) if error.kind() == ErrorKind::WouldBlock => open(OFlags::empty())?,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => return Err(replaced()),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(replaced()) }
}

/// Reads exactly as much as the file had when it was looked at, so that size and content agree: what was appended
/// since is left to the next run, and what was cut off is filled with zeros (as tar does) and reported.
#[derive(Debug)]
pub struct FileReader {
    file: File,
    left: u64,
    opened: OpenFile,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut filled = 0;
        while filled < most {
            match self.file.read(&mut buffer[filled..most]) {
                Ok(0) => {
                    let text = format!("{} shrank while it was read; zeros fill its end", self.opened.path.display());
                    if filled < most && self.left > 0 {
                        self.opened.tally.reporter.warn(text);
                    }
                    buffer[filled..most].fill(0);
                    self.file = File::open("/dev/zero")?;
                    filled = most;
                }
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.opened.tally.lost.fetch_add(1, Ordering::SeqCst);
                    self.opened.tally.skipped(&self.opened.path, &error);
                    return Err(error);
                }
            }
        }
        self.left -= filled as u64;
        Ok(filled)
    }
}

fn kind(metadata: &Metadata) -> NodeKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        NodeKind::Dir
    } else if kind.is_symlink() {
        NodeKind::Symlink
    } else if kind.is_block_device() {
        NodeKind::Dev
    } else if kind.is_char_device() {
        NodeKind::Chardev
    } else if kind.is_fifo() {
        NodeKind::Fifo
    } else if kind.is_socket() {
        NodeKind::Socket
    } else {
        NodeKind::File
    }
}

fn time(seconds: i64, nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

/// Reads `NAME:PASSWORD:ID:…` lines; without them, only the numbers are captured.
fn account_names(path: &Path) -> BTreeMap<u32, String> {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // A file that is no text names nobody.
        let _ = file.take(ACCOUNTS_BYTES).read_to_string(&mut text);
    }
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::mover::{job::Event, progress::Untold};

    fn read(path: &Path, size: u64) -> (Option<Vec<u8>>, u64, u64, usize) {
        let (sender, receiver) = mpsc::sync_channel(8);
        let tally = Tally::new(Reporter::new(sender, Untold::default()), &[]);
        tally.given.fetch_add(1, Ordering::SeqCst);
        let file = OpenFile { path: path.to_owned(), size, tally: tally.clone() };
        let mut content = Vec::new();
        let read = file.open().ok().and_then(|mut reader| reader.read_to_end(&mut content).ok()).map(|_| content);
        let (unreadable, expected) = (tally.unreadable(), tally.expected());
        drop(tally);
        let warnings = receiver.iter().filter(|event| matches!(event, Event::Warning(_))).count();
        (read, unreadable, expected, warnings)
    }

    #[test]
    fn files_that_change_vanish_or_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10), (Some(b"0123456789".to_vec()), 0, 1, 0));
        // It grew: what was there when it was looked at. It shrank: zeros, and a warning.
        assert_eq!(read(&path, 4), (Some(b"0123".to_vec()), 0, 1, 0));
        assert_eq!(read(&path, 12), (Some(b"0123456789\0\0".to_vec()), 0, 1, 1));
        // It vanished: a warning. It cannot be read (here: a directory took its place): counted.
        assert_eq!(read(&directory.path().join("gone"), 4), (None, 0, 0, 1));
        assert_eq!(read(directory.path(), 4), (None, 1, 0, 1));
    }

    #[test]
    fn what_took_the_place_of_a_file_is_neither_waited_for_nor_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, link, elsewhere) =
            (directory.path().join("pipe"), directory.path().join("link"), directory.path().join("elsewhere"));
        fs::write(&elsewhere, "0123456789").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read(&link, 10), (None, 1, 0, 1));
        assert_eq!(read(&pipe, 10), (None, 1, 0, 1));
    }
}
