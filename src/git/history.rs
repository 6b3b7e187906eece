//! The history of a revision: commit messages, where approvals stand, and which files changed between two commits.

use std::path::PathBuf;

use git2::{Oid, Repository, Revwalk, Sort};

use super::{
    GitError, Revision,
    checkout::{Checkout, is_descendant},
};
use crate::plan::{Approvals, approval, used_up::UsedUp};

/// How many commits are searched for approvals.
pub const COMMITS_LIMIT: usize = 1000;

/// Everything that was consented to in the newest commits up to `head`, as far as it is not used up: `consented` and
/// those before it are, and `used_up` says what else is. Only commits that `counts` holds for are listened to.
///
/// # Errors
/// The repository is damaged.
pub fn approvals(
    repository: &Repository,
    head: &Revision,
    consented: Option<&Revision>,
    used_up: &UsedUp,
    counts: impl Fn(&Revision) -> bool,
) -> Result<Approvals, GitError> {
    let mut all = Approvals::default();
    for (commit, message) in messages(repository, head, consented, COMMITS_LIMIT)? {
        let given = approval::parse_message(&message);
        if !given.is_empty() && counts(&commit) {
            all.extend(used_up.rest(given, |used| is_within(repository, used, &commit))?);
        }
    }
    Ok(all)
}

/// Whether a commit is `used` or lies before it. Nothing lies before one that is gone: the history was rewritten.
///
/// # Errors
/// The repository is damaged.
pub fn is_within(repository: &Repository, used: &Revision, commit: &Revision) -> Result<bool, GitError> {
    Ok(repository.find_commit(used.object_id()?).is_ok() && is_descendant(repository, used, commit)?)
}

/// The messages of a commit and those before it, newest first, without `before` and what it descends from; at most
/// `limit` of them. Merged branches count: an approval may have come with one. A message that is not UTF-8 is passed
/// over.
///
/// # Errors
/// The repository is damaged.
pub fn messages(
    repository: &Repository,
    head: &Revision,
    before: Option<&Revision>,
    limit: usize,
) -> Result<Vec<(Revision, String)>, GitError> {
    let read = |source| GitError::Read { operation: format!("walking the history of {head}"), source };
    let mut walk = repository.revwalk().map_err(read)?;
    walk.set_sorting(Sort::TIME).map_err(read)?;
    walk.push(head.object_id()?).map_err(read)?;
    if let Some(before) = before {
        hide(repository, &mut walk, before).map_err(read)?;
    }
    let mut messages = Vec::new();
    for id in walk.take(limit) {
        let commit = match id.and_then(|id| repository.find_commit(id)) {
            Ok(commit) => commit,
            // A shallow clone ends somewhere: what lies before is not known, and so not approved.
            Err(_) if repository.is_shallow() => break,
            Err(source) => return Err(read(source)),
        };
        if let Ok(message) = commit.message() {
            messages.push((commit.id().into(), message.to_owned()));
        }
    }
    Ok(messages)
}

impl Checkout {
    /// The paths, relative to the repository, that differ between two commits.
    ///
    /// # Errors
    /// One of the commits is not there, or the repository is damaged.
    pub fn changed_paths(&self, from: &Revision, to: &Revision) -> Result<Vec<PathBuf>, GitError> {
        let read = |source| GitError::Read { operation: format!("comparing {from} with {to}"), source };
        let repository = self.repository();
        let tree = |id: git2::Oid| repository.find_commit(id).and_then(|commit| commit.tree()).map_err(read);
        let (old, new) = (tree(from.object_id()?)?, tree(to.object_id()?)?);
        let diff = repository.diff_tree_to_tree(Some(&old), Some(&new), None).map_err(read)?;
        let mut paths: Vec<PathBuf> = diff
            .deltas()
            .flat_map(|delta| [delta.old_file().path().map(PathBuf::from), delta.new_file().path().map(PathBuf::from)])
            .flatten()
            .collect();
        paths.sort();
        paths.dedup();
        Ok(paths)
    }
}

/// Leaves out a commit and those before it. One that is gone (the history was rewritten) leaves out nothing.
pub fn hide(repository: &Repository, walk: &mut Revwalk<'_>, revision: &Revision) -> Result<(), git2::Error> {
    let id = Oid::from_str(&revision.0)?;
    match repository.find_commit(id) {
        Ok(_) => walk.hide(id),
        Err(_) => Ok(()),
    }
}
