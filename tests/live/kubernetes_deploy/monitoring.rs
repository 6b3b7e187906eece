//! What `deploy/` ships for Prometheus, as its operator defines it. The operator itself does not run here.

use std::path::Path;

use crate::{
    cluster::kubectl,
    peers::{Peers, succeed},
};

#[test]
fn the_monitor_and_the_rules_are_what_the_operator_of_prometheus_takes() {
    succeed(kubectl().args(["apply", "--server-side", "-f"]).arg(Peers::prometheus_operator().join("")));
    for kind in ["servicemonitors", "prometheusrules"] {
        let definition = format!("crd/{kind}.monitoring.coreos.com");
        succeed(kubectl().args(["wait", "--for=condition=Established", "--timeout=60s", &definition]));
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kustomize/monitoring/prometheus.yaml");
    let text = std::fs::read_to_string(shipped).expect("what is shipped").replace("mainstay-system", "default");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prometheus.yaml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        let mut command = kubectl();
        command.args(["create", "--dry-run=server", "--validate=strict", "-f"]).arg(&file);
        command
    };
    let taken = succeed(&mut check(&text));
    assert_eq!(taken.lines().count(), 2, "{taken}");
    let wrong = check(&text.replace("annotations:", "annotation:")).output().expect("kubectl");
    assert!(!wrong.status.success(), "a field that is unknown is refused, so the check checks");
}
