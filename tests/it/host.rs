//! A host for tests: a state, a repository and data in a directory of its own, and the real binary on them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use jiff::Timestamp;
use mainstay::{
    actual::ActualPolicy,
    engine::{Engine as _, local::LocalEngine},
    policy::{CompiledPolicy, Location, PolicyName},
};
use serde_json::{Value, json};

use crate::host_folder::HostFolder;

/// A host of its own: state, a repository, data.
pub struct Host {
    directory: HostFolder,
}

impl Host {
    pub fn new() -> Self {
        let directory = HostFolder::new();
        fs::create_dir(directory.path().join("data")).unwrap();
        fs::write(directory.path().join("data/file"), "content").unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn name() -> PolicyName {
        PolicyName::new("shop", "nightly")
    }

    /// A policy with these fields over the usual ones.
    pub fn policy(&self, more: Value) -> CompiledPolicy {
        self.policy_in(&["disk"], json!({}), more)
    }

    /// A policy with several repositories, each in the directory of its name, with these fields over the usual ones.
    pub fn policy_in(&self, repositories: &[&str], repository_more: Value, more: Value) -> CompiledPolicy {
        let mut spec = json!({
            "repositories": repositories,
            "sources": [{"name": "files", "paths": [self.text("data")]}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let document = json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "BackupPolicy",
            "metadata": {"name": "nightly", "namespace": "shop"}, "spec": spec,
        });
        let repository = |name: &&str| {
            let mut spec = json!({"directory": self.text(name), "password": {"generate": true}});
            spec.as_object_mut().unwrap().extend(repository_more.as_object().unwrap().clone());
            let document = json!({
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name}, "spec": spec,
            });
            std::sync::Arc::new(serde_json::from_value(document).unwrap())
        };
        let mut compiled = CompiledPolicy {
            name: Self::name(),
            document: std::sync::Arc::new(serde_json::from_value(document).unwrap()),
            repositories: repositories.iter().map(repository).collect(),
            cluster: "local".into(),
            pushgateway: None,
            revision: None,
            source: Location { file: "backup.yaml".into(), line: 1, column: 1 },
            spec_hash: String::new(),
        };
        compiled.spec_hash = compiled.content_hash();
        compiled
    }

    /// The commands that stop and start a workload, which write into the file `log`.
    pub fn quiesce(&self) -> Value {
        let log = self.text("log");
        json!({"stop": ["sh", "-c", format!("echo stop >> {log}")], "start": ["sh", "-c", format!("echo start >> {log}")]})
    }

    /// What the commands of [`Host::quiesce`] and hooks wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the engine has of the policy.
    pub async fn actual(&self) -> ActualPolicy {
        let mut actual = self.engine().observe(Timestamp::now()).await.unwrap();
        std::sync::Arc::unwrap_or_clone(actual.policies.remove(&Self::name()).unwrap())
    }

    /// Makes a FIFO, on which one process waits for another.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    pub fn engine(&self) -> LocalEngine {
        LocalEngine::open(&self.path("state")).unwrap().with_program(env!("CARGO_BIN_EXE_mainstay").into())
    }

    pub async fn put(&self, more: Value) {
        self.engine().put(&self.policy(more)).await.unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).arg("--state").arg(self.path("state"));
        command
    }

    pub fn mainstay(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// What a command that must go well printed.
pub fn good(output: Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    out.into_owned()
}

/// How many lines a file has; none: it is not there.
pub fn count_lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// What a command that must fail printed on both channels, with its exit code.
pub fn bad(output: Output) -> (Option<i32>, String) {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{out}\n{error}");
    (output.status.code(), format!("{out}\n{error}"))
}

/// The content of all files below a directory.
pub fn walk(directory: &Path) -> Vec<String> {
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
