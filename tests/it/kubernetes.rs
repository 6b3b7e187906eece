//! What a policy becomes in a cluster, and what an observation makes of what is there. No cluster: objects are read as
//! a watch tells them.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::CronJob, core::v1::ConfigMap};
use mainstay::{
    actual::ActualState,
    desired::DesiredState,
    engine::kubernetes::{
        index::{Index, Job, Map},
        manifests::policy::{self, Installation, Manifest, Sort},
    },
    plan::{Action, Approvals, Plan, Reason, diff},
    policy::{
        CompiledPolicy, EngineKind,
        load::{FileContent, ParseCache, load},
    },
};
use serde_json::{Value, json};

const NAMESPACE: &str = "mainstay-system";

const DOCUMENT: &str = r#"
apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {name: nightly, namespace: shop}
spec:
  schedule: ["0 2 * * *", "30 14 * * 7"]
  timeZone: Europe/Berlin
  deadline: 2h
  repositories: [offsite]
  cleanup: {schedule: "0 4 * * *"}
  sources:
    - {name: files, volumes: {workload: Deployment/shop}, method: FilesFromSnapshot}
---
apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {name: offsite}
spec:
  s3: {endpoint: "https://s3.example.org", bucket: backups, accessKeyId: {secret: offsite, key: id}, secretAccessKey: {secret: offsite, key: secret}}
  password: {secret: offsite, key: password}
  maintenance: {prune: "0 5 * * 0", check: "0 6 * * 0", readData: 5%}
"#;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

fn desired(text: &str) -> DesiredState {
    let content = FileContent { bytes: text.as_bytes().to_vec(), blob: None };
    let files = BTreeMap::from([(PathBuf::from("backup.yaml"), content)]);
    let loaded = load(&files, EngineKind::Kubernetes, &mut ParseCache::default());
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    loaded.desired
}

fn compiled(text: &str) -> CompiledPolicy {
    let desired = desired(text);
    desired.policies.values().next().expect("a policy").compile(&desired.settings, Some("0123456"))
}

fn installation() -> Installation {
    Installation {
        namespace: NAMESPACE.to_owned(),
        image: Some("mainstay:1".to_owned()),
        run_service_account: "mainstay-run".to_owned(),
        frozen: false,
    }
}

/// Objects as a cluster has them, with resource versions.
struct Cluster {
    index: Index,
    version: u64,
}

impl Cluster {
    fn empty() -> Self {
        let mut cluster = Self { index: Index::new(installation()), version: 0 };
        cluster.index.maps.end();
        cluster.index.jobs.end();
        cluster.index.foreign_maps.end();
        cluster.index.foreign_jobs.end();
        cluster
    }

    fn with(text: &str) -> Self {
        let mut cluster = Self::empty();
        for manifest in policy::of(&compiled(text), &installation()) {
            cluster.tell(&manifest);
        }
        cluster
    }

    /// A watch tells of an object as it is after it was applied.
    fn tell(&mut self, manifest: &Manifest) {
        self.version += 1;
        let version = self.version.to_string();
        let content = manifest.content.clone();
        match manifest.sort {
            Sort::ConfigMap => {
                let map: ConfigMap = serde_json::from_value(content).expect("a ConfigMap");
                self.index.maps.apply(&manifest.name, Some(&version), Map::read(&map));
            }
            Sort::CronJob => {
                let job: CronJob = serde_json::from_value(content).expect("a CronJob");
                self.index.jobs.apply(&manifest.name, Some(&version), Job::read(&job));
            }
        }
    }

    /// A hand changes a CronJob.
    fn edit(&mut self, name: &str, pointer: &str, value: Value) {
        let mut manifest = policy::of(&compiled(DOCUMENT), &installation())
            .into_iter()
            .find(|manifest| manifest.name == name)
            .expect("an object of the policy");
        *manifest.content.pointer_mut(pointer).expect("a field") = value;
        self.tell(&manifest);
    }

    fn observe(&mut self) -> ActualState {
        self.index.observe(now())
    }

    fn plan(&mut self, text: &str) -> Plan {
        let actual = self.observe();
        diff::plan(&desired(text), &actual, &Approvals::default(), now())
    }
}

fn differences(plan: &Plan) -> Vec<&str> {
    plan.drift.iter().map(|drift| drift.difference.as_str()).collect()
}

