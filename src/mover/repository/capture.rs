//! Captures a source into one snapshot: finds the snapshot before, archives, and only then writes the snapshot.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use rustic_core::{
    Id, StringList,
    repofile::{SnapshotFile, SnapshotId, SnapshotSummary},
};

use super::{
    Repository, backend,
    files::{Entries, Tally},
    index::{Detail, Index},
    label,
    pipeline::{Archived, Sighted, Target, archive},
    relied::Relied,
    streams,
    trees::Counts,
};
use crate::mover::{
    job::{Failure, FailureKind, SnapshotLabel, Stream},
    walk::Roots,
};

/// What a capture made.
#[derive(Debug)]
pub struct Captured {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Bytes that a restore writes.
    pub size_bytes: u64,
    /// Bytes that were new to the repository.
    pub added_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Files that could not be read and are not in it.
    pub unreadable: u64,
}

impl Repository {
    /// Captures files.
    ///
    /// # Errors
    /// A path of the source cannot be read at all, or has no file any more; a file is missing from the snapshot for
    /// another reason than that it could not be read; or the store refuses. There is no snapshot then.
    pub fn capture_files(self, label: &SnapshotLabel, time: Timestamp, roots: &Roots) -> Result<Captured, Failure> {
        let tally = Tally::new(self.reporter.clone(), roots.paths());
        let mut snapshot = self.new_snapshot(label, time, label::PATHS, roots.paths())?;
        let (archived, before, relied) = self.archive(&mut snapshot, Entries::new(roots, tally.clone()))?;
        if let Some(lost) = tally.lost_root() {
            return Err(Failure::new(
                FailureKind::SourceFailed,
                format!("{lost}; there is no restore point without it"),
            )
            .hint("see whether it is there and may be read by the user that Mainstay runs as"));
        }
        let (made, expected) = (archived.counts.files(), tally.expected());
        if made != expected {
            return Err(Failure::new(
                FailureKind::Other,
                format!("{expected} files were read, but {made} would be in the snapshot; it was not made"),
            ));
        }
        if made == 0 && before > 0 {
            let paths: Vec<String> = roots.paths().iter().map(|path| path.display().to_string()).collect();
            return Err(Failure::new(
                FailureKind::SourceFailed,
                format!(
                    "{} holds no file any more, and the restore point before has {before}; an empty one was not made",
                    paths.join(", ")
                ),
            )
            .hint("see whether its file system is mounted; if it is meant to be empty, put any file there"));
        }
        self.save(snapshot, &archived, relied, tally.unreadable())
    }

    /// Captures streams, all into one snapshot.
    ///
    /// # Errors
    /// A program failed or its stream is not whole, or the store refuses. There is no snapshot then.
    pub fn capture_streams(
        self,
        label: &SnapshotLabel,
        time: Timestamp,
        streams: Vec<Stream>,
    ) -> Result<Captured, Failure> {
        let count = streams.len() as u64;
        let paths: Vec<PathBuf> = streams.iter().map(|stream| Path::new("/").join(&stream.file_name)).collect();
        let mut snapshot = self.new_snapshot(label, time, label::STREAMS, &paths)?;
        let sighted = streams::sight(streams, time, self.backend.failure());
        let (archived, _, relied) = self.archive(&mut snapshot, sighted.into_iter())?;
        if archived.counts.files() != count {
            return Err(Failure::new(FailureKind::Other, "a stream is missing from the snapshot; it was not made"));
        }
        self.save(snapshot, &archived, relied, 0)
    }

    fn new_snapshot(
        &self,
        label: &SnapshotLabel,
        time: Timestamp,
        input: &str,
        paths: &[PathBuf],
    ) -> Result<SnapshotFile, Failure> {
        let mut snapshot = label::options(label, time, input).to_snapshot().map_err(|error| self.failed(&error))?;
        let mut list = StringList::default();
        for path in paths {
            let text = path.to_str().ok_or_else(|| {
                Failure::new(FailureKind::SourceFailed, format!("the path {} is no UTF-8", path.display()))
                    .hint("name a directory above it")
            })?;
            list.add(text.to_owned());
        }
        snapshot.paths = list;
        Ok(snapshot)
    }

