//! The checkout: the watched branch of a git repository, and its documents at one revision.
//!
//! Reads commits only, never a work tree: what is not committed is not asked for. A local repository is opened in
//! place; a remote one is mirrored bare into a cache directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use git2::{ErrorClass, ErrorCode, ObjectType, Oid, Repository, Tree};

use super::{
    GitError, Revision,
    credentials::Credentials,
    history::{self, COMMITS_LIMIT},
    remote::{self, Remote},
};
use crate::{desired::DesiredState, policy::load::is_document_file};

/// The largest document that is read.
pub const DOCUMENT_LIMIT_BYTES: u64 = 10 * 1024 * 1024;
/// The most documents that are read.
pub const DOCUMENTS_LIMIT: usize = 100_000;
/// The trailer that says which commit a rewritten history takes the place of.
pub const FOLLOWS: &str = "Mainstay-Follows";
/// How deep directories may lie in each other.
const DEPTH_LIMIT: usize = 64;

/// What to watch.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    /// A path of a work tree or bare repository, or an address: `https://…`, `ssh://…`, `git@host:path`, `file://…`.
    pub url_or_path: String,
    /// The branch.
    pub branch: String,
    /// The directory inside the repository; empty or `.`: all of it.
    pub path: PathBuf,
    /// Where remote repositories are mirrored.
    pub cache_directory: PathBuf,
    /// What opens a remote one.
    pub credentials: Credentials,
}

pub use crate::policy::load::FileContent;

/// Why a document that is there was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is larger than [`DOCUMENT_LIMIT_BYTES`].
    #[error("the file has {size_bytes} bytes, more than the {DOCUMENT_LIMIT_BYTES} that are read; split it")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
    },
    /// It is a symbolic link, which could point anywhere.
    #[error("the file is a symbolic link, and links are not followed; commit the document itself")]
    SymbolicLink,
    /// It is a submodule.
    #[error("this is a submodule, and submodules are not read; commit the document itself")]
    Submodule,
    /// The object database gives no content.
    #[error("the file cannot be read from the git repository ({0}); check it with `git fsck`")]
    Damaged(String),
}

/// The documents of one revision, by path relative to the watched directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What was read.
    pub content: BTreeMap<PathBuf, FileContent>,
    /// What is there and was not read. Policies that came from one of these stay as they are: unknown is not empty.
    pub unread: BTreeMap<PathBuf, Unread>,
}

/// The watched branch of a git repository.
pub struct Checkout {
    options: CheckoutOptions,
    repository: Repository,
    remote: Option<Remote>,
    /// The documents read last and the tree they are from, so that only what changed is read again.
    last: Option<(Oid, Arc<Files>)>,
}

impl Files {
    /// Freezes what was not read, and says why, one sentence for each file: policies that came from these files stay as
    /// they are.
    pub fn freeze(&self, desired: &mut DesiredState) -> Vec<String> {
        desired.frozen_files.extend(self.unread.keys().cloned());
        desired.unknown_files.extend(self.unread.keys().cloned());
        self.unread.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect()
    }
}

impl Checkout {
    /// Opens a local repository in place, or the mirror of a remote one. Does not talk to a remote yet.
    ///
    /// # Errors
    /// There is no local repository, or the cache cannot be written.
    pub fn open(options: CheckoutOptions) -> Result<Self, GitError> {
        let (repository, remote) = match remote::local_path(&options.url_or_path) {
            Some(path) => (open_local(&path)?, None),
            None => {
                let remote = Remote { url: options.url_or_path.clone(), credentials: options.credentials.clone() };
                (remote.open_mirror(&options.cache_directory)?, Some(remote))
            }
        };
        Ok(Self { options, repository, remote, last: None })
    }

    /// Where the branch is now. For a remote repository, fetches it first.
    ///
    /// # Errors
    /// Each reason is a [`GitError`] of its own.
    pub fn fetch(&mut self) -> Result<Revision, GitError> {
        match &self.remote {
            Some(remote) => remote.fetch_branch(&self.repository, &self.options.branch),
            None => self.local_tip(),
        }
    }

