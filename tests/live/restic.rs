//! What the mover writes is read by the real restic: check, restore, dump; and the other way round.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use mainstay::{
    mover::job::{
        Event, Input, Job, Outcome, Place, Program, RepositoryAccess, SnapshotLabel, Stream, StreamCheck, Task,
    },
    restore_point::RestorePointId,
    secret::Secret,
};

const PASSWORD: &str = "correct horse";

fn mover(repository: &Path, task: Task) -> Outcome {
    let job = Job {
        repository: RepositoryAccess {
            name: "offsite".to_owned(),
            place: Place::Directory(repository.to_owned()),
            password: Secret::new(PASSWORD),
        },
        cache_directory: None,
        bandwidth_bytes_per_second: None,
        task,
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .arg("mover")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&job).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    match serde_json::from_str(text.lines().last().unwrap()).unwrap() {
        Event::Done(outcome) => outcome,
        other @ (Event::Progress { .. } | Event::Warning(_) | Event::Data(_) | Event::Failed(_)) => panic!("{other:?}"),
    }
}

fn restic(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic is installed by tests/run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn capture(source: &str, input: Input) -> Task {
    let label = SnapshotLabel {
        policy: "shop/nightly".parse().unwrap(),
        run: RestorePointId("20261121-020000".to_owned()),
        source: source.to_owned(),
        sources: 2,
        host: "local".to_owned(),
        maker: None,
    };
    Task::Capture { label, time: "2026-11-21T02:00:00Z".parse().unwrap(), input }
}

/// Names, modes, times and contents, as `tar` sees them.
fn archive_of(root: &Path) -> Vec<u8> {
    let tar = ["--sort=name", "--format=posix", "--pax-option=delete=atime,delete=ctime", "-cf", "-", "."];
    let output = Command::new("tar").arg("-C").arg(root).args(tar).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn restic_reads_what_the_mover_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let (repository, root) = (directory.path().join("repository"), directory.path().join("data"));
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    fs::write(root.join("a \"quoted\" ünïcode\n name"), "content").unwrap();
    let big: Vec<u8> = (0..5_000_000_u64).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
    fs::write(root.join("sub/big"), big).unwrap();
    fs::hard_link(root.join("sub/big"), root.join("sub/linked")).unwrap();
    std::os::unix::fs::symlink("../nowhere", root.join("sub/dangling")).unwrap();

    mover(&repository, Task::Initialise);
    let paths = Input::Paths { paths: vec![root.clone()], exclude: Vec::new(), one_file_system: false };
    let Outcome::Captured { snapshot: files, .. } = mover(&repository, capture("files", paths)) else { panic!() };
    let stream = |file_name: &str, script: &str| Stream {
        file_name: file_name.to_owned(),
        program: Program { arguments: ["sh", "-c", script].map(str::to_owned).to_vec(), environment: BTreeMap::new() },
        check: StreamCheck::NotEmpty,
    };
    let streams = Input::Streams(vec![stream("a.sql", "seq 1 300000"), stream("b.sql", "echo short")]);
    let Outcome::Captured { snapshot: dumps, .. } = mover(&repository, capture("db", streams)) else { panic!() };

    let check = String::from_utf8(restic(&repository, &["check", "--read-data"])).unwrap();
    assert!(check.contains("no errors were found"), "{check}");
    let out = directory.path().join("out");
    restic(&repository, &["restore", &files, "--target", out.to_str().unwrap(), "--verify"]);
    let copy = out.join(root.strip_prefix("/").unwrap());
    assert!(archive_of(&root) == archive_of(&copy));

    restic(&repository, &["restore", &dumps, "--target", out.to_str().unwrap(), "--verify"]);
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(fs::read_to_string(out.join("a.sql")).unwrap(), expected);
    assert_eq!(fs::read_to_string(out.join("b.sql")).unwrap(), "short\n");
    assert_eq!(restic(&repository, &["dump", &dumps, "/a.sql"]), expected.as_bytes());

    // Forgetting and pruning keeps restic content, too.
    mover(&repository, Task::Forget { snapshots: vec![dumps] });
    mover(&repository, Task::Prune);
    restic(&repository, &["check", "--read-data"]);
}

#[test]
fn the_mover_restores_what_restic_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let (repository, root) = (directory.path().join("repository"), directory.path().join("data"));
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("sub/file"), "x".repeat(2_000_000)).unwrap();
    restic(&repository, &["init"]);
    restic(&repository, &["backup", "--tag", "foreign", root.to_str().unwrap()]);
    // Foreign snapshots are not ours to list, expire or forget.
    assert_eq!(mover(&repository, Task::List { policy: None }), Outcome::Listed(Vec::new()));
    let listed: serde_json::Value = serde_json::from_slice(&restic(&repository, &["snapshots", "--json"])).unwrap();
    let snapshot = listed[0]["id"].as_str().unwrap().to_owned();
    let out = directory.path().join("out");
    mover(
        &repository,
        Task::RestoreFiles { snapshot, into: Some(out.clone()), paths: Vec::new(), overwrite: false, dry_run: false },
    );
    assert!(archive_of(&root) == archive_of(&out.join(root.strip_prefix("/").unwrap())));
}

