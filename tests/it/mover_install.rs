//! The mover copies itself to where another container finds it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

/// Runs `mainstay mover install PATH`; gives whether it worked, and what it said.
fn install(path: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay")).args(["mover", "install"]).arg(path).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn version(program: &Path) -> String {
    String::from_utf8(Command::new(program).arg("--version").output().unwrap().stdout).unwrap()
}

#[test]
fn a_copy_of_the_program_runs_for_anyone() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("mover");
    assert_eq!(install(&program), (true, String::new()));
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(version(&program).starts_with("mainstay "), "{}", version(&program));

    // A folder gets the program under its own name; a container that starts again does it again.
    for _ in 0..2 {
        assert_eq!(install(folder.path()), (true, String::new()));
    }
    assert_eq!(version(&folder.path().join("mainstay")), version(&program));
    // The authorities that this host trusts come along; nothing half made is left beside them.
    let bundle = fs::read("/etc/ssl/certs/ca-certificates.crt").ok();
    assert_eq!(fs::read(folder.path().join("ca-certificates.crt")).ok(), bundle);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2 + usize::from(bundle.is_some()));
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (done, said) = install(Path::new("/nowhere/at/all"));
    assert!(!done);
    assert!(said.starts_with("error: cannot install the mover as /nowhere/at/all\n"), "{said}");
    assert!(said.contains("  because: ") && said.contains("  help: the folder must be there"), "{said}");
}
