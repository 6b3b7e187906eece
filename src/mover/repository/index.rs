//! Which blobs a repository holds, and where.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustic_core::{
    OpenStatus,
    repofile::{BlobType, IndexBlob, IndexFile, IndexPack},
};

use super::{backend, hash::Hash, seal::SEAL_BYTES};
use crate::mover::job::Failure;

/// The two kinds of blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The blob.
    pub blob: Hash,
    /// The number of the pack in the index.
    pack: u32,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Its length there.
    pub length: u32,
    /// Its length before it was compressed; 0: it was not.
    pub uncompressed: u32,
}

impl Location {
    /// How long the blob is when it is read.
    pub fn content_bytes(&self) -> u64 {
        let stored = self.length.saturating_sub(SEAL_BYTES as u32);
        u64::from(if self.uncompressed == 0 { stored } else { self.uncompressed })
    }
}

/// What is kept of the index of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Only whether a piece of data is there; enough to write, and a third less memory.
    WhetherThere,
    /// Where everything is.
    Where,
}

/// Which blobs a repository held when it was opened. What a prune has marked for deletion does not count.
#[derive(Debug, Default)]
pub struct Index {
    /// What it was read from.
    files: Vec<Hash>,
    packs: Vec<Hash>,
    /// Where the last blob of each pack ends.
    ends: Vec<u32>,
    /// Sorted, as all of these.
    trees: Vec<Location>,
    data: Vec<Location>,
    only_data: Vec<Hash>,
    data_bytes: u64,
    tree_bytes: u64,
    /// Which of `trees` and of `only_data` a capture relies on.
    relied: [Marks; 2],
}

/// One bit for each entry of a list, set by many threads.
#[derive(Debug, Default)]
struct Marks(Vec<AtomicU64>);

