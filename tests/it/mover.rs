//! The mover through the real binary: jobs in, events out, and what is in the repository afterwards.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mainstay::{
    mover::{
        archive::{UnpackError, unpack},
        job::{
            Event, Failure, FailureKind, Input, Job, Outcome, Place, Program, RepositoryAccess, Snapshot,
            SnapshotLabel, Stream, StreamCheck, Task,
        },
    },
    restore_point::RestorePointId,
    secret::Secret,
};
use tempfile::TempDir;

/// A repository in a fresh directory, and room beside it.
struct World {
    directory: TempDir,
    password: &'static str,
}

impl World {
    fn new() -> Self {
        let world = Self::empty();
        assert_eq!(world.run(Task::Initialise), Ok(Outcome::Initialised(true)));
        world
    }

    fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), password: "correct horse" }
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

/// A tree with everything that a file system of this host can hold without being root.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir_all(root.join("cache")).unwrap();
    fs::write(root.join("a.txt"), "hello").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("left-out.tmp"), "x").unwrap();
    fs::write(root.join("cache/left-out"), "x").unwrap();
    fs::write(root.join("sub/ünïcode \"quoted\"\n"), "odd name").unwrap();
    let random: Vec<u8> = (0..3_000_000_u64).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(root.join("sub/deep/big"), random).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    fs::hard_link(root.join("a.txt"), root.join("sub/linked.txt")).unwrap();
    symlink("../nowhere", root.join("sub/dangling")).unwrap();
    fs::set_permissions(root.join("a.txt"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("sub/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    // Not every file system has attributes; where there are none, none come back.
    let _ = xattr::set(root.join("a.txt"), "user.origin", b"a\0b");
    for (name, seconds) in [("sub/dangling", 1_000), ("a.txt", 1_234_567_890), ("sub/deep", 1_500_000_000)] {
        let time = filetime::FileTime::from_unix_time(seconds, 123_456_789);
        filetime::set_symlink_file_times(root.join(name), time, time).unwrap();
    }
    let time = filetime::FileTime::from_unix_time(1_600_000_000, 0);
    filetime::set_file_times(root, time, time).unwrap();
}

/// One line for each file: all that has to come back.
fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            use sha2::Digest as _;
            format!("{} {}", metadata.len(), hex::encode(sha2::Sha256::digest(fs::read(&path).unwrap())))
        };
        let attributes: Vec<_> = xattr::list(&path)
            .map(|names| names.map(|name| (name.clone(), xattr::get(&path, name).unwrap())).collect())
            .unwrap_or_default();
        lines.push(format!(
            "{:?} {:o} {}:{} {}.{} {content} {attributes:?}",
            path.strip_prefix(root).unwrap(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ));
    }
    lines.sort();
    lines
}

#[test]
fn a_repository_is_made_once_and_never_over_something_else() {
    let world = World::empty();
    assert_eq!(world.run(Task::List { policy: None }).unwrap_err().kind, FailureKind::RepositoryMissing);
    assert_eq!(world.run(Task::Initialise), Ok(Outcome::Initialised(true)));
    assert_eq!(world.run(Task::Initialise), Ok(Outcome::Initialised(false)));
    assert_eq!(world.list(), []);

    let wrong = World { directory: world.directory, password: "wrong" };
    for task in [Task::Initialise, Task::List { policy: None }] {
        let failure = wrong.run(task).unwrap_err();
        assert_eq!(failure.kind, FailureKind::WrongPassword);
        assert!(failure.message.contains("offsite") && !failure.message.contains("wrong"), "{failure:?}");
    }

    let other = World::empty();
    fs::create_dir(other.path("repository")).unwrap();
    fs::write(other.path("repository/photo.jpg"), "mine").unwrap();
    assert_eq!(other.run(Task::Initialise).unwrap_err().kind, FailureKind::DestinationRefused);
    assert_eq!(fs::read_dir(other.path("repository")).unwrap().count(), 1);
}

