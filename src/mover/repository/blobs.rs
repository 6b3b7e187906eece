//! Makes sealed blobs of content, and content of sealed blobs. What a thread needs for it is made once, not per blob.

use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use rustic_core::{FileType, Id, ReadBackend as _, repofile::ConfigFile};
use zstd::bulk::{Compressor, Decompressor};

use super::{
    backend::{self, Backend},
    hash::Hash,
    index::{BlobKind, Claims, Index, Location},
    packs::{Full, Packs, Sealed},
    seal::{Cipher, NONCE_BYTES, SEAL_BYTES},
};
use crate::mover::job::{Failure, FailureKind};

/// No blob is longer, sealed or not: a damaged index must not make us allocate what it likes.
const BLOB_BYTES: u32 = 1 << 30;
/// What is read of a pack for a small blob: those after it are most often wanted next.
const WINDOW_BYTES: u32 = 512 << 10;
/// So many windows are kept.
const WINDOWS: usize = 8;

/// Writes blobs; each thread has its own.
pub struct BlobWriter<'a> {
    packs: &'a Packs<'a>,
    index: &'a Index,
    claims: &'a Claims,
    writers: SyncSender<Full>,
    cipher: Cipher,
    compressor: Option<Compressor<'static>>,
    buffer: Vec<u8>,
}

impl<'a> BlobWriter<'a> {
    /// For the packs of a capture. Fails only for want of memory.
    ///
    /// # Errors
    /// The compression cannot be set up as the repository asks.
    pub fn new(
        packs: &'a Packs<'a>,
        index: &'a Index,
        claims: &'a Claims,
        writers: SyncSender<Full>,
        cipher: Cipher,
        config: &ConfigFile,
    ) -> Result<Self, Failure> {
        let level = config.zstd().map_err(|error| Failure::new(FailureKind::Other, error.display_log()))?;
        let compressor = level
            .map(Compressor::new)
            .transpose()
            .map_err(|error| Failure::new(FailureKind::Other, format!("cannot set up compression: {error}")))?;
        Ok(Self { packs, index, claims, writers, cipher, compressor, buffer: Vec::new() })
    }

    /// True if the blob is new and this thread is to write it.
    pub fn claim(&self, kind: BlobKind, blob: Hash) -> bool {
        self.claims.claim(self.index, kind, blob)
    }

    /// Writes a blob that was claimed.
    ///
    /// # Errors
    /// The store refuses.
    pub fn write(&mut self, kind: BlobKind, blob: Hash, content: &[u8]) -> Result<(), Failure> {
        let enough = SEAL_BYTES + zstd::zstd_safe::compress_bound(content.len());
        if self.buffer.len() < enough {
            self.buffer.resize(enough, 0);
        }
        let compressed = self.compressor.as_mut().and_then(|compressor| {
            let length = compressor.compress_to_buffer(content, &mut self.buffer[NONCE_BYTES..]).ok()?;
            // What does not get shorter is stored as it is.
            (length < content.len()).then_some(length)
        });
        let length = compressed.unwrap_or(content.len());
        if compressed.is_none() {
            self.buffer[NONCE_BYTES..NONCE_BYTES + length].copy_from_slice(content);
        }
        let bytes = self
            .cipher
            .seal(&mut self.buffer, length)
            .map_err(|error| Failure::new(FailureKind::Other, error.to_string()))?;
        let compressed = compressed.is_some();
        self.packs.add(&Sealed { kind, blob, bytes, length: content.len() as u64, compressed }, &self.writers)
    }
}

/// Reads blobs; each thread has its own.
pub struct BlobReader<'a> {
    backend: &'a Backend,
    index: &'a Index,
    cipher: Cipher,
    decompressor: Decompressor<'static>,
    sealed: Vec<u8>,
    content: Vec<u8>,
    /// The latest last.
    windows: Vec<Window>,
}

/// A part of a pack that was read.
struct Window {
    pack: Hash,
    offset: u32,
    bytes: Bytes,
}

impl<'a> BlobReader<'a> {
    /// Reads the blobs that the index names.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(backend: &'a Backend, index: &'a Index, cipher: Cipher) -> Result<Self, Failure> {
        let decompressor = Decompressor::new()
            .map_err(|error| Failure::new(FailureKind::Other, format!("cannot set up decompression: {error}")))?;
        Ok(Self { backend, index, cipher, decompressor, sealed: Vec::new(), content: Vec::new(), windows: Vec::new() })
    }

    /// The content of a blob. It has the hash that it is named by.
    ///
    /// # Errors
    /// It is not in the index, damaged, or the store refuses.
    pub fn read(&mut self, kind: BlobKind, blob: &Hash) -> Result<&[u8], Failure> {
        let damaged = |what: &str| Failure::new(FailureKind::RepositoryDamaged, format!("blob {blob:?} {what}"));
        let location = self.index.find(kind, blob).ok_or_else(|| damaged("is missing from the index"))?;
        let pack = self.index.pack(&location).ok_or_else(|| damaged("is in a pack that the index does not name"))?;
        if location.length > BLOB_BYTES || location.uncompressed > BLOB_BYTES {
            return Err(damaged("is longer than any blob, says the index"));
        }
        self.load(pack, &location)?;
        let broken = || damaged(&format!("in pack {pack:?} was changed since it was written"));
        let plain = self.cipher.open(&mut self.sealed).map_err(|_| broken())?;
        let content = if location.uncompressed == 0 {
            plain
        } else {
            self.content.clear();
            self.content.reserve(location.uncompressed as usize);
            self.decompressor.decompress_to_buffer(plain, &mut self.content).map_err(|_| broken())?;
            &self.content
        };
        if Hash::of(content) != *blob {
            return Err(broken());
        }
        Ok(content)
    }

    /// Puts a sealed blob into `sealed`.
    fn load(&mut self, pack: Hash, location: &Location) -> Result<(), Failure> {
        let Location { offset, length, .. } = *location;
        self.sealed.clear();
        if length > WINDOW_BYTES / 2 {
            let bytes = self.range(pack, offset, length)?;
            self.sealed.extend_from_slice(&bytes);
            return Ok(());
        }
        let of = |window: &Window| -> Option<std::ops::Range<usize>> {
            let start = usize::try_from(offset.checked_sub(window.offset)?).ok()?;
            let end = start + length as usize;
            (window.pack == pack && end <= window.bytes.len()).then_some(start..end)
        };
        if let Some((window, range)) = self.windows.iter().rev().find_map(|window| Some((window, of(window)?))) {
            self.sealed.extend_from_slice(&window.bytes[range]);
            return Ok(());
        }
        let end = self.index.pack_end(location).max(offset.saturating_add(length));
        let bytes = self.range(pack, offset, WINDOW_BYTES.min(end - offset))?;
        self.sealed.extend_from_slice(&bytes[..length as usize]);
        if self.windows.len() >= WINDOWS {
            self.windows.remove(0);
        }
        self.windows.push(Window { pack, offset, bytes });
        Ok(())
    }

    fn range(&self, pack: Hash, offset: u32, length: u32) -> Result<Bytes, Failure> {
        self.backend
            .read_partial(FileType::Pack, &Id::from(pack), false, offset, length)
            .map_err(|error| backend::failure(&error, self.backend.failure()))
    }
}
