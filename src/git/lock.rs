//! Locks of git's own on references. They are files, so a process that is killed leaves them, and nothing else ever removes
//! them.

use std::time::Duration;

use git2::{Error, ErrorCode, Repository};

/// A lock that is older than this was left by a process that was killed: git holds one for moments.
const ABANDONED: Duration = Duration::from_secs(600);

/// Writes a reference; once more where only a lock was in the way that a killed process left.
///
/// # Errors
/// Those of `write`.
pub(super) fn past_abandoned<T>(
    repository: &Repository,
    reference: &str,
    write: impl Fn() -> Result<T, Error>,
) -> Result<T, Error> {
    match write() {
        Err(error) if error.code() == ErrorCode::Locked && end_abandoned(repository, reference) => write(),
        written => written,
    }
}

fn end_abandoned(repository: &Repository, reference: &str) -> bool {
    let path = repository.commondir().join(format!("{reference}.lock"));
    let age = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    let is_abandoned = matches!(age, Ok(Ok(age)) if age > ABANDONED);
    if is_abandoned {
        tracing::warn!(lock = %path.display(), "removing a lock that a killed process left");
    }
    is_abandoned && std::fs::remove_file(&path).is_ok()
}
