//! The merge that a change request would be, made in memory: nothing of it reaches the disk, and no work tree is
//! touched.
//!
//! Blocks (libgit2).

use std::path::Path;

use git2::{MergeOptions, Oid, Repository, Signature};

use crate::{
    git::{GitError, Revision, checkout::is_descendant},
    policy::load::is_document_file,
};

/// Where objects that a merge makes are kept: before the repository's own store, so that they go there.
const IN_MEMORY_PRIORITY: i32 = 1000;
/// Files that are compared to find out what was renamed.
const RENAMES_LIMIT: u32 = 200;
/// Files of a conflict that are named.
const CONFLICTS_LIMIT: usize = 100;
/// The largest sum of documents that a change request may add or change.
const DOCUMENTS_BYTES: usize = 32 << 20;
/// The most files that a change request may add or change.
const FILES_LIMIT: usize = 50_000;

/// What a change request would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// This commit, which may exist in memory only.
    Clean(Revision),
    /// It conflicts with the branch, in these files.
    Conflict(Vec<String>),
    /// It is larger than what is planned, and in what.
    TooLarge(String),
}

/// Makes all objects that this handle of a repository writes from now on vanish with it.
///
/// # Errors
/// The store cannot be used.
pub fn write_to_memory(repository: &Repository) -> Result<(), GitError> {
    let prepare = || repository.odb()?.add_new_mempack_backend(IN_MEMORY_PRIORITY).map(|_| ());
    prepare().map_err(|source| GitError::Read { operation: "preparing a merge in memory".to_owned(), source })
}

/// Merges `head` into `base`. The repository must write to memory.
///
/// # Errors
/// One of the commits is not there, or the repository is damaged.
pub fn merge(repository: &Repository, base: &Revision, head: &Revision, path: &Path) -> Result<Merge, GitError> {
    let read = |source| GitError::Read { operation: format!("merging {head} into {base}"), source };
    let (base_commit, head_commit) = (
        repository.find_commit(base.object_id()?).map_err(read)?,
        repository.find_commit(head.object_id()?).map_err(read)?,
    );
    if let Some(what) = too_large(repository, base_commit.id(), head_commit.id(), path).map_err(read)? {
        return Ok(Merge::TooLarge(what));
    }
    if is_descendant(repository, head, base)? {
        return Ok(Merge::Clean(head.clone()));
    }
    if is_descendant(repository, base, head)? {
        return Ok(Merge::Clean(base.clone()));
    }
    let mut options = MergeOptions::new();
    options.find_renames(true).target_limit(RENAMES_LIMIT);
    let mut index = repository.merge_commits(&base_commit, &head_commit, Some(&options)).map_err(read)?;
    if index.has_conflicts() {
        let mut files = Vec::new();
        for conflict in index.conflicts().map_err(read)?.take(CONFLICTS_LIMIT) {
            let conflict = conflict.map_err(read)?;
            let side = conflict.our.or(conflict.their).or(conflict.ancestor);
            files.extend(side.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()));
        }
        files.sort();
        files.dedup();
        return Ok(Merge::Conflict(files));
    }
    let tree = index.write_tree_to(repository).and_then(|id| repository.find_tree(id)).map_err(read)?;
    // The same merge is the same commit, whenever it is made.
    let nobody = Signature::new("Mainstay", "mainstay@localhost", &git2::Time::new(0, 0)).map_err(read)?;
    let parents = [&base_commit, &head_commit];
    let commit = repository.commit(None, &nobody, &nobody, "merge", &tree, &parents).map_err(read)?;
    Ok(Merge::Clean(commit.into()))
}

/// Looks at the sizes of what differs from the branch before any of it is unpacked: a small pack may hold gigabytes.
fn too_large(repository: &Repository, base: Oid, head: Oid, path: &Path) -> Result<Option<String>, git2::Error> {
    let from = repository.merge_base(base, head).unwrap_or(base);
    let (from, to) = (repository.find_commit(from)?.tree()?, repository.find_commit(head)?.tree()?);
    let diff = repository.diff_tree_to_tree(Some(&from), Some(&to), None)?;
    if diff.deltas().len() > FILES_LIMIT {
        return Ok(Some(format!("it changes more than {FILES_LIMIT} files")));
    }
    let database = repository.odb()?;
    let watched: std::path::PathBuf =
        path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    let mut size_bytes = 0_usize;
    for delta in diff.deltas() {
        let file = delta.new_file();
        let is_document = file.path().is_some_and(|path| is_document_file(path) && path.starts_with(&watched));
        if is_document && file.id() != Oid::ZERO_SHA1 {
            size_bytes = size_bytes.saturating_add(database.read_header(file.id()).map_or(0, |(size, _)| size));
        }
    }
    Ok((size_bytes > DOCUMENTS_BYTES)
        .then(|| format!("its documents have more than {} MiB; split it", DOCUMENTS_BYTES >> 20)))
}

/// The commits of a change request: those up to its head that the branch does not have; at most `limit`.
///
/// # Errors
/// One of the commits is not there, or the repository is damaged.
pub fn own_commits(
    repository: &Repository,
    base: &Revision,
    head: &Revision,
    limit: usize,
) -> Result<Vec<Revision>, GitError> {
    let read = |source| GitError::Read { operation: format!("walking from {head} back to {base}"), source };
    let mut walk = repository.revwalk().map_err(read)?;
    walk.push(head.object_id()?).map_err(read)?;
    walk.hide(base.object_id()?).map_err(read)?;
    walk.take(limit).map(|id| id.map(Revision::from).map_err(read)).collect()
}
