//! Where the files of a repository lie: a directory or an S3 bucket, in restic's layout.
//!
//! It knows nothing of what the files mean. Unlike the stores of the libraries that were looked at, a listing that
//! fails is an error and never an empty list: an unreadable repository must not look like one without snapshots.

use std::error::Error;

use bytes::Bytes;

use super::job::{Failure, FailureKind, Place};

mod directory;
mod s3;

use directory::Directory;
use s3::S3;

/// No policy had so many places.
const MOST_BESIDE: usize = 1000;

/// The kinds of files that a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The one file `config`.
    Config,
    /// Keys, each sealed with a password.
    Key,
    /// Snapshots.
    Snapshot,
    /// The index: which blob is in which pack.
    Index,
    /// Packs of blobs.
    Pack,
}

impl FileKind {
    /// The path of a file below the repository.
    fn path(self, id: &str) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::Key | Self::Snapshot | Self::Index => format!("{}/{id}", self.directory()),
            Self::Pack => format!("data/{}/{id}", id.get(..2).unwrap_or("00")),
        }
    }

    /// The directory that holds all files of the kind.
    const fn directory(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something that was expected is not there.
    #[error("{object} is not there")]
    Missing {
        /// The file or directory.
        object: String,
    },
    /// The bucket is not there.
    #[error("there is no bucket at {location}")]
    NoBucket {
        /// Endpoint, bucket and prefix.
        location: String,
    },
    /// Not permitted.
    #[error("cannot {operation} {object}: not permitted")]
    PermissionDenied {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No space left.
    #[error("cannot {operation} {object}: no space left")]
    NoSpace {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer.
    #[error("cannot {operation} {object}: the store does not answer")]
    Unreachable {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else.
    #[error("cannot {operation} {object}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// The failure that the job ends with, the causes included.
    pub fn failure(&self) -> Failure {
        let kind = match self {
            Self::Missing { .. } => FailureKind::RepositoryDamaged,
            Self::NoBucket { .. } => {
                return Failure::new(FailureKind::RepositoryMissing, self.to_string())
                    .hint("create the bucket, or correct its name in the Repository document");
            }
            Self::PermissionDenied { .. } => FailureKind::PermissionDenied,
            Self::NoSpace { .. } => FailureKind::NoSpace,
            Self::Unreachable { .. } => FailureKind::Unreachable,
            Self::Refused { .. } => FailureKind::Other,
        };
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some causes repeat the one below them; once is enough.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        let failure = Failure::new(kind, message);
        if failure.message.contains("certificate") {
            return failure.hint("name the authority that signed the endpoint's certificate in `certificateAuthority`");
        }
        failure
    }
}

/// A place with the files of one repository.
#[derive(Debug)]
pub enum Store {
    /// A directory of this host.
    Directory(Directory),
    /// A prefix in a bucket.
    S3(Box<S3>),
}

impl Store {
    /// Takes a place; nothing is read or written yet.
    ///
    /// # Errors
    /// The endpoint is no URL, or the certificate cannot be read.
    pub fn at(place: &Place) -> Result<Self, StoreError> {
        Ok(match place {
            Place::Directory(path) => Self::Directory(Directory::at(path)),
            Place::S3 { .. } => Self::S3(Box::new(S3::at(place)?)),
        })
    }

    /// Where it is, for messages.
    pub fn location(&self) -> String {
        match self {
            Self::Directory(store) => store.location(),
            Self::S3(store) => store.location(),
        }
    }

    /// Whether there is anything at all at this place.
    ///
    /// # Errors
    /// The place cannot be read.
    pub fn is_vacant(&self) -> Result<bool, StoreError> {
        match self {
            Self::Directory(store) => store.is_vacant(),
            Self::S3(store) => store.is_vacant(),
        }
    }

    /// Names of the repositories beside this place that begin so, at most [`MOST_BESIDE`].
    ///
    /// # Errors
    /// What is above the place cannot be listed.
    pub fn beside(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Directory(store) => store.beside(prefix),
            Self::S3(store) => store.beside(prefix),
        }
    }

    /// Makes what has to be there before the first file is written.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> Result<(), StoreError> {
        match self {
            Self::Directory(store) => store.create(),
            Self::S3(_) => Ok(()),
        }
    }

    /// Names and sizes of all files of a kind. The config has an empty name.
    ///
    /// # Errors
    /// Any part of the listing failed.
    pub fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StoreError> {
        match self {
            Self::Directory(store) => store.list(kind),
            Self::S3(store) => store.list(kind),
        }
    }

    /// The content of a file.
    ///
    /// # Errors
    /// It is missing or cannot be read.
    pub fn read(&self, kind: FileKind, id: &str) -> Result<Bytes, StoreError> {
        match self {
            Self::Directory(store) => store.read(kind, id),
            Self::S3(store) => store.read(kind, id),
        }
    }

    /// Part of a file, exactly as long as asked for.
    ///
    /// # Errors
    /// It is missing, shorter, or cannot be read.
    pub fn read_range(&self, kind: FileKind, id: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        match self {
            Self::Directory(store) => store.read_range(kind, id, offset, length),
            Self::S3(store) => store.read_range(kind, id, offset, length),
        }
    }

    /// Writes a file: it is there as a whole and on disk, or not at all.
    ///
    /// # Errors
    /// It could not be written.
    pub fn write(&self, kind: FileKind, id: &str, content: Vec<Bytes>) -> Result<(), StoreError> {
        match self {
            Self::Directory(store) => store.write(kind, id, &content),
            Self::S3(store) => store.write(kind, id, content),
        }
    }

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// It could not be removed.
    pub fn remove(&self, kind: FileKind, id: &str) -> Result<(), StoreError> {
        match self {
            Self::Directory(store) => store.remove(kind, id),
            Self::S3(store) => store.remove(kind, id),
        }
    }
}
