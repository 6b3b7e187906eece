//! Restores on the local engine: in place with consent and with the workload stopped, from an archive, and asked for by
//! a document, which is carried out exactly once.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    actual::RestoreReport,
    engine::{
        Engine as _,
        local::{LocalEngine, process::ProcessIdentity},
    },
    policy::{Location, PolicyName, Restore, document::SettingsSpec},
    run::Phase,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::host::{Host, bad, good};

/// A host with one restore point of `content`, and something else in the file since.
async fn host_with_a_point(more: Value) -> Host {
    let host = Host::new();
    host.put(more).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    fs::write(host.path("data/file"), "spoiled!").unwrap();
    let _ = fs::remove_file(host.path("log"));
    host
}

fn content(host: &Host) -> String {
    fs::read_to_string(host.path("data/file")).unwrap()
}

#[tokio::test]
async fn in_place_needs_consent_and_says_what_to_do_with_what_is_there() {
    let host = host_with_a_point(json!({})).await;
    let (code, said) = bad(host.mainstay(&["restore", "shop/nightly", "--in-place", "--existing", "update"]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--yes") && said.contains("--dry-run"), "{said}");
    assert_eq!(content(&host), "spoiled!");
    let (code, said) = bad(host.mainstay(&["restore", "shop/nightly", "--in-place", "--yes"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in the way") && said.contains("data/file"), "{said}");
    assert_eq!(content(&host), "spoiled!");
    let tried = ["restore", "shop/nightly", "--in-place", "--existing", "update", "--dry-run"];
    let said = good(host.mainstay(&tried));
    assert!(said.contains("nothing was written") && said.contains("would write"), "{said}");
    assert!(!said.contains("succeeded"), "{said}");
    assert_eq!(content(&host), "spoiled!");
    good(host.mainstay(&["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"]));
    assert_eq!(content(&host), "content");
}

/// Rot changes neither the size nor the time of a file.
#[tokio::test]
async fn a_file_that_rotted_is_mended_and_a_good_one_is_left_alone() {
    let host = Host::new();
    fs::write(host.path("data/good"), "good").unwrap();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let (rotten, intact) = (host.path("data/file"), host.path("data/good"));
    let before = (fs::metadata(&rotten).unwrap().modified().unwrap(), fs::metadata(&intact).unwrap().ino());
    fs::write(&rotten, "c0ntent").unwrap();
    fs::File::options().write(true).open(&rotten).unwrap().set_modified(before.0).unwrap();
    let in_place = ["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"];
    let tried = good(host.mainstay(&[&in_place[..], &["--dry-run"]].concat()));
    assert!(tried.contains("1 file, 7 B"), "{tried}");
    assert_eq!(content(&host), "c0ntent");
    let output = host.mainstay(&in_place);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("data/file had the size and the time of the restore point, but other content"), "{said}");
    good(output);
    assert_eq!(content(&host), "content");
    assert_eq!(fs::metadata(&intact).unwrap().ino(), before.1, "a good file was written anew");
}

/// A PostgreSQL of shell scripts: a dump of one line, a restore that writes a file, and a number of tables.
fn postgres(host: &Host, tables: &str) -> Value {
    fs::create_dir_all(host.path("bin")).unwrap();
    let restored = host.text("restored.dump");
    for (name, script) in [
        ("pg_dump", "printf PGDMP-rows".to_owned()),
        ("pg_restore", format!("cat > {restored}")),
        ("psql", tables.to_owned()),
    ] {
        let file = host.path("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    json!({"sources": [
        {"name": "db", "postgres": {"databases": ["shop"], "user": "backup", "programDirectory": host.text("bin")}},
    ]})
}

/// Databases are restored one after the other: after a failure, each is in one of three conditions.
#[tokio::test]
async fn a_restore_that_fails_between_databases_says_which_were_written() {
    let host = Host::new();
    let mut policy = postgres(&host, "echo 0");
    policy["sources"][0]["postgres"]["databases"] = json!(["customers", "orders", "stock"]);
    host.put(policy).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let in_place = ["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"];
    for (end, told) in [
        ("echo no room >&2; exit 1", "orders.dump was not restored"),
        // Its parent is the mover, which can tell nothing any more.
        ("kill -9 $PPID; exec cat", "what orders.dump goes into may be partly written"),
    ] {
        let script = format!("#!/bin/sh\ncase \"$*\" in *=orders*) {end};; esac\nexec cat > /dev/null\n");
        fs::write(host.path("bin/pg_restore"), script).unwrap();
        let (_, said) = bad(host.mainstay(&in_place));
        let told = format!("; customers.dump was written; {told}; stock.dump was not begun");
        assert!(said.contains("source db was only partly restored: ") && said.contains(&told), "{said}");
    }
}

/// Whichever database a restore goes into: what is in it is not overwritten unasked.
#[tokio::test]
async fn a_database_that_is_not_empty_is_not_written_into_unasked() {
    let host = Host::new();
    host.put(postgres(&host, "echo 3")).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let other = ["restore", "shop/nightly", "--database", "other"];
    let (_, said) = bad(host.mainstay(&other));
    assert!(said.contains("database other is not empty (3 tables") && said.contains("--existing update"), "{said}");
    host.put(postgres(&host, "echo 'no such database' >&2; exit 2")).await;
    let (_, said) = bad(host.mainstay(&other));
    assert!(said.contains("nobody can tell whether database other is empty") && said.contains("no such"), "{said}");
    assert!(!host.path("restored.dump").exists());
    good(host.mainstay(&[&other[..], &["--existing", "update"]].concat()));
    fs::remove_file(host.path("restored.dump")).unwrap();
    host.put(postgres(&host, "echo 0")).await;
    good(host.mainstay(&other));
    assert_eq!(fs::read_to_string(host.path("restored.dump")).unwrap(), "PGDMP-rows");
}

/// The reason of a failure is said once, by the command and in what is said of each source.
#[tokio::test]
async fn a_failed_restore_says_why_once() {
    let host = host_with_a_point(json!({})).await;
    let (_, said) = bad(host.mainstay(&["restore", "shop/nightly", "--in-place", "--yes"]));
    assert_eq!(said.matches("in the way").count(), 1, "{said}");
}

#[tokio::test]
async fn a_cold_policy_is_stopped_for_a_restore_in_place_and_started_on_every_path() {
    let host = Host::new();
    let policy = host.policy(json!({"consistency": "Cold", "quiesce": host.quiesce()}));
    host.engine().put(&policy).await.unwrap();
    good(host.mainstay(&["run", "shop/nightly"]));
    fs::write(host.path("data/file"), "spoiled!").unwrap();
    fs::remove_file(host.path("log")).unwrap();
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("elsewhere")]));
    assert_eq!(host.log(), "", "a restore elsewhere leaves the workload alone");
    let in_place = ["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"];
    good(host.mainstay(&in_place));
    assert_eq!((host.log().as_str(), content(&host).as_str()), ("stop\nstart\n", "content"));
    // It fails, because something exists.
    bad(host.mainstay(&["restore", "shop/nightly", "--in-place", "--yes"]));
    assert_eq!(host.log(), "stop\nstart\nstop\nstart\n");
    // It fails, because the workload does not stop; what it did before it failed is undone.
    let mut quiesce = host.quiesce();
    quiesce["stop"] = json!(["sh", "-c", format!("echo half >> {}; exit 1", host.text("log"))]);
    host.put(json!({"consistency": "Cold", "quiesce": quiesce})).await;
    fs::write(host.path("data/file"), "untouched").unwrap();
    let (_, said) = bad(host.mainstay(&in_place));
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(host.log(), "stop\nstart\nstop\nstart\nhalf\nstart\n");
    assert_eq!(content(&host), "untouched");
}