impl Marks {
    fn new(length: usize) -> Self {
        Self((0..length.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn set(&self, place: usize) {
        let bit = 1 << (place % 64);
        // Most are set more than once: looking is cheaper than writing what other threads look at.
        if let Some(marks) = self.0.get(place / 64).filter(|marks| marks.load(Ordering::Relaxed) & bit == 0) {
            marks.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn is_set(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|marks| marks.load(Ordering::Relaxed) & (1 << (place % 64)) != 0)
    }
}

impl Index {
    /// Reads the index of a repository.
    ///
    /// # Errors
    /// A file of it cannot be read.
    pub fn read(
        repository: &rustic_core::Repository<OpenStatus>,
        detail: Detail,
        first: &backend::FirstFailure,
    ) -> Result<Self, Failure> {
        let failed = |error: Box<rustic_core::RusticError>| backend::failure(&error, first);
        let mut index = Self::default();
        for file in repository.stream_files::<IndexFile>().map_err(failed)? {
            let (id, file) = file.map_err(failed)?;
            index.files.push((*id).into());
            for pack in file.packs {
                index.add(&pack, detail);
            }
        }
        index.trees.sort_unstable_by_key(|location| location.blob);
        index.data.sort_unstable_by_key(|location| location.blob);
        index.only_data.sort_unstable();
        index.only_data.dedup();
        index.relied = [Marks::new(index.trees.len()), Marks::new(index.only_data.len())];
        Ok(index)
    }

    fn add(&mut self, pack: &IndexPack, detail: Detail) {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push((*pack.id).into());
        let end = |blob: &IndexBlob| blob.location.offset.saturating_add(blob.location.length);
        self.ends.push(pack.blobs.iter().map(end).max().unwrap_or_default());
        for IndexBlob { id, tpe, location } in &pack.blobs {
            let blob = Hash::from(**id);
            let found = Location {
                blob,
                pack: number,
                offset: location.offset,
                length: location.length,
                uncompressed: location.uncompressed_length.map_or(0, u32::from),
            };
            match (tpe, detail) {
                (BlobType::Tree, _) => {
                    self.tree_bytes += u64::from(location.length);
                    self.trees.push(found);
                }
                (BlobType::Data, Detail::Where) => self.data.push(found),
                (BlobType::Data, Detail::WhetherThere) => {
                    self.data_bytes += u64::from(location.length);
                    self.only_data.push(blob);
                }
            }
        }
    }

    /// Whether a blob is there.
    pub fn holds(&self, kind: BlobKind, blob: &Hash) -> bool {
        match kind {
            BlobKind::Tree => self.find(kind, blob).is_some(),
            BlobKind::Data => self.only_data.binary_search(blob).is_ok() || self.find(kind, blob).is_some(),
        }
    }

    /// Whether a blob is there, for a capture that then relies on it. The index was read with [`Detail::WhetherThere`].
    pub fn rely_on(&self, kind: BlobKind, blob: &Hash) -> bool {
        let [trees, data] = &self.relied;
        let (place, relied) = match kind {
            BlobKind::Tree => (self.trees.binary_search_by_key(blob, |location| location.blob), trees),
            BlobKind::Data => (self.only_data.binary_search(blob), data),
        };
        if let Ok(place) = place {
            relied.set(place);
        }
        place.is_ok()
    }

    /// The blobs that a capture relies on.
    pub fn relied_on(&self) -> impl Iterator<Item = (BlobKind, Hash)> + '_ {
        let [relied_trees, relied_data] = &self.relied;
        let trees = self.trees.iter().map(|location| location.blob).enumerate();
        let trees = trees.filter(|(place, _)| relied_trees.is_set(*place)).map(|(_, blob)| (BlobKind::Tree, blob));
        let data = self.only_data.iter().copied().enumerate();
        let data = data.filter(|(place, _)| relied_data.is_set(*place)).map(|(_, blob)| (BlobKind::Data, blob));
        trees.chain(data)
    }

    /// The files that it was read from.
    pub fn files(&self) -> &[Hash] {
        &self.files
    }

    /// Where a blob is; of data only if the index was read with [`Detail::Where`].
    pub fn find(&self, kind: BlobKind, blob: &Hash) -> Option<Location> {
        let locations = match kind {
            BlobKind::Tree => &self.trees,
            BlobKind::Data => &self.data,
        };
        let place = locations.binary_search_by_key(blob, |location| location.blob).ok()?;
        locations.get(place).copied()
    }

    /// The pack that a location is in.
    pub fn pack(&self, location: &Location) -> Option<Hash> {
        self.packs.get(usize::try_from(location.pack).ok()?).copied()
    }

    /// Where the last blob ends of the pack that a location is in.
    pub fn pack_end(&self, location: &Location) -> u32 {
        usize::try_from(location.pack).ok().and_then(|pack| self.ends.get(pack).copied()).unwrap_or_default()
    }

    /// How much the blobs of a kind take in the repository.
    pub fn bytes(&self, kind: BlobKind) -> u64 {
        match kind {
            BlobKind::Tree => self.tree_bytes,
            BlobKind::Data => self.data_bytes,
        }
    }
}

/// Blobs that a capture has taken on to write, so that each is written once.
#[derive(Debug, Default)]
pub struct Claims {
    data: Mutex<HashSet<Hash>>,
    trees: Mutex<HashSet<Hash>>,
}

impl Claims {
    /// True if the caller is the one who must write the blob.
    pub fn claim(&self, index: &Index, kind: BlobKind, blob: Hash) -> bool {
        let claimed = match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        };
        !index.rely_on(kind, &blob) && claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(blob)
    }

    /// What was taken on.
    pub fn into_blobs(self) -> impl Iterator<Item = (BlobKind, Hash)> {
        let all = |blobs: Mutex<HashSet<Hash>>| blobs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let data = all(self.data).into_iter().map(|blob| (BlobKind::Data, blob));
        data.chain(all(self.trees).into_iter().map(|blob| (BlobKind::Tree, blob)))
    }
}
