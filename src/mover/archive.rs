//! Snapshots as one file for a person: download as `tar.gz` or as the dump that it was, and the way back.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufWriter, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bytes::{Buf as _, Bytes};
use flate2::{Compression, write::GzEncoder};

use super::{
    job::{Failure, FailureKind, Outcome},
    parcel::Sender,
    repository::{Content, Contents, Entry, EntryKind, OpenSnapshot},
};

mod unpack;

pub use unpack::{Options, UnpackError, Unpacked, unpack, unpack_with};

/// Writes a snapshot into a new file: one captured stream as it was, or everything as `tar.gz`.
///
/// # Errors
/// The file exists or cannot be written, or the repository refuses. No file is left then.
pub fn download(snapshot: &OpenSnapshot, file_name: Option<&str>, output: &Path) -> Result<Outcome, Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(output)
        .map_err(|error| refused(output, &error))?;
    let written = match file_name {
        Some(name) => write_stream(snapshot, name, file, output),
        None => write_archive(snapshot, file, output),
    };
    let synced = written.and_then(|(outcome, file)| {
        file.sync_all().map_err(|error| refused(output, &error))?;
        Ok(outcome)
    });
    if synced.is_err() {
        // A partial file would look like a good one.
        let _ = fs::remove_file(output);
    }
    synced
}

/// Sends a snapshot to whoever listens: one captured stream as it was, or everything as `tar.gz`.
///
/// # Errors
/// Nobody listens any more, or the repository refuses.
pub fn send(snapshot: &OpenSnapshot, file_name: Option<&str>) -> Result<Outcome, Failure> {
    let listener = Path::new("the listener");
    let sender = Sender::new(|piece| snapshot.reporter().data(piece));
    let sender = match file_name {
        Some(name) => write_stream(snapshot, name, sender, listener)?.1,
        None => write_archive(snapshot, sender, listener)?.1,
    };
    let (bytes, sha256) = sender.finish().map_err(|error| refused(listener, &error))?;
    Ok(Outcome::Sent { bytes, sha256 })
}

fn write_stream<W: io::Write>(
    snapshot: &OpenSnapshot,
    name: &str,
    mut file: W,
    output: &Path,
) -> Result<(Outcome, W), Failure> {
    let entry = snapshot.file(name)?;
    let EntryKind::File { size_bytes, content } = &entry.kind else {
        return Err(Failure::new(FailureKind::Other, format!("`{name}` is no file")));
    };
    let mut done = 0;
    snapshot.read_ahead(content, |piece| {
        file.write_all(piece).map_err(|error| refused(output, &error))?;
        done += piece.len() as u64;
        snapshot.reporter().progress("writing", done, Some(*size_bytes));
        Ok(())
    })?;
    Ok((Outcome::Restored { files: 1, bytes: done }, file))
}

fn write_archive<W: io::Write>(snapshot: &OpenSnapshot, file: W, output: &Path) -> Result<(Outcome, W), Failure> {
    let mut archive = tar::Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default()));
    archive.mode(tar::HeaderMode::Complete);
    let (mut files, mut bytes) = (0, 0);
    let mut contents = snapshot.contents()?;
    for entry in snapshot.entries()? {
        let entry = entry?;
        let size = entry.size_bytes();
        if append(&mut archive, &mut contents, &entry).map_err(|error| error.failure(output))? {
            files += 1;
            bytes += size;
            snapshot.reporter().progress("writing", bytes, None);
        }
    }
    let finish = || -> io::Result<W> {
        let buffered = archive.into_inner()?.finish()?;
        buffered.into_inner().map_err(io::IntoInnerError::into_error)
    };
    let file = finish().map_err(|error| refused(output, &error))?;
    Ok((Outcome::Restored { files, bytes }, file))
}

/// Why an entry could not be written.
enum AppendError {
    /// The repository refused.
    Repository(Failure),
    /// The file refused.
    Output(io::Error),
}

impl AppendError {
    fn failure(self, output: &Path) -> Failure {
        match self {
            Self::Repository(failure) => failure,
            Self::Output(error) => refused(output, &error),
        }
    }
}

/// True if it was a file or link, false if a directory or something that an archive does not hold.
fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    contents: &mut Contents<'_>,
    entry: &Entry,
) -> Result<bool, AppendError> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode.unwrap_or(0o600));
    header.set_uid(entry.user_id.unwrap_or(0).into());
    header.set_gid(entry.group_id.unwrap_or(0).into());
    header.set_mtime(entry.modified.and_then(|time| u64::try_from(time.as_second()).ok()).unwrap_or(0));
    header.set_size(0);
    let mut add = |header: &mut tar::Header, kind| {
        header.set_entry_type(kind);
        archive.append_data(header, &entry.path, io::empty())
    };
    let written = match &entry.kind {
        EntryKind::Directory => add(&mut header, tar::EntryType::Directory).map(|()| false),
        EntryKind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, &entry.path, target).map(|()| true)
        }
        EntryKind::Pipe => add(&mut header, tar::EntryType::Fifo).map(|()| true),
        EntryKind::File { size_bytes, content } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size_bytes);
            let mut reader = ContentReader::new(contents, content);
            let appended = archive.append_data(&mut header, &entry.path, &mut reader);
            if let Some(failure) = reader.failure {
                return Err(AppendError::Repository(failure));
            }
            appended.map(|()| true)
        }
        // Devices mean nothing elsewhere, and sockets are made by their programs.
        EntryKind::CharacterDevice(_) | EntryKind::BlockDevice(_) | EntryKind::Socket => Ok(false),
    };
    written.map_err(AppendError::Output)
}

/// A file of a snapshot as a reader.
struct ContentReader<'a, 'b> {
    contents: &'a mut Contents<'b>,
    content: &'a Content,
    /// The number of the piece that comes next.
    next: usize,
    /// What is left of the one before.
    current: Bytes,
    failure: Option<Failure>,
}

impl<'a, 'b> ContentReader<'a, 'b> {
    fn new(contents: &'a mut Contents<'b>, content: &'a Content) -> Self {
        Self { contents, content, next: 0, current: Bytes::new(), failure: None }
    }
}

impl Read for ContentReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.next == self.content.pieces() {
                return Ok(0);
            }
            match self.contents.piece(self.content, self.next) {
                Ok(piece) => self.current = Bytes::copy_from_slice(piece),
                Err(failure) => {
                    let error = io::Error::other(failure.message.clone());
                    self.failure = Some(failure);
                    return Err(error);
                }
            }
            self.next += 1;
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

fn refused(output: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write {}: {error}", output.display());
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        Failure::new(FailureKind::PermissionDenied, message).hint("name a file that you may write")
    } else if kind == io::ErrorKind::StorageFull {
        Failure::new(FailureKind::NoSpace, message).hint("free space there, or name a file elsewhere")
    } else {
        Failure::new(FailureKind::DestinationRefused, message).hint("name a file that does not exist yet")
    }
}