#[test]
fn restic_and_the_mover_go_on_with_each_other_and_store_nothing_twice() {
    for restic_is_first in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (repository, root) = (directory.path().join("repository"), directory.path().join("data"));
        fs::create_dir_all(root.join("sub")).unwrap();
        // No two of its stretches are equal, so that every cut counts.
        let big: Vec<u8> = (0..40_000_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let content: Vec<u8> =
            big.iter().zip(1_u32..).map(|(byte, n)| byte ^ (n.wrapping_mul(n) >> 20) as u8).collect();
        fs::write(root.join("big"), &content).unwrap();
        fs::write(root.join("sub/text"), (0..700_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        for number in 0..300 {
            fs::write(root.join(format!("sub/{number}")), format!("small file {number}")).unwrap();
        }
        let ours = || {
            let input = Input::Paths { paths: vec![root.clone()], exclude: Vec::new(), one_file_system: false };
            let Outcome::Captured { added_bytes, .. } = mover(&repository, capture("files", input)) else { panic!() };
            added_bytes
        };
        let theirs = || -> u64 {
            let said = restic(&repository, &["backup", "--json", root.to_str().unwrap()]);
            let last = String::from_utf8(said).unwrap().lines().last().unwrap().to_owned();
            let summary: serde_json::Value = serde_json::from_str(&last).unwrap();
            summary["data_added"].as_u64().unwrap()
        };
        let (first, second) = if restic_is_first {
            restic(&repository, &["init"]);
            (theirs(), ours())
        } else {
            mover(&repository, Task::Initialise);
            (ours(), theirs())
        };
        // What the second one adds is trees: it names owners and times in its own manner.
        assert!(first > 30_000_000 && second < 500_000, "{first} bytes, then {second} more");
        let check = String::from_utf8(restic(&repository, &["check", "--read-data"])).unwrap();
        assert!(check.contains("no errors were found"), "{check}");
        mover(&repository, Task::Check { read_data_percent: 100.0 });
        let listed: serde_json::Value = serde_json::from_slice(&restic(&repository, &["snapshots", "--json"])).unwrap();
        for (number, snapshot) in listed.as_array().unwrap().iter().enumerate() {
            let snapshot = snapshot["id"].as_str().unwrap().to_owned();
            let (by_them, by_us) =
                (directory.path().join(format!("t{number}")), directory.path().join(format!("o{number}")));
            restic(&repository, &["restore", &snapshot, "--target", by_them.to_str().unwrap(), "--verify"]);
            let into = Some(by_us.clone());
            mover(
                &repository,
                Task::RestoreFiles { snapshot, into, paths: Vec::new(), overwrite: false, dry_run: false },
            );
            for restored in [by_them, by_us] {
                assert!(archive_of(&root) == archive_of(&restored.join(root.strip_prefix("/").unwrap())));
            }
        }
    }
}
