//! What a mover is asked to do, and what it answers. A boundary format (JSON on standard input and output).

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    policy::PolicyName,
    restore_point::{MakerId, RestorePointId},
    secret::Secret,
};

/// One job. `Debug` shows no secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Where the restic-format repository is, and what opens it.
    pub repository: RepositoryAccess,
    /// Where the repository's index may be cached; none: no cache.
    pub cache_directory: Option<PathBuf>,
    /// Upload at most this many bytes each second.
    pub bandwidth_bytes_per_second: Option<u64>,
    /// What to do.
    pub task: Task,
}

/// A restic-format repository and what opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryAccess {
    /// The name of the Repository document, for messages.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// What opens it.
    pub password: Secret,
}

/// Where a repository is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Place {
    /// An absolute path on this host.
    Directory(PathBuf),
    /// A prefix in a bucket.
    S3 {
        /// `https://HOST[:PORT]` or `http://…`.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// Path inside the bucket, without slashes at its ends.
        prefix: String,
        /// Region.
        region: String,
        /// Access key id.
        access_key_id: Secret,
        /// Secret access key.
        secret_access_key: Secret,
        /// File with the certificate of a private authority.
        certificate_authority: Option<PathBuf>,
    },
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Makes the repository where there is none. Where there is one, checks that the password opens it.
    Initialise,
    /// Captures one source into one snapshot.
    Capture {
        /// What the snapshot is tagged with.
        label: SnapshotLabel,
        /// The restore point's time; the snapshot carries it, in UTC.
        time: Timestamp,
        /// What to read.
        input: Input,
    },
    /// Names the repositories beside this place, which need not be there itself.
    Beside {
        /// What their names begin with.
        prefix: String,
    },
    /// Lists the snapshots of a policy (none: of all policies).
    List {
        /// Whose.
        policy: Option<PolicyName>,
    },
    /// Removes snapshots from the index; the data stays until a prune.
    Forget {
        /// Ids, 64 hex digits each. Ids that are gone already are no error.
        snapshots: Vec<String>,
    },
    /// Reclaims the space of what was forgotten, in two phases; never deletes what a running capture may use.
    Prune,
    /// Checks the repository's integrity.
    Check {
        /// Share of the stored data that is read back, 0 to 100.
        read_data_percent: f64,
    },
    /// Writes files of a snapshot back.
    RestoreFiles {
        /// Id of the snapshot.
        snapshot: String,
        /// None: where they came from. Else below this directory.
        into: Option<PathBuf>,
        /// Only these paths of the snapshot (as captured); empty: all.
        paths: Vec<PathBuf>,
        /// Overwrite what differs; else any existing file at a destination is a failure before anything is written.
        overwrite: bool,
        /// Only say what would be written.
        dry_run: bool,
    },
    /// Pipes one file of a snapshot into a program's standard input.
    RestoreStream {
        /// Id of the snapshot.
        snapshot: String,
        /// Name of the file in the snapshot.
        file_name: String,
        /// The program.
        program: Program,
        /// What must be empty before anything is written; none: that was looked after already, or does not matter.
        #[serde(default)]
        guard: Option<EmptyGuard>,
    },
    /// Writes a snapshot into a new file: all of it as `tar.gz`, or one captured stream as it was.
    Download {
        /// Id of the snapshot.
        snapshot: String,
        /// One captured stream; none: everything, as tar.gz.
        file_name: Option<String>,
        /// The file to create; it must not exist.
        output: PathBuf,
    },
    /// The same, but piece by piece as events: the file is on the host of whoever listens.
    Send {
        /// Id of the snapshot.
        snapshot: String,
        /// One captured stream; none: everything, as tar.gz.
        file_name: Option<String>,
    },
}

/// What a snapshot is tagged with, so that the repository alone tells which restore points exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLabel {
    /// Whose.
    pub policy: PolicyName,
    /// The run; also the restore point.
    pub run: RestorePointId,
    /// Which source.
    pub source: String,
    /// How many sources the restore point has; it is complete when that many snapshots carry its id.
    pub sources: usize,
    /// The name of this host or cluster.
    pub host: String,
    /// Which installation made it; none: an older version, which did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<MakerId>,
}

