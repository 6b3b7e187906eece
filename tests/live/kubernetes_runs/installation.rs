//! Mainstay in the test cluster for one test: its own namespace, policies of the examples, and what becomes of runs.

use std::{collections::BTreeMap, path::Path, process::Command};

use mainstay::{
    engine::{
        Engine as _,
        kubernetes::{
            KubernetesEngine,
            manifests::policy::Installation as EngineInstallation,
            names::{self, CronJobKind},
            restoring::ask,
            run_now,
            store::Store,
        },
    },
    policy::{
        EngineKind, PolicyName,
        document::restore::RestoreSpec,
        load::{FileContent, ParseCache, load},
    },
};
use serde_json::Value;

use crate::{
    cluster::{Namespace, image},
    peers::{succeed, wait_for},
    rights::Rights,
};

/// The bucket as the host reaches it.
const BUCKET: &str = "s3:http://127.0.0.1:19000/backups";
/// What opens the repository.
pub const PASSWORD: &str = "correct horse";

/// Mainstay, and one namespace with what it protects. The namespaces go with it.
pub struct Installation {
    /// What is protected.
    pub shop: Namespace,
    /// Mainstay's own namespace.
    pub system: Namespace,
    name: String,
    /// Below this in the bucket. What another run of the test left there would be found.
    pub prefix: String,
    rights: Option<Rights>,
}

/// The policy of an example, applied.
pub struct Applied<'a> {
    /// Where.
    pub installation: &'a Installation,
    /// `NAMESPACE/NAME`.
    pub policy: String,
    cron_job: String,
}

impl Installation {
    /// Fresh namespaces with this name in theirs, and the shipped rights in them.
    pub fn new(name: &str) -> Self {
        Self::within(Namespace::new(&format!("runs-{name}-system")), name)
    }

    /// The same for a test that breaks the cluster, and has it alone.
    pub fn alone(name: &str) -> Self {
        Self::within(Namespace::alone(&format!("runs-{name}-system")), name)
    }

    fn within(system: Namespace, name: &str) -> Self {
        let shop = system.second(&format!("runs-{name}"));
        let rights = Rights::grant(&system, &[&shop]);
        let name = format!("runs-{name}");
        let installation = Self { shop, system, prefix: fresh_prefix(&name), name, rights: Some(rights) };
        installation.make_secrets();
        installation
    }

    /// A shop on node2 that writes all the time: two replicas, the claims `data` and `more`.
    pub fn with_shop(self) -> Self {
        self.shop.apply(include_str!("shop.yaml"));
        self.shop.wait("deployment/shop", "condition=Available");
        self
    }

    /// Waits until nothing of these kinds is left of what runs made.
    pub fn wait_until_gone(&self, kinds: &str) {
        wait_for(&format!("{kinds} to be gone"), 300, || {
            let ours = "app.kubernetes.io/managed-by=mainstay";
            let left = succeed(self.shop.kubectl().args(["get", kinds, "-l", ours, "-o", "name"]));
            left.trim().is_empty().then_some(())
        });
    }

    /// Mainstay that another one installed, with the same names.
    pub fn of(system: Namespace, shop: Namespace) -> Self {
        let name = shop.name().to_owned();
        let installation = Self { shop, system, prefix: fresh_prefix(&name), name, rights: None };
        installation.make_secrets();
        installation
    }

    /// The rights that are shipped, which this test gave.
    pub fn rights(&self) -> &Rights {
        self.rights.as_ref().expect("another one installed Mainstay")
    }

    fn make_secrets(&self) {
        self.system.apply(&format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: offsite}}
stringData: {{id: mainstay, secret: mainstay-secret, password: {PASSWORD}}}
"
        ));
    }

    /// The text of an example, with the addresses of the test cluster, and with further replacements.
    pub fn document(&self, example: &str, replacements: &[(&str, &str)]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join("backup.yaml");
        let mut text = std::fs::read_to_string(path).expect("an example");
        for (from, to) in [
            ("namespace: shop", format!("namespace: {}", self.name).as_str()),
            ("namespace: hosting", format!("namespace: {}", self.name).as_str()),
            ("https://s3.example.org", "http://s3.peers:9000"),
            ("prefix: production", format!("prefix: {}", self.prefix).as_str()),
            ("stagger: 2m", "stagger: 3s"),
            ("consistency: Cold", "consistency: Cold\n  stagger: 3s"),
        ] {
            text = text.replace(from, to);
        }
        for (from, to) in replacements {
            assert!(text.contains(from), "{example} has no {from}");
            text = text.replace(from, to);
        }
        text
    }

    /// A policy that a daemon applied.
    pub fn applied(&self, policy: &str) -> Applied<'_> {
        let name: PolicyName = policy.parse().expect("NAMESPACE/NAME");
        Applied { installation: self, policy: policy.to_owned(), cron_job: names::cron_job(&name, CronJobKind::Run(0)) }
    }

    /// Applies an example, see [`Installation::document`].
    pub fn apply(&self, example: &str, replacements: &[(&str, &str)]) -> Applied<'_> {
        self.apply_text(&self.document(example, replacements))
    }

    /// Applies documents of a test's own.
    pub fn apply_text(&self, text: &str) -> Applied<'_> {
        let text = text.replace("namespace: shop}", &format!("namespace: {}}}", self.name));
        let content = FileContent { bytes: text.into_bytes(), blob: None };
        let files = BTreeMap::from([("backup.yaml".into(), content)]);
        let loaded = load(&files, EngineKind::Kubernetes, &mut ParseCache::default());
        assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
        let policy = loaded.desired.policies.values().next().expect("a policy");
        let compiled = policy.compile(&loaded.desired.settings, None);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let client = run_now::client().await.expect("a cluster");
            let engine = KubernetesEngine::start(client, self.engine_installation());
            engine.ready().await.expect("watches");
            engine.put(&compiled).await.expect("the policy is applied");
        });
        self.applied(&compiled.name.to_string())
    }
}

