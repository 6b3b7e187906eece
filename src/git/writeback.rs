//! Write-back: files become one commit on the status branch, by compare-and-swap.
//!
//! The branch has a history of its own, and no work tree is touched. Nothing changed: no commit. Somebody else was
//! faster: their commit is read, the files are made anew on top of it, and it is tried again. Files on the branch that
//! are not ours stay.

use std::{collections::BTreeMap, time::Duration};

use git2::{
    ErrorCode, FileMode, Oid, Repository, Signature, Tree, TreeWalkMode, TreeWalkResult, build::TreeUpdateBuilder,
};
use jiff::Timestamp;
use rand::RngExt;
use rustix::fs::FlockOperation;

use super::{
    GitError, Retry, Revision,
    checkout::Checkout,
    lock,
    remote::{Fetched, Pushed},
};
use crate::status::{self, Edit, StatusInput, memo::Memo};

/// The branch that the status is published on.
pub const STATUS_BRANCH: &str = "mainstay/status";
/// The trailer by which a status commit is known.
pub const STATUS_TRAILER: &str = "Mainstay-Status: true";
/// How often a publication is tried while others publish, too.
const ATTEMPTS_LIMIT: u32 = 12;
/// The largest published file that is read back.
const FILE_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Where and as whom to publish.
pub struct PublishOptions<'a> {
    /// The repository; a remote one is pushed to.
    pub checkout: &'a Checkout,
    /// The branch; never the watched one. Usually [`STATUS_BRANCH`].
    pub branch: &'a str,
    /// Name of the commit's author.
    pub author_name: &'a str,
    /// Address of the commit's author.
    pub author_email: &'a str,
    /// Time of the commit.
    pub now: Timestamp,
    /// Whether it still counts. It is asked after the branch was read and before it is moved: what was given up and
    /// overtaken meanwhile must not be put on top of what is newer.
    pub is_wanted: &'a dyn Fn() -> bool,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The branch says all that already; nothing was written.
    Unchanged,
    /// The branch is at this commit now.
    Committed(Revision),
}

/// Why the status could not be published. Nothing else depends on it: backups go on.
#[derive(Debug, thiserror::Error)]
pub enum WritebackError {
    /// The status would wake the turn that made it.
    #[error("the status cannot be published on `{0}`, which is the watched branch; name another one")]
    WatchedBranch(String),
    /// The remote cannot be used.
    #[error("cannot publish the status on `{branch}`")]
    Remote {
        /// The status branch.
        branch: String,
        /// Why.
        #[source]
        source: Box<GitError>,
    },
    /// A commit could not be made.
    #[error("cannot publish the status: {operation} failed; check permissions, free space, and `git fsck`")]
    Write {
        /// What was tried.
        operation: String,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// A rule on the other side forbids it.
    #[error("{place} refuses commits on `{branch}` ({answer}); allow this user to push there")]
    Refused {
        /// Address, without secrets.
        place: String,
        /// The status branch.
        branch: String,
        /// What the other side says.
        answer: String,
    },
    /// A later turn took over.
    #[error("publishing on `{0}` took too long and was given up; a later turn publishes")]
    GivenUp(String),
    /// The branch was deleted or set back, and entries of the ledger went with it.
    #[error("`{0}` was deleted or set back; the next turn writes what its ledger lacks")]
    SetBack(String),
    /// Others published each time.
    #[error("others published on `{branch}` each of {ATTEMPTS_LIMIT} times; the next turn tries again")]
    Contended {
        /// The status branch.
        branch: String,
    },
}

impl WritebackError {
    /// Whether the same call may go through later by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Contended { .. } | Self::GivenUp(_) | Self::SetBack(_) => Retry::Later,
            Self::Remote { source, branch: _ } => source.retry(),
            Self::WatchedBranch(_) | Self::Write { .. } | Self::Refused { .. } => Retry::AfterRepair,
        }
    }
}

/// What the branch says now: the files of its newest commit.
pub struct PublishedFiles<'r> {
    repository: &'r Repository,
    /// The newest commit; none: there is none yet.
    commit: Option<Revision>,
    tree: Option<Tree<'r>>,
}

impl PublishedFiles<'_> {
    /// The content of a file; none: it is not there, is not a file, or is too large to be ours.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let entry = self.tree.as_ref()?.get_path(path.as_ref()).ok()?;
        let (size, _) = self.repository.odb().ok()?.read_header(entry.id()).ok()?;
        if size > FILE_LIMIT_BYTES {
            return None;
        }
        Some(self.repository.find_blob(entry.id()).ok()?.content().to_vec())
    }

    /// The paths of all files below a directory, which ends with `/`.
    pub fn list(&self, directory: &str) -> Vec<String> {
        let mut paths = Vec::new();
        if let Some(tree) = &self.tree {
            // A tree that cannot be walked lists fewer files, so fewer are removed: nothing is lost by that.
            let _ = tree.walk(TreeWalkMode::PreOrder, |parent, entry| {
                let Ok(name) = entry.name() else { return TreeWalkResult::Skip };
                let path = format!("{parent}{name}");
                if entry.kind() == Some(git2::ObjectType::Blob) && path.starts_with(directory) {
                    paths.push(path);
                    return TreeWalkResult::Ok;
                }
                let on_the_way = format!("{path}/");
                if on_the_way.starts_with(directory) || directory.starts_with(&on_the_way) {
                    TreeWalkResult::Ok
                } else {
                    TreeWalkResult::Skip
                }
            });
        }
        paths
    }
}

