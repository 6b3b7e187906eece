//! Captures one source into one snapshot.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    job::{Failure, FailureKind, Input, Outcome, SnapshotLabel, Stream},
    repository::{Captured, Repository},
    walk::Roots,
};

/// Captures `input`.
///
/// # Errors
/// The source or the repository refused; there is no snapshot then.
pub fn capture(
    repository: Repository,
    label: &SnapshotLabel,
    time: Timestamp,
    input: Input,
) -> Result<Outcome, Failure> {
    let captured = match input {
        Input::Paths { paths, exclude, one_file_system } => {
            let roots = Roots::new(&paths, &exclude, one_file_system)?;
            repository.capture_files(label, time, &roots)?
        }
        Input::Streams(streams) => {
            check_names(&streams)?;
            repository.capture_streams(label, time, streams)?
        }
    };
    let Captured { snapshot, size_bytes, added_bytes, files, unreadable } = captured;
    Ok(Outcome::Captured { snapshot, size_bytes, added_bytes, files, unreadable })
}

/// The names of streams become files in the root of the snapshot.
fn check_names(streams: &[Stream]) -> Result<(), Failure> {
    if streams.is_empty() {
        return Err(Failure::new(FailureKind::SourceFailed, "the source has nothing to capture")
            .hint("name at least one database or program"));
    }
    let mut names = BTreeSet::new();
    for stream in streams {
        let name = stream.file_name.as_str();
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Failure::new(FailureKind::SourceFailed, format!("`{name}` cannot be the name of a file"))
                .hint("choose another `fileName` without a slash"));
        }
        if !names.insert(name) {
            return Err(Failure::new(FailureKind::SourceFailed, format!("two streams have the name `{name}`"))
                .hint("name each database only once"));
        }
    }
    Ok(())
}
