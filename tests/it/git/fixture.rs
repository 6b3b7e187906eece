//! Git repositories for tests, made with the real git.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use mainstay::git::{
    Revision,
    checkout::{Checkout, CheckoutOptions},
    credentials::Credentials,
};

/// A work tree in a temporary directory.
pub struct WorkTree {
    pub directory: tempfile::TempDir,
}

impl WorkTree {
    /// An empty repository whose branch is `main`.
    pub fn empty() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        git(directory.path(), &["init", "--quiet", "--initial-branch=main"]);
        Self { directory }
    }

    /// A repository with one commit of these files.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self::empty();
        tree.commit(files, "first");
        tree
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("inside the work tree")).expect("directories");
        std::fs::write(path, content).expect("a file");
    }

    /// Commits these files, and everything else that changed.
    pub fn commit(&self, files: &[(&str, &str)], message: &str) -> Revision {
        for (path, content) in files {
            self.write(path, content);
        }
        git(self.path(), &["add", "--all"]);
        git(self.path(), &["commit", "--quiet", "--allow-empty", "--message", message]);
        self.head()
    }

    pub fn head(&self) -> Revision {
        Revision(git(self.path(), &["rev-parse", "HEAD"]).trim().to_owned())
    }

    pub fn options(&self, path: &str) -> CheckoutOptions {
        options(self.path(), path)
    }

    pub fn checkout(&self) -> Checkout {
        Checkout::open(self.options("")).expect("the repository opens")
    }
}

/// Options for a local repository.
pub fn options(repository: &Path, path: &str) -> CheckoutOptions {
    CheckoutOptions {
        url_or_path: repository.display().to_string(),
        branch: "main".to_owned(),
        path: PathBuf::from(path),
        cache_directory: PathBuf::from("/nonexistent"),
        credentials: Credentials::default(),
    }
}

/// Runs git without the user's configuration.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Ada")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "ada@example.org")))
        .env_remove("GIT_DIR")
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
