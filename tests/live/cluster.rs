//! The real Kubernetes that `tests/cluster/up` starts: how tests use it, and tests that it is what others rely on.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::peers::{said, succeed, wait_for};

mod crash_consistency;
mod image;
mod nodes;
mod outages;

/// Tests share the cluster, but for those that break it.
static CLUSTER: RwLock<()> = RwLock::new(());

/// A namespace for one test. It is deleted, without waiting, when it is dropped.
pub struct Namespace {
    name: String,
    part: Part,
}

/// What a test has of the cluster, until it ends.
enum Part {
    Shared {
        _lock: RwLockReadGuard<'static, ()>,
    },
    Whole {
        _lock: RwLockWriteGuard<'static, ()>,
    },
    /// That of another namespace of the same test, which outlives this one.
    Anothers,
}

impl Namespace {
    /// A namespace with this name, empty: what an earlier run of the test left in one of the same name goes first.
    pub fn new(name: &str) -> Self {
        Self::with(name, Part::Shared { _lock: CLUSTER.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// A second namespace for the test that has this one, which must outlive it: a test that asked for the cluster twice
    /// would wait for ever where one that wants it alone asks in between.
    pub fn second(&self, name: &str) -> Self {
        Self::with(name, Part::Anothers)
    }

    /// The same for a test that has the cluster to itself, and so may use [`Namespace::outage`].
    pub fn alone(name: &str) -> Self {
        Self::with(name, Part::Whole { _lock: CLUSTER.write().unwrap_or_else(PoisonError::into_inner) })
    }

    fn with(name: &str, part: Part) -> Self {
        let namespace = Self { name: name.to_owned(), part };
        succeed(kubectl().args(["delete", "namespace", name, "--ignore-not-found", "--timeout=300s"]));
        succeed(kubectl().args(["create", "namespace", name]));
        // Pods are refused until the namespace has its account.
        wait_for("the namespace's service account", 300, || {
            let account = namespace.kubectl().args(["get", "serviceaccount", "default"]).output();
            account.is_ok_and(|output| output.status.success()).then_some(())
        });
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self) -> Command {
        let mut command = kubectl();
        command.args(["--namespace", &self.name]);
        command
    }

    /// Makes or changes objects, from YAML.
    pub fn apply(&self, objects: &str) {
        let mut command = self.kubectl();
        let output = with_input(command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]), objects);
        assert!(output.status.success(), "kubectl apply: {}\n{objects}", said(&output));
    }

    /// A field of an object, as a JSONPath finds it; empty where there is none.
    pub fn field(&self, object: &str, path: &str) -> String {
        succeed(self.kubectl().args(["get", object, "-o", &format!("jsonpath={path}")]))
    }

    /// Waits until the object fulfils what `kubectl wait --for` takes.
    pub fn wait(&self, object: &str, what: &str) {
        let output = self.kubectl().args(["wait", object, "--for", what, "--timeout=300s"]).output().expect("kubectl");
        if !output.status.success() {
            let all = self.kubectl().args(["get", "pods,pvc,volumesnapshots,events", "-o", "wide"]).output();
            panic!("{object}: {}\n{}", said(&output), said(&all.expect("kubectl")));
        }
    }

    /// Runs a shell script in a pod and gives what it prints.
    pub fn shell(&self, pod: &str, script: &str) -> String {
        succeed(self.kubectl().args(["exec", pod, "--", "bash", "-euc", script]))
    }

    /// Kills a program of the cluster, such as `etcd`, `s3` or `kubelet-node2`; it comes back when this is dropped.
    pub fn outage(&self, program: &'static str) -> Outage {
        match self.part {
            Part::Whole { .. } => succeed(script("program").args(["stop", program])),
            Part::Shared { .. } | Part::Anothers => {
                panic!("an outage hits every test: make the namespace with Namespace::alone")
            }
        };
        Outage { program }
    }
}

/// A program of the cluster that does not run, until this is dropped.
pub struct Outage {
    program: &'static str,
}

impl Drop for Outage {
    fn drop(&mut self) {
        let output = script("program").args(["start", self.program]).output();
        // A panic in a drop would end the whole run; the tests after this one will say that the program is missing.
        if !output.is_ok_and(|output| output.status.success()) {
            eprintln!("{} does not start again", self.program);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = kubectl().args(["delete", "namespace", &self.name, "--wait=false"]).output();
    }
}

/// kubectl as the cluster's administrator.
pub fn kubectl() -> Command {
    script("kubectl")
}

/// The image of the program under test: the static one that `tests/run` loads into the nodes, or what
/// `MAINSTAY_LIVE_IMAGE` names, for instance a development build that `tests/cluster/image` loaded.
pub fn image() -> String {
    std::env::var("MAINSTAY_LIVE_IMAGE").unwrap_or_else(|_| "mainstay:test".to_owned())
}

/// A command of `tests/cluster`.
pub fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(name))
}

pub fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}