impl Installation {
    /// What the engine makes its objects with.
    pub fn engine_installation(&self) -> EngineInstallation {
        EngineInstallation {
            namespace: format!("{}-system", self.name),
            image: Some(image()),
            run_service_account: "mainstay-run".to_owned(),
            frozen: false,
        }
    }

    /// What the Restore documents of an example say.
    pub fn restores(&self, example: &str) -> Vec<String> {
        let text = self.document(example, &[]);
        let documents = text.split("\n---\n").map(|text| serde_yaml::from_str::<Value>(text).expect("YAML"));
        let restores = documents.filter(|document| document["kind"] == "Restore");
        restores.map(|document| document["spec"].to_string()).collect()
    }

    /// `mainstay` on this host, working on this installation.
    pub fn mainstay(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.env("MAINSTAY_ENGINE", "kubernetes").env("MAINSTAY_NAMESPACE", format!("{}-system", self.name));
        command
    }

    /// A pod that mounts a claim, to look into it: `kubectl exec pod/looks`.
    pub fn looks(&self, namespace: &Namespace, claim: &str) -> String {
        let pod = format!("looks-{claim}");
        namespace.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {pod}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: looks, image: \"databases:test\", command: [sleep, infinity], volumeMounts: [{{name: c, mountPath: /data}}]}}]
  volumes: [{{name: c, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
        ));
        namespace.wait(&format!("pod/{pod}"), "condition=Ready");
        format!("pod/{pod}")
    }
}

impl Applied<'_> {
    /// Starts a run as an administrator does: `kubectl create job --from=cronjob/…`. `environment` is added to its pod.
    pub fn start(&self, job: &str, environment: &[(&str, &str)]) {
        let system = &self.installation.system;
        let from = format!("--from=cronjob/{}", self.cron_job);
        let text = succeed(system.kubectl().args(["create", "job", job, &from, "--dry-run=client", "-o", "json"]));
        let mut manifest: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
        let list = manifest["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().expect("an environment");
        list.extend(environment.iter().map(|(name, value)| serde_json::json!({"name": name, "value": value})));
        system.apply(&manifest.to_string());
    }

    /// Starts a run as the controller does for this time of its schedule.
    pub fn start_at(&self, job: &str, scheduled: &str) {
        let system = &self.installation.system;
        let from = format!("--from=cronjob/{}", self.cron_job);
        let text = succeed(system.kubectl().args(["create", "job", job, &from, "--dry-run=client", "-o", "json"]));
        let mut manifest: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
        manifest["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] = scheduled.into();
        system.apply(&manifest.to_string());
    }

    /// Waits for the end of a run's Job and gives its report.
    pub fn report(&self, job: &str) -> Value {
        self.ended(job);
        let runs = self.runs();
        runs.into_iter().find(|run| run["job"] == job).map(|run| run["report"].clone()).expect("a record of the run")
    }

    /// Waits for the end of a Job; what it said is shown if it does not come.
    pub fn ended(&self, job: &str) -> String {
        let system = &self.installation.system;
        wait_for(&format!("the end of job {job}"), 300, || {
            let path = "{.status.conditions[?(@.status==\"True\")].type}";
            let field = system.field(&format!("job/{job}"), path);
            (field.contains("Complete") || field.contains("Failed")).then_some(field)
        })
    }

    /// A run that must succeed.
    pub fn run(&self, job: &str) -> Value {
        self.start(job, &[]);
        let report = self.report(job);
        assert_eq!(report["phase"], "Succeeded", "{report:#}");
        report
    }

    /// The records of all runs.
    pub fn runs(&self) -> Vec<Value> {
        self.records("run")
    }

    /// The record of restore points.
    pub fn points(&self) -> Vec<Value> {
        self.records("points").remove(0)["points"].as_array().expect("points").clone()
    }

    /// Starts a restore as the daemon does, from what a Restore document says. `environment` is added to its pod.
    pub fn start_restore(&self, name: &str, spec: &str, environment: &[(&str, &str)]) -> Restore<'_> {
        let mut spec: RestoreSpec = serde_yaml::from_str(spec).expect("a spec");
        spec.policy.clone_from(&self.policy);
        let policy: PolicyName = self.policy.parse().expect("a name");
        let document = PolicyName::new(policy.namespace(), name);
        let content = format!("{:x}", rand::random::<u64>());
        let installation = self.installation.engine_installation();
        let (job, mut manifest) = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let store = Store::new(run_now::client().await.expect("a cluster"), &installation.namespace);
            let now = jiff::Timestamp::now();
            let record = ask::record(&document, &content, &policy, &spec, now);
            assert!(store.announce_restore(&record).await.expect("a cluster"));
            ask::job(&record, &installation)
        });
        let list = manifest["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().expect("an environment");
        list.extend(environment.iter().map(|(name, value)| serde_json::json!({"name": name, "value": value})));
        self.installation.system.apply(&manifest.to_string());
        Restore { applied: self, name: document.to_string(), job }
    }

