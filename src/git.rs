//! Git: what is asked for comes from here, and the status goes back there.
//!
//! Everything here blocks (libgit2); asynchronous callers use `spawn_blocking`. `checkout` reads, `remote` talks to
//! other hosts, `watch` wakes, `history` walks, `signature` believes or does not, `writeback` publishes. Nothing here
//! touches a work tree: files are read from commits, and commits are made from blobs.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

pub mod checkout;
pub mod credentials;
pub mod history;
pub mod known_hosts;
mod lock;
pub mod remote;
pub mod signature;
pub mod watch;
pub mod writeback;

/// The id of a commit, 40 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub String);

impl Revision {
    /// The first 8 digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }

    /// As libgit2 wants it.
    ///
    /// # Errors
    /// The text is not the id of a commit.
    pub(crate) fn object_id(&self) -> Result<git2::Oid, GitError> {
        git2::Oid::from_str(&self.0)
            .map_err(|source| GitError::Read { operation: format!("reading the revision `{self}`"), source })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<git2::Oid> for Revision {
    fn from(id: git2::Oid) -> Self {
        Self(id.to_string())
    }
}

/// Whether the same call may go through later by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Something outside did not answer; try again after a while.
    Later,
    /// A person must mend something first; trying again at each poll is enough.
    AfterRepair,
}

/// Why git could not be read. Each is a condition of its own, says what to do, and none of them allows a deletion.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git repository.
    #[error("there is no git repository at {place}; check the address, or make one with `git init`")]
    RepositoryMissing {
        /// Path or address, without secrets.
        place: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// The repository belongs to another user, whose hooks and settings must not be trusted.
    #[error(
        "the git repository at {place} belongs to another user; run as that user, or trust it with \
         `git config --global --add safe.directory {place}`"
    )]
    RepositoryForeign {
        /// Path.
        place: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// The repository has no commit.
    #[error("the git repository at {place} is empty; commit a backup.yaml to the branch `{branch}`")]
    Empty {
        /// Path or address, without secrets.
        place: String,
        /// The watched branch.
        branch: String,
    },
    /// The branch is not there.
    #[error("the git repository at {place} has no branch `{branch}`; {}", offer(found))]
    BranchMissing {
        /// Path or address, without secrets.
        place: String,
        /// The watched branch.
        branch: String,
        /// Branches that are there; at most ten.
        found: Vec<String>,
    },
    /// The watched directory is not in the commit.
    #[error(
        "there is no directory `{}` in commit {}; restore it, or watch another path. Nothing is deleted meanwhile",
        path.display(), revision.short()
    )]
    PathVanished {
        /// The watched directory.
        path: PathBuf,
        /// The commit.
        revision: Revision,
    },
    /// The watched directory holds no document.
    #[error(
        "there is no backup.yaml or *.backup.yaml under `{}` in commit {}; nothing is deleted meanwhile. To stop all \
         policies on purpose, remove them one by one or leave a Settings document",
        path.display(), revision.short()
    )]
    NoDocuments {
        /// The watched directory.
        path: PathBuf,
        /// The commit.
        revision: Revision,
    },
    /// More documents than this program takes.
    #[error("there are more than {limit} documents under `{}`; watch a smaller directory", path.display())]
    TooManyDocuments {
        /// The watched directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The branch was moved to a commit that does not come after the last one applied.
    #[error(
        "the history of the branch was rewritten: {} does not come after {}, which was applied last. Nothing is \
         deleted. Merge the old commit, or, if the new history is meant, add a commit with the line \
         `Mainstay-Follows: {from}` to its message",
        to.short(), from.short()
    )]
    HistoryRewritten {
        /// What was applied last.
        from: Revision,
        /// Where the branch is now.
        to: Revision,
    },
    /// The other side does not accept what we have.
    #[error("{url} refuses our credentials; {hint}")]
    AuthenticationFailed {
        /// Address, without secrets.
        url: String,
        /// What was tried, and what to give.
        hint: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// A credential could not be read.
    #[error("cannot read the {what}; check that it is there and readable by this user")]
    Credential {
        /// Which credential, and where it should be; never its value.
        what: String,
        /// Why; none: the environment variable is not set, or the file is empty.
        #[source]
        source: Option<std::io::Error>,
    },
    /// Nobody vouched for the key of the SSH host.
    #[error(
        "the SSH host key of {host} is not known ({algorithm} {fingerprint}); compare it with what the host's owner \
         publishes, then add it to {}, for example with `ssh-keyscan -t {algorithm} {host}`",
        file.display()
    )]
    HostKeyUnknown {
        /// Host, with the port where it is not 22.
        host: String,
        /// Type of the key, as known_hosts names it.
        algorithm: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// Where it was looked for.
        file: PathBuf,
    },
    /// The SSH host shows another key than before.
    #[error(
        "the SSH host key of {host} changed ({algorithm} {fingerprint}): someone may sit in between. If the change is \
         confirmed by the host's owner, replace the line in {}",
        file.display()
    )]
    HostKeyChanged {
        /// Host, with the port where it is not 22.
        host: String,
        /// Type of the key, as known_hosts names it.
        algorithm: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// Where the other key stands.
        file: PathBuf,
    },
    /// The certificate of an https host is not trusted.
    #[error(
        "the certificate of {url} is not trusted; install its authority in this system, or name its file in \
         SSL_CERT_FILE"
    )]
    CertificateInvalid {
        /// Address, without secrets.
        url: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// The other side did not answer as it should.
    #[error("{url} cannot be reached; backups go on, and it is tried again")]
    Unreachable {
        /// Address, without secrets.
        url: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// The other side sends more than is taken.
    #[error("{url} sends more than {} MiB for {what}; take large files out of its history", limit_bytes >> 20)]
    TransferTooLarge {
        /// Address, without secrets.
        url: String,
        /// The references that were asked for.
        what: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The cache of a remote repository cannot be written.
    #[error("cannot use {} to keep a copy of the repository; check its permissions and free space", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Watching failed.
    #[error("cannot watch {} for commits; it is polled instead", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// Something in the repository could not be read.
    #[error("{operation} failed; check the repository with `git fsck`")]
    Read {
        /// What was tried, with its object.
        operation: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
}

impl GitError {
    /// Whether the same call may go through later by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } => Retry::Later,
            Self::RepositoryMissing { .. }
            | Self::RepositoryForeign { .. }
            | Self::Empty { .. }
            | Self::BranchMissing { .. }
            | Self::PathVanished { .. }
            | Self::NoDocuments { .. }
            | Self::TooManyDocuments { .. }
            | Self::HistoryRewritten { .. }
            | Self::AuthenticationFailed { .. }
            | Self::Credential { .. }
            | Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::CertificateInvalid { .. }
            | Self::TransferTooLarge { .. }
            | Self::Cache { .. }
            | Self::Watch { .. }
            | Self::Read { .. } => Retry::AfterRepair,
        }
    }

    /// The condition's reason, as conditions on Kubernetes spell it. It never changes, so that one can alert on it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RepositoryMissing { .. } => "RepositoryMissing",
            Self::RepositoryForeign { .. } => "RepositoryForeign",
            Self::Empty { .. } => "RepositoryEmpty",
            Self::BranchMissing { .. } => "BranchMissing",
            Self::PathVanished { .. } => "PathVanished",
            Self::NoDocuments { .. } => "NoDocuments",
            Self::TooManyDocuments { .. } => "TooManyDocuments",
            Self::HistoryRewritten { .. } => "HistoryRewritten",
            Self::AuthenticationFailed { .. } => "AuthenticationFailed",
            Self::Credential { .. } => "CredentialMissing",
            Self::HostKeyUnknown { .. } => "HostKeyUnknown",
            Self::HostKeyChanged { .. } => "HostKeyChanged",
            Self::CertificateInvalid { .. } => "CertificateInvalid",
            Self::Unreachable { .. } => "Unreachable",
            Self::TransferTooLarge { .. } => "TransferTooLarge",
            Self::Cache { .. } => "CacheUnusable",
            Self::Watch { .. } => "WatchFailed",
            Self::Read { .. } => "RepositoryDamaged",
        }
    }
}

fn offer(found: &[String]) -> String {
    if found.is_empty() {
        "it has no branch at all".to_owned()
    } else {
        format!("it has {}", found.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
    }
}
