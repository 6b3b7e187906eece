//! From what a source has to the trees of a snapshot, in threads that never wait for more than a bounded queue:
//!
//! ```text
//! walk, compare with the snapshot before ─ batches → readers: read, cut, hash, compress, seal ─ packs → writers
//!          └───────────── what was found, in order ─────────→ trees ──────────────────────────↗
//! ```
//!
//! The first failure of any of them ends all.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use rustic_core::repofile::{Chunker, ConfigFile};

use super::{
    backend::Backend,
    blobs::{BlobReader, BlobWriter},
    chunks::Cutter,
    files::OpenFile,
    hash::Hash,
    index::{BlobKind, Claims, Index},
    node::{Node, NodeKind},
    packs::{Full, Packs},
    previous::{Change, Previous},
    seal::Cipher,
    streams::OpenStream,
    trees::{self, Counts},
    work::{Batch, Content, Piece, Presence, Task, Work},
};
use crate::mover::{
    job::{Failure, FailureKind},
    progress::Reporter,
};

/// Readers that are worth their memory.
const MOST_READERS: usize = 8;
/// With two, one can write a pack while the other hashes the next.
const WRITERS: usize = 2;
/// Files that one reader gets at once: waking it for each would cost more than to read a small one.
const BATCH_FILES: usize = 64;
/// Bytes after which a batch is not made longer.
const BATCH_BYTES: u64 = 4 << 20;
/// Entries after which a step ends, read or not.
const STEP_ENTRIES: usize = 512;
/// Steps that wait for the trees.
const STEPS: usize = 64;

/// Something that a source has.
#[derive(Debug)]
pub struct Sighted {
    /// Absolute path.
    pub path: PathBuf,
    /// Its entry, still without content.
    pub node: Node,
    /// What its content comes from, if it has any.
    pub opening: Option<Opening>,
}

/// What content comes from.
#[derive(Debug)]
pub enum Opening {
    /// A file.
    File(OpenFile),
    /// The output of a program.
    Stream(OpenStream),
}

/// What was found, in the order of the trees.
#[derive(Debug)]
pub enum Found {
    /// A directory begins.
    Enter {
        /// Its entry.
        node: Node,
        /// The tree that it had before.
        before: Option<Hash>,
    },
    /// The directory ends.
    Leave,
    /// An entry that need not be read.
    Entry {
        /// The entry, complete.
        node: Node,
        /// How it stands to the snapshot before.
        change: Change,
    },
    /// An entry whose content is the next one of the batch.
    ToRead {
        /// The entry.
        node: Node,
        /// How it stands to the snapshot before.
        change: Change,
    },
}

/// Some entries, and where what is read of them will come from.
#[derive(Debug)]
pub struct Step {
    /// The entries.
    pub found: Vec<Found>,
    /// The contents of those that are to be read.
    pub read: Option<Receiver<Vec<Option<Content>>>>,
}

/// Where a capture goes.
#[derive(Debug)]
pub struct Target<'a> {
    /// The store.
    pub backend: &'a Backend,
    /// The key.
    pub cipher: &'a Cipher,
    /// How the repository wants things.
    pub config: &'a ConfigFile,
    /// What it holds.
    pub index: &'a Index,
    /// The tree of the snapshot before.
    pub before: Option<Hash>,
    /// Where progress is told.
    pub reporter: &'a Reporter,
}

/// What a capture made; the packs and the index are in the store.
#[derive(Debug)]
pub struct Archived {
    /// The root of the trees.
    pub root: Hash,
    /// What it consists of.
    pub counts: Counts,
    /// How much data was added.
    pub data: super::packs::Added,
    /// How many trees were added.
    pub trees: super::packs::Added,
}

/// What a capture wrote, and expects to find in the repository afterwards.
#[derive(Debug)]
pub struct Written {
    /// The blobs.
    pub claims: Claims,
    /// The index files that name them.
    pub index_files: Vec<Hash>,
}

