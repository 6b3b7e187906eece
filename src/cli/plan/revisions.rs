//! The git repository that holds a directory: its revisions, the documents in them, and the approvals before them.

use std::path::{Path, PathBuf};

use git2::Repository;

use super::inputs::Files;
use crate::{
    cli::Failure,
    git::{Revision, checkout, history},
    plan::{Approvals, used_up::UsedUp},
};

/// A directory inside of a git repository.
pub struct Watched {
    repository: Repository,
    /// The directory, relative to the repository.
    path: PathBuf,
}

impl Watched {
    /// Finds the repository that holds a directory. The directory itself may be gone.
    ///
    /// # Errors
    /// There is no git repository around it.
    pub fn holding(directory: &Path) -> Result<Self, Failure> {
        let cannot = || format!("{} is not in a git repository", directory.display());
        let absolute = std::path::absolute(directory).map_err(|error| Failure::new(cannot()).caused_by(error))?;
        let existing = absolute.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
        let existing_real = existing.canonicalize().map_err(|error| Failure::new(cannot()).caused_by(error))?;
        let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
        let repository = Repository::discover(&existing_real).map_err(|error| {
            Failure::new(cannot())
                .caused_by(error)
                .hint("--base, --head and approvals need one: name a directory inside of a git repository with --path")
        })?;
        let work_tree = repository.workdir().and_then(|work_tree| work_tree.canonicalize().ok());
        let path = match work_tree {
            Some(work_tree) => {
                existing_real.join(rest).strip_prefix(&work_tree).map(Path::to_owned).unwrap_or_default()
            }
            None => PathBuf::new(),
        };
        Ok(Self { repository, path })
    }

    /// The commit that a name, such as `origin/main` or `HEAD~1`, means.
    ///
    /// # Errors
    /// There is no such commit.
    pub fn resolve(&self, name: &str) -> Result<Revision, Failure> {
        self.repository
            .revparse_single(name)
            .and_then(|object| object.peel_to_commit())
            .map(|commit| Revision::from(commit.id()))
            .map_err(|error| {
                Failure::new(format!("there is no commit `{name}`"))
                    .caused_by(error)
                    .hint("fetch it first; a shallow clone may not have it")
            })
    }

    /// The commit that is checked out, if there is any.
    pub fn tip(&self) -> Option<Revision> {
        self.repository.head().and_then(|head| head.peel_to_commit()).ok().map(|commit| commit.id().into())
    }

    /// The documents of a revision. A directory that is not in it holds none.
    ///
    /// # Errors
    /// The repository is damaged, or a document in it cannot be read.
    pub fn files(&self, revision: &Revision) -> Result<Files, Failure> {
        let files = match checkout::files_at(&self.repository, revision, &self.path) {
            Ok(files) => files,
            Err(crate::git::GitError::PathVanished { .. }) => checkout::Files::default(),
            Err(error) => {
                return Err(Failure::new(format!("cannot read the documents of {}", revision.short())).caused_by(error));
            }
        };
        if let Some((path, why)) = files.unread.iter().next() {
            return Err(Failure::new(format!("cannot read {} of {}", path.display(), revision.short()))
                .caused_by(why.to_string()));
        }
        Ok(files.content)
    }

    /// Everything that a commit and those before it consent to, without what a daemon has carried out, and without
    /// commits that `counts` does not hold for.
    ///
    /// # Errors
    /// The repository is damaged.
    pub fn approvals(
        &self,
        head: &Revision,
        consented: Option<&Revision>,
        used_up: &UsedUp,
        counts: impl Fn(&Revision) -> bool,
    ) -> Result<Approvals, Failure> {
        history::approvals(&self.repository, head, consented, used_up, counts)
            .map_err(|error| Failure::new(format!("cannot read the commits before {}", head.short())).caused_by(error))
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}
