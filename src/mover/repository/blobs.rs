//! Makes sealed blobs of content, and content of sealed blobs. What a thread needs for it is made once, not per blob.
//!
//! A blob goes into a pack only after it was opened again as a restore would: a bit that memory flipped, or an error of
//! a library, would otherwise be found by the restore that needs it. restic does the same since 0.17.

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

/// Buffers are kept up to this size; most blobs of files are shorter than 2 MiB.
const KEPT_BYTES: usize = 3 << 20;

/// Writes blobs; each thread has its own.
pub struct BlobWriter<'a> {
    packs: &'a Packs<'a>,
    index: &'a Index,
    claims: &'a Claims,
    writers: SyncSender<Full>,
    cipher: Cipher,
    compressor: Option<Compressor<'static>>,
    buffer: Vec<u8>,
    proof: Opener,
    /// A copy of what is to be written: it is opened in place.
    copy: Vec<u8>,
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
        let proof = Opener::new(cipher.clone())?;
        let (buffer, copy) = (Vec::new(), Vec::new());
        Ok(Self { packs, index, claims, writers, cipher, compressor, buffer, proof, copy })
    }

    /// True if the blob is new and this thread is to write it.
    pub fn claim(&self, kind: BlobKind, blob: Hash) -> bool {
        self.claims.claim(self.index, kind, blob)
    }

    /// Writes a blob that was claimed.
    ///
    /// # Errors
    /// It does not open again to what its hash says, or the store refuses.
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
        self.copy.clear();
        self.copy.extend_from_slice(bytes);
        let uncompressed = if compressed { content.len() } else { 0 };
        self.proof.open(&mut self.copy, uncompressed, &blob).map_err(|Changed| {
            Failure::new(
                FailureKind::Other,
                format!(
                    "blob {blob:?} does not open again as it was read, so it was not written: it was changed in memory"
                ),
            )
            .hint("test the memory of this host; what was captured before is not affected by this")
        })?;
        let added =
            self.packs.add(&Sealed { kind, blob, bytes, length: content.len() as u64, compressed }, &self.writers);
        for buffer in [&mut self.buffer, &mut self.copy, &mut self.proof.content] {
            let_go_if_large(buffer);
        }
        added
    }
}

/// Lets go of a buffer that a long blob made large: else each of them would grow with the longest blob that it ever met,
/// and the memory of a capture with its length.
pub fn let_go_if_large(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

/// Opens sealed blobs; each thread has its own.
struct Opener {
    cipher: Cipher,
    decompressor: Decompressor<'static>,
    content: Vec<u8>,
}

/// A blob does not open to what its hash says.
#[derive(Debug)]
struct Changed;

impl Opener {
    /// Fails only for want of memory.
    fn new(cipher: Cipher) -> Result<Self, Failure> {
        let decompressor = Decompressor::new()
            .map_err(|error| Failure::new(FailureKind::Other, format!("cannot set up decompression: {error}")))?;
        Ok(Self { cipher, decompressor, content: Vec::new() })
    }

    /// Opens in place. `uncompressed` is the length of the content; 0: it was not compressed.
    fn open<'a>(&'a mut self, sealed: &'a mut [u8], uncompressed: usize, blob: &Hash) -> Result<&'a [u8], Changed> {
        let plain = self.cipher.open(sealed).map_err(|_| Changed)?;
        let content = if uncompressed == 0 {
            plain
        } else {
            self.content.clear();
            self.content.reserve(uncompressed);
            self.decompressor.decompress_to_buffer(plain, &mut self.content).map_err(|_| Changed)?;
            &self.content
        };
        if Hash::of(content) == *blob { Ok(content) } else { Err(Changed) }
    }
}

/// Reads blobs; each thread has its own.
pub struct BlobReader<'a> {
    backend: &'a Backend,
    index: &'a Index,
    opener: Opener,
    sealed: Vec<u8>,
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
        Ok(Self { backend, index, opener: Opener::new(cipher)?, sealed: Vec::new(), windows: Vec::new() })
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
        self.opener
            .open(&mut self.sealed, location.uncompressed as usize, blob)
            .map_err(|Changed| damaged(&format!("in pack {pack:?} was changed since it was written")))
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustic_core::repofile::MasterKey;

    use super::{super::packs::Added, *};
    use crate::mover::{job::Place, store::Store};

    #[test]
    fn a_blob_that_memory_changed_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Directory(directory.path().to_owned());
        let backend = Backend::new(Store::at(&place).unwrap(), None, backend::FirstFailure::default());
        let cipher = Cipher::new(&MasterKey::default()).unwrap();
        let (mut config, index, claims) = (ConfigFile::default(), Index::default(), Claims::default());
        config.version = 2;
        let packs = Packs::new(&backend, cipher.clone(), &config, &index);
        let (full, _written) = mpsc::sync_channel(1);
        let mut writer = BlobWriter::new(&packs, &index, &claims, full, cipher, &config).unwrap();

        let content = b"a line that is compressed ".repeat(100);
        let blob = Hash::of(&content);
        // It is hashed, and a bit of it flips before it is stored: where it is compressed, and where it cannot be.
        let mut flipped = content.clone();
        flipped[1000] ^= 1;
        for (blob, flipped) in [(blob, flipped.as_slice()), (Hash::of(b"a"), b"c")] {
            let failure = writer.write(BlobKind::Data, blob, flipped).unwrap_err();
            assert!(failure.message.contains("was not written"), "{failure:?}");
        }
        assert_eq!(packs.added(BlobKind::Data), Added::default());
        writer.write(BlobKind::Data, blob, &content).unwrap();
        assert_eq!(packs.added(BlobKind::Data).blobs, 1);
    }

    #[test]
    fn whatever_is_changed_in_a_sealed_blob_is_seen() {
        let cipher = Cipher::new(&MasterKey::default()).unwrap();
        let mut opener = Opener::new(cipher.clone()).unwrap();
        let content = b"a line that is compressed ".repeat(100);
        let (blob, length) = (Hash::of(&content), content.len());
        let compressed = zstd::bulk::compress(&content, 3).unwrap();
        let mut opens = |plain: &[u8], uncompressed: usize, flip: Option<usize>| {
            let mut sealed = cipher.sealed(plain).unwrap();
            if let Some(place) = flip {
                sealed[place] ^= 1;
            }
            opener.open(&mut sealed, uncompressed, &blob).is_ok()
        };
        assert!(opens(&content, 0, None) && opens(&compressed, length, None));
        assert!(!opens(&compressed, length, Some(20)), "sealed wrongly");
        assert!(!opens(&compressed[1..], length, None), "compressed wrongly");
        assert!(!opens(&content[1..], 0, None), "not what was hashed");
    }
}