/// What to read.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// Files and directories.
    Paths {
        /// Absolute paths.
        paths: Vec<PathBuf>,
        /// Globs relative to each path.
        exclude: Vec<String>,
        /// Do not cross into other file systems.
        one_file_system: bool,
    },
    /// Standard output of programs, each a file of the snapshot; nothing is stored in between.
    Streams(Vec<Stream>),
}

/// A program whose standard output becomes a file of the snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Name of the file in the snapshot.
    pub file_name: String,
    /// The program.
    pub program: Program,
    /// How to see that the stream is whole, besides its exit status and that it is not empty.
    pub check: StreamCheck,
}

/// How to see that a stream is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamCheck {
    /// By exit status and length only.
    NotEmpty,
    /// The stream begins with this magic (`PGDMP`).
    StartsWith(Vec<u8>),
    /// The last line that is not blank starts with this text (`-- Dump completed`).
    LastLineStartsWith(String),
    /// The stream, white space at its end ignored, ends with this text.
    EndsWith(String),
}

/// A database that must be empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmptyGuard {
    /// Its name.
    pub database: String,
    /// Prints how many tables, views and sequences it has.
    pub program: Program,
}

/// A program to execute. No shell is involved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Argument vector.
    pub arguments: Vec<String>,
    /// Further environment variables; they may be secret.
    pub environment: BTreeMap<String, Secret>,
}

/// What a mover says while it works: one JSON object a line. The last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// How far it is; at most a few each second.
    Progress {
        /// What is done just now, in words: `reading`, `writing`, `checking`.
        step: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all, where known.
        total_bytes: Option<u64>,
    },
    /// Something a person should know; the job goes on.
    Warning(String),
    /// A piece of a file that is sent, in base64. It counts only if `Sent` follows and fits.
    Data(String),
    /// The job ended well.
    Done(Outcome),
    /// The job ended badly; nothing counts.
    Failed(Failure),
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to tell.
    Nothing,
    /// The repository was made just now (true), or was there (false).
    Initialised(bool),
    /// Names of repositories, at most 1,000.
    Beside(Vec<String>),
    /// A source was captured.
    Captured {
        /// Id of the snapshot.
        snapshot: String,
        /// Bytes that a restore writes.
        size_bytes: u64,
        /// Bytes that were new to the repository.
        added_bytes: u64,
        /// Number of files.
        files: u64,
        /// Files that could not be read and are not in it.
        unreadable: u64,
    },
    /// Snapshots, oldest first.
    Listed(Vec<Snapshot>),
    /// How many were removed.
    Forgotten(usize),
    /// Bytes that were, or after the safety time will be, freed.
    Pruned {
        /// Freed bytes.
        freed_bytes: u64,
    },
    /// The check passed.
    Checked {
        /// Bytes that were read back.
        read_bytes: u64,
    },
    /// Files were (or, in a dry run, would be) written back.
    Restored {
        /// Number of files.
        files: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A file was sent.
    Sent {
        /// Bytes in all.
        bytes: u64,
        /// SHA-256 of all of them, in hex.
        sha256: String,
    },
}

/// A snapshot in a repository that carries our label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// 64 hex digits.
    pub id: String,
    /// What it is tagged with.
    pub label: SnapshotLabel,
    /// The restore point's time.
    pub time: Timestamp,
    /// Bytes that a restore writes.
    pub size_bytes: u64,
    /// Bytes that were new to the repository.
    pub added_bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// Why a job failed; the kind is the retry policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What happened, with the object it happened to. No secret.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The password does not open the repository.
    WrongPassword,
    /// There is no repository, but one was expected.
    RepositoryMissing,
    /// The repository's data is damaged.
    RepositoryDamaged,
    /// No space left.
    NoSpace,
    /// Not permitted.
    PermissionDenied,
    /// The store did not answer; may go through later.
    Unreachable,
    /// The source could not be read: a path is missing, or a dump failed, was empty or cut off.
    SourceFailed,
    /// The destination of a restore refused, or something exists there.
    DestinationRefused,
    /// The program is not there.
    ProgramMissing,
    /// Anything else.
    Other,
}
