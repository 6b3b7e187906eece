//! Two nodes: a volume is where its first pod ran, and nobody else gets to it.

use super::Namespace;
use crate::peers::wait_for;

/// A claim, and a pod on the node given that writes its node's name into it.
fn volume_and_pod(namespace: &Namespace, node: &str) {
    namespace.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: on-{node}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 64Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: databases:test
      command: [bash, -c, 'echo {node} >/data/node; sleep infinity']
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: on-{node}}}}}]
"
    ));
}

#[test]
fn a_volume_lives_on_one_node() {
    let namespace = Namespace::new("live-nodes");
    for node in ["node1", "node2"] {
        volume_and_pod(&namespace, node);
    }
    for node in ["node1", "node2"] {
        namespace.wait(&format!("pod/on-{node}"), "condition=Ready");
        let volume = namespace.field(&format!("pvc/on-{node}"), "{.spec.volumeName}");
        let affinity = "{.spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values[*]}";
        assert_eq!(namespace.field(&format!("pv/{volume}"), affinity), node);
    }

    // A pod that wants both volumes finds no node.
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: both}
spec:
  containers:
    - {name: main, image: databases:test, command: [sleep, infinity], volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]}
  volumes:
    - {name: a, persistentVolumeClaim: {claimName: on-node1}}
    - {name: b, persistentVolumeClaim: {claimName: on-node2}}
",
    );
    wait_for("the scheduler's refusal", 30, || {
        namespace.field("pod/both", "{.status.conditions[*].message}").contains("0/2 nodes are available").then_some(())
    });
}

#[test]
fn a_full_volume_is_full_and_a_shared_one_is_on_every_node() {
    let namespace = Namespace::new("live-shared");
    namespace.apply(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteMany], storageClassName: shared, resources: {requests: {storage: 16Mi}}}
",
    );
    for node in ["node1", "node2"] {
        namespace.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: databases:test, command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data}}]}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: shared}}}}]
"
        ));
    }
    for node in ["node1", "node2"] {
        namespace.wait(&format!("pod/on-{node}"), "condition=Ready");
    }
    namespace.shell("on-node1", "echo from node1 >/data/file; sync");
    assert_eq!(namespace.shell("on-node2", "cat /data/file"), "from node1\n");

    let fill = "! head -c 64M /dev/urandom 2>/dev/null | dd of=/data/large bs=1M conv=fsync 2>&1";
    let refusal = namespace.shell("on-node2", fill);
    assert!(refusal.contains("Disk quota exceeded"), "{refusal}");
}
