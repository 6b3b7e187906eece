//! Pods that are evicted or do not go away, and volumes that are full.

use super::{Installation, SLOWLY, STILL_ALL_THE_TIME, matrix::fault, pod_of};
use crate::{
    cluster::{self, Namespace},
    peers::{said, succeed, wait_for},
};

/// Evicts a pod as `kubectl drain` does.
fn evict(namespace: &Namespace, pod: &str) {
    let name = pod.trim_start_matches("pod/");
    let eviction = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}","namespace":"{}"}}}}"#,
        namespace.name()
    );
    let path = format!("/api/v1/namespaces/{}/pods/{name}/eviction", namespace.name());
    let output = cluster::with_input(namespace.kubectl().args(["create", "--raw", &path, "-f", "-"]), &eviction);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn an_evicted_run_and_an_evicted_mover_end_in_order() {
    let installation = Installation::new("evicted").with_shop();
    installation.fill(8);
    let applied = installation.apply("kubernetes-cold", &[SLOWLY, STILL_ALL_THE_TIME]);
    applied.start_and_catch("run");
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas}"), "0");
    evict(&installation.system, &pod_of(&installation.system, "run"));
    fault("the pod of a run is evicted in an upload, its workload still").ended(&applied.report("run"));
    applied.settled(&["run"]);

    let mover = applied.start_and_catch("mover");
    evict(&installation.shop, &mover);
    fault("the pod of a mover is evicted in an upload").ended(&applied.report("mover"));
    applied.settled(&["mover", "run"]);
    applied.goes_on(&["mover", "run"]);
}

#[test]
fn a_pod_that_is_stuck_terminating_does_not_keep_the_workload_down() {
    let installation = Installation::new("stuck").with_shop();
    let applied = installation
        .apply("kubernetes-cold", &[("spec:\n  schedule:", "spec:\n  limits: {timeout: 30s}\n  schedule:")]);
    let pods = succeed(installation.shop.kubectl().args(["get", "pods", "-l", "app=shop", "-o", "name"]));
    let pod = pods.lines().next().expect("a pod");
    let finalizers = |list: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{list}}}}}"#);
        succeed(installation.shop.kubectl().args(["patch", pod, "--type=merge", "-p", &patch]));
    };
    finalizers(r#"["mainstay.test/stuck"]"#);
    applied.start("stuck", &[]);
    let report = applied.report("stuck");
    wait_for("the workload to be up, beside the pod that is stuck", 300, || {
        let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
        (up == "2 2").then_some(())
    });
    assert!(!installation.shop.field(pod, "{.metadata.deletionTimestamp}").is_empty(), "it is not stuck");
    finalizers("null");
    fault("a pod of the workload is stuck terminating").ended(&report);
    applied.settled(&["stuck"]);
}

#[test]
fn a_full_volume_stops_what_writes_to_it_and_not_what_reads_it() {
    let installation = Installation::new("full").with_shop();
    installation.shop.shell("deployment/shop", "head -c 100M /dev/urandom > /data/fill 2>/dev/null || true");
    let hook = ("sync && date > /data/flushed", "head -c 8M /dev/urandom > /data/flushed");
    let hot = installation.apply("kubernetes-hot", &[hook]);
    hot.start("hot", &[]);
    fault("the volume is full: a hook that writes to it").ended(&hot.report("hot"));
    hot.settled(&["hot"]);
    let files = installation.apply("kubernetes-files", &[]);
    files.start("files", &[]);
    fault("the volume is full: a copy of it").ended(&files.report("files"));
    files.settled(&["files"]);
}
