//! A repository in a directory of this host.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{FileKind, MOST_BESIDE, StoreError};
use crate::mover::draft::{Author, is_abandoned, is_draft};

/// A repository in a directory of this host.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// This process, as the names of its drafts say it.
    author: Author,
    /// Tells the drafts of this process apart.
    written: AtomicU64,
}

impl Directory {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), author: Author::own(), written: AtomicU64::new(0) }
    }

    pub(super) fn location(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn is_vacant(&self) -> Result<bool, StoreError> {
        match fs::read_dir(&self.path) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(refused("read", &self.path, error)),
        }
    }

    pub(super) fn beside(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let above = parent(&self.path);
        let entries = match fs::read_dir(above) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused("list", above, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| refused("list", above, error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(prefix) && names.len() < MOST_BESIDE && entry.path().join("config").is_file() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn create(&self) -> Result<(), StoreError> {
        let packs = (0..=u8::MAX).map(|first| format!("data/{first:02x}"));
        for directory in ["keys", "snapshots", "index"].into_iter().map(str::to_owned).chain(packs) {
            let path = self.path.join(directory);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| refused("make the directory", &path, error))?;
        }
        Ok(())
    }

    pub(super) fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StoreError> {
        let mut files = Vec::new();
        match kind {
            FileKind::Config => match fs::metadata(self.path.join("config")) {
                Ok(metadata) => files.push((String::new(), metadata.len())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(refused("read", &self.path.join("config"), error)),
            },
            FileKind::Key | FileKind::Snapshot | FileKind::Index => {
                self.list_into(&mut files, &self.path.join(kind.directory()))?;
            }
            FileKind::Pack => {
                let data = self.path.join(kind.directory());
                for entry in fs::read_dir(&data).map_err(|error| refused("list", &data, error))? {
                    let entry = entry.map_err(|error| refused("list", &data, error))?;
                    if entry.file_type().map_err(|error| refused("list", &data, error))?.is_dir() {
                        self.list_into(&mut files, &entry.path())?;
                    }
                }
            }
        }
        Ok(files)
    }

    pub(super) fn read(&self, kind: FileKind, id: &str) -> Result<Bytes, StoreError> {
        let path = self.path.join(kind.path(id));
        fs::read(&path).map(Bytes::from).map_err(|error| refused("read", &path, error))
    }

    pub(super) fn read_range(&self, kind: FileKind, id: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let path = self.path.join(kind.path(id));
        let read = || -> io::Result<Bytes> {
            let file = File::open(&path)?;
            // A damaged index must not make us allocate more than the file can hold.
            if file.metadata()?.len() < offset.saturating_add(length) {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the file is shorter than the index says"));
            }
            let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut content, offset)?;
            Ok(content.into())
        };
        read().map_err(|error| refused("read", &path, error))
    }

    pub(super) fn write(&self, kind: FileKind, id: &str, content: &[Bytes]) -> Result<(), StoreError> {
        let path = self.path.join(kind.path(id));
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(self.author.draft(&name, number));
        let write = || -> io::Result<()> {
            let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
            let mut file = match open() {
                // Tools that copy repositories drop empty directories.
                Err(error) if error.kind() == ErrorKind::NotFound && kind == FileKind::Pack => {
                    DirBuilder::new().recursive(true).mode(0o700).create(parent(&path))?;
                    open()?
                }
                other => other?,
            };
            for part in content {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            // The new name has to outlive a power cut, too: a snapshot must never be older on disk than its packs.
            File::open(parent(&path))?.sync_all()
        };
        write().map_err(|error| {
            // It may not exist; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            refused("write", &path, error)
        })
    }

    pub(super) fn remove(&self, kind: FileKind, id: &str) -> Result<(), StoreError> {
        let path = self.path.join(kind.path(id));
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(refused("remove", &path, error)),
        }
    }

    /// Lists the files of a directory, and removes what movers left there that are gone.
    fn list_into(&self, files: &mut Vec<(String, u64)>, directory: &Path) -> Result<(), StoreError> {
        let listing = |error| refused("list", directory, error);
        for entry in fs::read_dir(directory).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_draft(&name) {
                if is_abandoned(&entry.path(), &name, &self.author) {
                    // Whoever lists next tries again.
                    let _ = fs::remove_file(entry.path());
                }
                continue;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => files.push((name, metadata.len())),
                Ok(_) => {}
                // Another mover removed it in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(refused("list", &entry.path(), error)),
            }
        }
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn refused(operation: &'static str, path: &Path, error: io::Error) -> StoreError {
    let object = path.display().to_string();
    let kind = error.kind();
    let source = Box::new(error);
    if kind == ErrorKind::NotFound {
        StoreError::Missing { object }
    } else if kind == ErrorKind::PermissionDenied || kind == ErrorKind::ReadOnlyFilesystem {
        StoreError::PermissionDenied { operation, object, source }
    } else if kind == ErrorKind::StorageFull || kind == ErrorKind::QuotaExceeded || kind == ErrorKind::FileTooLarge {
        StoreError::NoSpace { operation, object, source }
    } else {
        StoreError::Refused { operation, object, source }
    }
}
