//! Unpacks a `tar.gz` that a person brought, without trusting it.
//!
//! Names stay below the destination, links are made last so that nothing is written through them, devices are
//! refused, and set-user-id bits are dropped. All of it is looked at before anything is written.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use crate::mover::draft::{self, Author};

/// More entries than this are no upload.
const ENTRIES: u64 = 10_000_000;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("cannot read the archive {}; is it a tar.gz?", archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that leads out of the destination.
    #[error("the archive has an entry `{}` that leads out of the destination; nothing was written", name.display())]
    Escape {
        /// The name.
        name: PathBuf,
    },
    /// A device, a pipe, or something unknown.
    #[error("the archive has an entry `{}` that is neither file nor directory nor link; nothing was written", name.display())]
    Unsupported {
        /// The name.
        name: PathBuf,
    },
    /// Something is there already.
    #[error("{} exists already; nothing was written. Choose an empty directory, or allow to overwrite", path.display())]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// A link or file where a directory has to be.
    #[error("{} is no directory, but the archive has something below it", path.display())]
    NoDirectory {
        /// What is there.
        path: PathBuf,
    },
    /// Too many entries.
    #[error("the archive has more than {ENTRIES} entries; nothing was written")]
    TooMany,
    /// The destination refuses.
    #[error("cannot write {}", path.display())]
    Destination {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Overwrite what is there.
    pub overwrite: bool,
    /// Set the owners that the archive names: only where the destination is nobody else's, such as a claim of its own.
    pub owners: bool,
}

/// Unpacks `archive` below `into`, which is made if it is missing.
///
/// # Errors
/// See [`UnpackError`]; unless it says otherwise, nothing was written.
pub fn unpack(archive: &Path, into: &Path, overwrite: bool) -> Result<Unpacked, UnpackError> {
    unpack_with(archive, into, Options { overwrite, owners: false })
}

/// The same, with owners if that is asked for.
///
/// # Errors
/// As for [`unpack`].
pub fn unpack_with(archive: &Path, into: &Path, options: Options) -> Result<Unpacked, UnpackError> {
    let Options { overwrite, owners } = options;
    survey(archive, into, overwrite)?;
    let made = DirBuilder::new().recursive(true).mode(0o755).create(into);
    made.map_err(|source| UnpackError::Destination { path: into.to_owned(), source })?;
    let author = Author::own();
    draft::sweep(into, &author);
    let mut unpacked = Unpacked::default();
    // Links wait: a file below a link would be written wherever the link leads.
    let mut links: Vec<(EntryType, PathBuf, PathBuf, Owner)> = Vec::new();
    let mut directories: Vec<(PathBuf, u32, u64, Owner)> = Vec::new();
    each(archive, |entry, name, kind| {
        let path = into.join(name);
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let time = entry.header().mtime().unwrap_or(0);
        let owner = Owner::of(entry.header(), owners);
        let destination = |source| UnpackError::Destination { path: path.clone(), source };
        make_directories(into, if kind.is_dir() { name } else { name.parent().unwrap_or(name) })?;
        if kind.is_dir() {
            draft::sweep(&path, &author);
            directories.push((path, mode, time, owner));
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().ok().flatten().unwrap_or_default().into_owned();
            links.push((kind, path, target, owner));
        } else {
            let temporary = author.beside(&path, 0);
            let mut write = || -> io::Result<u64> {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
                let length = io::copy(entry, &mut file)?;
                // The permissions after the owner: another owner takes some of them away.
                owner.set(&temporary)?;
                fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
                set_time(&temporary, time)?;
                fs::rename(&temporary, &path)?;
                Ok(length)
            };
            match write() {
                Ok(length) => {
                    unpacked.files += 1;
                    unpacked.bytes += length;
                }
                Err(source) => {
                    // It may not exist; the first error is the one to tell.
                    let _ = fs::remove_file(&temporary);
                    return Err(destination(source));
                }
            }
        }
        Ok(())
    })?;
    for (kind, path, target, owner) in links {
        make_link(into, kind, &path, &target, &author)?;
        if kind.is_symlink() {
            owner.set(&path).map_err(|source| UnpackError::Destination { path: path.clone(), source })?;
        }
        unpacked.files += 1;
    }
    for (path, mode, time, owner) in directories.into_iter().rev() {
        owner
            .set(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode | 0o700)))
            .and_then(|()| set_time(&path, time))
            .map_err(|source| UnpackError::Destination { path: path.clone(), source })?;
    }
    Ok(unpacked)
}

