//! The store as rustic_core sees it, with a gate in front: after any failure no snapshot is written any more.
//!
//! The gate is what makes "a failed capture never becomes a restore point" true, whoever forgets an error on the way.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};

use crate::mover::{
    job::{Failure, FailureKind},
    store::{FileKind, Store, StoreError},
};

/// The first failure of a job, whichever thread it happened in. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FirstFailure(Arc<Mutex<Option<Failure>>>);

impl FirstFailure {
    /// Keeps a failure if it is the first one.
    pub fn record(&self, failure: Failure) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    /// Whether there was one.
    pub fn happened(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The failure, if there was one.
    pub fn get(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A store behind the gate.
#[derive(Debug)]
pub struct Backend {
    store: Store,
    bandwidth: Option<Bandwidth>,
    failure: FirstFailure,
    pack_bytes_read: AtomicU64,
    last_snapshot: Mutex<Option<String>>,
}

impl Backend {
    /// Puts the gate in front of a store.
    pub fn new(store: Store, bytes_per_second: Option<u64>, failure: FirstFailure) -> Self {
        Self {
            store,
            bandwidth: bytes_per_second.filter(|rate| *rate > 0).map(Bandwidth::new),
            failure,
            pack_bytes_read: AtomicU64::new(0),
            last_snapshot: Mutex::new(None),
        }
    }

    /// The store itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The first failure of the store, or of whoever else shares it.
    pub fn failure(&self) -> &FirstFailure {
        &self.failure
    }

    /// The id of the snapshot that was written last; rustic_core does not return it.
    pub fn last_snapshot(&self) -> Option<String> {
        self.last_snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of packs that were read so far.
    pub fn pack_bytes_read(&self) -> u64 {
        self.pack_bytes_read.load(Ordering::Relaxed)
    }

    fn told(&self, error: StoreError) -> Box<RusticError> {
        let failure = error.failure();
        let told = RusticError::new(ErrorKind::Backend, failure.message.clone());
        self.failure.record(failure);
        told
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.store.location()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let kind = file_kind(tpe);
        let listed = self.store.list(kind).map_err(|error| self.told(error))?;
        let mut files = Vec::with_capacity(listed.len());
        for (name, size) in listed {
            let id = if kind == FileKind::Config { Some(Id::default()) } else { name.parse().ok() };
            // Names that are no ids are not ours, say `.DS_Store`.
            let Some(id) = id else { continue };
            let size = u32::try_from(size).map_err(|_| {
                self.told(StoreError::Refused {
                    operation: "use",
                    object: name,
                    source: "it is larger than 4 GiB; no file of a repository is".into(),
                })
            })?;
            files.push((id, size));
        }
        Ok(files)
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        let content = self.store.read(file_kind(tpe), id.to_hex().as_str()).map_err(|error| self.told(error))?;
        if tpe == FileType::Pack {
            self.pack_bytes_read.fetch_add(content.len() as u64, Ordering::Relaxed);
        }
        Ok(content)
    }

    fn read_partial(&self, tpe: FileType, id: &Id, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        let content = self
            .store
            .read_range(file_kind(tpe), id.to_hex().as_str(), offset.into(), length.into())
            .map_err(|error| self.told(error))?;
        if tpe == FileType::Pack {
            self.pack_bytes_read.fetch_add(content.len() as u64, Ordering::Relaxed);
        }
        Ok(content)
    }

    fn warmup_path(&self, _: FileType, id: &Id) -> String {
        id.to_hex().as_str().to_owned()
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.store.create().map_err(|error| self.told(error))
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        if tpe == FileType::Snapshot
            && let Some(failure) = self.failure.get()
        {
            return Err(RusticError::new(ErrorKind::Other, failure.message));
        }
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.wait_for(content.size() as u64);
        }
        self.store.write(file_kind(tpe), id.to_hex().as_str(), content.into_vec()).map_err(|error| self.told(error))?;
        if tpe == FileType::Snapshot {
            let id = id.to_hex().as_str().to_owned();
            *self.last_snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
        Ok(())
    }

    fn remove(&self, tpe: FileType, id: &Id, _: bool) -> RusticResult<()> {
        self.store.remove(file_kind(tpe), id.to_hex().as_str()).map_err(|error| self.told(error))
    }
}

/// The failure that a job ends with: that of the store if it was the store's, else what rustic_core says.
pub fn failure(error: &RusticError, first: &FirstFailure) -> Failure {
    if error.is_incorrect_password() {
        return Failure::new(FailureKind::WrongPassword, "the password does not open the repository");
    }
    if let Some(failure) = first.get() {
        return failure;
    }
    let text = error.display_log();
    let text = text.strip_prefix("Error: ").unwrap_or(&text).to_owned();
    // C001 and C003: what was read does not decrypt, or is not what its id says.
    let damaged = error.is_code("C001")
        || error.is_code("C003")
        || text.contains("kind: related to cryptographic")
        || text.contains("not found in index");
    Failure::new(if damaged { FailureKind::RepositoryDamaged } else { FailureKind::Other }, text)
}

const fn file_kind(tpe: FileType) -> FileKind {
    match tpe {
        FileType::Config => FileKind::Config,
        FileType::Key => FileKind::Key,
        FileType::Snapshot => FileKind::Snapshot,
        FileType::Index => FileKind::Index,
        FileType::Pack => FileKind::Pack,
    }
}

/// Spreads what is written over time: each write waits until the ones before it are paid for.
#[derive(Debug)]
struct Bandwidth {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Bandwidth {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    fn wait_for(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = Instant::now();
        let start = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(now);
            *free_at = start + cost;
            start
        };
        std::thread::sleep((start + cost).saturating_duration_since(now));
    }
}
