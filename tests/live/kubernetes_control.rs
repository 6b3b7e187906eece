//! The daemon and the commands on a real cluster: what is applied, repaired, left alone, and by which daemon.
//!
//! Each installation has a namespace of its own and works with the daemon's account and the rights that are shipped, so
//! whatever passes here passes without an administrator's rights.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    cluster::{Namespace, image},
    peers::{said, succeed, wait_for},
    rights::{self, Rights},
    world::{Started, World},
};

mod idle;
mod leaders;
mod objects;
mod story;

/// What a person needs besides the daemon's rights: the log of a run that was asked for.
const PERSON: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: person}
rules:
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: person}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: person}
subjects: [{kind: ServiceAccount, name: mainstay}]
"#;

/// One installation: a namespace, an account, and documents in a git repository on this host.
struct Installation {
    world: World,
    name: String,
    namespace: Namespace,
    _rights: Rights,
}

impl Installation {
    /// With an empty repository of documents.
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let namespace = Namespace::new(name);
        let rights = Rights::grant(&namespace, &[]);
        namespace.apply(PERSON);
        let installation = Self { world, name: name.to_owned(), namespace, _rights: rights };
        installation.world.write("kubeconfig", rights::kubeconfig(&installation.namespace, "mainstay"));
        installation.git(&["init", "-q", "-b", "main"]);
        installation
    }

    /// Writes the document of a policy with these fields (YAML, one line each, indented by two).
    fn document(&self, policy: &str, fields: &str) {
        let (namespace, name) = policy.split_once('/').expect("NAMESPACE/NAME");
        let text = format!(
            "apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  repositories: [offsite]
  sources:
    - {{name: files, volumes: {{claims: [data]}}}}
{fields}
"
        );
        self.world.write(&format!("documents/{namespace}/{name}.backup.yaml"), text);
        self.world.write(
            "documents/repository.backup.yaml",
            "apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {name: offsite}
spec:
  s3: {endpoint: 'http://s3.peers:9000', bucket: backups, prefix: control, accessKeyId: {secret: s3, key: id}, secretAccessKey: {secret: s3, key: secret}}
  password: {secret: s3, key: password}
",
        );
    }

    fn remove_document(&self, policy: &str) {
        fs::remove_file(self.world.path(&format!("documents/{policy}.backup.yaml"))).expect("a document");
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        let identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        let documents = self.world.path("documents");
        succeed(Command::new("git").current_dir(documents).args(identity).args(arguments))
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let kubeconfig: PathBuf = self.world.path("kubeconfig");
        vec![
            ("MAINSTAY_ENGINE", "kubernetes".to_owned()),
            ("MAINSTAY_NAMESPACE", self.name.clone()),
            ("MAINSTAY_IMAGE", image()),
            ("KUBECONFIG", kubeconfig.display().to_string()),
            ("NO_PROXY", "*".to_owned()),
        ]
    }

    /// A command of a person, with the documents as they lie there.
    fn mainstay(&self, arguments: &[&str]) -> Output {
        self.world.command(arguments).envs(self.environment()).output().expect("the binary under test starts")
    }

    fn good(&self, arguments: &[&str]) -> String {
        succeed(self.world.command(arguments).envs(self.environment()))
    }

    fn plan(&self) -> Value {
        let text = self.good(&["plan", "--path", "documents", "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn apply(&self) -> String {
        self.good(&["apply", "--path", "documents"])
    }

    /// A daemon with a state directory of its own, named after it.
    fn daemon(&self, name: &str) -> Daemon {
        let state = self.world.path(name).display().to_string();
        let documents = self.world.path("documents").display().to_string();
        let environment = self.environment();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let arguments = ["-v", "daemon", "--repo", &documents, "--state", &state, "--poll", "5s"];
        Daemon {
            process: self.world.start_with(name, &arguments, &environment),
            log: self.world.path(&format!("{name}.log")),
        }
    }

    /// The names of all CronJobs, sorted.
    fn cron_jobs(&self) -> Vec<String> {
        self.names("cronjobs")
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let selector = ["-l", "app.kubernetes.io/managed-by=mainstay", "-o", "name"];
        let text = succeed(self.namespace.kubectl().args(["get", kind]).args(selector));
        let mut names: Vec<String> =
            text.lines().filter_map(|line| line.rsplit_once('/')).map(|(_, name)| name.to_owned()).collect();
        names.sort();
        names
    }

    fn wait_for_cron_jobs(&self, expected: &[&str], daemon: &Daemon) {
        wait_for_with(&format!("CronJobs {expected:?}"), 60, || self.cron_jobs() == expected, daemon);
    }

    fn schedule(&self, cron_job: &str) -> String {
        self.namespace.field(&format!("cronjob/{cron_job}"), "{.spec.schedule}")
    }

    fn patch(&self, object: &str, patch: &str) {
        succeed(self.namespace.kubectl().args(["patch", object, "--type=merge", "-p", patch]));
    }
}

/// A daemon with its log.
struct Daemon {
    process: Started,
    log: PathBuf,
}

impl Daemon {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for_log(&self, text: &str) {
        wait_for_with(&format!("`{text}` in the log"), 60, || self.log().contains(text), self);
    }
}

/// Waits; shows the daemon's log when that takes too long.
fn wait_for_with(what: &str, seconds: u64, mut condition: impl FnMut() -> bool, daemon: &Daemon) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(what, seconds, || condition().then_some(()));
    }));
    assert!(result.is_ok(), "waited {seconds} s for: {what}\n{}", daemon.log());
}

/// All that a command said that must fail.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", said(output));
    said(output)
}
