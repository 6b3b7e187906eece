//! The documents in a plain directory.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use sha1::{Digest as _, Sha1};

use super::{FileContent, MOST_BYTES, on_all_processors};

/// Deeper directories are not looked into.
const MOST_DEPTH: usize = 64;
/// Files of documents in one directory tree.
const MOST_FILES: usize = 200_000;

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The path itself is not there, or not ours to read.
    #[error("cannot read {path}; name a directory that holds backup.yaml files")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More files than one would write.
    #[error("{path} holds more than {MOST_FILES} files of documents; name a smaller directory")]
    TooManyFiles {
        /// Which.
        path: PathBuf,
    },
}

/// Whether a file of this name holds documents: `backup.yaml` or `*.backup.yaml`.
pub fn is_document_file(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name == "backup.yaml" || name.ends_with(".backup.yaml"))
}

/// Reads all files of documents below a directory, by their paths relative to it. `.git` is left out, and symbolic
/// links are not followed: they may lead out.
///
/// # Errors
/// The directory, one below it or one of the files cannot be read: what is missing must not look deleted.
pub fn read_directory(root: &Path) -> Result<BTreeMap<PathBuf, FileContent>, DirectoryError> {
    let mut paths = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        let failed = |source| DirectoryError::Read { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                if entry.file_name() != ".git" && depth < MOST_DEPTH {
                    open.push((path, depth + 1));
                }
            } else if kind.is_file() && is_document_file(&path) {
                if paths.len() == MOST_FILES {
                    return Err(DirectoryError::TooManyFiles { path: root.to_owned() });
                }
                paths.push(path);
            }
        }
    }
    let contents = on_all_processors(&paths, |path| read_file(path));
    let relative = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).to_owned();
    paths.iter().zip(contents).map(|(path, content)| Ok((relative(path), content?))).collect()
}

/// Reads one file, not much further than the limit.
///
/// # Errors
/// The file cannot be read.
pub fn read_file(path: &Path) -> Result<FileContent, DirectoryError> {
    let failed = |source| DirectoryError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let blob = (bytes.len() <= MOST_BYTES).then(|| blob_id(&bytes));
    Ok(FileContent { bytes, blob })
}

/// The id that git gives to this content in a repository of SHA-1, so that a file which is as it was committed is
/// parsed once.
fn blob_id(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'a: 1\n' | git hash-object --stdin`
    #[test]
    fn content_is_known_by_the_id_that_git_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.yaml");
        fs::write(&path, "a: 1\n").unwrap();
        assert_eq!(read_file(&path).unwrap().blob.as_deref(), Some("a8926a52d8dcba5c4386945476ab6a2ad008afd4"));
    }

    #[test]
    fn content_that_was_cut_has_no_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.yaml");
        fs::write(&path, vec![b'#'; MOST_BYTES + 1]).unwrap();
        assert_eq!(read_file(&path).unwrap().blob, None);
    }
}
