//! The mover's image holds nothing but the program, and the program runs inside a user's image.

use super::Namespace;
use crate::peers::{succeed, wait_for};

#[test]
fn the_image_is_the_program_which_runs_inside_a_users_image_without_any_privilege() {
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
      command: [bash, -c, "/mainstay-bin/mainstay --version; stat -c %s /mainstay-bin/mainstay; ldd /mainstay-bin/mainstay"]
      securityContext: *restricted
      volumeMounts: [{name: program, mountPath: /mainstay-bin, readOnly: true}]
  volumes: [{name: program, emptyDir: {}}]
"#,
    );
    wait_for("the pod's end", 90, || {
        ["Succeeded", "Failed"].contains(&namespace.field("pod/dump", "{.status.phase}").as_str()).then_some(())
    });
    let said = succeed(namespace.kubectl().args(["logs", "dump", "-c", "database"]));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("mainstay "), "{said}");
    // It needs nothing of the image that it runs in.
    assert!(lines[2].contains("not a dynamic executable") || lines[2].contains("statically linked"), "{said}");

    // A kubelet tells, every half minute, how large an image is: as large as the program and the authorities that it
    // trusts, and a manifest.
    let authorities = std::fs::metadata("/etc/ssl/certs/ca-certificates.crt").map_or(0, |file| file.len());
    let program = lines[1].parse::<u64>().expect("a size") + authorities;
    wait_for(&format!("an image of one program, with {program} bytes in all"), 90, || {
        let listed: serde_json::Value =
            serde_json::from_str(&namespace.field("node/node1", "{.status.images}")).expect("a list");
        let all = listed.as_array().expect("a list");
        let ours = all.iter().find(|image| {
            let names = image["names"].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str()).any(|name| name.ends_with("/mainstay:test"))
        });
        let size = ours.and_then(|image| image["sizeBytes"].as_u64())?;
        (program..program + 16_384).contains(&size).then_some(())
    });
}
