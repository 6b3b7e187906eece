//! The mover through the real binary: jobs in, events out, and what is in the repository afterwards.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mainstay::{
    mover::job::{
        Event, Failure, Input, Job, Outcome, Place, Program, RepositoryAccess, Snapshot, SnapshotLabel, Stream,
        StreamCheck, Task,
    },
    restore_point::RestorePointId,
    secret::Secret,
};

use crate::host_folder::HostFolder;

mod files;
mod pruned;
mod streams;

/// A repository in a fresh directory, and room beside it.
struct World {
    directory: HostFolder,
    password: &'static str,
}

impl World {
    fn new() -> Self {
        let world = Self::empty();
        assert_eq!(world.run(Task::Initialise), Ok(Outcome::Initialised(true)));
        world
    }

    fn empty() -> Self {
        let world = Self { directory: HostFolder::new(), password: "correct horse" };
        std::fs::write(world.path("password"), world.password).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn job(&self, task: Task) -> Job {
        Job {
            repository: RepositoryAccess {
                name: "offsite".to_owned(),
                place: Place::Directory(self.path("repository")),
                password: Secret::new(self.password),
            },
            cache_directory: None,
            bandwidth_bytes_per_second: None,
            task,
        }
    }

    fn start(&self, task: Task) -> Child {
        start(&self.job(task))
    }

    fn run(&self, task: Task) -> Result<Outcome, Failure> {
        self.run_with_events(task).0
    }

    fn run_with_events(&self, task: Task) -> (Result<Outcome, Failure>, Vec<Event>) {
        finish(self.start(task))
    }

    fn capture(&self, run: &str, input: Input) -> Result<Outcome, Failure> {
        self.run(capture(run, input))
    }

    fn list(&self) -> Vec<Snapshot> {
        match self.run(Task::List { policy: None }) {
            Ok(Outcome::Listed(snapshots)) => snapshots,
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) -> Result<Outcome, Failure> {
        self.run(Task::Check { read_data_percent: 100.0 })
    }

    fn only_snapshot(&self) -> String {
        let snapshots = self.list();
        assert_eq!(snapshots.len(), 1, "{snapshots:?}");
        snapshots[0].id.clone()
    }

    fn restore(&self, into: &Path, overwrite: bool) -> Result<Outcome, Failure> {
        self.run(Task::RestoreFiles {
            snapshot: self.only_snapshot(),
            into: Some(into.to_owned()),
            paths: Vec::new(),
            overwrite,
            dry_run: false,
        })
    }
}

fn start(job: &Job) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .arg("mover")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(job).unwrap()).unwrap();
    child
}

fn finish(child: Child) -> (Result<Outcome, Failure>, Vec<Event>) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let result = match events.pop() {
        Some(Event::Done(outcome)) => Ok(outcome),
        Some(Event::Failed(failure)) => Err(failure),
        other => panic!("the last event is {other:?}"),
    };
    assert_eq!(output.status.code(), Some(i32::from(result.is_err())));
    (result, events)
}

fn capture(run: &str, input: Input) -> Task {
    capture_source(run, "files", input)
}

fn capture_source(run: &str, source: &str, input: Input) -> Task {
    let label = SnapshotLabel {
        policy: "shop/nightly".parse().unwrap(),
        run: RestorePointId(run.to_owned()),
        source: source.to_owned(),
        sources: 1,
        host: "local".to_owned(),
        maker: None,
    };
    Task::Capture { label, time: "2026-11-21T02:00:00Z".parse().unwrap(), input }
}

fn paths(paths: &[&Path]) -> Input {
    let paths = paths.iter().map(|path| path.to_path_buf()).collect();
    Input::Paths { paths, exclude: vec!["cache/**".to_owned(), "*.tmp".to_owned()], one_file_system: true }
}

fn shell(script: &str) -> Program {
    let arguments = ["sh", "-c", script].map(str::to_owned).to_vec();
    Program { arguments, environment: BTreeMap::new() }
}

fn stream(file_name: &str, script: &str, check: StreamCheck) -> Stream {
    Stream { file_name: file_name.to_owned(), program: shell(script), check }
}

fn one(script: &str, check: StreamCheck) -> Input {
    Input::Streams(vec![stream("shop.sql", script, check)])
}