#[test]
fn files_come_back_as_they_were() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    let captured = world.capture("1", paths(&[&root])).unwrap();
    let Outcome::Captured { size_bytes, unreadable, files, snapshot, .. } = captured else { panic!() };
    assert_eq!((files, unreadable), (7, 0));
    assert_eq!(size_bytes, 5 + 5 + 8 + 3_000_000 + (8 << 20));
    let snapshots = world.list();
    assert_eq!(snapshots[0].id, snapshot);
    assert_eq!(snapshots[0].label.policy.to_string(), "shop/nightly");
    assert_eq!((snapshots[0].size_bytes, snapshots[0].time.to_string().as_str()), (size_bytes, "2026-11-21T02:00:00Z"));

    let into = world.path("into");
    let dry = |dry_run, paths| Task::RestoreFiles {
        snapshot: snapshot.clone(),
        into: Some(into.clone()),
        paths,
        overwrite: false,
        dry_run,
    };
    let counted = world.run(dry(true, Vec::new())).unwrap();
    assert!(!into.exists());
    let restored = world.run(dry(false, Vec::new())).unwrap();
    assert!(matches!(counted, Outcome::Restored { files: 7, .. }), "{counted:?}");
    assert!(matches!(restored, Outcome::Restored { files: 7, .. }), "{restored:?}");

    fs::remove_file(root.join("left-out.tmp")).unwrap();
    fs::remove_file(root.join("cache/left-out")).unwrap();
    let time = filetime::FileTime::from_unix_time(1_600_000_000, 0);
    filetime::set_file_times(&root, time, time).unwrap();
    let copy = into.join(root.strip_prefix("/").unwrap());
    let without_cache = |root: &Path| -> Vec<String> {
        // Its time changed when the test removed what was left out.
        describe(root).into_iter().filter(|line| !line.starts_with("\"cache\"")).collect()
    };
    assert_eq!(without_cache(&root), without_cache(&copy));
    let inode = |path: &str| fs::metadata(copy.join(path)).unwrap().ino();
    assert_eq!(inode("a.txt"), inode("sub/linked.txt"));
    assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() < 64);

    // A second restore finds everything in the way, and one with overwrite puts right what differs.
    let failure = world.run(dry(false, Vec::new())).unwrap_err();
    assert_eq!(failure.kind, FailureKind::DestinationRefused);
    fs::write(copy.join("a.txt"), "HELLO, changed").unwrap();
    fs::remove_file(copy.join("sub/deep/big")).unwrap();
    fs::write(copy.join("mine"), "not in the snapshot").unwrap();
    world.restore(&into, true).unwrap();
    assert_eq!(fs::read_to_string(copy.join("mine")).unwrap(), "not in the snapshot");
    fs::remove_file(copy.join("mine")).unwrap();
    filetime::set_file_times(&copy, time, time).unwrap();
    assert_eq!(without_cache(&root), without_cache(&copy));
}

#[test]
fn a_restore_in_place_refuses_before_it_writes_anything() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let snapshot = world.only_snapshot();
    let in_place = |paths: &[&str], overwrite| Task::RestoreFiles {
        snapshot: snapshot.clone(),
        into: None,
        paths: paths.iter().map(|path| root.join(path)).collect(),
        overwrite,
        dry_run: false,
    };
    fs::remove_file(root.join("empty")).unwrap();
    fs::write(root.join("a.txt"), "newer").unwrap();
    let failure = world.run(in_place(&[], false)).unwrap_err();
    assert!(failure.message.contains("nothing was written"), "{failure:?}");
    assert!(!root.join("empty").exists());

    assert_eq!(world.run(in_place(&["empty"], false)), Ok(Outcome::Restored { files: 1, bytes: 0 }));
    assert!(root.join("empty").exists());
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "newer");
    world.run(in_place(&["a.txt"], true)).unwrap();
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "hello");
    assert_eq!(world.run(in_place(&["nothing"], true)).unwrap_err().kind, FailureKind::DestinationRefused);

    // A directory in the way of a file is never removed, and a link in the way of a directory never followed.
    fs::remove_file(root.join("a.txt")).unwrap();
    fs::create_dir(root.join("a.txt")).unwrap();
    assert_eq!(world.run(in_place(&["a.txt"], true)).unwrap_err().kind, FailureKind::DestinationRefused);
    fs::remove_dir_all(root.join("sub")).unwrap();
    fs::create_dir(world.path("elsewhere")).unwrap();
    symlink(world.path("elsewhere"), root.join("sub")).unwrap();
    assert_eq!(world.run(in_place(&["sub"], true)).unwrap_err().kind, FailureKind::DestinationRefused);
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn an_unchanged_tree_adds_nothing() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let Ok(Outcome::Captured { added_bytes, files, .. }) = world.capture("2", paths(&[&root])) else { panic!() };
    assert_eq!((added_bytes, files), (0, 7));
    assert_eq!(world.list().len(), 2);
}