/// Publishes these files: adds and replaces; what else is on the branch stays.
///
/// # Errors
/// See [`WritebackError`].
pub fn publish(
    options: &PublishOptions<'_>,
    files: &BTreeMap<String, Vec<u8>>,
    message: &str,
) -> Result<Published, WritebackError> {
    publish_on_top(options, message, &mut |_| Edit { write: files.clone(), remove: Vec::new() })
}

/// Publishes what a turn learned, on top of what the branch says. `memo` is what the last call left.
///
/// # Errors
/// See [`WritebackError`].
pub fn publish_status(
    options: &PublishOptions<'_>,
    input: &StatusInput<'_>,
    message: &str,
    memo: &mut Memo,
) -> Result<Published, WritebackError> {
    let mut before: Option<Revision> = None;
    let mut is_set_back = false;
    let result = publish_on_top(options, message, &mut |files| {
        before.clone_from(&files.commit);
        let published = status::Published { read: &|path| files.read(path), list: &|directory| files.list(directory) };
        is_set_back = input.last_published.is_some_and(|event| status::ledger::has_lost(&published, event));
        if is_set_back {
            // Newer entries must not come before those that are missing.
            return Edit::default();
        }
        let commit = files.commit.as_ref().map(|commit| commit.0.as_str());
        status::documents_after(input, &published, commit, memo)
    });
    if is_set_back && result.is_ok() {
        return Err(WritebackError::SetBack(options.branch.to_owned()));
    }
    match (&result, &before) {
        (Ok(Published::Committed(now)), _) | (Ok(Published::Unchanged), Some(now)) => memo.confirm(&now.0),
        (Ok(Published::Unchanged), None) | (Err(_), _) => {}
    }
    result
}

