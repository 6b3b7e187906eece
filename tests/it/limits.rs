//! Runs that hang, fail or are ended from outside, and runs into several repositories: the workload is started on every
//! path, the hooks after the capture are carried out, and no point counts that is not whole.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{
        Engine as _,
        local::{process::ProcessIdentity, state::stopped::StoppedWorkload},
    },
    policy::PolicyName,
    run::Phase,
    status::ledger::EventKind,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::host::{Host, bad, good};

/// A dump that writes its process number into a FIFO and then hangs.
fn hanging_dump(host: &Host) -> serde_json::Value {
    let pid = host.text("pid");
    json!([{"name": "dump", "command": {"dump": ["sh", "-c", format!("echo $$ > {pid}; exec sleep 1000")]}}])
}

fn spawn(host: &Host, arguments: &[&str]) -> Child {
    host.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn output(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// Waits until the hanging dump hangs; who it is.
fn hangs(host: &Host) -> u32 {
    fs::read_to_string(host.path("pid")).unwrap().trim().parse().unwrap()
}

fn hook(host: &Host, word: &str, exit: i32) -> serde_json::Value {
    json!({"command": ["sh", "-c", format!("echo {word} >> {}; exit {exit}", host.text("log"))]})
}

#[tokio::test]
async fn a_run_over_its_limit_is_ended_with_its_dump_and_its_workload_is_started() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    // A plain file: the dump does not wait for us, so that the limit alone ends it.
    host.put(json!({
        "consistency": "Cold", "quiesce": host.quiesce(), "limits": {"timeout": "10s"},
        "hooks": {"after": [hook(&host, "after", 0)]}, "sources": hanging_dump(&host),
    }))
    .await;
    let (code, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(code == Some(1) && said.contains("limits.timeout"), "{said}");
    assert_eq!(host.log(), "stop\nstart\nafter\n");
    assert!(ProcessIdentity::of(hangs(&host)).is_none(), "the dump hangs on");
    assert_eq!(host.actual().await.inventory.points.len(), 1);
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_starts_its_workload() {
    let host = Host::new();
    host.fifo("pid");
    host.put(json!({
        "consistency": "Cold", "quiesce": host.quiesce(), "hooks": {"after": [hook(&host, "after", 0)]},
        "sources": hanging_dump(&host),
    }))
    .await;
    for signal in [Signal::TERM, Signal::INT] {
        let _ = fs::remove_file(host.path("log"));
        let run = spawn(&host, &["run", "shop/nightly"]);
        let dump = hangs(&host);
        kill_process(Pid::from_child(&run), signal).unwrap();
        let (code, said) = bad(output(run));
        assert!(code == Some(1) && said.contains("asked to stop"), "{said}");
        assert_eq!(host.log(), "stop\nstart\nafter\n", "{signal:?}");
        assert!(ProcessIdentity::of(dump).is_none(), "the dump hangs on");
        assert_eq!(host.actual().await.last_run.unwrap().phase, Phase::Failed);
    }
}

#[tokio::test]
async fn a_hook_before_that_fails_or_hangs_copies_nothing_and_hooks_after_run() {
    let host = Host::new();
    let hanging = json!({"command": ["sh", "-c", "sleep 1000"], "timeout": "1s"});
    for (before, part) in [(hook(&host, "before", 3), "exit status 3"), (hanging, "longer than 1 s")] {
        let _ = fs::remove_file(host.path("log"));
        host.put(json!({
            "consistency": "Cold", "quiesce": host.quiesce(),
            "hooks": {"before": [before], "after": [hook(&host, "after", 0)]},
        }))
        .await;
        let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
        assert!(said.contains("hook 1 before the capture failed") && said.contains(part), "{said}");
        assert_eq!(host.log().replace("before\n", ""), "after\n", "the workload was not even stopped");
        assert!(!host.path("disk").exists(), "nothing was copied");
    }
}

#[tokio::test]
async fn a_hook_after_that_fails_is_told_and_harms_no_point() {
    let host = Host::new();
    let hooks = json!({"before": [hook(&host, "before", 0)], "after": [hook(&host, "one", 1), hook(&host, "two", 0)]});
    host.put(json!({"hooks": hooks, "consistency": "Cold", "quiesce": host.quiesce()})).await;
    let said = good(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("hook 1 after the capture failed"), "{said}");
    assert_eq!(host.log(), "before\nstop\nstart\none\ntwo\n");
    assert_eq!(host.actual().await.inventory.points.len(), 1);
}

#[tokio::test]
async fn each_repository_gets_every_point_and_one_that_is_broken_fails_the_run() {
    let host = Host::new();
    let policy = host.policy_in(&["disk", "second"], json!({}), json!({}));
    host.engine().put(&policy).await.unwrap();
    fs::write(host.path("second"), "not a directory").unwrap();
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("source files was not captured into second"), "{said}");
    let actual = host.actual().await;
    assert!(actual.inventory.points.is_empty(), "half a point counts");
    let phases: Vec<_> = actual.last_run.unwrap().sources.into_iter().map(|s| (s.repository, s.phase)).collect();
    assert_eq!(phases, [("disk".to_owned(), Phase::Succeeded), ("second".to_owned(), Phase::Failed)]);
    fs::remove_file(host.path("second")).unwrap();
    good(host.mainstay(&["run", "shop/nightly"]));
    let points = host.actual().await.inventory.points;
    let repositories: Vec<_> = points[0].parts.iter().map(|part| part.repository.as_str()).collect();
    assert_eq!((points.len(), repositories), (1, vec!["disk", "second"]));
    for repository in ["disk", "second"] {
        let into = host.text(&format!("from-{repository}"));
        good(host.mainstay(&["restore", "shop/nightly", "--repository", repository, "--into", &into]));
        assert_eq!(crate::host::walk(into.as_ref()), ["content"]);
    }
    // The first one is lost: the second has the whole point.
    fs::rename(host.path("disk"), host.path("lost")).unwrap();
    let into = host.text("after-the-loss");
    good(host.mainstay(&["restore", "shop/nightly", "--repository", "second", "--into", &into]));
    bad(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!(host.actual().await.inventory.points.len(), 1);
}

#[tokio::test]
async fn a_mover_that_is_killed_fails_its_run_and_the_next_one_is_whole() {
    let host = Host::new();
    host.fifo("pid");
    host.put(json!({"consistency": "Cold", "quiesce": host.quiesce(), "sources": hanging_dump(&host)})).await;
    for _ in 0..3 {
        let _ = fs::remove_file(host.path("log"));
        let run = spawn(&host, &["run", "shop/nightly"]);
        hangs(&host);
        let under_way = host.engine().context().state.runs_under_way().unwrap();
        let mover = under_way[0].child.clone().unwrap();
        kill_process(Pid::from_raw(mover.pid).unwrap(), Signal::KILL).unwrap();
        let (_, said) = bad(output(run));
        assert!(said.contains("signal 9"), "{said}");
        assert_eq!(host.log(), "stop\nstart\n");
    }
    host.put(json!({"consistency": "Cold", "quiesce": host.quiesce()})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    assert_eq!(host.actual().await.inventory.points.len(), 1);
    good(host.mainstay(&["verify", "shop/nightly", "--read-data", "100%"]));
}

/// A git repository with the documents of the policy that the engine has.
fn documents(host: &Host) {
    let stored = host.engine().context().state.policy(&Host::name()).unwrap().unwrap().compiled;
    let documents = [
        serde_json::to_string_pretty(stored.document.as_ref()).unwrap(),
        serde_json::to_string_pretty(stored.repositories[0].as_ref()).unwrap(),
    ];
    let directory = host.path("documents");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("backup.yaml"), documents.join("\n---\n")).unwrap();
    for arguments in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["add", "."],
        &["-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message=policy"],
    ] {
        assert!(Command::new("git").args(arguments).current_dir(&directory).status().unwrap().success());
    }
}

/// The daemon is killed while a run is under way, twice: the run goes on, is adopted, and is started once.
#[tokio::test]
async fn a_run_outlives_the_daemons_that_started_and_adopted_it() {
    let host = Host::new();
    let (begun, go_on) = (host.fifo("begun"), host.fifo("go-on"));
    let log = host.text("log");
    let dump = format!("echo run >> {log}; echo > {}; cat {}", begun.display(), go_on.display());
    host.put(json!({"sources": [{"name": "dump", "command": {"dump": ["sh", "-c", dump]}}]})).await;
    let engine = host.engine();
    let last = Timestamp::now() - SignedDuration::from_hours(30);
    engine.context().state.set_last_scheduled(&Host::name(), last).unwrap();
    documents(&host);
    // Their standard error is a pipe that nobody reads any more after their end; the run must not mind.
    let daemon = || spawn(&host, &["-v", "daemon", "--no-write-back", "--repo", &host.text("documents")]);
    let mut first = daemon();
    fs::read(&begun).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let run = engine.context().state.runs_under_way().unwrap().remove(0);
    assert!(run.process.is_alive() && run.report.phase == Phase::Running, "{run:?}");
    for _ in 0..2 {
        let mut next = daemon();
        let lines = BufReader::new(next.stderr.take().unwrap()).lines();
        let looked = lines.map(Result::unwrap).any(|line| line.contains("turn changes="));
        assert!(looked, "the daemon ended before its first turn");
        next.kill().unwrap();
        next.wait().unwrap();
    }
    assert!(run.process.is_alive());
    let follower = spawn(&host, &["run", "shop/nightly", "--follow"]);
    fs::write(&go_on, "rows\n").unwrap();
    let followed = output(follower);
    assert!(followed.status.success(), "{}", String::from_utf8_lossy(&followed.stderr));
    let events = engine.history(0).await.unwrap();
    let ended: Vec<_> = events.iter().filter(|event| matches!(event.kind, EventKind::RunEnded(_))).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!((host.log().as_str(), host.actual().await.inventory.points.len()), ("run\n", 1));
}

/// The next request to a listener, answered with 200.
fn answered(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !request.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut request).unwrap() > 0, "{request}");
    }
    let length = request.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    request + &String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn the_metrics_of_a_run_are_pushed_and_a_gateway_that_is_away_harms_nothing() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut policy = host.policy(json!({}));
    policy.pushgateway = Some(format!("http://{}", listener.local_addr().unwrap()));
    host.engine().put(&policy).await.unwrap();
    let run = spawn(&host, &["run", "shop/nightly"]);
    let pushed = answered(&listener);
    good(output(run));
    assert!(pushed.starts_with("PUT /metrics/job/mainstay/namespace/shop/policy/nightly HTTP/1.1\r\n"), "{pushed}");
    for line in [
        "mainstay_run_success 1",
        "mainstay_run_source_size_bytes{source=\"files\",repository=\"disk\"} 7",
        "mainstay_run_source_files{source=\"files\",repository=\"disk\"} 1",
    ] {
        assert!(pushed.lines().any(|pushed| pushed == line), "`{line}` is not in\n{pushed}");
    }
    fs::rename(host.path("data"), host.path("gone")).unwrap();
    let run = spawn(&host, &["run", "shop/nightly"]);
    assert!(answered(&listener).contains("\nmainstay_run_success 0\n"));
    bad(output(run));
    fs::rename(host.path("gone"), host.path("data")).unwrap();
    drop(listener);
    let said = host.mainstay(&["run", "shop/nightly"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("were not pushed"), "{said:?}");
    good(said);
}