#[test]
fn only_what_changed_is_read_again() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let capture_again = |run: &str| -> (u64, String) {
        let (result, events) = world.run_with_events(capture(run, paths(&[&root])));
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Warning(_))).count(), 0, "{events:?}");
        match result {
            Ok(Outcome::Captured { added_bytes, snapshot, .. }) => (added_bytes, snapshot),
            other => panic!("{other:?}"),
        }
    };
    let (sparse, big) = (root.join("sparse"), root.join("sub/deep/big"));
    let before = fs::metadata(&big).unwrap();
    fs::write(root.join("new"), "five!").unwrap();
    fs::write(&sparse, "now there is something").unwrap();
    let (added, _) = capture_again("2");
    assert!((20..10_000).contains(&added), "{added}");
    // The same length and time, but another change time: read again.
    let mut content = fs::read(&big).unwrap();
    content[1_500_000] ^= 1;
    fs::write(&big, content).unwrap();
    let time = filetime::FileTime::from_last_modification_time(&before);
    filetime::set_file_times(&big, time, time).unwrap();
    let (added, snapshot) = capture_again("3");
    assert!(added > 500_000, "{added}");
    let into = world.path("into");
    let all =
        Task::RestoreFiles { snapshot, into: Some(into.clone()), paths: Vec::new(), overwrite: false, dry_run: false };
    world.run(all).unwrap();
    let copy = into.join(root.strip_prefix("/").unwrap());
    for name in ["new", "sparse", "a.txt", "sub/deep/big"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), fs::read(copy.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_damaged_tree_of_the_snapshot_before_only_means_to_read_everything() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    // The smallest pack is that of the trees.
    let mut packs: Vec<PathBuf> = Vec::new();
    for directory in fs::read_dir(world.path("repository/data")).unwrap() {
        packs.extend(fs::read_dir(directory.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    let pack = packs.iter().min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut content = fs::read(pack).unwrap();
    content[40] ^= 1;
    fs::write(pack, &content).unwrap();
    let (result, events) = world.run_with_events(capture("2", paths(&[&root])));
    assert!(matches!(result, Ok(Outcome::Captured { files: 7, .. })), "{result:?}");
    let told = |event: &Event| matches!(event, Event::Warning(text) if text.contains("read again"));
    assert!(events.iter().any(told), "{events:?}");
}

#[test]
fn a_missing_root_is_a_failure() {
    let world = World::new();
    let root = world.path("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("good"), "good").unwrap();
    let missing = world.capture("1", paths(&[&root, &world.path("missing")])).unwrap_err();
    assert_eq!(missing.kind, FailureKind::SourceFailed);
    assert!(missing.message.contains("missing"), "{missing:?}");
    assert_eq!(world.list(), []);
}

#[test]
fn streams_come_back_as_they_were() {
    let world = World::new();
    let script = "seq 1 400000; echo '-- Dump completed on today'";
    let input = Input::Streams(vec![
        stream("shop.sql", script, StreamCheck::LastLineStartsWith("-- Dump completed".to_owned())),
        stream("pg.dump", "printf PGDMP; head -c 3000000 /dev/zero", StreamCheck::StartsWith(b"PGDMP".to_vec())),
        stream("plain", "echo plain END", StreamCheck::EndsWith("END".to_owned())),
    ]);
    let Outcome::Captured { files, size_bytes, .. } = world.capture("1", input).unwrap() else { panic!() };
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect::<String>() + "-- Dump completed on today\n";
    assert_eq!((files, size_bytes), (3, expected.len() as u64 + 3_000_005 + 10));
    let snapshot = world.only_snapshot();

    let out = world.path("out");
    let restore = |file_name: &str, script: String| Task::RestoreStream {
        snapshot: snapshot.clone(),
        file_name: file_name.to_owned(),
        program: shell(&script),
        guard: None,
    };
    let whole = world.run(restore("shop.sql", format!("cat > {}", out.display())));
    assert_eq!(whole, Ok(Outcome::Restored { files: 1, bytes: expected.len() as u64 }));
    assert_eq!(fs::read_to_string(&out).unwrap(), expected);

    for (file_name, script, message) in [
        ("shop.sql", "cat >/dev/null; echo no such table >&2; exit 3", "exit status 3; it said: no such table"),
        ("shop.sql", "head -c 10 >/dev/null", "ended before it had read the whole stream"),
        ("nothing.sql", "cat", "no file `nothing.sql`"),
    ] {
        let failure = world.run(restore(file_name, script.to_owned())).unwrap_err();
        assert!(failure.message.contains(message), "{failure:?}");
    }

    let download = |file_name: Option<&str>, output: PathBuf| Task::Download {
        snapshot: snapshot.clone(),
        file_name: file_name.map(str::to_owned),
        output,
    };
    world.run(download(Some("pg.dump"), world.path("pg.dump"))).unwrap();
    assert_eq!(fs::metadata(world.path("pg.dump")).unwrap().len(), 3_000_005);
    let again = world.run(download(Some("pg.dump"), world.path("pg.dump"))).unwrap_err();
    assert_eq!(again.kind, FailureKind::DestinationRefused);

    // As files: into a directory, but never over the root of the host.
    let in_place = Task::RestoreFiles {
        snapshot: snapshot.clone(),
        into: None,
        paths: Vec::new(),
        overwrite: true,
        dry_run: false,
    };
    assert_eq!(world.run(in_place).unwrap_err().kind, FailureKind::DestinationRefused);
    world.restore(&world.path("into"), false).unwrap();
    assert_eq!(fs::read_to_string(world.path("into/shop.sql")).unwrap(), expected);
}

#[test]
fn a_source_that_lost_all_its_files_gives_no_restore_point() {
    let world = World::new();
    let root = world.path("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a"), "a").unwrap();
    world.capture("2", paths(&[&root])).unwrap();
    fs::remove_file(root.join("a")).unwrap();
    let failure = world.capture("3", paths(&[&root])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::SourceFailed);
    assert!(failure.message.contains("holds no file any more"), "{failure:?}");
    assert_eq!(world.list().len(), 1);
    // One in which nothing ever was is fine.
    let other = World::new();
    let root = other.path("data");
    fs::create_dir(&root).unwrap();
    other.capture("1", paths(&[&root])).unwrap();
}

#[test]
fn a_dump_that_fails_is_empty_or_cut_off_never_becomes_a_snapshot() {
    let world = World::new();
    let trailer = || StreamCheck::LastLineStartsWith("-- Dump completed".to_owned());
    let nothing_there = Program { arguments: vec!["/nonexistent/pg_dump".to_owned()], environment: BTreeMap::new() };
    let mut telling = shell("echo connecting with $PGPASSWORD failed >&2; seq 1 100000; exit 1");
    telling.environment.insert("PGPASSWORD".to_owned(), Secret::new("hunter2"));
    for (input, kind, message) in [
        (one("seq 1 100000; exit 7", StreamCheck::NotEmpty), FailureKind::SourceFailed, "exit status 7"),
        (one("exit 1", StreamCheck::NotEmpty), FailureKind::SourceFailed, "exit status 1"),
        (one("true", StreamCheck::NotEmpty), FailureKind::SourceFailed, "is empty"),
        (one("seq 1 100000", trailer()), FailureKind::SourceFailed, "cut off"),
        (one("echo usage", StreamCheck::StartsWith(b"PGDMP".to_vec())), FailureKind::SourceFailed, "`PGDMP`"),
        (one("echo x; kill -9 $$", StreamCheck::NotEmpty), FailureKind::SourceFailed, "signal 9"),
        (
            Input::Streams(vec![
                stream("a", "seq 1 500000", StreamCheck::NotEmpty),
                stream("b", "seq 1 10; exit 2", StreamCheck::NotEmpty),
                stream("c", "seq 1 500000", StreamCheck::NotEmpty),
            ]),
            FailureKind::SourceFailed,
            "exit status 2",
        ),
        (
            Input::Streams(vec![Stream {
                file_name: "a".to_owned(),
                program: nothing_there,
                check: StreamCheck::NotEmpty,
            }]),
            FailureKind::ProgramMissing,
            "/nonexistent/pg_dump",
        ),
        (
            Input::Streams(vec![Stream { file_name: "a".to_owned(), program: telling, check: StreamCheck::NotEmpty }]),
            FailureKind::SourceFailed,
            "connecting with … failed",
        ),
        (Input::Streams(Vec::new()), FailureKind::SourceFailed, "nothing to capture"),
        (
            Input::Streams(vec![stream("../a", "echo x", StreamCheck::NotEmpty)]),
            FailureKind::SourceFailed,
            "cannot be the name",
        ),
    ] {
        let failure = world.capture("1", input).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(message), "{message}: {failure:?}");
    }
    assert_eq!(world.list(), []);
    world.check().unwrap();
}

#[test]
fn two_movers_capture_at_once() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    let script = "seq 1 300000";
    let movers = [
        world.start(capture_source("1", "files", paths(&[&root]))),
        world.start(capture_source("1", "db", one(script, StreamCheck::NotEmpty))),
        world.start(capture_source("1", "db2", one(script, StreamCheck::NotEmpty))),
    ];
    for mover in movers {
        finish(mover).0.unwrap();
    }
    let sources: Vec<String> = world.list().into_iter().map(|snapshot| snapshot.label.source).collect();
    assert_eq!(sources.len(), 3, "{sources:?}");
    world.check().unwrap();
}

#[test]
fn forgotten_snapshots_are_pruned_and_the_others_stay_whole() {
    let world = World::new();
    for run in ["1", "2", "3"] {
        let script = format!("seq {run}000000 {run}400000");
        world.capture(run, one(&script, StreamCheck::NotEmpty)).unwrap();
    }
    let snapshots = world.list();
    let (gone, kept) = snapshots.split_at(2);
    let mut ids: Vec<String> = gone.iter().map(|snapshot| snapshot.id.clone()).collect();
    ids.push("0".repeat(64));
    assert_eq!(world.run(Task::Forget { snapshots: ids.clone() }), Ok(Outcome::Forgotten(2)));
    assert_eq!(world.run(Task::Forget { snapshots: ids }), Ok(Outcome::Forgotten(0)));
    assert_eq!(world.list(), kept);
    let packs = || {
        let mut count = 0;
        for directory in fs::read_dir(world.path("repository/data")).unwrap() {
            count += fs::read_dir(directory.unwrap().path()).unwrap().count();
        }
        count
    };
    let before = packs();
    let Ok(Outcome::Pruned { freed_bytes }) = world.run(Task::Prune) else { panic!() };
    assert!(freed_bytes > 0);
    assert!(packs() >= before, "the first prune only marks");
    world.check().unwrap();
    let Ok(Outcome::Restored { bytes, .. }) = world.restore(&world.path("into"), false) else { panic!() };
    assert_eq!(bytes, kept[0].size_bytes);
}

#[test]
fn a_mover_killed_in_the_middle_leaves_a_good_repository() {
    let world = World::new();
    world.capture("1", one("seq 1 1000", StreamCheck::NotEmpty)).unwrap();
    // The dump says when it is under way and then never ends by itself.
    let fifo = world.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("seq 1 9000000; echo > {}; exec cat /dev/zero", fifo.display());
    let mut mover = world.start(capture("2", one(&script, StreamCheck::NotEmpty)));
    let mut under_way = String::new();
    fs::File::open(&fifo).unwrap().read_to_string(&mut under_way).unwrap();
    mover.kill().unwrap();
    mover.wait().unwrap();
    assert_eq!(world.list().len(), 1);
    world.check().unwrap();
    world.capture("2", one("seq 1 2000", StreamCheck::NotEmpty)).unwrap();
    assert_eq!(world.list().len(), 2);
}

#[test]
fn damage_is_found() {
    let world = World::new();
    world.capture("1", one("seq 1 900000", StreamCheck::NotEmpty)).unwrap();
    let mut packs: Vec<PathBuf> = Vec::new();
    for directory in fs::read_dir(world.path("repository/data")).unwrap() {
        packs.extend(fs::read_dir(directory.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    let pack = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut content = fs::read(pack).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(pack, &content).unwrap();
    assert!(world.run(Task::Check { read_data_percent: 0.0 }).is_ok());
    assert_eq!(world.check().unwrap_err().kind, FailureKind::RepositoryDamaged);
    let failure = world.restore(&world.path("into"), false).unwrap_err();
    assert_eq!(failure.kind, FailureKind::RepositoryDamaged, "{failure:?}");
    assert!(!world.path("into/shop.sql").exists(), "half a file must not look like a whole one");

    fs::remove_file(pack).unwrap();
    assert_eq!(world.run(Task::Check { read_data_percent: 0.0 }).unwrap_err().kind, FailureKind::RepositoryDamaged);
}

#[test]
fn an_archive_goes_out_and_comes_back() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let archive = world.path("points.tar.gz");
    let download = Task::Download { snapshot: world.only_snapshot(), file_name: None, output: archive.clone() };
    world.run(download).unwrap();

    let into = world.path("upload");
    let unpacked = unpack(&archive, &into, false).unwrap();
    assert_eq!(unpacked.files, 7);
    let copy = into.join(root.strip_prefix("/").unwrap());
    for name in ["a.txt", "empty", "sparse", "sub/deep/big", "sub/linked.txt", "sub/ünïcode \"quoted\"\n"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), fs::read(copy.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_link(copy.join("sub/dangling")).unwrap(), Path::new("../nowhere"));
    assert!(matches!(unpack(&archive, &into, false), Err(UnpackError::Exists { .. })));
    unpack(&archive, &into, true).unwrap();
}

#[test]
fn an_archive_of_a_stranger_stays_where_it_is_put() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("evil.tar.gz");
    let into = directory.path().join("into");
    let write = |entries: &[(&str, tar::EntryType, &str)]| {
        let file = fs::File::create(&archive).unwrap();
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
        for (name, kind, target) in entries {
            let mut header = tar::Header::new_gnu();
            // The setters refuse such names; an attacker's tool does not.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6777);
            let content: &[u8] = if kind.is_file() { b"evil" } else { b"" };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap();
    };
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    for entries in [
        &[("../escaped", Regular, "")][..],
        &[("/tmp/mainstay-escaped", Regular, "")],
        &[("a/../../escaped", Regular, "")],
        &[("hard", Link, "../outside")],
        &[("hard", Link, "/etc/passwd")],
        &[("device", Char, "")],
        &[("pipe", Fifo, "")],
        &[("good", Regular, ""), ("../escaped", Regular, "")],
    ] {
        write(entries);
        assert!(unpack(&archive, &into, true).is_err(), "{entries:?}");
        assert!(!into.exists(), "{entries:?}");
    }
    // A link first, then a file below it: the link waits, so the file stays inside, and the link is refused.
    write(&[("way", Symlink, ".."), ("way/escaped", Regular, ""), ("dir", Directory, ""), ("ok", Regular, "")]);
    assert!(unpack(&archive, &into, false).is_err());
    assert!(!directory.path().join("escaped").exists());
    assert_eq!(fs::metadata(into.join("ok")).unwrap().mode() & 0o7777, 0o777);
    fs::write(&archive, "no archive").unwrap();
    assert!(matches!(unpack(&archive, &into, true), Err(UnpackError::Archive { .. })));
}

#[test]
fn a_store_that_is_full_is_told_and_makes_no_snapshot() {
    let world = World::new();
    // A limit on the size of files stands in for a full disk: both refuse the write of a pack.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" mover", env!("CARGO_BIN_EXE_mainstay")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let job = world.job(capture("1", one("head -c 9000000 /dev/urandom", StreamCheck::NotEmpty)));
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&job).unwrap()).unwrap();
    let failure = finish(child).0.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{failure:?}");
    assert_eq!(world.list(), []);
    world.check().unwrap();
}

#[test]
fn a_bandwidth_limit_slows_the_upload_only() {
    let world = World::new();
    let mut job = world.job(capture("1", one("head -c 3000000 /dev/urandom", StreamCheck::NotEmpty)));
    job.bandwidth_bytes_per_second = Some(3_000_000);
    let started = std::time::Instant::now();
    finish(start(&job)).0.unwrap();
    assert!(started.elapsed().as_millis() > 900);
}

#[test]
fn an_endpoint_that_refuses_is_told_soon() {
    let world = World::empty();
    // A port that was free just now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut job = world.job(Task::List { policy: None });
    job.repository.place = Place::S3 {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "backups".to_owned(),
        prefix: "prod".to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: Secret::new("id"),
        secret_access_key: Secret::new("topsecret"),
        certificate_authority: None,
    };
    let started = std::time::Instant::now();
    let failure = finish(start(&job)).0.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure:?}");
    assert!(!failure.message.contains("topsecret"));
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn a_job_that_cannot_be_read_fails_without_a_word_of_it() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .arg("mover")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"repository\": \"hunter2\"}").unwrap();
    let failure = finish(child).0.unwrap_err();
    assert!(!failure.message.contains("hunter2"), "{failure:?}");
}

#[test]
fn the_memory_for_a_stream_does_not_grow_with_it() {
    let world = World::new();
    let peak_kilobytes = |run: &str, megabytes: u32| -> u64 {
        // The dump itself looks at its parent just before it ends, so no race is possible.
        let script = format!(
            "head -c {} /dev/urandom; grep VmHWM /proc/$PPID/status > {}",
            megabytes << 20,
            world.path(run).display()
        );
        world.capture(run, one(&script, StreamCheck::NotEmpty)).unwrap();
        let status = fs::read_to_string(world.path(run)).unwrap();
        status.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // The packs that wait to be written are all there after the first.
    let small = peak_kilobytes("small", 100);
    let large = peak_kilobytes("large", 250);
    assert!(large < small + 50_000, "{small} kB for 100 MiB, {large} kB for 250 MiB");
}