/// Stores everything that a source has, sorted by path.
///
/// # Errors
/// The store refuses, a stream failed, or anything else went wrong but that a file could not be read.
pub fn archive(target: &Target<'_>, source: impl Iterator<Item = Sighted>) -> Result<(Archived, Written), Failure> {
    let Target { backend, cipher, config, index, before, reporter } = *target;
    let failure = backend.failure();
    let cutter = cutter(config)?;
    let packs = Packs::new(backend, cipher.clone(), config, index);
    let claims = Claims::default();
    let readers = thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST_READERS);
    let work = Work::new(readers);
    let done_bytes = AtomicU64::new(0);
    let (full, written) = mpsc::sync_channel::<Full>(1);
    let written = Arc::new(Mutex::new(written));

    let (root, counts) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let (packs, written) = (&packs, written.clone());
                scope.spawn(move || packs.write_all(&written))
            })
            .collect();
        // The writers hold it now; when they are gone, nobody can wait for them.
        drop(written);
        let new_writer = || BlobWriter::new(&packs, index, &claims, full.clone(), cipher.clone(), config);
        let result = (|| {
            let mut threads = Vec::new();
            for _ in 0..readers {
                let blobs = new_writer()?;
                let mut reader =
                    Reader { blobs, cutter: &cutter, work: &work, backend, reporter, done_bytes: &done_bytes };
                threads.push(scope.spawn(move || reader.read_all()));
            }
            let (steps, next_steps) = mpsc::sync_channel(STEPS);
            let blobs = new_writer()?;
            let trees = scope.spawn(move || trees::build(&next_steps, before, blobs));

            let walked = BlobReader::new(backend, index, cipher.clone())
                .and_then(|reader| Previous::new(before, index, reader, reporter))
                .and_then(|previous| Walk::new(previous, &work, steps).all(source, backend));
            if let Err(error) = walked {
                failure.record(error);
            }
            work.close();
            for thread in threads {
                thread.join().map_err(|_| broken("reader"))?;
            }
            trees.join().map_err(|_| broken("builder of trees"))?
        })();
        // A reader that could not be started must not keep the others waiting.
        work.close();
        let handed_over = match (&result, failure.get()) {
            (Ok(_), None) => packs.hand_over_rest(&full),
            (Ok(_), Some(failure)) => Err(failure),
            (Err(_), _) => Ok(()),
        };
        drop(full);
        for writer in writers {
            writer.join().map_err(|_| broken("writer"))?;
        }
        // What went wrong first is the cause of the rest.
        failure.get().map_or(Ok(()), Err)?;
        handed_over?;
        result
    })?;
    packs.finish()?;
    failure.get().map_or(Ok(()), Err)?;
    let (data, trees) = (packs.added(BlobKind::Data), packs.added(BlobKind::Tree));
    let archived = Archived { root, counts, data, trees };
    Ok((archived, Written { claims, index_files: packs.into_index_files() }))
}

fn cutter(config: &ConfigFile) -> Result<Cutter, Failure> {
    let failed = |message: String| Failure::new(FailureKind::RepositoryDamaged, message);
    Ok(match config.chunker() {
        Chunker::FixedSize => Cutter::fixed(config.chunk_size()),
        Chunker::Rabin => {
            let polynomial = config.poly().map_err(|error| failed(error.display_log()))?;
            Cutter::rabin(polynomial, config.chunk_min_size(), config.chunk_size(), config.chunk_max_size())
                .map_err(|error| failed(error.to_string()))?
        }
    })
}

fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::Other, format!("a {what} of the capture met a condition that it does not know"))
}

/// Turns a sorted walk into steps.
struct Walk<'a> {
    previous: Previous<'a>,
    work: &'a Work,
    steps: SyncSender<Step>,
    /// The directory that is open.
    here: PathBuf,
    found: Vec<Found>,
    files: Vec<Opening>,
    bytes: u64,
}

impl<'a> Walk<'a> {
    fn new(previous: Previous<'a>, work: &'a Work, steps: SyncSender<Step>) -> Self {
        Self { previous, work, steps, here: PathBuf::from("/"), found: Vec::new(), files: Vec::new(), bytes: 0 }
    }

    fn all(mut self, source: impl Iterator<Item = Sighted>, backend: &Backend) -> Result<(), Failure> {
        for sighted in source {
            self.add(sighted)?;
            // A database server should be asked for one dump at a time, so one reader gets all streams.
            let divisible = !matches!(self.files.last(), Some(Opening::Stream(_)));
            let enough = self.files.len() >= BATCH_FILES || self.bytes >= BATCH_BYTES;
            if divisible && (enough || self.found.len() >= STEP_ENTRIES) {
                self.send();
                if backend.failure().happened() {
                    return Ok(());
                }
            }
        }
        self.climb(Path::new("/"));
        self.send();
        Ok(())
    }

    fn add(&mut self, sighted: Sighted) -> Result<(), Failure> {
        let Sighted { path, mut node, opening } = sighted;
        let above = path.parent().unwrap_or(Path::new("/"));
        if self.here != above {
            self.climb(above);
            // Those that could not be looked at still lead to what is below them.
            let missing: Vec<_> = above.strip_prefix(&self.here).unwrap_or(Path::new("")).iter().collect();
            for name in missing {
                let mode = Some(super::entry::go_mode(0o040_755));
                let node = Node { name: super::node::name(name), kind: NodeKind::Dir, mode, ..Node::default() };
                self.enter(self.here.join(name), node)?;
            }
        }
        if node.kind == NodeKind::Dir {
            return self.enter(path, node);
        }
        let change = self.previous.compare(&mut node);
        match opening {
            Some(opening) if node.content.is_none() => {
                self.bytes += node.size;
                self.files.push(opening);
                self.found.push(Found::ToRead { node, change });
            }
            Some(_) | None => self.found.push(Found::Entry { node, change }),
        }
        Ok(())
    }

