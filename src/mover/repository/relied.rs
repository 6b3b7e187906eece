//! What a snapshot relies on, looked at once more before it is written.
//!
//! A capture writes only what the index did not name when it began. A prune that another process carries out meanwhile
//! knows nothing of that snapshot: it takes data that no snapshot refers to yet for unused, and marks its packs, so that
//! the index no longer names them. They are deleted by a later prune, 23 hours after. So what is marked is still there,
//! and is put back into the index; what is not there any more fails the capture, and the next one stores it again. A
//! prune that comes after the snapshot sees what it refers to, however long the capture took.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rustic_core::{
    FileType, ReadBackend as _,
    repofile::{BlobType, IndexFile, IndexId, IndexPack},
};

use super::{
    Repository, backend,
    hash::Hash,
    index::{BlobKind, Detail, Index},
    packs::write_index,
    pipeline::Written,
};
use crate::mover::job::{Failure, FailureKind};

/// So often an index that others change is looked at.
const LOOKS: usize = 5;

/// What a snapshot relies on.
#[derive(Debug)]
pub struct Relied {
    /// The index when the capture began.
    index: Index,
    written: Written,
}

impl Relied {
    /// On what a capture found, and on what it wrote.
    pub fn of(index: Index, written: Written) -> Self {
        Self { index, written }
    }
}

impl Repository {
    /// Makes sure that the repository still holds what a snapshot relies on.
    ///
    /// # Errors
    /// Something of it is gone for good, or the store refuses.
    pub(super) fn secure(&self, relied: Relied) -> Result<(), Failure> {
        let Relied { index, written } = relied;
        let mut expected: Vec<Hash> = index.files().to_vec();
        expected.extend(written.index_files);
        // An index file never changes, so nothing was taken away while all of them are there.
        if self.has_index_files(&expected)? {
            return Ok(());
        }
        let blobs: Vec<(BlobKind, Hash)> = index.relied_on().chain(written.claims.into_blobs()).collect();
        drop(index);
        for _ in 0..LOOKS {
            let now = Index::read(&self.inner, Detail::WhetherThere, self.backend.failure())?;
            let lost: BTreeSet<(BlobKind, Hash)> =
                blobs.iter().copied().filter(|(kind, blob)| !now.holds(*kind, blob)).collect();
            let mut expected = now.files().to_vec();
            if !lost.is_empty() {
                self.reporter.warn(format!(
                    "a prune took {} pieces for unused that this capture relies on; they were put back into the index. \
                     Let no other program prune this repository",
                    lost.len()
                ));
                expected.push(self.put_back(lost)?);
            }
            if self.has_index_files(&expected)? {
                return Ok(());
            }
        }
        Err(Failure::new(
            FailureKind::Other,
            format!("the index of the repository `{}` is being changed all the time; nothing was recorded", self.name),
        )
        .hint("let only Mainstay prune it; the next run tries again"))
    }

    fn has_index_files(&self, expected: &[Hash]) -> Result<bool, Failure> {
        let there: BTreeSet<Hash> =
            self.inner.list::<IndexId>().map_err(|error| self.failed(&error))?.map(|id| Hash::from(*id)).collect();
        Ok(expected.iter().all(|file| there.contains(file)))
    }

    /// Names packs in the index again that are marked for deletion. Where a pack is both, the next prune takes the mark
    /// away.
    fn put_back(&self, mut lost: BTreeSet<(BlobKind, Hash)>) -> Result<Hash, Failure> {
        let failed = |error: Box<rustic_core::RusticError>| backend::failure(&error, self.backend.failure());
        let there: BTreeSet<Hash> =
            self.backend.list(FileType::Pack).map_err(failed)?.into_iter().map(Hash::from).collect();
        let mut back = IndexFile::default();
        for file in self.inner.stream_files::<IndexFile>().map_err(failed)? {
            let (_, file) = file.map_err(failed)?;
            for pack in file.packs_to_delete.into_iter().filter(|pack| there.contains(&(*pack.id).into())) {
                let before = lost.len();
                for blob in &pack.blobs {
                    let kind = match blob.tpe {
                        BlobType::Data => BlobKind::Data,
                        BlobType::Tree => BlobKind::Tree,
                    };
                    lost.remove(&(kind, Hash::from(*blob.id)));
                }
                if lost.len() < before {
                    // Prune goes by the age of a pack.
                    back.packs.push(IndexPack { time: Some(Timestamp::now()), ..pack });
                }
            }
        }
        if !lost.is_empty() {
            return Err(Failure::new(
                FailureKind::Other,
                format!("a prune took {} pieces away while they were captured; the snapshot was not made", lost.len()),
            )
            .hint("the next run stores them again; let only Mainstay prune this repository"));
        }
        let text = serde_json::to_string(&back)
            .map_err(|error| Failure::new(FailureKind::Other, format!("cannot write the index: {error}")))?;
        write_index(&self.backend, &self.cipher()?, self.inner.config().version > 1, text)
    }
}