/// A restore whose process is killed: what writes for it is ended, and only then the workload is started.
#[tokio::test]
async fn a_killed_restore_in_place_writes_no_further_and_its_workload_is_started() {
    let host = Host::new();
    let reached = host.fifo("reached");
    let restore = format!("echo $$ > {}; cat >/dev/null; exec sleep 1000", reached.display());
    host.put(json!({
        "consistency": "Cold", "quiesce": host.quiesce(),
        "sources": [{"name": "dump", "command": {"dump": ["echo", "rows"], "restore": ["sh", "-c", restore]}}],
    }))
    .await;
    good(host.mainstay(&["run", "shop/nightly"]));
    fs::remove_file(host.path("log")).unwrap();
    let mut process = host
        .command(&["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let writer: u32 = fs::read_to_string(&reached).unwrap().trim().parse().unwrap();
    assert_eq!(host.log(), "stop\n");
    let while_alive = host.engine().recover(Timestamp::now()).await.unwrap();
    assert!(while_alive.started.is_empty(), "it is not gone: {while_alive:?}");
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("a restore of shop/nightly is under way"), "{said}");
    process.kill().unwrap();
    process.wait().unwrap();
    let recovered = host.engine().recover(Timestamp::now()).await.unwrap();
    assert_eq!(recovered.started, [Host::name()]);
    assert_eq!(host.log(), "stop\nstart\n");
    assert!(ProcessIdentity::of(writer).is_none(), "it writes on");
    assert!(host.engine().recover(Timestamp::now()).await.unwrap().started.is_empty());
}

#[tokio::test]
async fn an_archive_that_was_downloaded_is_unpacked_again() {
    let host = host_with_a_point(json!({})).await;
    let archive = host.text("files.tar.gz");
    good(host.mainstay(&["points", "download", "shop/nightly", "--output", &archive]));
    let unpack = |more: &[&str]| {
        let arguments = [&["restore", "shop/nightly", "--archive", &archive], more].concat();
        host.mainstay(&arguments)
    };
    let (_, said) = bad(unpack(&["--in-place", "--yes"]));
    assert!(said.contains("--into"), "{said}");
    let into = host.text("unpacked");
    good(unpack(&["--into", &into]));
    assert_eq!(crate::host::walk(&host.path("unpacked")), ["content"]);
    let (_, said) = bad(unpack(&["--into", &into]));
    assert!(said.contains("exist"), "{said}");
    good(unpack(&["--into", &into, "--existing", "update"]));
    fs::write(&archive, "not an archive").unwrap();
    bad(unpack(&["--into", &into, "--existing", "update"]));
    assert_eq!(crate::host::walk(&host.path("unpacked")), ["content"]);
}

fn document(host: &Host, spec: Value) -> Restore {
    let mut whole = json!({"policy": "shop/nightly", "into": {"path": host.text("restored")}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let document = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "rescue", "namespace": "shop"},
        "spec": whole,
    });
    Restore {
        name: PolicyName::new("shop", "rescue"),
        policy: Host::name(),
        location: Location { file: "restore.backup.yaml".into(), line: 1, column: 1 },
        document: serde_json::from_value(document).unwrap(),
    }
}

