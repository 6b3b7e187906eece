//! Runs on the local engine through the real binary: what is captured is restored, and a run that is killed leaves
//! nothing half done.

use std::{fs, path::Path, process::Stdio, time::Duration};

use jiff::Timestamp;
use mainstay::{
    engine::{Engine as _, local::Recovered, process::ProcessIdentity},
    run::Phase,
};

use crate::host::{Host, bad, count_lines, good, walk};

#[tokio::test]
async fn a_run_is_restored_byte_for_byte() {
    let host = Host::new();
    host.put(serde_json::json!({"sources": [
        {"name": "files", "paths": [host.text("data")]},
        {"name": "dump", "command": {"dump": ["sh", "-c", "echo rows; echo end"], "trailer": "end"}},
    ]}))
    .await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let actual = host.engine().observe(Timestamp::now()).await.unwrap();
    let points = &actual.policies[&Host::name()].inventory.points;
    assert_eq!((points.len(), points[0].parts.len()), (1, 2));
    let into = host.text("restored");
    good(host.mainstay(&["restore", "shop/nightly", "latest", "--source", "files", "--into", &into]));
    let found = walk(&host.path("restored"));
    assert_eq!(found, ["content"], "{found:?}");
    let sql = host.text("dump.sql");
    good(host.mainstay(&["points", "download", "shop/nightly", "--source", "dump", "--output", &sql]));
    assert_eq!(fs::read_to_string(sql).unwrap(), "rows\nend\n");
    good(host.mainstay(&["verify", "shop/nightly"]));
    let shown = good(host.mainstay(&["points", "show", "shop/nightly"]));
    assert!(!shown.contains("never"), "{shown}");
}

#[tokio::test]
async fn a_cut_off_dump_makes_no_restore_point_and_the_workload_is_started() {
    let host = Host::new();
    let log = host.text("log");
    host.put(serde_json::json!({
        "consistency": "Cold",
        "quiesce": {"stop": ["sh", "-c", format!("echo stop >> {log}")], "start": ["sh", "-c", format!("echo start >> {log}")]},
        "sources": [{"name": "dump", "command": {"dump": ["sh", "-c", "echo rows"], "trailer": "end"}}],
    }))
    .await;
    let output = host.mainstay(&["run", "shop/nightly"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\n");
    let actual = host.engine().observe(Timestamp::now()).await.unwrap();
    let policy = &actual.policies[&Host::name()];
    assert!(policy.inventory.points.is_empty());
    assert_eq!(policy.last_run.as_ref().unwrap().phase, Phase::Failed);
}

/// Promise 1: killed at any step, the workload is started again, no half restore point is there, and the next run works.
#[tokio::test]
async fn killed_at_any_step_a_run_is_recovered() {
    for (point, captured, recorded) in [
        ("hookBefore:intended", false, false),
        ("stop:intended", false, false),
        ("stop:done", false, false),
        ("capture:intended", false, false),
        ("capture:done", true, false),
        ("start:intended", true, false),
        ("check:intended", true, false),
        ("record:intended", true, false),
        ("record:done", true, true),
        ("cleanup:intended", true, true),
    ] {
        let host = Host::new();
        let log = host.text("log");
        host.put(serde_json::json!({
            "consistency": "Cold",
            "quiesce": {
                "stop": ["sh", "-c", format!("echo stop >> {log}")],
                "start": ["sh", "-c", format!("echo start >> {log}")],
            },
            "hooks": {"before": [{"command": ["true"]}]},
        }))
        .await;
        kill_run_at(&host, point);
        let engine = host.engine();
        engine.recover(Timestamp::now()).await.unwrap();
        let text = fs::read_to_string(&log).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with("start\n"), "{point}: {text:?}");
        let actual = engine.observe(Timestamp::now()).await.unwrap();
        let policy = &actual.policies[&Host::name()];
        assert_eq!(policy.inventory.points.len(), usize::from(recorded), "{point}");
        assert_eq!(policy.running, None, "{point}");
        let lines = count_lines(Path::new(&log));
        engine.recover(Timestamp::now()).await.unwrap();
        assert_eq!(count_lines(Path::new(&log)), lines, "{point}: recovered twice");
        good(host.mainstay(&["run", "shop/nightly"]));
        let actual = host.engine().observe(Timestamp::now()).await.unwrap();
        // The repository shows that all of it was captured.
        assert_eq!(actual.policies[&Host::name()].inventory.points.len(), 1 + usize::from(captured), "{point}");
    }
}

/// Starts a run and kills it when it stands at a point, see `engine/local/test_pause.rs`.
fn kill_run_at(host: &Host, point: &str) {
    let fifo = host.fifo("fifo");
    let mut run = host
        .command(&["run", "shop/nightly"])
        .env("MAINSTAY_TEST_PAUSE", format!("{point}={}", fifo.display()))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Opens only once the run stands at the point.
    let held = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    drop(held);
}

/// Two guards, such as the daemon and the next run, find the same dead run: one of them ends it.
#[tokio::test(flavor = "multi_thread")]
async fn two_guards_end_a_dead_run_once() {
    let host = Host::new();
    let gate = host.fifo("gate");
    let after = format!("echo after >> {}; cat {}", host.text("log"), gate.display());
    host.put(serde_json::json!({"hooks": {"after": [{"command": ["sh", "-c", after]}]}})).await;
    kill_run_at(&host, "capture:intended");
    let (first, second) = (host.engine(), host.engine());
    let first = tokio::spawn(async move { first.recover(Timestamp::now()).await.unwrap() });
    // Opens only once the first guard carries out the hook.
    let held = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(gate).unwrap());
    let held = held.await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(60), second.recover(Timestamp::now())).await;
    let second = second.expect("the second guard waits in the hook, too").unwrap();
    assert!(second.ended.is_empty() && second.still_stopped.len() == 1, "{second:?}");
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("is ending its last run"), "{said}");
    drop(held);
    assert_eq!(first.await.unwrap().ended.len(), 1);
    assert_eq!(host.log(), "after\n");
    assert_eq!(host.engine().recover(Timestamp::now()).await.unwrap(), Recovered::default());
}

