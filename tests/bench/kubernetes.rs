//! A daemon on a real cluster against `kubectl` with the same manifests on the same API server; and what a run costs
//! besides its work. It needs the cluster of `tests/cluster/up` with the image of `tests/cluster/image`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use mainstay::{
    engine::kubernetes::manifests::policy::{Installation, of},
    policy::{
        EngineKind,
        load::{self, ParseCache, read_directory},
    },
};
use serde_json::Value;

use crate::{
    documents::git,
    measure::{Needed, measure, scale, spread},
    running::{Daemon, PATIENCE},
};

/// How many policies, in turn.
const SIZES: [f64; 2] = [1_000.0, 10_000.0];
/// How many commits and turns are measured of each.
const ROUNDS: usize = 5;
/// Ours, with a daemon; and the one where `kubectl` applies the same.
const OURS: &str = "bench-ours";
const THEIRS: &str = "bench-theirs";
/// Nobody has this one: nothing of it is ever due.
const SCHEDULE: &str = "0 3 29 2 *";

/// Measures and prints.
pub fn bench() {
    for size in SIZES {
        control_plane((size * scale()) as usize);
    }
    run_overhead();
    remove(OURS);
    remove(THEIRS);
}

fn control_plane(policies: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (documents, state) = (folder.path().join("documents"), folder.path().join("state"));
    fs::create_dir_all(documents.join("policies")).expect("a folder");
    fs::write(documents.join("repository.backup.yaml"), REPOSITORY).expect("a document");
    for number in 0..policies {
        write_policy(&documents, number, SCHEDULE);
    }
    git(&documents, &["init", "-q", "-b", "main"]);
    commit(&documents);
    println!("\n{policies} policies on a cluster: the daemon / kubectl --server-side");

    let config = folder.path().join("kubeconfig");
    prepare(&config);
    let config = config.display().to_string();
    let environment =
        [("MAINSTAY_ENGINE", "kubernetes"), ("MAINSTAY_NAMESPACE", OURS), ("KUBECONFIG", &config), ("NO_PROXY", "*")];
    let environment = [environment.as_slice(), &[("MAINSTAY_IMAGE", "mainstay:test")]].concat();
    let began = Instant::now();
    let daemon = Daemon::start(&documents, &state, &environment);
    wait_until(|| count("cronjobs") == policies);
    let first = began.elapsed().as_secs_f64();

    let manifests = folder.path().join("manifests.json");
    write_manifests(&documents, &manifests);
    let kubectl = |verb: &str, codes: &[i32]| -> Needed {
        let program = "tests/cluster/kubectl";
        let line = format!("{program} --namespace {THEIRS} {verb} --server-side -f {} >/dev/null", manifests.display());
        measure(folder.path(), &line, codes).0
    };
    ratio("first apply", first, kubectl("apply", &[0]).wall_seconds);

    // What the turn after the first one writes is written by now.
    let rest = || {
        let before = (daemon.turns(), requests());
        std::thread::sleep(std::time::Duration::from_secs(5)); // longer than a turn that is still to come
        before == (daemon.turns(), requests())
    };
    wait_until(rest);
    let (before, mut idle) = (requests(), Vec::new());
    for _ in 0..ROUNDS {
        let turns = daemon.turns();
        git(&documents, &["commit", "-q", "--allow-empty", "-m", "nothing"]);
        daemon.wait_for_turns(turns + 1.0);
        idle.push(daemon.metric("mainstay_turn_duration_seconds"));
    }
    let asked = requests() - before;
    idle.sort_by(f64::total_cmp);
    // `diff` ends with 1 where it finds a difference, which it must not.
    ratio("nothing to do", idle[ROUNDS / 2], kubectl("diff", &[0]).wall_seconds);
    println!("{:<34} {asked} in {ROUNDS} turns", "requests, besides the lease");

    let mut changed = Vec::new();
    for round in 0..ROUNDS {
        let time = format!("{round} 4 29 2 *");
        write_policy(&documents, round, &time);
        commit(&documents);
        let committed = Instant::now();
        wait_until(|| field(&format!("cronjob/bench-policy-{round:05}-0"), "{.spec.schedule}") == time);
        changed.push(committed.elapsed().as_secs_f64());
    }
    changed.sort_by(f64::total_cmp);
    write_manifests(&documents, &manifests);
    ratio("one changed file", changed[ROUNDS / 2], kubectl("apply", &[0]).wall_seconds);
    println!("{:<34} {:8.0} MB", "memory of the daemon, peak", daemon.peak_bytes() / 1e6);
    println!("{:<34} {:8.1} s", "its CPU in all", daemon.cpu_seconds());
}