/// An engine that tells of ended children.
fn telling(host: &Host) -> (LocalEngine, mpsc::Receiver<PolicyName>) {
    let engine = host.engine();
    let (sender, ended) = mpsc::channel(8);
    engine.tell_ended(sender);
    (engine, ended)
}

async fn report(engine: &LocalEngine, restore: &Restore) -> RestoreReport {
    let actual = engine.observe(Timestamp::now()).await.unwrap();
    actual.restores[&(restore.name.clone(), restore.content_hash())].clone()
}

/// How many restores the history says have ended.
async fn ended_restores(engine: &LocalEngine) -> usize {
    let events = engine.history(0).await.unwrap();
    events.iter().filter(|event| matches!(event.kind, mainstay::status::ledger::EventKind::RestoreEnded(_))).count()
}

#[tokio::test]
async fn a_restore_document_is_carried_out_once_for_each_content() {
    let host = host_with_a_point(json!({})).await;
    let (engine, mut ended) = telling(&host);
    let restore = document(&host, json!({}));
    engine.restore(&restore, Timestamp::now()).await.unwrap();
    ended.recv().await.unwrap();
    let first = report(&engine, &restore).await;
    assert_eq!((first.phase, first.sources.len()), (Phase::Succeeded, 1), "{}", first.message);
    assert!(first.restore_point.is_some() && first.finished_at.is_some());
    assert_eq!(crate::host::walk(&host.path("restored")), ["content"]);
    // The same again, by another engine, with what was restored gone: nothing is done.
    fs::remove_dir_all(host.path("restored")).unwrap();
    host.engine().restore(&restore, Timestamp::now()).await.unwrap();
    host.engine().recover(Timestamp::now()).await.unwrap();
    assert_eq!(report(&engine, &restore).await, first);
    assert_eq!(ended_restores(&engine).await, 1);
    assert!(!host.path("restored").exists());
    // Another content is another restore.
    let other = document(&host, json!({"into": {"path": host.text("second")}}));
    engine.restore(&other, Timestamp::now()).await.unwrap();
    ended.recv().await.unwrap();
    assert_eq!(report(&engine, &other).await.phase, Phase::Succeeded);
    assert_eq!(crate::host::walk(&host.path("second")), ["content"]);
    assert_eq!(ended_restores(&engine).await, 2);
    let shown = good(host.mainstay(&["status"]));
    assert!(shown.contains("restore shop/rescue: Succeeded"), "{shown}");
}

