//! Reads a snapshot: what is in it, and the contents of its files.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use rustic_core::repofile::SnapshotFile;

use super::{
    backend::Backend,
    blobs::BlobReader,
    entry::{Content, Entry, EntryKind},
    hash::Hash,
    index::{BlobKind, Index},
    label,
    node::StoredTree,
    seal::Cipher,
};
use crate::mover::{
    job::{Failure, FailureKind},
    progress::Reporter,
};

/// Threads that read the pieces of one file ahead.
const AHEAD_THREADS: usize = 2;
/// Pieces that each of them has ready.
const AHEAD_PIECES: usize = 2;

/// A snapshot that is open for reading. Shared by the threads of a restore.
#[derive(Debug)]
pub struct OpenSnapshot {
    backend: Arc<Backend>,
    cipher: Cipher,
    index: Index,
    root: Hash,
    roots: Vec<PathBuf>,
    has_streams: bool,
    reporter: Reporter,
}

impl OpenSnapshot {
    pub(super) fn new(
        backend: Arc<Backend>,
        cipher: Cipher,
        index: Index,
        file: &SnapshotFile,
        reporter: Reporter,
    ) -> Self {
        Self {
            backend,
            cipher,
            index,
            root: (*file.tree).into(),
            roots: file.paths.iter().map(PathBuf::from).collect(),
            has_streams: file.tags.contains(label::STREAMS),
            reporter,
        }
    }

    /// The paths that were captured.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Whether it holds streams rather than files.
    pub fn has_streams(&self) -> bool {
        self.has_streams
    }

    /// Where progress is told.
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Everything in it, each directory before what is in it.
    ///
    /// # Errors
    /// A tree cannot be read, at the start or later on.
    pub fn entries(&self) -> Result<Entries<'_>, Failure> {
        let mut entries = Entries { reader: self.reader()?, levels: Vec::new() };
        entries.descend(Path::new(""), &self.root)?;
        Ok(entries)
    }

    /// A captured stream, or any file in the root of the snapshot.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn file(&self, name: &str) -> Result<Entry, Failure> {
        let mut names = Vec::new();
        for entry in self.entries()? {
            let entry = entry?;
            if entry.path.as_os_str() == name && matches!(entry.kind, EntryKind::File { .. }) {
                return Ok(entry);
            }
            if self.has_streams() {
                names.push(entry.path.display().to_string());
            }
        }
        Err(Failure::new(FailureKind::Other, format!("the snapshot has no file `{name}`"))
            .hint(format!("it has: {}", names.join(", "))))
    }

    /// Reads contents; each thread has its own.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn contents(&self) -> Result<Contents<'_>, Failure> {
        Ok(Contents(self.reader()?))
    }

    /// Gives the pieces of a large file to `take`, one after the other, while other threads read ahead.
    ///
    /// # Errors
    /// That of `take`, or a piece is missing or damaged.
    pub fn read_ahead(
        &self,
        content: &Content,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        thread::scope(|scope| {
            let mut ahead = Vec::new();
            for first in 0..AHEAD_THREADS {
                let mut contents = self.contents()?;
                let (sender, receiver) = mpsc::sync_channel(AHEAD_PIECES);
                ahead.push(receiver);
                scope.spawn(move || {
                    for number in (first..content.pieces()).step_by(AHEAD_THREADS) {
                        let piece = contents.piece(content, number).map(<[u8]>::to_vec);
                        let ends = piece.is_err();
                        // Nobody listens any more once something failed.
                        if sender.send(piece).is_err() || ends {
                            return;
                        }
                    }
                });
            }
            for number in 0..content.pieces() {
                let piece = ahead[number % AHEAD_THREADS]
                    .recv()
                    .map_err(|_| Failure::new(FailureKind::Other, "a reader of the repository ended early"))?;
                take(&piece?)?;
            }
            Ok(())
        })
    }

    /// The hash (hex SHA-256) and the length in bytes of each piece of a file, from the index alone.
    ///
    /// # Errors
    /// The index does not know a piece.
    pub fn sums<'a>(&'a self, content: &'a Content) -> impl Iterator<Item = Result<(String, u64), Failure>> + 'a {
        content.0.iter().map(|blob| match self.index.find(BlobKind::Data, blob) {
            Some(location) => Ok((blob.hex(), location.content_bytes())),
            None => Err(Failure::new(
                FailureKind::RepositoryDamaged,
                format!("the index of the repository does not know the data {}", blob.hex()),
            )
            .hint("check the repository with `mainstay verify`")),
        })
    }

    fn reader(&self) -> Result<BlobReader<'_>, Failure> {
        BlobReader::new(&self.backend, &self.index, self.cipher.clone())
    }
}

/// Reads the contents of files.
pub struct Contents<'a>(BlobReader<'a>);

impl Contents<'_> {
    /// A piece of a content, at most a few MB; they are numbered from 0.
    ///
    /// # Errors
    /// There is no such piece, it is damaged, or the store refuses.
    pub fn piece(&mut self, content: &Content, number: usize) -> Result<&[u8], Failure> {
        let Some(blob) = content.0.get(number) else {
            return Err(Failure::new(FailureKind::Other, format!("the file has no piece {number}")));
        };
        self.0.read(BlobKind::Data, blob)
    }
}

/// The entries of a snapshot. Ends after the first failure.
pub struct Entries<'a> {
    reader: BlobReader<'a>,
    /// What is left of each directory from the root to here.
    levels: Vec<std::vec::IntoIter<(Entry, Option<Hash>)>>,
}

impl Entries<'_> {
    fn descend(&mut self, directory: &Path, tree: &Hash) -> Result<(), Failure> {
        let text = self.reader.read(BlobKind::Tree, tree)?;
        let StoredTree { nodes } = serde_json::from_slice(text).map_err(|error| {
            Failure::new(
                FailureKind::RepositoryDamaged,
                format!("the directory /{} of the snapshot cannot be read: {error}", directory.display()),
            )
        })?;
        let mut level = Vec::new();
        for node in nodes.unwrap_or_default() {
            let subtree = node.subtree;
            level.push((Entry::from_node(directory, node)?, subtree));
        }
        self.levels.push(level.into_iter());
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((entry, subtree)) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            if let (EntryKind::Directory, Some(subtree)) = (&entry.kind, subtree)
                && let Err(failure) = self.descend(&entry.path, &subtree)
            {
                self.levels.clear();
                return Some(Err(failure));
            }
            return Some(Ok(entry));
        }
    }
}