/// From the wish for a run to the start of its mover, and to its end, for an empty claim.
fn run_overhead() {
    remove(OURS);
    remove("bench");
    for namespace in [OURS, "bench"] {
        kubectl(&["create", "namespace", namespace]);
    }
    apply("bench", CLAIM);
    rights(OURS, "bench");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\n\
                  stringData: {id: mainstay, secret: mainstay-secret, password: correct horse}\n";
    apply(OURS, secret);
    let folder = tempfile::tempdir().expect("a folder");
    let documents = folder.path().join("documents");
    fs::create_dir_all(documents.join("policies")).expect("a folder");
    fs::write(documents.join("repository.backup.yaml"), REPOSITORY).expect("a document");
    write_policy(&documents, 0, SCHEDULE);
    let config = folder.path().join("kubeconfig");
    fs::write(&config, text(&["config", "view", "--raw", "--minify"])).expect("a kubeconfig");
    let config = config.display().to_string();
    let mainstay = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).stdout(Stdio::null()).envs([
            ("MAINSTAY_ENGINE", "kubernetes"),
            ("KUBECONFIG", &config),
            ("NO_PROXY", "*"),
            ("MAINSTAY_NAMESPACE", OURS),
            ("MAINSTAY_IMAGE", "mainstay:test"),
        ]);
        command
    };
    let run = ["run", "bench/policy-00000", "--follow"];
    // The first run makes the repository.
    for arguments in [["apply", "--path", &documents.display().to_string()].as_slice(), &run] {
        assert!(mainstay(arguments).status().expect("mainstay").success(), "mainstay {arguments:?}");
    }
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = movers_started();
        let began = Instant::now();
        let mut running = mainstay(&run).spawn().expect("mainstay");
        // One that came and went between two looks is not counted.
        let mut has_ended = || running.try_wait().expect("our child").is_some();
        while movers_started().difference(&before).next().is_none() && !has_ended() {}
        if !has_ended() {
            started.push(began.elapsed().as_secs_f64());
        }
        assert!(running.wait().expect("it ends").success());
        ended.push(began.elapsed().as_secs_f64());
    }
    println!("\nA run of an empty volume");
    if !started.is_empty() {
        spread("asked for to mover started", "s", &mut started);
    }
    spread("asked for to ended", "s", &mut ended);
    remove("bench");
}

/// The pods that read a claim and have begun.
fn movers_started() -> BTreeSet<String> {
    let pods = text(&["--namespace", "bench", "get", "pods", "-l", "mainstay.dev/kind=mover", "-o", "json"]);
    let pods: Value = serde_json::from_str(&pods).expect("a list");
    let has_begun = |pod: &&Value| {
        let states = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        states.map(|status| &status["state"]).any(|state| state["waiting"].is_null() && state.is_object())
    };
    let begun = pods["items"].as_array().into_iter().flatten().filter(has_begun);
    begun.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect()
}

const REPOSITORY: &str = "apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {name: offsite}
spec:
  s3:
    endpoint: http://s3.peers:9000
    bucket: backups
    prefix: bench
    accessKeyId: {secret: s3, key: id}
    secretAccessKey: {secret: s3, key: secret}
  password: {secret: s3, key: password}
";

const CLAIM: &str = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: local-immediate, resources: {requests: {storage: 64Mi}}}
";

fn write_policy(documents: &Path, number: usize, schedule: &str) {
    let text = format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: policy-{number:05}, namespace: bench}}
spec:
  schedule: \"{schedule}\"
  timeZone: Europe/Berlin
  repositories: [offsite]
  sources:
    - name: data
      volumes: {{claims: [data]}}
      exclude: [\"cache/**\"]
  retention: {{keepLast: 7}}
"
    );
    fs::write(documents.join(format!("policies/{number:05}.backup.yaml")), text).expect("a document");
}

fn commit(documents: &Path) {
    git(documents, &["add", "-A"]);
    git(documents, &["commit", "-q", "-m", "edit"]);
}

