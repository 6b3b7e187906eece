//! The folder of a host, gone when its test ends. When that ends well, the real restic finds no fault in any repository
//! there, see [`crate::judge`].

use std::{cell::Cell, env, ops::Deref, path::PathBuf};

use tempfile::TempDir;

use crate::judge::{files_in, judge};

/// A folder with repositories.
pub struct HostFolder {
    directory: TempDir,
    is_damaged: Cell<bool>,
}

impl HostFolder {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a folder"), is_damaged: Cell::new(false) }
    }

    /// This test damages what is in a repository, so restic is not asked in the end.
    pub fn damages(&self) {
        self.is_damaged.set(true);
    }
}

impl Deref for HostFolder {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.directory
    }
}

impl Drop for HostFolder {
    fn drop(&mut self) {
        if std::thread::panicking() || self.is_damaged.get() {
            return;
        }
        let Some(restic) = env::var_os("MAINSTAY_RESTIC").filter(|program| !program.is_empty()) else { return };
        let folder = self.directory.path();
        let mut passwords = files_in(&["state/keys", "etc/mainstay"].map(|name| folder.join(name)));
        passwords.extend(Some(folder.join("password")).filter(|file| file.is_file()));
        judge(&PathBuf::from(restic), folder, &passwords);
    }
}
