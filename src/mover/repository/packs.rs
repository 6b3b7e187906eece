//! Gathers sealed blobs into packs, writes these, and then the index that names what is in them.
//!
//! A pack is named in the index only once it is in the store, so that whatever ends a capture early leaves nothing but
//! packs that nobody refers to. The format is that of <https://restic.readthedocs.io/en/stable/100_references.html>.

use std::{
    fmt::Write as _,
    mem,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::{
    FileType, Id, WriteBackend as _,
    repofile::{BlobType, ConfigFile},
};

use super::{
    backend::{self, Backend},
    hash::Hash,
    index::{BlobKind, Index},
    seal::Cipher,
};
use crate::mover::job::{Failure, FailureKind};

/// A pack with more blobs than this is written, however short it is.
const PACK_BLOBS: usize = 10_000;
/// No pack is planned to be longer; its offsets have 32 bits.
const PACK_BYTES: u64 = 1 << 30;
/// An index file that names so many blobs is written.
const INDEX_BLOBS: usize = 50_000;
/// One that is so old is written, too: a capture that is cut off need not send again what is named, and a prune
/// meanwhile sees what the packs are for.
const INDEX_AGE: Duration = Duration::from_secs(300);

/// A sealed blob.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Which kind.
    pub kind: BlobKind,
    /// Hash of its content.
    pub blob: Hash,
    /// As it lies in the pack.
    pub bytes: &'a [u8],
    /// The length of its content.
    pub length: u64,
    /// Whether it was compressed before it was sealed.
    pub compressed: bool,
}

/// A pack that is to be written.
#[derive(Debug)]
pub struct Full {
    kind: BlobKind,
    pack: Pack,
}

#[derive(Debug, Default)]
struct Pack {
    bytes: Vec<u8>,
    blobs: Vec<Packed>,
}

#[derive(Debug)]
struct Packed {
    blob: Hash,
    offset: u32,
    length: u32,
    /// Before it was compressed; none: it was not.
    uncompressed: Option<u32>,
}

/// How much was added.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Bytes that they take in packs.
    pub packed_bytes: u64,
}

/// The packs that a capture fills. Shared by its threads.
#[derive(Debug)]
pub struct Packs<'a> {
    backend: &'a Backend,
    cipher: Cipher,
    compress_index: bool,
    data: Filling,
    trees: Filling,
    index: Mutex<IndexText>,
    /// The index files that were written.
    index_files: Mutex<Vec<Hash>>,
}

#[derive(Debug)]
struct Filling {
    enough_bytes: usize,
    pack: Mutex<Pack>,
    blobs: AtomicU64,
    bytes: AtomicU64,
    packed_bytes: AtomicU64,
}

/// An index file under way.
#[derive(Debug, Default)]
struct IndexText {
    packs: String,
    blobs: usize,
    begun: Option<Instant>,
}

impl<'a> Packs<'a> {
    /// Empty ones.
    pub fn new(backend: &'a Backend, cipher: Cipher, config: &ConfigFile, index: &Index) -> Self {
        let filling = |kind| Filling {
            enough_bytes: enough_bytes(config, kind, index.bytes(kind)),
            pack: Mutex::default(),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            packed_bytes: AtomicU64::new(0),
        };
        Self {
            backend,
            cipher,
            compress_index: config.version > 1,
            data: filling(BlobKind::Data),
            trees: filling(BlobKind::Tree),
            index: Mutex::default(),
            index_files: Mutex::default(),
        }
    }