    fn enter(&mut self, path: PathBuf, node: Node) -> Result<(), Failure> {
        let before = self.previous.enter(&node.name)?;
        self.found.push(Found::Enter { node, before });
        self.here = path;
        Ok(())
    }

    /// Leaves directories until this path is in the one that is open.
    fn climb(&mut self, path: &Path) {
        while !path.starts_with(&self.here) && self.here.pop() {
            self.previous.leave();
            self.found.push(Found::Leave);
        }
    }

    fn send(&mut self) {
        let found = std::mem::take(&mut self.found);
        let files = std::mem::take(&mut self.files);
        self.bytes = 0;
        let (read, answer) = mpsc::sync_channel(1);
        let read_anything = !files.is_empty();
        if read_anything {
            self.work.add(Batch { files, read });
        }
        // The trees are gone only after a failure, which is seen right after this.
        let _ = self.steps.send(Step { found, read: read_anything.then_some(answer) });
    }
}

/// Reads files and stores their blobs; one for each thread.
struct Reader<'a> {
    blobs: BlobWriter<'a>,
    cutter: &'a Cutter,
    work: &'a Work,
    backend: &'a Backend,
    reporter: &'a Reporter,
    done_bytes: &'a AtomicU64,
}

impl Reader<'_> {
    fn read_all(&mut self) {
        let _presence = Presence(self.work);
        while let Some(task) = self.work.next() {
            match task {
                Task::Store(Piece { blob, bytes }) => {
                    self.store(blob, &bytes);
                    self.work.give_back(bytes);
                }
                Task::Read(Batch { files, read }) => {
                    let contents = files.into_iter().map(|file| self.read(file)).collect();
                    self.work.has_read();
                    // The trees are gone only after a failure.
                    let _ = read.send(contents);
                }
            }
        }
    }

    /// None: it could not be read, and that was told; or there was a failure.
    fn read(&mut self, opening: Opening) -> Option<Content> {
        if self.backend.failure().happened() {
            return None;
        }
        match opening {
            Opening::File(file) => {
                let size = usize::try_from(file.size()).ok()?;
                let mut reader = file.open().ok()?;
                if size > self.cutter.minimum() {
                    return self.read_pieces(reader).ok();
                }
                let mut bytes = self.work.buffer();
                bytes.resize(size, 0);
                let content = reader.read_exact(&mut bytes).ok().map(|()| self.whole(&bytes));
                self.work.give_back(bytes);
                content
            }
            // What is wrong with a stream, it has recorded by itself.
            Opening::Stream(stream) => self.read_pieces(stream.open().ok()?).ok(),
        }
    }

    fn whole(&mut self, bytes: &[u8]) -> Content {
        let blob = Hash::of(bytes);
        if !bytes.is_empty() && self.blobs.claim(BlobKind::Data, blob) {
            self.store(blob, bytes);
        }
        self.progress(bytes.len());
        Content { blobs: if bytes.is_empty() { Vec::new() } else { vec![blob] }, bytes: bytes.len() as u64 }
    }

    fn read_pieces(&mut self, reader: impl Read) -> io::Result<Content> {
        let mut content = Content { blobs: Vec::new(), bytes: 0 };
        let mut pieces = self.cutter.chunks(reader);
        let mut bytes = self.work.buffer();
        while pieces.next(&mut bytes)? {
            let blob = Hash::of(&bytes);
            content.blobs.push(blob);
            content.bytes += bytes.len() as u64;
            self.progress(bytes.len());
            if !self.blobs.claim(BlobKind::Data, blob) {
                continue;
            }
            match self.work.offer(Piece { blob, bytes }) {
                Ok(()) => bytes = self.work.buffer(),
                Err(piece) => {
                    self.store(blob, &piece.bytes);
                    bytes = piece.bytes;
                }
            }
            if self.backend.failure().happened() {
                return Err(io::Error::other("the capture has failed"));
            }
        }
        self.work.give_back(bytes);
        Ok(content)
    }

    fn store(&mut self, blob: Hash, bytes: &[u8]) {
        if let Err(failure) = self.blobs.write(BlobKind::Data, blob, bytes) {
            self.backend.failure().record(failure);
        }
    }

    fn progress(&self, bytes: usize) {
        let done = self.done_bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.reporter.progress("reading", done, None);
    }
}
