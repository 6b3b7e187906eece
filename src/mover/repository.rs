//! A restic-format repository. The only module that imports rustic_core.
//!
//! rustic_core has no locks and ignores errors of what it reads; what is done about both stands in `backend`, `files`
//! and `streams`. It must not: delete a pack at once, or follow options from a document.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use rustic_core::{
    CheckOptions, CheckResults, ConfigOptions, Credentials, FileType, Id, KeyOptions, OpenStatus, PruneOptions,
    PrunePlan, ReadBackend as _, ReadSubsetOption, RepositoryBackends, RepositoryOptions, RusticError,
    WriteBackend as _,
    repofile::{MasterKey, SnapshotFile, SnapshotId},
};

use super::{
    job::{Failure, FailureKind, Place, RepositoryAccess, Snapshot},
    progress::Reporter,
    store::Store,
};

mod backend;
mod blobs;
mod capture;
mod chunks;
mod entry;
mod files;
mod hash;
mod index;
mod key;
mod label;
mod meter;
mod node;
mod packs;
mod pipeline;
mod previous;
mod relied;
mod seal;
mod snapshot;
mod streams;
mod trees;
mod work;
pub mod xattrs;

use backend::{Backend, FirstFailure};
pub use capture::Captured;
pub use entry::{Content, Entry, EntryKind};
use hash::Hash;
use index::{Detail, Index};
use seal::Cipher;
pub use snapshot::{Contents, OpenSnapshot};

/// Check tells at most this many findings in its failure.
const FINDINGS: usize = 5;
/// How often a check is begun that breaks down for want of time.
const CHECK_ATTEMPTS: u32 = 5;

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    name: String,
    inner: rustic_core::Repository<OpenStatus>,
    backend: Arc<Backend>,
    reporter: Reporter,
}

/// How a job reaches a repository, besides the repository itself.
#[derive(Debug)]
pub struct Conditions {
    /// Where the index may be cached.
    pub cache_directory: Option<PathBuf>,
    /// Upload at most this many bytes each second.
    pub bandwidth_bytes_per_second: Option<u64>,
    /// Where progress is told.
    pub reporter: Reporter,
}