    /// Adds a blob to the pack of its kind. One that is full then is handed to `writers`.
    ///
    /// # Errors
    /// The writers have ended, because one of them failed.
    pub fn add(&self, sealed: &Sealed<'_>, writers: &SyncSender<Full>) -> Result<(), Failure> {
        let filling = self.filling(sealed.kind);
        filling.blobs.fetch_add(1, Ordering::Relaxed);
        filling.bytes.fetch_add(sealed.length, Ordering::Relaxed);
        filling.packed_bytes.fetch_add(sealed.bytes.len() as u64, Ordering::Relaxed);
        let full = {
            let mut pack = filling.pack.lock().unwrap_or_else(PoisonError::into_inner);
            if pack.bytes.capacity() == 0 && sealed.kind == BlobKind::Data {
                // Some more than enough: the last blob and the header go in, too.
                pack.bytes.reserve(filling.enough_bytes + filling.enough_bytes / 8);
            }
            let packed = Packed {
                blob: sealed.blob,
                offset: short(pack.bytes.len())?,
                length: short(sealed.bytes.len())?,
                uncompressed: if sealed.compressed { Some(short(sealed.length)?) } else { None },
            };
            pack.bytes.extend_from_slice(sealed.bytes);
            pack.blobs.push(packed);
            let is_full = pack.bytes.len() >= filling.enough_bytes || pack.blobs.len() >= PACK_BLOBS;
            is_full.then(|| mem::take(&mut *pack))
        };
        full.map_or(Ok(()), |pack| self.hand_over(sealed.kind, pack, writers))
    }

    /// Hands over what is left.
    ///
    /// # Errors
    /// As [`Packs::add`].
    pub fn hand_over_rest(&self, writers: &SyncSender<Full>) -> Result<(), Failure> {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let pack = mem::take(&mut *self.filling(kind).pack.lock().unwrap_or_else(PoisonError::into_inner));
            if !pack.blobs.is_empty() {
                self.hand_over(kind, pack, writers)?;
            }
        }
        Ok(())
    }

    fn hand_over(&self, kind: BlobKind, pack: Pack, writers: &SyncSender<Full>) -> Result<(), Failure> {
        writers.send(Full { kind, pack }).map_err(|_| self.backend.failure().get().unwrap_or_else(gone))
    }

    /// Writes packs until there are no more; after a failure, drops them.
    pub fn write_all(&self, packs: &Mutex<Receiver<Full>>) {
        loop {
            let next = packs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(full) = next else { return };
            if self.backend.failure().happened() {
                continue;
            }
            if let Err(failure) = self.write(full) {
                self.backend.failure().record(failure);
            }
        }
    }

    fn write(&self, full: Full) -> Result<(), Failure> {
        let Full { kind, pack: Pack { mut bytes, blobs } } = full;
        let mut header = Vec::with_capacity(blobs.len() * 41);
        for Packed { blob, offset: _, length, uncompressed } in &blobs {
            header.push(match (kind, uncompressed) {
                (BlobKind::Data, None) => 0,
                (BlobKind::Tree, None) => 1,
                (BlobKind::Data, Some(_)) => 2,
                (BlobKind::Tree, Some(_)) => 3,
            });
            header.extend(length.to_le_bytes());
            if let Some(uncompressed) = uncompressed {
                header.extend(uncompressed.to_le_bytes());
            }
            header.extend(blob.0);
        }
        let header = sealed(&self.cipher, &header)?;
        bytes.extend_from_slice(&header);
        bytes.extend(short(header.len())?.to_le_bytes());
        let pack = store(self.backend, FileType::Pack, bytes)?;

        let written = {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            index.add(kind, pack, &blobs);
            index.is_due().then(|| mem::take(&mut *index))
        };
        written.map_or(Ok(()), |index| self.write_index(index))
    }

    /// Writes the last index file. All packs must have been written.
    ///
    /// # Errors
    /// The store refuses.
    pub fn finish(&self) -> Result<(), Failure> {
        let rest = mem::take(&mut *self.index.lock().unwrap_or_else(PoisonError::into_inner));
        if rest.blobs == 0 { Ok(()) } else { self.write_index(rest) }
    }

    fn write_index(&self, index: IndexText) -> Result<(), Failure> {
        let text = format!("{{\"packs\":[{}]}}", index.packs);
        let file = write_index(self.backend, &self.cipher, self.compress_index, text)?;
        self.index_files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        Ok(())
    }

    /// The index files that were written.
    pub fn into_index_files(self) -> Vec<Hash> {
        self.index_files.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much was added so far.
    pub fn added(&self, kind: BlobKind) -> Added {
        let filling = self.filling(kind);
        Added {
            blobs: filling.blobs.load(Ordering::Relaxed),
            bytes: filling.bytes.load(Ordering::Relaxed),
            packed_bytes: filling.packed_bytes.load(Ordering::Relaxed),
        }
    }

    fn filling(&self, kind: BlobKind) -> &Filling {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }
}