    /// The documents of a revision. Only blobs that changed since the last call are read.
    ///
    /// # Errors
    /// The watched directory is not there, or holds no document; or the repository is damaged.
    pub fn files(&mut self, revision: &Revision) -> Result<Arc<Files>, GitError> {
        let Self { options, repository, remote: _, last } = self;
        let tree = directory(repository, revision, &options.path)?;
        let files = match last.take() {
            Some((before, files)) if before == tree.id() => read_again(repository, &tree, files),
            Some((before, files)) => {
                read_again(repository, &tree, changed_files(repository, before, &tree, files, &options.path)?)
            }
            None => Arc::new(all_files(repository, &tree, &options.path)?),
        };
        *last = Some((tree.id(), Arc::clone(&files)));
        if files.content.is_empty() && files.unread.is_empty() {
            return Err(GitError::NoDocuments { path: options.path.clone(), revision: revision.clone() });
        }
        Ok(files)
    }

    /// Refuses a revision that does not come after the one applied last (a force-push), unless one of its commits says
    /// that it is meant to: `Mainstay-Follows: REVISION`.
    ///
    /// # Errors
    /// [`GitError::HistoryRewritten`], also when the old commit is gone.
    pub fn check_descendant(&self, last_applied: &Revision, head: &Revision) -> Result<(), GitError> {
        if is_descendant(&self.repository, head, last_applied)? {
            return Ok(());
        }
        let follows = |message: &str| {
            let named = message.lines().filter_map(|line| line.strip_prefix(FOLLOWS)?.strip_prefix(':'));
            named.map(str::trim).any(|revision| revision == last_applied.0)
        };
        if history::messages(&self.repository, head, None, COMMITS_LIMIT)?.iter().any(|(_, message)| follows(message)) {
            return Ok(());
        }
        Err(GitError::HistoryRewritten { from: last_applied.clone(), to: head.clone() })
    }

    /// The directory to watch for commits; none: a remote repository, which is polled.
    pub fn watch_directory(&self) -> Option<&Path> {
        self.remote.is_none().then(|| self.repository.commondir())
    }

    /// The watched branch.
    pub fn branch(&self) -> &str {
        &self.options.branch
    }

    /// The watched directory inside the repository.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// The remote, where it is one.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// The repository: the local one, or the mirror.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn local_tip(&self) -> Result<Revision, GitError> {
        let Self { options, repository, .. } = self;
        let name = format!("refs/heads/{}", options.branch);
        let place = || options.url_or_path.clone();
        match repository.find_reference(&name).and_then(|reference| reference.peel_to_commit()) {
            Ok(commit) => Ok(commit.id().into()),
            Err(error) if error.code() == ErrorCode::NotFound => {
                // A repository that was deleted under us still has an open handle: look before blaming the branch.
                if !repository.commondir().join("HEAD").exists() {
                    return Err(GitError::RepositoryMissing { place: place(), source: error });
                }
                let found = branches(repository);
                if found.is_empty() {
                    return Err(GitError::Empty { place: place(), branch: options.branch.clone() });
                }
                Err(GitError::BranchMissing { place: place(), branch: options.branch.clone(), found })
            }
            Err(source) => Err(GitError::Read { operation: format!("reading {name} of {}", place()), source }),
        }
    }
}

/// Opens a local repository: a work tree, its `.git`, or a bare one.
///
/// # Errors
/// There is none, or it belongs to another user.
pub fn open_local(path: &Path) -> Result<Repository, GitError> {
    Repository::open(path).map_err(|source| {
        let place = path.display().to_string();
        if source.code() == ErrorCode::Owner {
            GitError::RepositoryForeign { place, source }
        } else if source.code() == ErrorCode::NotFound || source.class() == ErrorClass::Os {
            GitError::RepositoryMissing { place, source }
        } else {
            GitError::Read { operation: format!("opening the git repository {place}"), source }
        }
    })
}

/// The documents of any revision of a repository, below `path`: what `plan --base` and `--head` compare.
///
/// # Errors
/// The directory is not in that revision, or the repository is damaged. No document at all is no error here.
pub fn files_at(repository: &Repository, revision: &Revision, path: &Path) -> Result<Files, GitError> {
    all_files(repository, &directory(repository, revision, path)?, path)
}