/// Who an entry belongs to; none: whoever unpacks it.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of(header: &tar::Header, wanted: bool) -> Self {
        let number = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok());
        Self(number(header.uid()).zip(number(header.gid())).filter(|_| wanted))
    }

    fn set(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((user, group)) => std::os::unix::fs::lchown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }
}

/// Reads the whole archive once, and refuses what must not be.
fn survey(archive: &Path, into: &Path, overwrite: bool) -> Result<(), UnpackError> {
    each(archive, |entry, name, kind| {
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            return Err(UnpackError::Unsupported { name: name.to_owned() });
        }
        if kind.is_hard_link() {
            let target = entry.link_name().ok().flatten().unwrap_or_default().into_owned();
            plain(&target).ok_or(UnpackError::Escape { name: target })?;
        }
        let mut path = into.to_owned();
        let mut parts = name.components().peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(source) => return Err(UnpackError::Destination { path, source }),
                Ok(metadata) if parts.peek().is_some() || kind.is_dir() => {
                    if !metadata.is_dir() {
                        return Err(UnpackError::NoDirectory { path });
                    }
                }
                Ok(metadata) if metadata.is_dir() || !overwrite => return Err(UnpackError::Exists { path }),
                Ok(_) => {}
            }
        }
        Ok(())
    })
}

fn each(
    archive: &Path,
    mut visit: impl FnMut(&mut tar::Entry<'_, MultiGzDecoder<File>>, &Path, EntryType) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let unreadable = |source| UnpackError::Archive { archive: archive.to_owned(), source };
    let file = File::open(archive).map_err(unreadable)?;
    let mut reader = tar::Archive::new(MultiGzDecoder::new(file));
    let mut count = 0;
    for entry in reader.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        count += 1;
        if count > ENTRIES {
            return Err(UnpackError::TooMany);
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = entry.path().map_err(unreadable)?.into_owned();
        let Some(plain) = plain(&name) else { return Err(UnpackError::Escape { name }) };
        // `./` itself.
        if !plain.as_os_str().is_empty() {
            visit(&mut entry, &plain, kind)?;
        }
    }
    Ok(())
}

/// A name without `.`; none if it is absolute or climbs.
fn plain(name: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// Makes the directories of a name, one by one, and follows no link.
fn make_directories(into: &Path, name: &Path) -> Result<(), UnpackError> {
    let mut path = into.to_owned();
    for part in name.components() {
        path.push(part);
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    return Err(UnpackError::NoDirectory { path });
                }
            }
            Err(source) => return Err(UnpackError::Destination { path, source }),
        }
    }
    Ok(())
}

fn make_link(into: &Path, kind: EntryType, path: &Path, target: &Path, author: &Author) -> Result<(), UnpackError> {
    // The links made before this one could lead the way to this one elsewhere.
    if let Some(directory) = path.parent().and_then(|parent| parent.strip_prefix(into).ok()) {
        make_directories(into, directory)?;
    }
    let temporary = author.beside(path, 0);
    let make = || {
        if kind.is_symlink() {
            std::os::unix::fs::symlink(target, &temporary)?;
        } else {
            let target = plain(target).ok_or_else(|| io::Error::other("it leads out of the destination"))?;
            for above in target.ancestors().skip(1) {
                if !fs::symlink_metadata(into.join(above))?.is_dir() {
                    return Err(io::Error::other("its target is below a link"));
                }
            }
            fs::hard_link(into.join(target), &temporary)?;
        }
        fs::rename(&temporary, path)
    };
    make().map_err(|source| {
        // It may not exist; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        UnpackError::Destination { path: path.to_owned(), source }
    })
}

fn set_time(path: &Path, seconds: u64) -> io::Result<()> {
    let time = filetime::FileTime::from_unix_time(i64::try_from(seconds).unwrap_or(0), 0);
    filetime::set_file_times(path, time, time)
}