#[tokio::test]
async fn a_restore_document_that_fails_says_why() {
    let host = host_with_a_point(json!({})).await;
    let (engine, mut ended) = telling(&host);
    for (spec, part) in [
        (json!({"into": null}), "in the way"),
        (json!({"restorePoint": "20200101-000000"}), "no restore point 20200101-000000"),
        (json!({"sources": ["database"]}), "database"),
    ] {
        let restore = document(&host, spec.clone());
        engine.restore(&restore, Timestamp::now()).await.unwrap();
        ended.recv().await.unwrap();
        let report = report(&engine, &restore).await;
        assert_eq!(report.phase, Phase::Failed, "{spec}");
        assert!(report.message.contains(part), "{spec}: {}", report.message);
        assert_eq!(content(&host), "spoiled!");
    }
}

/// The daemon died after it wrote down what it is about to do, and before anything was done.
#[tokio::test]
async fn a_pending_restore_of_a_daemon_that_died_is_taken_up_exactly_once() {
    let host = host_with_a_point(json!({})).await;
    let restore = document(&host, json!({}));
    // A program that is not there in time stands for the death: it is announced, and no process of it ever begins.
    let dead = LocalEngine::open(&host.path("state")).unwrap().with_program("/bin/true".into());
    let (sender, mut ended) = mpsc::channel(8);
    dead.tell_ended(sender);
    dead.restore(&restore, Timestamp::now()).await.unwrap();
    ended.recv().await.unwrap();
    assert_eq!(report(&dead, &restore).await.phase, Phase::Pending);
    let (engine, mut ended) = telling(&host);
    let (other, mut other_ended) = telling(&host);
    engine.recover(Timestamp::now()).await.unwrap();
    other.recover(Timestamp::now()).await.unwrap();
    ended.recv().await.unwrap();
    let report = report(&engine, &restore).await;
    assert_eq!(report.phase, Phase::Succeeded, "{}", report.message);
    assert!(other_ended.try_recv().is_err(), "two daemons took it up");
    engine.recover(Timestamp::now()).await.unwrap();
    assert_eq!(ended_restores(&engine).await, 1);
}