/// A store that says yes and keeps nothing: what it does not list is no restore point.
#[tokio::test]
async fn what_the_repository_does_not_list_is_no_restore_point() {
    let host = Host::new();
    let lose = format!("find {} -path '*/snapshots/*' -type f -delete", host.text("disk"));
    host.put(json!({"hooks": {"after": [{"command": ["sh", "-c", lose]}]}})).await;
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("repository disk does not list what source files was captured into"), "{said}");
    assert!(host.actual().await.inventory.points.is_empty());
}

/// A workload that a process which is gone left stopped.
fn stopped(host: &Host, policy: &str, start: &str, timeout: &str) -> StoppedWorkload {
    let start = start.replace("HOST", &host.text(""));
    let quiesce = json!({"stop": ["true"], "start": ["sh", "-c", start], "timeout": timeout});
    StoppedWorkload {
        policy: PolicyName::new("shop", policy),
        owner: "a run".to_owned(),
        process: ProcessIdentity { started_ticks: 1, ..ProcessIdentity::own() },
        quiesce: serde_json::from_value(quiesce).unwrap(),
        attempted_at: None,
    }
}

/// The first start command goes on only when the second has been carried out.
#[tokio::test]
async fn a_start_command_that_hangs_keeps_no_other_workload_down() {
    let host = Host::new();
    host.fifo("go-on");
    let engine = host.engine();
    let state = &engine.context().state;
    let now = Timestamp::now();
    state.add_stopped(&stopped(&host, "a-hangs", "read line < HOST/go-on", "30s"), now).unwrap();
    state.add_stopped(&stopped(&host, "b-good", "echo > HOST/go-on", "30s"), now).unwrap();
    let recovered = engine.recover(now).await.unwrap();
    let expected = ["a-hangs", "b-good"].map(|name| PolicyName::new("shop", name));
    assert_eq!(recovered.started, expected, "{recovered:?}");
    assert!(state.stopped_workloads().unwrap().is_empty());
}

/// The daemon looks after what is left stopped while an earlier look still waits.
#[tokio::test]
async fn a_workload_is_woken_while_the_start_of_another_hangs() {
    let host = Host::new();
    let begun = host.fifo("begun");
    host.put(json!({})).await;
    documents(&host);
    let engine = host.engine();
    let state = &engine.context().state;
    state
        .add_stopped(&stopped(&host, "a-hangs", "echo > HOST/begun; exec sleep 1000", "1h"), Timestamp::now())
        .unwrap();
    let mut daemon = spawn(&host, &["daemon", "--no-write-back", "--poll", "1s", "--repo", &host.text("documents")]);
    fs::read(begun).unwrap();
    state.add_stopped(&stopped(&host, "b-good", "echo woken >> HOST/log", "1h"), Timestamp::now()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.log() != "woken\n" && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20)); // the pause of a poll, not a guess at how long it takes
    }
    assert_eq!(host.log(), "woken\n");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
