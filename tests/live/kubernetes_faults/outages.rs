//! Outages of what a run needs: the API server, etcd, the object storage, a node.

use std::time::{Duration, Instant};

use super::{Installation, SLOWLY, matrix::fault};
use crate::peers::wait_for;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

#[test]
fn a_minute_without_the_api_server_and_a_restart_of_etcd_cost_no_run() {
    let installation = Installation::alone("away").with_shop();
    installation.fill(16);
    let applied = installation.apply("kubernetes-files", &[("timeout: 2h,", "timeout: 10m, bandwidth: 512KiB,")]);
    applied.start_and_catch("api");
    let since = Instant::now();
    let outage = installation.system.outage("kube-apiserver");
    std::thread::sleep(AWAY.saturating_sub(since.elapsed())); // the outage itself, and not a wait for anything
    drop(outage);
    wait_for("the API server", 60, || {
        let get = installation.system.kubectl().args(["get", "job", "api", "--request-timeout=2s"]).output();
        get.is_ok_and(|output| output.status.success()).then_some(())
    });
    fault("the API server is away for a minute, in an upload").ended(&applied.report("api"));
    applied.settled(&["api"]);

    installation.fill(16);
    applied.start_and_catch("etcd");
    drop(installation.system.outage("etcd"));
    wait_for("etcd", 60, || {
        let get = installation.system.kubectl().args(["get", "job", "etcd", "--request-timeout=2s"]).output();
        get.is_ok_and(|output| output.status.success()).then_some(())
    });
    fault("etcd is killed and started, in an upload").ended(&applied.report("etcd"));
    applied.settled(&["api", "etcd"]);
    applied.goes_on(&["api", "etcd"]);
}

#[test]
fn object_storage_that_goes_away_fails_the_run() {
    let installation = Installation::alone("storage").with_shop();
    installation.fill(16);
    let applied = installation.apply("kubernetes-cold", &[SLOWLY]);
    applied.start_and_catch("storage");
    let outage = installation.system.outage("s3");
    let report = applied.report("storage");
    drop(outage);
    fault("the object storage goes away in an upload").ended(&report);
    applied.settled(&["storage"]);
    applied.goes_on(&["storage"]);
}

#[test]
fn a_node_that_is_not_ready_is_waited_for() {
    let installation = Installation::alone("node").with_shop();
    let applied = installation.apply("kubernetes-cold", &[]);
    let outage = installation.system.outage("kubelet-node2");
    let ready = || installation.shop.field("node/node2", "{.status.conditions[?(@.type=='Ready')].status}");
    wait_for("the control plane to miss the node", 60, || (ready() == "Unknown").then_some(()));
    applied.start("node", &[]);
    wait_for("the run to wait for pods on that node", 300, || {
        let pods = installation
            .shop
            .kubectl()
            .args(["get", "pods", "-l", "app=shop", "-o"])
            .arg("jsonpath={.items[*].metadata.deletionTimestamp}")
            .output();
        let is_asked = !pods.expect("kubectl").stdout.is_empty();
        (is_asked && installation.shop.field("deployment/shop", "{.spec.replicas}") == "0").then_some(())
    });
    drop(outage);
    fault("the workload's node is not ready for a while").ended(&applied.report("node"));
    applied.settled(&["node"]);
    assert_eq!(ready(), "True");
}
