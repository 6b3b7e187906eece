//! Outages: what the tests of faults do to the cluster really is an outage, and it ends.

use super::Namespace;
use crate::peers::wait_for;

#[test]
fn what_was_killed_is_away_and_comes_back() {
    let namespace = Namespace::alone("live-outages");
    namespace.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {key: value}}");
    let answers = |program: &str| match program {
        "s3" => ask(&std::env::var("MAINSTAY_CLUSTER_S3_PORT").unwrap_or_else(|_| "19000".to_owned())),
        _ => {
            let get = namespace.kubectl().args(["get", "configmap", "kept", "--request-timeout=2s"]).output();
            get.is_ok_and(|output| output.status.success())
        }
    };
    for program in ["s3", "kube-apiserver", "etcd"] {
        assert!(answers(program), "{program} before");
        let outage = namespace.outage(program);
        wait_for("the outage", 20, || (!answers(program)).then_some(()));
        drop(outage);
        wait_for("its end", 60, || answers(program).then_some(()));
    }
    // Killed without warning, the store forgot nothing.
    assert_eq!(namespace.field("configmap/kept", "{.data.key}"), "value");

    let outage = namespace.outage("kubelet-node2");
    let ready = || namespace.field("node/node2", "{.status.conditions[?(@.type=='Ready')].status}");
    wait_for("the control plane to miss the node", 60, || (ready() == "Unknown").then_some(()));
    drop(outage);
    wait_for("the node", 60, || (ready() == "True").then_some(()));
}

/// Whether an HTTP server answers on a port of the host's loopback.
fn ask(port: &str) -> bool {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };
    let answer = TcpStream::connect(format!("127.0.0.1:{port}")).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 16])
    });
    answer.is_ok_and(|length| length > 0)
}
