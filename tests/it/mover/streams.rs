//! Dumps, and what may happen to a mover and its repository: what is not whole never counts, and what counts stays whole.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use mainstay::{
    engine::process::ProcessIdentity,
    mover::job::{FailureKind, Input, Outcome, Place, Program, Stream, StreamCheck, Task},
    secret::Secret,
};

use super::{World, capture, capture_source, files::make_tree, finish, one, paths, shell, start, stream};

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
            "connecting with *** failed",
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

/// The end of its input means to a program that the dump is whole.
#[test]
fn a_mover_killed_while_it_restores_does_not_put_half_a_dump_in_place() {
    let world = World::new();
    world.capture("1", one("seq 1 400000", StreamCheck::NotEmpty)).unwrap();
    let (life, go) = (world.path("life"), world.path("go"));
    assert!(Command::new("mkfifo").args([&life, &go]).status().unwrap().success());
    // Everything that it starts holds `life` open. Nothing of the stream was read when the mover is killed.
    let script = "cd \"$0\"; exec 3> life; echo started >&3; read -r go < go; cat > new && mv new db";
    let directory = world.directory.path().to_str().unwrap();
    let program = Program {
        arguments: ["sh", "-c", script, directory].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
    };
    let task =
        Task::RestoreStream { snapshot: world.only_snapshot(), file_name: "shop.sql".to_owned(), program, guard: None };
    let mut mover = world.start(task);
    let mut life = BufReader::new(fs::File::open(life).unwrap());
    life.read_line(&mut String::new()).unwrap();
    mover.kill().unwrap();
    mover.wait().unwrap();
    // Also for reading, so that this does not wait for a program that was ended.
    let mut go = fs::File::options().read(true).write(true).open(go).unwrap();
    go.write_all(b"go\n").unwrap();
    life.read_to_end(&mut Vec::new()).unwrap();
    assert!(!world.path("db").exists(), "half a dump is in place");
}

/// Whoever asked for it may have been killed where nobody can end its mover any more: in another container.
#[test]
fn a_mover_whose_asker_is_gone_ends_with_its_program() {
    let world = World::new();
    let pid = world.path("pid");
    let script = format!("echo $$ > {}; exec cat /dev/zero", pid.display());
    let mut mover = world.start(capture("one", one(&script, StreamCheck::NotEmpty)));
    let mut first = [0];
    mover.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(mover.stdout.take());
    assert_eq!(mover.wait().unwrap().signal(), Some(9));
    let program: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(ProcessIdentity::of(program).is_none(), "the dump goes on");
    assert!(world.list().is_empty());
}

#[test]
fn damage_is_found() {
    let world = World::new();
    world.directory.damages();
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
    let (new, db) = (world.path("new"), world.path("db"));
    let failure = world
        .run(Task::RestoreStream {
            snapshot: world.only_snapshot(),
            file_name: "shop.sql".to_owned(),
            program: shell(&format!("cat > {0} && mv {0} {1}", new.display(), db.display())),
            guard: None,
        })
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::RepositoryDamaged, "{failure:?}");
    assert!(failure.message.contains("was ended, and what it wrote may be there in part"), "{failure:?}");
    assert!(!db.exists(), "half a dump is in place");

    fs::remove_file(pack).unwrap();
    assert_eq!(world.run(Task::Check { read_data_percent: 0.0 }).unwrap_err().kind, FailureKind::RepositoryDamaged);
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