#[test]
fn a_policy_becomes_a_config_map_and_a_cron_job_for_each_schedule() {
    let mut text = String::new();
    for manifest in policy::of(&compiled(DOCUMENT), &installation()) {
        let yaml = serde_yaml::to_string(&manifest.content).expect("YAML");
        write!(text, "---\n{yaml}").expect("text");
    }
    expect_test::expect_file!["cases/kubernetes/manifests.yaml"].assert_eq(&text);
}

#[test]
fn manifests_are_what_the_api_types_read() {
    // A misspelt field would be dropped in silence.
    for manifest in policy::of(&compiled(DOCUMENT), &installation()) {
        let read = match manifest.sort {
            Sort::ConfigMap => {
                json!(serde_json::from_value::<ConfigMap>(manifest.content.clone()).expect("a ConfigMap"))
            }
            Sort::CronJob => json!(serde_json::from_value::<CronJob>(manifest.content.clone()).expect("a CronJob")),
        };
        assert_eq!(read, manifest.content, "{}", manifest.name);
    }
}

#[test]
fn what_was_applied_is_left_alone() {
    let plan = Cluster::with(DOCUMENT).plan(DOCUMENT);
    assert_eq!((plan.changes.len(), plan.drift.len(), plan.unchanged), (0, 0, 1), "{:?}", plan.drift);
}

#[test]
fn an_edit_by_hand_is_drift_although_every_annotation_is_right() {
    let cases = [
        ("/spec/schedule", json!("0 3 * * *"), "CronJob shop-nightly-0: spec.schedule: 0 3 * * * instead of 0 2 * * *"),
        ("/spec/suspend", json!(true), "CronJob shop-nightly-0: spec.suspend: true instead of false"),
        ("/spec/timeZone", json!("UTC"), "CronJob shop-nightly-0: spec.timeZone: UTC instead of Europe/Berlin"),
    ];
    for (pointer, value, expected) in cases {
        let mut cluster = Cluster::with(DOCUMENT);
        cluster.edit("shop-nightly-0", pointer, value);
        let plan = cluster.plan(DOCUMENT);
        assert_eq!(differences(&plan), [expected]);
        assert!(matches!(plan.changes[..], [ref change] if change.reason == Reason::Drifted), "{:?}", plan.changes);
        // The repair is told by the watch, and then nothing is left to do.
        cluster.edit("shop-nightly-0", "/spec/schedule", json!("0 2 * * *"));
        assert_eq!(cluster.plan(DOCUMENT).changes.len(), 0);
    }
}