/// After a reboot, the numbers of the processes from before belong to others. Whatever was under way is over: its lock is
/// stale, its run failed, its workload is started.
#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_ends_what_was_under_way() {
    let host = Host::new();
    let log = host.text("log");
    let cold = serde_json::json!({
        "consistency": "Cold",
        "quiesce": {"stop": ["sh", "-c", format!("echo stop >> {log}")], "start": ["sh", "-c", format!("echo start >> {log}")]},
    });
    host.put(cold).await;
    kill_run_at(&host, "stop:done");
    assert_eq!(host.log(), "stop\n");
    // This very process has the number of the run now, and was started at the same time after the boot.
    let database = rusqlite::Connection::open(host.path("state/state.sqlite")).unwrap();
    let own = ProcessIdentity::own();
    let before = serde_json::to_string(&ProcessIdentity { boot: "another".to_owned(), ..own }).unwrap();
    let mut changed = 0;
    for table in ["runs", "leases", "stopped"] {
        changed += database.execute(&format!("UPDATE {table} SET process = ?1"), [&before]).unwrap();
    }
    assert!(changed >= 3, "a run, its lease and what it stopped: {changed}");
    drop(database);
    let recovered = host.engine().recover(Timestamp::now()).await.unwrap();
    assert_eq!((recovered.ended.len(), recovered.still_stopped.len()), (1, 0), "{recovered:?}");
    assert_eq!(host.log(), "stop\nstart\n");
    good(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!(host.log(), "stop\nstart\nstop\nstart\n");
}

#[tokio::test]
async fn the_same_scheduled_time_runs_once() {
    let host = Host::new();
    host.put(serde_json::json!({})).await;
    let arguments = ["run", "shop/nightly", "--scheduled", "2026-11-21T02:00:00Z", "--trigger", "schedule"];
    good(host.mainstay(&arguments));
    let second = good(host.mainstay(&arguments));
    assert!(second.contains("was carried out already"), "{second}");
    let actual = host.engine().observe(Timestamp::now()).await.unwrap();
    assert_eq!(actual.policies[&Host::name()].inventory.points.len(), 1);
}

/// A daemon observes through one engine for months, and each run is a process of its own.
#[tokio::test]
async fn an_engine_that_stays_open_sees_what_other_processes_did() {
    let host = Host::new();
    let engine = host.engine();
    let observe = || async { engine.observe(Timestamp::now()).await.unwrap().policies };
    assert!(observe().await.is_empty());
    host.put(serde_json::json!({})).await;
    assert!(observe().await[&Host::name()].inventory.points.is_empty());
    good(host.mainstay(&["run", "shop/nightly"]));
    let policy = observe().await[&Host::name()].clone();
    assert_eq!(policy.inventory.points.len(), 1);
    assert!(policy.running.is_none() && policy.last_success.is_some());
    good(host.mainstay(&["points", "hold", "shop/nightly", &policy.inventory.points[0].id.0]));
    assert!(observe().await[&Host::name()].inventory.points[0].held);
}