/// Whether `new` is `old` or comes after it. An `old` that is gone has no descendant.
///
/// # Errors
/// The repository is damaged.
pub fn is_descendant(repository: &Repository, new: &Revision, old: &Revision) -> Result<bool, GitError> {
    let (new_id, old_id) = (new.object_id()?, old.object_id()?);
    if new_id == old_id {
        return Ok(true);
    }
    if repository.find_commit(old_id).is_err() {
        return Ok(false);
    }
    repository
        .graph_descendant_of(new_id, old_id)
        .map_err(|source| GitError::Read { operation: format!("walking from {new} back to {old}"), source })
}

fn directory<'r>(repository: &'r Repository, revision: &Revision, path: &Path) -> Result<Tree<'r>, GitError> {
    let read = |source| GitError::Read { operation: format!("reading the commit {revision}"), source };
    let root = repository.find_commit(revision.object_id()?).and_then(|commit| commit.tree()).map_err(read)?;
    let path: PathBuf = path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    if path.as_os_str().is_empty() {
        return Ok(root);
    }
    let vanished = || GitError::PathVanished { path: path.clone(), revision: revision.clone() };
    match root.get_path(&path) {
        Ok(entry) if entry.kind() == Some(ObjectType::Tree) => repository.find_tree(entry.id()).map_err(read),
        Ok(_) => Err(vanished()),
        Err(error) if error.code() == ErrorCode::NotFound => Err(vanished()),
        Err(source) => Err(read(source)),
    }
}

/// Reads what differs between two trees, and takes the rest from `files`.
fn changed_files(
    repository: &Repository,
    before: Oid,
    tree: &Tree<'_>,
    mut files: Arc<Files>,
    watched: &Path,
) -> Result<Arc<Files>, GitError> {
    // The old tree may be gone (rewritten history, then garbage collection): read everything.
    let Ok(before) = repository.find_tree(before) else {
        return Ok(Arc::new(all_files(repository, tree, watched)?));
    };
    let (gone, found) = differences(repository, before, tree)?;
    let changed = Arc::make_mut(&mut files);
    for path in gone {
        changed.content.remove(&path);
        changed.unread.remove(&path);
    }
    // After all removals: a file may have become a directory, or a directory a file.
    for (path, id, mode) in found {
        read_into(repository, &path, id, mode, changed);
    }
    if changed.content.len() > DOCUMENTS_LIMIT {
        return Err(GitError::TooManyDocuments { path: watched.to_owned(), limit: DOCUMENTS_LIMIT });
    }
    Ok(files)
}

/// A file of documents in a tree: its path, its blob and its mode.
type Found = (PathBuf, Oid, u32);

/// The files of documents that only the first tree has in this form, and those that only the second one has. What both
/// have is passed over a directory at a time: libgit2's own comparison reads each of them.
fn differences(
    repository: &Repository,
    before: Tree<'_>,
    after: &Tree<'_>,
) -> Result<(Vec<PathBuf>, Vec<Found>), GitError> {
    let (mut gone, mut found) = (Vec::new(), Vec::new());
    let mut pending = vec![(PathBuf::new(), Some(before), Some(after.clone()))];
    while let Some((directory, before, after)) = pending.pop() {
        let (before, after) = (entries(before.as_ref()), entries(after.as_ref()));
        let names: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        for name in names {
            let (old, new) = (before.get(name), after.get(name));
            if old == new {
                continue;
            }
            let path = directory.join(path_of(name));
            let subtree = |entry: Option<&Entry>| match entry.filter(|entry| entry.is_tree) {
                Some(entry) => repository.find_tree(entry.id).map(Some).map_err(|source| GitError::Read {
                    operation: format!("reading the directory {}", path.display()),
                    source,
                }),
                None => Ok(None),
            };
            if path.components().count() < DEPTH_LIMIT {
                let (old, new) = (subtree(old)?, subtree(new)?);
                if old.is_some() || new.is_some() {
                    pending.push((path.clone(), old, new));
                }
            }
            if is_document_file(&path) {
                gone.extend(old.filter(|entry| !entry.is_tree).map(|_| path.clone()));
                found.extend(new.filter(|entry| !entry.is_tree).map(|entry| (path.clone(), entry.id, entry.mode)));
            }
        }
    }
    Ok((gone, found))
}

/// What a tree says of one name.
#[derive(PartialEq, Eq)]
struct Entry {
    id: Oid,
    mode: u32,
    is_tree: bool,
}