/// What the daemon would apply, as one list for `kubectl`, in a namespace of its own.
fn write_manifests(documents: &Path, to: &Path) {
    let files = read_directory(documents).expect("the documents");
    let loaded = load::load(&files, EngineKind::Kubernetes, &mut ParseCache::default());
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    let installation = Installation {
        namespace: THEIRS.to_owned(),
        image: Some("mainstay:test".to_owned()),
        run_service_account: "mainstay-run".to_owned(),
        frozen: false,
    };
    let policies = loaded.desired.policies.values();
    let compiled = policies.map(|policy| policy.compile(&loaded.desired.settings, None));
    let items: Vec<Value> =
        compiled.flat_map(|policy| of(&policy, &installation)).map(|manifest| manifest.content).collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    fs::write(to, list.to_string()).expect("the manifests");
}

/// Two empty namespaces, an account that may do everything, and a flow schema by which the API server counts what this
/// account asks for, but for leases.
fn prepare(config: &Path) {
    for namespace in [OURS, THEIRS] {
        remove(namespace);
        kubectl(&["create", "namespace", namespace]);
    }
    let rule = |name: &str, precedence: u32, resource: &str| {
        format!(
            "---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{name: {name}}}
spec:
  matchingPrecedence: {precedence}
  priorityLevelConfiguration: {{name: workload-low}}
  rules:
  - subjects: [{{kind: ServiceAccount, serviceAccount: {{name: bench, namespace: {OURS}}}}}]
    resourceRules: [{{verbs: ['*'], apiGroups: ['*'], resources: ['{resource}'], namespaces: ['*'], clusterScope: true}}]
"
        )
    };
    let account = format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: bench}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: bench}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: bench, namespace: {OURS}}}]
"
    );
    apply(OURS, &(account + &rule("bench-leases", 310, "leases") + &rule("bench", 311, "*")));
    let view = text(&["config", "view", "--raw", "--minify", "-o", "json"]);
    let admin: Value = serde_json::from_str(&view).expect("a kubeconfig");
    let token = text(&["--namespace", OURS, "create", "token", "bench", "--duration=4h"]);
    let content = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "clusters": admin["clusters"], "current-context": "c",
        "users": [{"name": "bench", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": admin["clusters"][0]["name"], "user": "bench"}}],
    });
    fs::write(config, content.to_string()).expect("a kubeconfig");
}

/// The shipped rights, for Mainstay in the namespace `system` and what it protects in another one.
fn rights(system: &str, protected: &str) {
    for (folder, namespace) in [("base", system), ("namespace", protected)] {
        let rendered = text(&["kustomize", &format!("deploy/kustomize/{folder}")]).replace("mainstay-system", system);
        let is_right = |document: &&str| {
            let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).expect("a kind");
            ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"].contains(&kind)
        };
        apply(namespace, &rendered.split("\n---\n").filter(is_right).collect::<Vec<_>>().join("\n---\n"));
    }
}

fn remove(namespace: &str) {
    kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=600s"]);
    if namespace == OURS {
        kubectl(&["delete", "clusterrolebinding,flowschema", "bench", "bench-leases", "--ignore-not-found"]);
        let roles = ["run", "restore"].map(|which| format!("{OURS}:mainstay-{which}"));
        let delete = ["delete", "clusterrole,clusterrolebinding", "--ignore-not-found", &roles[0], &roles[1]];
        kubectl(&delete);
    }
}

/// How many requests of the daemon the API server has dispatched, but for those of its lease.
fn requests() -> u64 {
    let metrics = text(&["get", "--raw", "/metrics"]);
    let ours = metrics.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{") && line.contains("flow_schema=\"bench\"")
    });
    ours.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}

fn count(kind: &str) -> usize {
    text(&["--namespace", OURS, "get", kind, "-o", "name"]).lines().count()
}

fn field(object: &str, path: &str) -> String {
    text(&["--namespace", OURS, "get", object, "-o", &format!("jsonpath={path}")])
}

fn apply(namespace: &str, objects: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("objects.yaml");
    fs::write(&file, objects).expect("a file");
    kubectl(&["--namespace", namespace, "apply", "-f", &file.display().to_string()]);
}

fn kubectl(arguments: &[&str]) {
    let status = Command::new("tests/cluster/kubectl").args(arguments).stdout(Stdio::null()).status();
    assert!(status.expect("kubectl").success(), "kubectl {arguments:?}");
}

fn text(arguments: &[&str]) -> String {
    let output = Command::new("tests/cluster/kubectl").args(arguments).output().expect("kubectl");
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "it takes too long");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn ratio(what: &str, ours: f64, theirs: f64) {
    println!("{what:<34} {ours:8.3} s / {theirs:8.3} s = {:7.4}", ours / theirs);
}
