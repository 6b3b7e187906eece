//! When runs begin, and what they leave alone: the budget, the freeze, the jitter, and whatever cannot be captured.

use super::{Installation, succeed, wait_for};

fn limits(installation: &Installation, record: &str) {
    installation.system.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: mainstay-limits, labels: {{mainstay.dev/kind: limits, \
         app.kubernetes.io/managed-by: mainstay}}}}\ndata: {{record.json: '{record}'}}\n"
    ));
}

#[test]
fn a_run_waits_for_the_budget_and_none_begins_while_frozen() {
    let installation = Installation::new("budget").with_shop();
    limits(&installation, r#"{"freeze": false, "runs": 1}"#);
    let cold = installation.apply("kubernetes-cold", &[]);
    cold.start("first", &[("MAINSTAY_TEST_PAUSE", "stop:intended=forever")]);
    wait_for("the first run to stand", 300, || (!cold.runs().is_empty()).then_some(()));
    let files = installation.apply("kubernetes-files", &[]);
    files.start("second", &[]);
    wait_for("the second run to wait", 300, || {
        let log = installation.system.kubectl().args(["logs", "job/second"]).output().ok()?;
        String::from_utf8_lossy(&log.stdout).contains("wait for one of the 1 runs").then_some(())
    });
    assert!(files.runs().is_empty(), "it waits before it begins anything");
    succeed(installation.system.kubectl().args([
        "delete",
        "pods",
        "-l",
        "job-name=first",
        "--grace-period=0",
        "--force",
    ]));
    assert_eq!(files.report("second")["phase"], "Succeeded");
    // A run that somebody asks for begins in a freeze, one that is due does not.
    limits(&installation, r#"{"freeze": true, "runs": 1}"#);
    let runs = files.runs().len();
    files.start_at("frozen", "2026-01-01T02:00:00Z");
    assert!(files.ended("frozen").contains("Complete"));
    assert_eq!(files.runs().len(), runs);
    files.run("asked");
}

#[test]
fn a_due_run_begins_after_its_part_of_the_jitter() {
    let installation = Installation::new("jitter").with_shop();
    let applied = installation.apply("kubernetes-files", &[("schedule:", "jitter: 6h\n  schedule:")]);
    let now = jiff::Timestamp::now();
    applied.start_at("spread", &now.to_string());
    wait_for("the run to wait for its part of the jitter", 300, || {
        let log = installation.system.kubectl().args(["logs", "job/spread"]).output().ok()?;
        String::from_utf8_lossy(&log.stdout).contains("its part of the jitter").then_some(())
    });
    assert!(applied.runs().is_empty());
    // One that somebody asks for does not wait.
    applied.run("asked");
}

#[test]
fn a_block_device_is_refused_and_an_autoscaler_lets_a_stopped_workload_be() {
    let installation = Installation::new("block").with_shop();
    installation.shop.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: raw}\nspec: {accessModes: [ReadWriteOnce], \
         volumeMode: Block, storageClassName: local, resources: {requests: {storage: 8Mi}}}\n---\n\
         apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: shop}\nspec: {minReplicas: 2, \
         maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, metrics: [{type: Resource, \
         resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}\n",
    );
    let block = installation.apply("kubernetes-files", &[("claims: [data]", "claims: [raw]")]);
    block.start("block", &[]);
    let report = block.report("block");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("claim raw is a block device") && message.contains("method: VolumeSnapshot"), "{message}");
    let cold = installation.apply("kubernetes-cold", &[]);
    cold.start("scaled", &[("MAINSTAY_TEST_PAUSE", "stop:done=forever")]);
    wait_for("the autoscaler to leave the stopped workload alone", 300, || {
        let path = "{.status.conditions[?(@.type==\"ScalingActive\")].reason}";
        (installation.shop.field("hpa/shop", path) == "ScalingDisabled").then_some(())
    });
    let pods = ["delete", "pods", "-l", "job-name=scaled", "--grace-period=0", "--force"];
    succeed(installation.system.kubectl().args(pods));
    cold.report("scaled");
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
    cold.run("after");
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas}"), "2");
}

#[test]
fn a_repository_on_nfs_is_mounted_where_its_movers_work() {
    let installation = Installation::new("nfs").with_shop();
    let applied = installation.apply_text(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {name: nfs, namespace: shop}\nspec:\n  \
         repositories: [nas]\n  sources: [{name: files, volumes: {claims: [data]}}]\n---\n\
         apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: nas}\nspec:\n  nfs: {server: 10.77.0.1, \
         path: /export}\n  password: {secret: offsite, key: password}\n",
    );
    applied.start("nfs", &[]);
    // This kernel knows no NFS: as far as the API server and the scheduler go, and no further.
    wait_for("the mover that makes the repository", 300, || {
        let path = "{.items[*].spec.volumes[?(@.name==\"repository\")].nfs}{.items[*].spec.containers[0].volumeMounts}";
        let pods = ["get", "pods", "-l", "mainstay.dev/kind=mover", "-o", &format!("jsonpath={path}")];
        let found = succeed(installation.system.kubectl().args(pods));
        (found.contains(r#"{"path":"/export","server":"10.77.0.1"}"#) && found.contains(r#""mountPath":"/repository""#))
            .then_some(())
    });
    succeed(installation.system.kubectl().args(["delete", "job", "nfs", "--wait=false"]));
}

/// Takes what is pushed and prints it.
const GATEWAY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: gateway}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: gateway
      image: databases:test
      command:
        - perl
        - -MIO::Socket::INET
        - -e
        - |
          $| = 1;
          my $server = IO::Socket::INET->new(LocalPort => 9091, Listen => 5, ReuseAddr => 1) or die;
          while (my $client = $server->accept) {
            sysread($client, my $text, 65536);
            print $text;
            print $client "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            close $client;
          }
"#;

#[test]
fn a_run_in_a_pod_pushes_its_metrics() {
    let installation = Installation::new("push").with_shop();
    installation.shop.apply(GATEWAY);
    installation.shop.wait("pod/gateway", "condition=Ready");
    let address = installation.shop.field("pod/gateway", "{.status.podIP}");
    let applied = installation.apply_text(&format!(
        "{}\n---\napiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {{name: settings}}\nspec: {{pushgateway: \
         'http://{address}:9091'}}\n",
        installation.document("kubernetes-files", &[])
    ));
    applied.run("pushed");
    let pushed = wait_for("the metrics", 60, || {
        let log = succeed(installation.shop.kubectl().args(["logs", "gateway"]));
        log.contains("mainstay_run_success").then_some(log)
    });
    assert!(pushed.starts_with("PUT /metrics/job/mainstay/namespace/runs-push/policy/nightly "), "{pushed}");
    assert!(pushed.contains("mainstay_run_success 1"), "{pushed}");
}
