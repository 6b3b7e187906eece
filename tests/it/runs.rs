//! Runs on the local engine through the real binary: what is captured is restored, and a run that is killed leaves
//! nothing half done.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use jiff::Timestamp;
use mainstay::{
    engine::{Engine as _, local::LocalEngine},
    policy::{CompiledPolicy, Location, PolicyName},
    run::Phase,
};
use tempfile::TempDir;

/// A host of its own: state, a repository, data.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        fs::write(directory.path().join("data/file"), "content").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn name() -> PolicyName {
        PolicyName::new("shop", "nightly")
    }

    /// A policy with these fields over the usual ones.
    fn policy(&self, more: serde_json::Value) -> CompiledPolicy {
        let mut spec = serde_json::json!({
            "repositories": ["disk"],
            "sources": [{"name": "files", "paths": [self.text("data")]}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let document = serde_json::json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "BackupPolicy",
            "metadata": {"name": "nightly", "namespace": "shop"}, "spec": spec,
        });
        let repository = serde_json::json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "disk"},
            "spec": {"directory": self.text("repository"), "password": {"generate": true}},
        });
        let mut compiled = CompiledPolicy {
            name: Self::name(),
            document: serde_json::from_value(document).unwrap(),
            repositories: vec![serde_json::from_value(repository).unwrap()],
            cluster: "local".into(),
            pushgateway: None,
            revision: None,
            source: Location { file: "backup.yaml".into(), line: 1, column: 1 },
            spec_hash: String::new(),
        };
        compiled.spec_hash = compiled.content_hash();
        compiled
    }

    fn engine(&self) -> LocalEngine {
        LocalEngine::open(&self.path("state")).unwrap().with_program(env!("CARGO_BIN_EXE_mainstay").into())
    }

    async fn put(&self, more: serde_json::Value) {
        self.engine().put(&self.policy(more)).await.unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).arg("--state").arg(self.path("state"));
        command
    }

    fn mainstay(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn good(output: Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    out.into_owned()
}

fn count_lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

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
    for (point, recorded) in [
        ("hookBefore:intended", false),
        ("stop:intended", false),
        ("stop:done", false),
        ("capture:intended", false),
        ("capture:done", false),
        ("start:intended", false),
        ("check:intended", false),
        ("record:intended", false),
        ("record:done", true),
        ("cleanup:intended", true),
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
        let fifo = host.path("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
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
        assert_eq!(actual.policies[&Host::name()].inventory.points.len(), 1 + usize::from(recorded), "{point}");
    }
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

/// The content of all files below a directory.
fn walk(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
    found
}