fn entries(tree: Option<&Tree<'_>>) -> BTreeMap<Vec<u8>, Entry> {
    let entry = |entry: git2::TreeEntry<'_>| {
        let mode = u32::try_from(entry.filemode()).unwrap_or_default();
        let is_tree = entry.kind() == Some(ObjectType::Tree);
        (entry.name_bytes().to_vec(), Entry { id: entry.id(), mode, is_tree })
    };
    tree.into_iter().flat_map(|tree| tree.iter()).map(entry).collect()
}

/// Reads once more what could not be read: a damaged object may have been mended since, without any new commit.
fn read_again(repository: &Repository, tree: &Tree<'_>, mut files: Arc<Files>) -> Arc<Files> {
    let is_damaged = |(_, why): &(&PathBuf, &Unread)| matches!(why, Unread::Damaged(_));
    let damaged: Vec<PathBuf> = files.unread.iter().filter(is_damaged).map(|(path, _)| path.clone()).collect();
    for path in damaged {
        let Ok(entry) = tree.get_path(&path) else { continue };
        let changed = Arc::make_mut(&mut files);
        changed.unread.remove(&path);
        read_into(repository, &path, entry.id(), u32::try_from(entry.filemode()).unwrap_or_default(), changed);
    }
    files
}

fn all_files(repository: &Repository, tree: &Tree<'_>, watched: &Path) -> Result<Files, GitError> {
    let mut files = Files::default();
    let mut pending = vec![(PathBuf::new(), tree.clone())];
    while let Some((directory, tree)) = pending.pop() {
        for entry in &tree {
            // A name that is not UTF-8 cannot be that of a document, but a directory may have one.
            let path = directory.join(path_of(entry.name_bytes()));
            if entry.kind() == Some(ObjectType::Tree) {
                if path.components().count() < DEPTH_LIMIT {
                    let subtree = repository.find_tree(entry.id()).map_err(|source| GitError::Read {
                        operation: format!("reading the directory {}", path.display()),
                        source,
                    })?;
                    pending.push((path, subtree));
                }
            } else if is_document_file(&path) {
                let mode = u32::try_from(entry.filemode()).unwrap_or_default();
                read_into(repository, &path, entry.id(), mode, &mut files);
                if files.content.len() > DOCUMENTS_LIMIT {
                    return Err(GitError::TooManyDocuments { path: watched.to_owned(), limit: DOCUMENTS_LIMIT });
                }
            }
        }
    }
    Ok(files)
}

fn read_into(repository: &Repository, path: &Path, id: Oid, mode: u32, files: &mut Files) {
    match read_blob(repository, id, mode) {
        Ok(bytes) => {
            files.content.insert(path.to_owned(), FileContent { bytes, blob: Some(id.to_string()) });
        }
        Err(unread) => {
            files.unread.insert(path.to_owned(), unread);
        }
    }
}

fn read_blob(repository: &Repository, id: Oid, mode: u32) -> Result<Vec<u8>, Unread> {
    /// Modes of a tree entry that are not a plain file; see `git help fast-import`, "Modes".
    const SYMBOLIC_LINK: u32 = 0o120_000;
    const SUBMODULE: u32 = 0o160_000;
    if mode == SYMBOLIC_LINK {
        return Err(Unread::SymbolicLink);
    }
    if mode == SUBMODULE {
        return Err(Unread::Submodule);
    }
    let damaged = |error: git2::Error| Unread::Damaged(error.message().to_owned());
    // The header tells the size without unpacking the content.
    let database = repository.odb().map_err(damaged)?;
    let (size, _) = database.read_header(id).map_err(damaged)?;
    let size_bytes = size as u64;
    if size_bytes > DOCUMENT_LIMIT_BYTES {
        return Err(Unread::TooLarge { size_bytes });
    }
    Ok(repository.find_blob(id).map_err(damaged)?.content().to_vec())
}

fn path_of(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

fn branches(repository: &Repository) -> Vec<String> {
    let Ok(references) = repository.references_glob("refs/heads/*") else { return Vec::new() };
    let mut names: Vec<String> = references
        .flatten()
        .filter_map(|reference| reference.name().ok().map(str::to_owned))
        .filter_map(|name| name.strip_prefix("refs/heads/").map(str::to_owned))
        .collect();
    names.sort();
    names.truncate(10);
    names
}