/// Two processes for one document: a daemon was killed after it had started the first, and another started a second.
#[tokio::test]
async fn two_processes_of_one_restore_document_write_once() {
    let host = Host::new();
    let log = host.text("log");
    let restore = ["sh", "-c", &format!("cat >/dev/null; echo written >> {log}")];
    host.put(json!({"sources": [{"name": "dump", "command": {"dump": ["echo", "rows"], "restore": restore}}]})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let restore = document(&host, json!({"into": null, "existing": "Update"}));
    let announcer = LocalEngine::open(&host.path("state")).unwrap().with_program("/bin/true".into());
    announcer.restore(&restore, Timestamp::now()).await.unwrap();
    let content = restore.content_hash();
    let arguments = ["restore", "--document", "shop/rescue", "--content", &content];
    let processes: Vec<_> =
        (0..3).map(|_| host.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()).collect();
    for mut process in processes {
        process.wait().unwrap();
    }
    assert_eq!(host.log(), "written\n");
    assert_eq!(report(&announcer, &restore).await.phase, Phase::Succeeded);
}

/// A host with a restore point of a dump, whose next run stands in its dump until the FIFO `go-on` is written to.
async fn host_with_a_run_that_stands() -> (Host, Child) {
    let host = Host::new();
    let (begun, go_on) = (host.fifo("begun"), host.fifo("go-on"));
    let restore = format!("cat > {}", host.text("restored"));
    let source = |dump: &str| json!({"sources": [{"name": "dump", "command": {"dump": ["sh", "-c", dump], "restore": ["sh", "-c", restore]}}]});
    host.put(source("echo rows")).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    host.put(source(&format!("echo > {}; cat {}", begun.display(), go_on.display()))).await;
    let run = host.command(&["run", "shop/nightly"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    fs::read(begun).unwrap();
    (host, run)
}

/// Waits until a restore waits; for what.
async fn waits_for(engine: &LocalEngine, restore: &Restore) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let report = report(engine, restore).await;
        if let Some(reason) = report.waits_for() {
            return reason.to_owned();
        }
        assert!(report.phase != Phase::Failed && Instant::now() < deadline, "{report:?}");
        std::thread::sleep(Duration::from_millis(20)); // the pause of a poll, not a guess at how long it takes
    }
}

/// It would have failed for ever: it is carried out once only.
#[tokio::test]
async fn a_restore_document_that_meets_a_run_waits_for_its_end() {
    let (host, mut run) = host_with_a_run_that_stands().await;
    let restore = document(&host, json!({"into": null, "existing": "Update"}));
    let (engine, mut ended) = telling(&host);
    engine.restore(&restore, Timestamp::now()).await.unwrap();
    let under_way = engine.context().state.runs_under_way().unwrap().remove(0);
    let reason = waits_for(&engine, &restore).await;
    assert_eq!(reason, format!("run {} of shop/nightly ({}) to end", under_way.report.id, under_way.process));
    let shown = good(host.mainstay(&["status"]));
    assert!(shown.contains("restore shop/rescue: Pending: waits for run"), "{shown}");
    let published = mainstay::status::documents::restores(&engine.observe(Timestamp::now()).await.unwrap());
    let published = String::from_utf8(published.into_values().next().unwrap()).unwrap();
    assert!(published.contains("reason: Waiting\n") && published.contains("message: waits for run"), "{published}");
    assert!(!host.path("restored").exists());
    fs::write(host.path("go-on"), "newer rows\n").unwrap();
    assert!(run.wait().unwrap().success());
    ended.recv().await.unwrap();
    let report = report(&engine, &restore).await;
    assert_eq!(report.phase, Phase::Succeeded, "{}", report.message);
    assert_eq!(
        (fs::read_to_string(host.path("restored")).unwrap().lines().count(), ended_restores(&engine).await),
        (1, 1)
    );
}

/// Nothing of it was begun, so the next process takes its place.
#[tokio::test]
async fn a_restore_document_that_is_killed_while_it_waits_is_taken_up() {
    let (host, mut run) = host_with_a_run_that_stands().await;
    let restore = document(&host, json!({"into": null, "existing": "Update"}));
    let (engine, mut ended) = telling(&host);
    engine.restore(&restore, Timestamp::now()).await.unwrap();
    waits_for(&engine, &restore).await;
    let stored = engine.context().state.restore(&restore.name, &restore.content_hash()).unwrap().unwrap();
    kill_process(Pid::from_raw(stored.process.pid).unwrap(), Signal::KILL).unwrap();
    ended.recv().await.unwrap();
    engine.recover(Timestamp::now()).await.unwrap();
    fs::write(host.path("go-on"), "newer rows\n").unwrap();
    assert!(run.wait().unwrap().success());
    ended.recv().await.unwrap();
    let report = report(&engine, &restore).await;
    assert_eq!(report.phase, Phase::Succeeded, "{}", report.message);
}

/// A policy that runs all the time gives a restore its turn.
#[tokio::test]
async fn no_run_is_started_while_a_restore_waits_for_its_turn() {
    let host = Host::new();
    host.put(json!({})).await;
    let (engine, mut ended) = telling(&host);
    let later = Timestamp::now() + SignedDuration::from_hours(25);
    let state = &engine.context().state;
    let waits = state.lease("restore-waits:shop/nightly", Timestamp::now()).unwrap().unwrap();
    let turn = engine.schedule_turn(later, &SettingsSpec::default()).unwrap();
    assert!(turn.started.is_empty() && turn.next_due.is_some(), "{turn:?}");
    drop(waits);
    assert_eq!(engine.schedule_turn(later, &SettingsSpec::default()).unwrap().started.len(), 1);
    ended.recv().await.unwrap();
}

/// What a restore that was killed was writing lies at its destination: the next one there removes it.
#[tokio::test]
async fn what_a_killed_restore_was_writing_is_removed_by_the_next() {
    let host = host_with_a_point(json!({})).await;
    let own = ProcessIdentity::own();
    let draft = |ticks: u64| {
        let name = format!(".mainstay-tmp-{}-{ticks}-{}-{}-0", own.pid, &own.boot[..8], own.namespace);
        let path = host.path("data").join(name);
        fs::write(&path, "half").unwrap();
        path
    };
    let (of_the_living, of_the_dead) = (draft(own.started_ticks), draft(own.started_ticks - 1));
    good(host.mainstay(&["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"]));
    assert!(of_the_living.exists() && !of_the_dead.exists());
}