#[test]
fn what_is_gone_or_left_over_is_found() {
    let mut cluster = Cluster::with(DOCUMENT);
    cluster.index.jobs.remove("shop-nightly-1");
    assert_eq!(differences(&cluster.plan(DOCUMENT)), ["CronJob shop-nightly-1 is gone"]);

    // An apply broke off: the document had two schedules before.
    let one = DOCUMENT.replace(r#"["0 2 * * *", "30 14 * * 7"]"#, r#""0 2 * * *""#);
    let mut cluster = Cluster::with(DOCUMENT);
    cluster.tell(&policy::of(&compiled(&one), &installation())[0]);
    let plan = cluster.plan(&one);
    assert!(differences(&plan)[0].contains("CronJob shop-nightly-1 is left over"), "{:?}", plan.drift);

    // A hand deleted the ConfigMap: the CronJobs alone are a policy whose rules nobody knows.
    let mut cluster = Cluster::with(DOCUMENT);
    cluster.index.maps.remove("policy-shop-nightly");
    let plan = cluster.plan(DOCUMENT);
    assert_eq!(differences(&plan), ["ConfigMap policy-shop-nightly is gone"]);
    assert_eq!(plan.changes[0].action, Action::Update);
    // Without a document they are withdrawn.
    let plan = diff::plan(&DesiredState::default(), &cluster.observe(), &Approvals::default(), now());
    assert_eq!(plan.changes.iter().map(|change| change.action).collect::<Vec<_>>(), [Action::Delete]);
}

#[test]
fn what_is_not_ours_is_refused_until_it_may_be_adopted() {
    let mut cluster = Cluster::empty();
    cluster.index.foreign_jobs.apply("shop-nightly-0", Some("7"), None);
    let plan = cluster.plan(DOCUMENT);
    assert_eq!(plan.changes.len(), 0);
    let reason = &plan.refusals[0].reason;
    assert!(reason.starts_with("CronJob shop-nightly-0 is there and is not Mainstay's"), "{reason}");
    assert!(reason.ends_with("mainstay.dev/adopt: shop/nightly"), "{reason}");
    cluster.index.foreign_jobs.apply("shop-nightly-0", Some("8"), Some("shop/other".to_owned()));
    assert_eq!(cluster.plan(DOCUMENT).refusals.len(), 1);
    cluster.index.foreign_jobs.apply("shop-nightly-0", Some("9"), Some("shop/nightly".to_owned()));
    let plan = cluster.plan(DOCUMENT);
    assert_eq!((plan.changes.len(), plan.refusals.len()), (1, 0));
}

#[test]
fn a_watch_that_failed_makes_the_observation_incomplete_for_a_while() {
    let mut cluster = Cluster::with(DOCUMENT);
    assert!(cluster.observe().complete);
    cluster.index.failed(now(), "connection refused".to_owned());
    assert!(!cluster.observe().complete);
    let plan = diff::plan(&DesiredState::default(), &cluster.observe(), &Approvals::default(), now());
    assert_eq!((plan.changes.len(), plan.refusals.len()), (0, 1), "unknown is not empty");
    let later = now() + jiff::SignedDuration::from_secs(61);
    assert!(cluster.index.observe(later).complete);
}

/// The ConfigMap of a restore that nobody began.
fn restore_map(message: &str) -> ConfigMap {
    let record = json!({
        "name": "shop/copy", "content": "1", "policy": "shop/nightly", "spec": {"policy": "nightly"},
        "report": {"restorePoint": null, "phase": "Pending", "startedAt": now(), "finishedAt": null, "message": message,
            "sources": []},
    });
    let map = json!({
        "metadata": {
            "name": "restore-shop-copy-1",
            "labels": {"app.kubernetes.io/managed-by": "mainstay", "mainstay.dev/kind": "restore"},
            "annotations": {"mainstay.dev/policy": "shop/copy"},
        },
        "data": {"record.json": record.to_string()},
    });
    serde_json::from_value(map).expect("a ConfigMap")
}

#[test]
fn what_a_restore_waits_for_is_told_once() {
    let mut cluster = Cluster::with(DOCUMENT);
    cluster.observe();
    let mut version = 100;
    let mut tell = |message: &str| {
        version += 1;
        let map = restore_map(message);
        cluster.index.maps.apply("restore-shop-copy-1", Some(&version.to_string()), Map::read(&map));
        cluster.index.judge(now())
    };
    assert!(!tell("about to start"));
    assert!(tell("waits for its pod"), "no turn would write it to the status branch");
    assert!(!tell("waits for its pod"));
    assert!(tell("about to start"));
}

#[test]
fn a_frozen_installation_suspends_every_schedule() {
    let frozen = Installation { frozen: true, ..installation() };
    let mut cluster = Cluster::with(DOCUMENT);
    cluster.index.set_frozen(true);
    assert_eq!(cluster.index.frozen_otherwise(true).len(), 1);
    for manifest in policy::of(&compiled(DOCUMENT), &frozen) {
        cluster.tell(&manifest);
    }
    assert_eq!(cluster.index.frozen_otherwise(true).len(), 0);
    assert_eq!(cluster.plan(DOCUMENT).drift.len(), 0);
    // A command on some other machine knows neither the image nor the freeze: what is there counts as right.
    let mut elsewhere = Index::new(Installation { image: None, ..installation() });
    for manifest in policy::of(&compiled(DOCUMENT), &frozen) {
        match manifest.sort {
            Sort::ConfigMap => {
                let map: ConfigMap = serde_json::from_value(manifest.content).expect("a ConfigMap");
                elsewhere.maps.apply(&manifest.name, Some("1"), Map::read(&map));
            }
            Sort::CronJob => {
                let job: CronJob = serde_json::from_value(manifest.content).expect("a CronJob");
                elsewhere.jobs.apply(&manifest.name, Some("1"), Job::read(&job));
            }
        }
    }
    let drift: Vec<Option<String>> =
        elsewhere.observe(now()).policies.values().map(|policy| policy.drift.clone()).collect();
    assert_eq!(drift, [None]);
}
