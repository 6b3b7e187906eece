//! The mover's image holds nothing but the program, and the program runs inside a user's image.

use super::Namespace;
use crate::peers::succeed;

#[test]
fn the_program_runs_inside_a_users_image_without_any_privilege() {
    let namespace = Namespace::new("live-image");
    succeed(super::kubectl().args([
        "label",
        "namespace",
        "live-image",
        "pod-security.kubernetes.io/enforce=restricted",
    ]));
    namespace.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: dump}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, runAsUser: 12345, runAsGroup: 12345, seccompProfile: {type: RuntimeDefault}}
  initContainers:
    - name: mover
      image: mainstay:test
      args: [mover, install, /mainstay-bin]
      securityContext: &restricted {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: program, mountPath: /mainstay-bin}]
  containers:
    - name: database
      image: databases:test
      command: [/mainstay-bin/mainstay, --version]
      securityContext: *restricted
      volumeMounts: [{name: program, mountPath: /mainstay-bin, readOnly: true}]
  volumes: [{name: program, emptyDir: {}}]
"#,
    );
    namespace.wait("pod/dump", "jsonpath={.status.phase}=Succeeded");
    let said = succeed(namespace.kubectl().args(["logs", "dump", "-c", "database"]));
    assert!(said.starts_with("mainstay "), "{said}");
}
