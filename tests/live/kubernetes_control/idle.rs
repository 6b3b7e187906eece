//! A turn with nothing to do asks the API server for nothing: its own metrics say so.
//!
//! The API server counts requests by flow schema, and a schema can name one service account. So two schemas tell what
//! this daemon asks for from what everybody else does, and the renewals of its lease from the rest.

use super::Installation;
use crate::{
    cluster::kubectl,
    peers::{succeed, wait_for},
};

/// Turns that find nothing to do.
const TURNS: usize = 10;

/// Deletes the cluster-wide objects when the test ends.
struct Schemas(Vec<String>);

impl Drop for Schemas {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = kubectl().args(["delete", "flowschema", name, "--ignore-not-found"]).output();
        }
    }
}

fn schema(name: &str, namespace: &str, resource: &str, precedence: u32) -> String {
    format!(
        "apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{name: {name}}}
spec:
  matchingPrecedence: {precedence}
  priorityLevelConfiguration: {{name: workload-low}}
  rules:
  - subjects: [{{kind: ServiceAccount, serviceAccount: {{name: mainstay, namespace: {namespace}}}}}]
    resourceRules: [{{verbs: ['*'], apiGroups: ['*'], resources: ['{resource}'], namespaces: ['*'], clusterScope: true}}]
"
    )
}

/// How many requests of a schema the API server has dispatched.
fn requests(schema: &str) -> u64 {
    let metrics = succeed(kubectl().args(["get", "--raw", "/metrics"]));
    let of_schema = |line: &&str| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains(&format!("flow_schema=\"{schema}\""))
    };
    let count = |line: &str| line.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok()).unwrap_or(0.0);
    metrics.lines().filter(of_schema).map(count).sum::<f64>() as u64
}

#[test]
fn turns_with_nothing_to_do_make_no_request_besides_watches() {
    let installation = Installation::new("k1-idle");
    let (leases, others) = ("k1-idle-leases", "k1-idle-others");
    let _schemas = Schemas(vec![leases.to_owned(), others.to_owned()]);
    installation.namespace.apply(&schema(leases, "k1-idle", "leases", 300));
    installation.namespace.apply(&schema(others, "k1-idle", "*", 301));
    for number in 0..20 {
        installation.document(&format!("shop/policy{number}"), "");
    }
    installation.commit("twenty policies");
    let daemon = installation.daemon("daemon");
    wait_for("twenty CronJobs", 120, || (installation.cron_jobs().len() == 20).then_some(()));
    assert!(requests(others) >= 40, "the schema sees what the daemon asks for: {}", requests(others));
    // Until the turn that wrote all this has told everything.
    let turns = || daemon.log().matches("milliseconds=").count();
    let rest = || {
        let before = (requests(others), turns());
        std::thread::sleep(std::time::Duration::from_secs(3)); // long enough for a turn that is still to come
        (requests(others), turns()) == before
    };
    wait_for("the daemon to rest", 60, || rest().then_some(()));
    let (before, leases_before, turns_before) = (requests(others), requests(leases), turns());
    for number in 0..TURNS {
        let told = turns();
        installation.commit(&format!("nothing {number}"));
        wait_for("a turn", 30, || (turns() > told).then_some(()));
    }
    let (after, done) = (requests(others), turns() - turns_before);
    let renewals = requests(leases) - leases_before;
    println!("{done} turns with nothing to do: {} requests, and {renewals} for the lease", after - before);
    assert!(done >= TURNS);
    // A watch that reaches its time limit in this moment is begun anew: the only request that may be.
    assert!(after - before <= 1, "{} requests in {done} turns", after - before);
}
