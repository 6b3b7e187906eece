//! The real restic as the judge of repositories that tests leave. The hermetic tests ask it where `MAINSTAY_RESTIC` says
//! which program it is, as `tests/run` does; the live tests ask it always.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Has the real restic read all that is in each repository below a folder, with any of these passwords; panics at the
/// first one in which it finds a fault. Gives how many there are.
pub fn judge(restic: &Path, folder: &Path, passwords: &[PathBuf]) -> usize {
    let repositories = repositories(folder);
    for repository in &repositories {
        let check = |password: &PathBuf| {
            let mut command = Command::new(restic);
            command.arg("-r").arg(repository).arg("--password-file").arg(password);
            // A mover that a test killed has left its lock.
            command.args(["--no-cache", "check", "--read-data", "--no-lock"]).output().expect("restic starts")
        };
        let mut outputs: Vec<Output> = Vec::new();
        if !passwords.iter().any(|password| {
            outputs.push(check(password));
            outputs.last().is_some_and(|output| output.status.success())
        }) {
            let said = |output: &Output| {
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
            };
            let all: Vec<String> = outputs.iter().map(said).collect();
            panic!("restic finds a fault in {}: {}", repository.display(), all.join("\n---\n"));
        }
    }
    repositories.len()
}

/// The files in these folders, of which some may not be there.
pub fn files_in(folders: &[PathBuf]) -> Vec<PathBuf> {
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// The repositories below a folder: those that were begun and never made whole have no `config`.
fn repositories(folder: &Path) -> Vec<PathBuf> {
    if folder.join("config").is_file() && folder.join("keys").is_dir() && folder.join("snapshots").is_dir() {
        return vec![folder.to_owned()];
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|entry| repositories(&entry.path())).collect()
}
