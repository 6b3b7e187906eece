//! Looks at a volume that a driver made from a volume snapshot: that it can be read is the proof that it is one.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::job::{Failure, FailureKind, Outcome};

/// What is read of each file: enough to see that its content is there.
const READ_BYTES: usize = 4096;
/// More files than this are not read; they are counted.
const MOST_READ: u64 = 10_000;

/// Counts the files below a path, and reads the beginning of many.
///
/// # Errors
/// A directory cannot be listed, or a file cannot be read.
pub fn look(path: &Path) -> Result<Outcome, Failure> {
    let refused = |path: &Path, error: &std::io::Error| {
        Failure::new(FailureKind::SourceFailed, format!("{} cannot be read: {error}", path.display()))
            .hint("look at the volume, and at the driver that made it")
    };
    let (mut files, mut bytes) = (0, 0);
    let mut directories: Vec<PathBuf> = vec![path.to_owned()];
    // Bounded by what a file system holds; links are not followed, so there is no circle.
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(|error| refused(&directory, &error))? {
            let path = entry.map_err(|error| refused(&directory, &error))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(|error| refused(&path, &error))?;
            if metadata.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            if metadata.is_file() {
                bytes += metadata.len();
                if files <= MOST_READ {
                    let mut beginning = [0; READ_BYTES];
                    let read = File::open(&path).and_then(|mut file| file.read(&mut beginning));
                    read.map_err(|error| refused(&path, &error))?;
                }
            }
        }
    }
    Ok(Outcome::Restored { files, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(directory.path().join("below/file"), "hello").unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
        assert_eq!(look(directory.path()), Ok(Outcome::Restored { files: 2, bytes: 5 }));
        assert!(look(&directory.path().join("missing")).unwrap_err().message.contains("missing"));
    }
}