    /// Also: how many files the snapshot before has, and what the new one relies on.
    fn archive(
        &self,
        snapshot: &mut SnapshotFile,
        source: impl Iterator<Item = Sighted>,
    ) -> Result<(Archived, u64, Relied), Failure> {
        let started = Timestamp::now();
        // The label of the snapshot names policy and source, so the newest one with it is the one before.
        let before = self
            .snapshot_files()?
            .into_iter()
            .filter(|before| before.hostname == snapshot.hostname && before.label == snapshot.label)
            .max_by_key(|before| before.time.timestamp());
        let index = Index::read(&self.inner, Detail::WhetherThere, self.backend.failure())?;
        let cipher = self.cipher()?;
        let target = Target {
            backend: &self.backend,
            cipher: &cipher,
            config: self.inner.config(),
            index: &index,
            before: before.as_ref().map(|before| (*before.tree).into()),
            reporter: &self.reporter,
        };
        let (archived, written) = archive(&target, source)?;
        snapshot.parent = before.as_ref().map(|before| before.id);
        snapshot.parents = snapshot.parent.into_iter().collect();
        snapshot.tree = Id::from(archived.root).into();
        snapshot.summary = Some(summary(&archived, started, snapshot));
        let files_before = before.and_then(|before| before.summary).map_or(0, |summary| summary.total_files_processed);
        Ok((archived, files_before, Relied::of(index, written)))
    }

    fn save(
        self,
        mut snapshot: SnapshotFile,
        archived: &Archived,
        relied: Relied,
        unreadable: u64,
    ) -> Result<Captured, Failure> {
        self.secure(relied)?;
        snapshot.id = SnapshotId::default();
        self.inner.save_snapshots(vec![snapshot]).map_err(|error| backend::failure(&error, self.backend.failure()))?;
        let missing = || Failure::new(FailureKind::Other, "the snapshot was not written");
        let Archived { root: _, counts, data, trees } = archived;
        Ok(Captured {
            snapshot: self.backend.last_snapshot().ok_or_else(missing)?,
            size_bytes: counts.bytes,
            added_bytes: data.bytes + trees.bytes,
            files: counts.files(),
            unreadable,
        })
    }
}

fn summary(archived: &Archived, started: Timestamp, snapshot: &SnapshotFile) -> SnapshotSummary {
    let Archived { root: _, counts, data, trees } = *archived;
    let Counts {
        files_new,
        files_changed,
        files_unchanged,
        bytes,
        directories_new,
        directories_changed,
        directories_unchanged,
        tree_bytes,
    } = counts;
    let ended = Timestamp::now();
    let utc = |time: Timestamp| time.to_zoned(TimeZone::UTC);
    // It cannot be written as one expression outside of its crate.
    let mut summary: SnapshotSummary = snapshot.summary.clone().unwrap_or_default();
    summary.files_new = files_new;
    summary.files_changed = files_changed;
    summary.files_unmodified = files_unchanged;
    summary.total_files_processed = counts.files();
    summary.total_bytes_processed = bytes;
    summary.dirs_new = directories_new;
    summary.dirs_changed = directories_changed;
    summary.dirs_unmodified = directories_unchanged;
    summary.total_dirs_processed = counts.directories();
    summary.total_dirsize_processed = tree_bytes;
    summary.data_blobs = data.blobs;
    summary.tree_blobs = trees.blobs;
    summary.data_added = data.bytes + trees.bytes;
    summary.data_added_packed = data.packed_bytes + trees.packed_bytes;
    summary.data_added_files = data.bytes;
    summary.data_added_files_packed = data.packed_bytes;
    summary.data_added_trees = trees.bytes;
    summary.data_added_trees_packed = trees.packed_bytes;
    summary.backup_start = utc(started);
    summary.backup_end = utc(ended);
    summary.backup_duration = ended.duration_since(started).as_secs_f64();
    summary.total_duration = summary.backup_duration;
    summary
}
