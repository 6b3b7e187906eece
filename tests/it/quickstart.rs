//! The first set-up command of the README, played with the binary under test. With the live tests only, for it needs sqlite3
//! or Python.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[test]
fn the_quickstart_tells_its_story_to_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let began = Instant::now();
    let output = Command::new(root.join("examples/quickstart/run"))
        .arg(folder.path().join("story"))
        .env("MAINSTAY", env!("CARGO_BIN_EXE_mainstay"))
        .env("HOME", folder.path())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(folder.path().join("story/daemon.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{failed}\n--- daemon.log\n{log}");
    assert!(began.elapsed() < Duration::from_secs(60), "it takes {:?}", began.elapsed());
    for line in [
        "Plan: 1 to create, 0 to update, 0 to delete, 0 refused.",
        "The files and the dump of the database are the same as the originals.",
        "1 refused.",
        "mainstay approve",
    ] {
        assert!(said.contains(line), "`{line}` is missing in:\n{said}");
    }
    // The daemon was ended in an orderly way, and not left behind.
    assert!(log.contains("asked to end"), "{log}");
    // The commit on the status branch is shown with its files.
    for file in ["README.md", "inventory.json", "runs/", "status/notes/nightly.yaml"] {
        assert!(said.lines().any(|line| line.trim_start().starts_with(file) && line.contains('|')), "{file}:\n{said}");
    }
    // Each command that it offers as the next one is a command.
    let next = said.split("\nNext:\n").nth(1).expect("what to type next");
    let offered = next.lines().filter_map(|line| line.trim().strip_prefix(env!("CARGO_BIN_EXE_mainstay")));
    let commands: Vec<&str> = offered.filter_map(|rest| rest.split_whitespace().next()).collect();
    assert_eq!(commands, ["daemon", "restore", "init"]);
    for command in commands {
        let help = Command::new(env!("CARGO_BIN_EXE_mainstay")).args([command, "--help"]).output().expect("help");
        assert!(help.status.success(), "{command}");
    }
    // It leaves what it says that it leaves.
    for left in ["documents", "site", "repository", "state", "restored"] {
        assert!(folder.path().join("story").join(left).exists(), "{left} is not there");
    }
}

#[test]
fn the_quickstart_writes_into_no_folder_that_holds_something() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mine"), "mine").expect("a file");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/run"))
        .arg(folder.path())
        .env("MAINSTAY", env!("CARGO_BIN_EXE_mainstay"))
        .output()
        .expect("bash");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty; name another folder"));
}