impl Repository {
    /// Makes the repository if there is none; true if so. Where there is one, the password must open it.
    ///
    /// # Errors
    /// Something else is there, or as [`Repository::open`].
    pub fn initialise(access: &RepositoryAccess, conditions: Conditions) -> Result<bool, Failure> {
        let (inner, backend) = connect(access, &conditions)?;
        if has_config(&backend)? {
            return Self::open(access, conditions).map(|_| false);
        }
        let store = backend.store();
        // A try that ended between its first key and the config left nothing but empty directories and that key.
        if !store.is_vacant().map_err(|error| error.failure())? && !is_unfinished(&backend)? {
            return Err(Failure::new(
                FailureKind::DestinationRefused,
                format!("{} is not empty and no repository; nothing was written there", store.location()),
            )
            .hint("name an empty place in the Repository document"));
        }
        let master = MasterKey::new();
        let file = key::sealed(&master, access.password.expose())
            .map_err(|error| Failure::new(FailureKind::Other, error.to_string()))?;
        let failed = |error: Box<RusticError>| backend::failure(&error, backend.failure());
        // Before the config: what has one is a repository, and must have a key.
        backend.create().map_err(failed)?;
        let id = Id::from(Hash::of(&file));
        backend.write_bytes(FileType::Key, &id, false, Bytes::from(file).into()).map_err(failed)?;
        inner
            .init(&Credentials::Masterkey(master), &KeyOptions::default(), &ConfigOptions::default())
            .map_err(failed)?;
        Ok(true)
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// There is none, the password is wrong, or the store refuses.
    pub fn open(access: &RepositoryAccess, conditions: Conditions) -> Result<Self, Failure> {
        let (inner, backend) = connect(access, &conditions)?;
        if !has_config(&backend)? {
            return Err(Failure::new(
                FailureKind::RepositoryMissing,
                format!("there is no repository `{}` at {}", access.name, backend.store().location()),
            ));
        }
        let keys = backend.list(FileType::Key).map_err(|error| backend::failure(&error, backend.failure()))?;
        if keys.is_empty() {
            return Err(Failure::new(
                FailureKind::RepositoryDamaged,
                format!("the repository at {} has lost its keys", backend.store().location()),
            )
            .hint("put the files of its directory `keys` back from a copy"));
        }
        let inner = inner.open(&Credentials::password(access.password.expose())).map_err(|error| {
            let mut failure = backend::failure(&error, backend.failure());
            if failure.kind == FailureKind::WrongPassword {
                failure.message = format!(
                    "the password does not open the repository `{}` at {}",
                    access.name,
                    backend.store().location()
                );
            }
            failure
        })?;
        Ok(Self { name: access.name.clone(), inner, backend, reporter: conditions.reporter })
    }

    /// The snapshots that carry our label, oldest first.
    ///
    /// # Errors
    /// Any of them cannot be read.
    pub fn list(&self) -> Result<Vec<Snapshot>, Failure> {
        let mut snapshots = Vec::new();
        for file in self.snapshot_files()? {
            let tags: Vec<&str> = file.tags.iter().map(String::as_str).collect();
            let Some(label) = label::read(&tags, &file.hostname) else { continue };
            let summary = file.summary.as_ref();
            snapshots.push(Snapshot {
                id: file.id.to_hex().as_str().to_owned(),
                label,
                time: file.time.timestamp(),
                size_bytes: summary.map_or(0, |summary| summary.total_bytes_processed),
                added_bytes: summary.map_or(0, |summary| summary.data_added),
                files: summary.map_or(0, |summary| summary.total_files_processed),
            });
        }
        snapshots.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
        Ok(snapshots)
    }

    /// Removes snapshots; those that are gone already are not counted.
    ///
    /// # Errors
    /// An id is none, or the store refuses.
    pub fn forget(&self, ids: &[String]) -> Result<usize, Failure> {
        let mut wanted = Vec::new();
        for id in ids {
            let id: SnapshotId = id.parse().map_err(|_| {
                Failure::new(FailureKind::Other, format!("`{id}` is not the id of a snapshot"))
                    .hint("name snapshots by their 64 hex digits")
            })?;
            wanted.push(id);
        }
        let there: Vec<SnapshotId> = self.inner.list::<SnapshotId>().map_err(|error| self.failed(&error))?.collect();
        wanted.retain(|id| there.contains(id));
        wanted.sort_unstable();
        wanted.dedup();
        if !wanted.is_empty() {
            self.inner.delete_snapshots(&wanted).map_err(|error| self.failed(&error))?;
        }
        Ok(wanted.len())
    }

    /// Reclaims space in two phases: what nothing refers to is marked, and deleted by a later prune, 23 hours after.
    /// A capture that runs meanwhile may still use what is marked. Returns the bytes that are freed now or then.
    ///
    /// # Errors
    /// The repository is damaged, or the store refuses.
    pub fn prune(&self) -> Result<u64, Failure> {
        let options = PruneOptions::default();
        let plan: PrunePlan = self.inner.prune_plan(&options).map_err(|error| self.failed(&error))?;
        let sizes = plan.stats.size_sum();
        let freed = sizes.remove + sizes.repackrm + plan.stats.size_unref;
        self.inner.prune(&options, plan).map_err(|error| self.failed(&error))?;
        Ok(freed)
    }

    /// Checks the structure, and reads back a share of the data. Returns the bytes read back.
    ///
    /// # Errors
    /// Damage was found.
    pub fn check(&self, read_data_percent: f64) -> Result<u64, Failure> {
        let mut options = CheckOptions::default().trust_cache(true);
        if read_data_percent > 0.0 {
            let subset = if read_data_percent >= 100.0 {
                ReadSubsetOption::All
            } else {
                ReadSubsetOption::Percentage(read_data_percent)
            };
            options = options.read_data(true).read_data_subset(subset);
        }
        let before = self.backend.pack_bytes_read();
        let results = self.check_patiently(options)?.map_err(|error| {
            let mut failure = self.failed(&error);
            if failure.kind == FailureKind::Other {
                failure.kind = FailureKind::RepositoryDamaged;
            }
            failure
        })?;
        let mut findings = Vec::new();
        for (level, finding) in &results.0 {
            // rustic_core does not export the type of the level.
            if format!("{level:?}") == "Warn" {
                self.reporter.warn(sentence(&finding.to_string()));
            } else {
                findings.push(sentence(&finding.to_string()));
            }
        }
        if findings.is_empty() {
            return Ok(self.backend.pack_bytes_read() - before);
        }
        let more = findings.len().saturating_sub(FINDINGS);
        findings.truncate(FINDINGS);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(Failure::new(
            FailureKind::RepositoryDamaged,
            format!("the repository `{}` is damaged: {}{more}", self.name, findings.join("; ")),
        )
        .hint("make new restore points in another repository, and keep this one as it is until you know more"))
    }

    /// rustic_core 0.13 panics ("index still in use") where its own threads take longer than 100 ms to end, as they do
    /// on a busy host. Nothing was written, so it is simply looked at again.
    fn check_patiently(&self, options: CheckOptions) -> Result<Result<CheckResults, Box<RusticError>>, Failure> {
        for _ in 0..CHECK_ATTEMPTS {
            let attempt = std::panic::AssertUnwindSafe(|| self.inner.check(options));
            if let Ok(results) = std::panic::catch_unwind(attempt) {
                return Ok(results);
            }
        }
        Err(Failure::new(
            FailureKind::Other,
            format!("the repository `{}` could not be checked: the check itself broke down", self.name),
        )
        .hint("verify it again when this host is less busy; this says nothing about the repository"))
    }

    /// Opens a snapshot for reading.
    ///
    /// # Errors
    /// It is not there, or the store refuses.
    pub fn snapshot(self, id: &str) -> Result<OpenSnapshot, Failure> {
        let file =
            self.snapshot_files()?.into_iter().find(|file| file.id.to_hex().as_str() == id).ok_or_else(|| {
                Failure::new(FailureKind::Other, format!("there is no snapshot {id} in the repository `{}`", self.name))
                    .hint("see `mainstay points` for those that are there")
            })?;
        let index = Index::read(&self.inner, Detail::Where, self.backend.failure())?;
        let cipher = self.cipher()?;
        Ok(OpenSnapshot::new(self.backend, cipher, index, &file, self.reporter))
    }

    fn cipher(&self) -> Result<Cipher, Failure> {
        Cipher::new(&self.inner.key()).map_err(|error| Failure::new(FailureKind::RepositoryDamaged, error.to_string()))
    }

    fn snapshot_files(&self) -> Result<Vec<SnapshotFile>, Failure> {
        self.inner.get_all_snapshots().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &RusticError) -> Failure {
        backend::failure(error, self.backend.failure())
    }
}

fn connect(
    access: &RepositoryAccess,
    conditions: &Conditions,
) -> Result<(rustic_core::Repository<()>, Arc<Backend>), Failure> {
    let store = Store::at(&access.place).map_err(|error| error.failure())?;
    let backend = Arc::new(Backend::new(store, conditions.bandwidth_bytes_per_second, FirstFailure::default()));
    // A cache of what lies on this host would only be a second copy.
    let cache = match &access.place {
        Place::Directory(_) => None,
        Place::S3 { .. } => conditions.cache_directory.clone(),
    };
    let options = match cache {
        Some(directory) => RepositoryOptions::default().cache_dir(directory),
        None => RepositoryOptions::default().no_cache(true),
    };
    let backends = RepositoryBackends::new(backend.clone(), None);
    let meters = meter::Meters::new(conditions.reporter.clone());
    let inner = rustic_core::Repository::new_with_progress(&options, &backends, meters)
        .map_err(|error| backend::failure(&error, backend.failure()))?;
    Ok((inner, backend))
}

fn has_config(backend: &Backend) -> Result<bool, Failure> {
    let configs = backend.list(FileType::Config).map_err(|error| backend::failure(&error, backend.failure()))?;
    Ok(!configs.is_empty())
}

/// Whether a place holds what an interrupted initialisation leaves, and no data.
fn is_unfinished(backend: &Backend) -> Result<bool, Failure> {
    for tpe in [FileType::Key, FileType::Snapshot, FileType::Index, FileType::Pack] {
        match backend.list(tpe) {
            Ok(files) if files.is_empty() || tpe == FileType::Key => {}
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// A finding of rustic_core in one line: its errors are pages, of which only the messages are for people.
fn sentence(finding: &str) -> String {
    let mut lines = finding.lines();
    let head = lines.next().unwrap_or_default();
    let head = head.split("`rustic_core` experienced").next().unwrap_or_default().trim_end_matches([' ', ':']);
    let mut parts = vec![head.to_owned()];
    while let Some(line) = lines.next() {
        if line.trim() == "Message:" {
            parts.extend(lines.next().map(|message| message.trim().trim_end_matches('.').to_owned()));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join(": ")
}