/// Publishes what `make` makes of what the branch says. It is called again whenever somebody else was faster, so a
/// ledger is continued where the other's entries end.
///
/// # Errors
/// See [`WritebackError`].
pub fn publish_on_top(
    options: &PublishOptions<'_>,
    message: &str,
    make: &mut dyn FnMut(&PublishedFiles<'_>) -> Edit,
) -> Result<Published, WritebackError> {
    let PublishOptions { checkout, branch, is_wanted, author_name: _, author_email: _, now: _ } = options;
    if *branch == checkout.branch() {
        return Err(WritebackError::WatchedBranch((*branch).to_owned()));
    }
    let repository = checkout.repository();
    let mut refused_at: Option<Option<Oid>> = None;
    for attempt in 0..ATTEMPTS_LIMIT {
        if attempt > 0 {
            back_off(attempt);
        }
        let tip = tip(options)?;
        let parent = tip.map(|tip| repository.find_commit(tip)).transpose();
        let parent = parent.map_err(|source| write("reading the status branch", source))?;
        let tree = parent.as_ref().map(git2::Commit::tree).transpose();
        let tree = tree.map_err(|source| write("reading the status branch", source))?;
        let published = PublishedFiles { repository, commit: tip.map(Revision::from), tree };
        let edit = make(&published);
        let Some(tree) = edited_tree(&published, &edit)? else { return Ok(Published::Unchanged) };
        let commit = commit(options, tree, parent.as_ref(), message)?;
        if !is_wanted() {
            return Err(WritebackError::GivenUp((*branch).to_owned()));
        }
        match swap(options, tip, commit)? {
            Swapped::Done => return Ok(Published::Committed(commit.into())),
            Swapped::Moved => refused_at = None,
            Swapped::Rejected(answer) => {
                // Nobody moved the branch between two rejections: it is a rule that rejects, not a race.
                if refused_at == Some(tip) {
                    let place = checkout.remote().map(super::remote::Remote::place).unwrap_or_default();
                    return Err(WritebackError::Refused { place, branch: (*branch).to_owned(), answer });
                }
                refused_at = Some(tip);
            }
        }
    }
    Err(WritebackError::Contended { branch: (*branch).to_owned() })
}

/// How a compare-and-swap ended.
enum Swapped {
    /// The branch is ours.
    Done,
    /// Somebody else was faster.
    Moved,
    /// The other side said no: a race, or a rule.
    Rejected(String),
}

/// The newest commit of the status branch; none: there is no such branch (yet, or any more).
fn tip(options: &PublishOptions<'_>) -> Result<Option<Oid>, WritebackError> {
    let PublishOptions { checkout, branch, .. } = options;
    let repository = checkout.repository();
    if let Some(remote) = checkout.remote() {
        return match remote.fetch(repository, branch) {
            Ok(Fetched::Tip(tip)) => Ok(Some(tip)),
            Ok(Fetched::Empty | Fetched::Missing(_)) => Ok(None),
            Err(source) => Err(WritebackError::Remote { branch: (*branch).to_owned(), source: Box::new(source) }),
        };
    }
    match repository.refname_to_id(&reference_name(branch)) {
        Ok(id) => Ok(Some(id)),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(source) => Err(write("reading the status branch", source)),
    }
}

/// The tree after the edit; none: it is the one that is there.
fn edited_tree(published: &PublishedFiles<'_>, edit: &Edit) -> Result<Option<Oid>, WritebackError> {
    let PublishedFiles { repository, commit: _, tree } = published;
    let mut update = TreeUpdateBuilder::new();
    let mut changes = 0_usize;
    for (path, bytes) in &edit.write {
        let blob = Oid::hash_object(git2::ObjectType::Blob, bytes).map_err(|source| write("hashing a file", source))?;
        let same = |tree: &Tree<'_>| tree.get_path(path.as_ref()).is_ok_and(|entry| entry.id() == blob);
        if tree.as_ref().is_some_and(same) {
            continue;
        }
        let blob = repository.blob(bytes).map_err(|source| write(&format!("storing {path}"), source))?;
        update.upsert(path.as_str(), blob, FileMode::Blob);
        changes += 1;
    }
    for path in edit.remove.iter().filter(|path| !edit.write.contains_key(*path)) {
        if tree.as_ref().is_some_and(|tree| tree.get_path(path.as_ref()).is_ok()) {
            update.remove(path.as_str());
            changes += 1;
        }
    }
    if changes == 0 && tree.is_some() {
        return Ok(None);
    }
    let base = match tree {
        Some(tree) => tree.clone(),
        None => repository
            .treebuilder(None)
            .and_then(|builder| builder.write())
            .and_then(|id| repository.find_tree(id))
            .map_err(|source| write("making an empty tree", source))?,
    };
    let edited = update.create_updated(repository, &base).map_err(|source| write("building the tree", source))?;
    Ok((edited != base.id()).then_some(edited))
}

fn commit(
    options: &PublishOptions<'_>,
    tree: Oid,
    parent: Option<&git2::Commit<'_>>,
    message: &str,
) -> Result<Oid, WritebackError> {
    let PublishOptions { checkout, author_name, author_email, now, .. } = options;
    let repository = checkout.repository();
    let author = Signature::new(author_name, author_email, &git2::Time::new(now.as_second(), 0))
        .map_err(|source| write(&format!("using `{author_name} <{author_email}>` as author"), source))?;
    let tree = repository.find_tree(tree).map_err(|source| write("reading the new tree", source))?;
    let message = format!("{}\n\n{STATUS_TRAILER}\n", message.trim_end());
    let parents: Vec<_> = parent.into_iter().collect();
    repository
        .commit(None, &author, &author, &message, &tree, &parents)
        .map_err(|source| write("making the commit", source))
}

fn swap(options: &PublishOptions<'_>, tip: Option<Oid>, commit: Oid) -> Result<Swapped, WritebackError> {
    let PublishOptions { checkout, branch, .. } = options;
    let repository = checkout.repository();
    if let Some(remote) = checkout.remote() {
        return match remote.push(repository, commit, branch) {
            Ok(Pushed::Accepted) => Ok(Swapped::Done),
            Ok(Pushed::Rejected(answer)) => Ok(Swapped::Rejected(answer)),
            Err(source) => Err(WritebackError::Remote { branch: (*branch).to_owned(), source: Box::new(source) }),
        };
    }
    let name = reference_name(branch);
    // libgit2 looks whether a new reference exists before it locks it, so of two that make the branch at the same time both
    // would succeed. This lock ends with its process, whichever way that ends.
    let lock = std::fs::File::create(repository.commondir().join("mainstay-status.lock"));
    let lock = lock.and_then(|file| Ok(rustix::fs::flock(&file, FlockOperation::LockExclusive).map(|()| file)?));
    let _lock =
        lock.map_err(|source| write("locking the status branch", git2::Error::from_str(&source.to_string())))?;
    // No Mainstay can hold git's own lock now.
    let moved = lock::past_abandoned(repository, &name, || match tip {
        Some(tip) => repository.reference_matching(&name, commit, true, tip, "mainstay: status"),
        None => repository.reference(&name, commit, false, "mainstay: status"),
    });
    match moved {
        Ok(_) => Ok(Swapped::Done),
        // NotFound: the branch was deleted between reading and writing.
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::Modified | ErrorCode::Locked | ErrorCode::Exists | ErrorCode::NotFound
            ) =>
        {
            Ok(Swapped::Moved)
        }
        Err(source) => Err(write(&format!("moving {name}"), source)),
    }
}

/// Waits longer each time, and never as long as another publisher that started at the same moment.
fn back_off(attempt: u32) {
    let ceiling_milliseconds = (10_u64 << attempt.min(7)).min(1_000);
    std::thread::sleep(Duration::from_millis(rand::rng().random_range(1..=ceiling_milliseconds)));
}

fn reference_name(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn write(operation: &str, source: git2::Error) -> WritebackError {
    WritebackError::Write { operation: operation.to_owned(), source }
}