    /// A restore that must succeed.
    pub fn restore(&self, name: &str, spec: &str) -> Value {
        let report = self.start_restore(name, spec, &[]).report();
        assert_eq!(report["phase"], "Succeeded", "{report:#}");
        report
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        self.records_of(kind, &self.policy)
    }

    fn records_of(&self, kind: &str, subject: &str) -> Vec<Value> {
        let selector = format!("mainstay.dev/kind={kind}");
        let system = &self.installation.system;
        let text = succeed(system.kubectl().args(["get", "configmaps", "-l", &selector, "-o", "json"]));
        let list: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
        let maps = list["items"].as_array().expect("a list").iter();
        let of_policy = maps.filter(|map| map["metadata"]["annotations"]["mainstay.dev/policy"] == subject);
        of_policy
            .map(|map| serde_json::from_str(map["data"]["record.json"].as_str().expect("plain")).expect("JSON"))
            .collect()
    }

    /// The real restic, on the host, reads everything in the policy's repository and lists its snapshots.
    pub fn restic(&self) -> Vec<Value> {
        let (repository, password) = self.repository();
        succeed(restic(&repository, password.path()).args(["check", "--read-data"]));
        let list = succeed(restic(&repository, password.path()).args(["snapshots", "--json"]));
        serde_json::from_str(&list).expect("restic writes a list as JSON")
    }

    /// The file of a snapshot, as the real restic dumps it.
    pub fn restic_dump(&self, snapshot: &str, path: &str) -> String {
        let (repository, password) = self.repository();
        succeed(restic(&repository, password.path()).args(["dump", snapshot, path]))
    }

    /// Address and password file of the repository, for the real restic.
    fn repository(&self) -> (String, tempfile::NamedTempFile) {
        let place = self.records("points").remove(0)["places"][0].clone();
        let prefix = place["document"]["spec"]["s3"]["prefix"].as_str().expect("a prefix");
        let place = place["path"].as_str().expect("a path");
        let generated = self
            .installation
            .system
            .kubectl()
            .args(["get", "secret", "repository-offsite", "-o", "jsonpath={.data.password}"])
            .output();
        let generated = generated.expect("kubectl").stdout;
        let password = match generated.is_empty() {
            true => PASSWORD.as_bytes().to_vec(),
            false => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.decode(generated).expect("base64")
            }
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), password).expect("a password");
        (format!("{BUCKET}/{prefix}/{place}"), file)
    }
}

fn fresh_prefix(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// A restore that was started.
pub struct Restore<'a> {
    applied: &'a Applied<'a>,
    name: String,
    /// The Job.
    pub job: String,
}

impl Restore<'_> {
    /// Its record.
    pub fn record(&self) -> Value {
        self.applied.records_of("restore", &self.name).remove(0)
    }

    /// Waits for its end and gives its report.
    pub fn report(&self) -> Value {
        self.applied.ended(&self.job);
        self.record()["report"].clone()
    }
}

/// The real restic on the cluster's store, which speaks plain http: no certificate authority is needed.
fn restic(repository: &str, password: &Path) -> Command {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r", repository, "--password-file"]).arg(password);
    command.env("AWS_ACCESS_KEY_ID", "mainstay").env("AWS_SECRET_ACCESS_KEY", "mainstay-secret");
    command
}