/// Writes an index file with this text.
///
/// # Errors
/// The store refuses.
pub fn write_index(backend: &Backend, cipher: &Cipher, compress: bool, text: String) -> Result<Hash, Failure> {
    let plain = if compress {
        // The first byte tells what follows.
        let mut plain = vec![2];
        let compressed = zstd::bulk::compress(text.as_bytes(), zstd::DEFAULT_COMPRESSION_LEVEL)
            .map_err(|error| internal("compress the index", &error))?;
        // As with blobs: what does not open again is not written.
        let again = zstd::bulk::decompress(&compressed, text.len())
            .map_err(|error| internal("decompress the index that was just compressed", &error))?;
        if again != text.as_bytes() {
            return Err(Failure::new(FailureKind::Other, "the index was changed in memory and not written")
                .hint("test the memory of this host"));
        }
        plain.extend(compressed);
        plain
    } else {
        text.into_bytes()
    };
    store(backend, FileType::Index, sealed(cipher, &plain)?)
}

fn store(backend: &Backend, tpe: FileType, content: Vec<u8>) -> Result<Hash, Failure> {
    let hash = Hash::of(&content);
    backend
        .write_bytes(tpe, &Id::from(hash), false, Bytes::from(content).into())
        .map_err(|error| backend::failure(&error, backend.failure()))?;
    Ok(hash)
}

fn sealed(cipher: &Cipher, plain: &[u8]) -> Result<Vec<u8>, Failure> {
    cipher.sealed(plain).map_err(|error| internal("seal a part of the repository", &error))
}

impl IndexText {
    fn is_due(&self) -> bool {
        self.blobs >= INDEX_BLOBS || self.begun.is_some_and(|begun| begun.elapsed() >= INDEX_AGE)
    }

    fn add(&mut self, kind: BlobKind, pack: Hash, blobs: &[Packed]) {
        let text = &mut self.packs;
        let kind = match kind {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        };
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a string cannot fail.
        let _ = write!(text, "{comma}{{\"id\":\"{}\",\"blobs\":[", pack.hex());
        for (number, Packed { blob, offset, length, uncompressed }) in blobs.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let _ = write!(
                text,
                "{comma}{{\"id\":\"{}\",\"type\":\"{kind}\",\"offset\":{offset},\"length\":{length}",
                blob.hex()
            );
            if let Some(uncompressed) = uncompressed {
                let _ = write!(text, ",\"uncompressed_length\":{uncompressed}");
            }
            text.push('}');
        }
        // Prune goes by the age of a pack.
        let _ = write!(text, "],\"time\":\"{}\"}}", Timestamp::now());
        self.blobs += blobs.len();
        self.begun.get_or_insert_with(Instant::now);
    }
}

/// When a pack is long enough: half of what prune would make of it, which is well above what it takes for too short
/// (three tenths). Several packs are in memory at once, so their length is most of what a capture needs of it.
fn enough_bytes(config: &ConfigFile, kind: BlobKind, bytes: u64) -> usize {
    let tpe = match kind {
        BlobKind::Data => BlobType::Data,
        BlobKind::Tree => BlobType::Tree,
    };
    let (length, growth, most) = config.packsize(tpe);
    let wished = u64::from(length) + u64::from(growth) * bytes.isqrt();
    usize::try_from((wished / 2).min(most.into()).min(PACK_BYTES)).unwrap_or(usize::MAX)
}

fn short<N: TryInto<u32>>(length: N) -> Result<u32, Failure> {
    length.try_into().map_err(|_| Failure::new(FailureKind::Other, "a blob is too long for the repository"))
}

fn gone() -> Failure {
    Failure::new(FailureKind::Other, "the writers of the repository ended early")
}

fn internal(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Other, format!("cannot {what}: {error}"))
}
