//! Which blobs a repository holds, and where.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use rustic_core::{
    OpenStatus,
    repofile::{BlobType, IndexBlob, IndexFile, IndexPack},
};

use super::{backend, hash::Hash};
use crate::mover::job::Failure;

/// The two kinds of blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    packs: Vec<Hash>,
    /// Where the last blob of each pack ends.
    ends: Vec<u32>,
    /// Sorted, as all of these.
    trees: Vec<Location>,
    data: Vec<Location>,
    only_data: Vec<Hash>,
    data_bytes: u64,
    tree_bytes: u64,
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
            let (_, file) = file.map_err(failed)?;
            for pack in file.packs {
                index.add(&pack, detail);
            }
        }
        index.trees.sort_unstable_by_key(|location| location.blob);
        index.data.sort_unstable_by_key(|location| location.blob);
        index.only_data.sort_unstable();
        index.only_data.dedup();
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
        !index.holds(kind, &blob) && claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(blob)
    }
}
