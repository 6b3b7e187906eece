//! Restores of claims: in place, elsewhere, and what is there after one that failed or whose pod was killed.

use super::{Installation, installation::Applied, succeed, wait_for};

const IN_PLACE: &str = "{policy: '', existing: Update}";

/// The shop after one run, and after its data went bad.
fn damaged(installation: &Installation) -> Applied<'_> {
    let applied = installation.apply("kubernetes-cold", &[]);
    installation.shop.shell("deployment/shop", "mkdir -p /more/deep && echo kept > /more/deep/file");
    applied.run("good");
    installation.shop.shell("deployment/shop", "rm -rf /data/private /more/deep && touch /data/after /more/after");
    applied
}

fn volume(installation: &Installation, claim: &str) -> String {
    installation.shop.field(&format!("pvc/{claim}"), "{.spec.volumeName}")
}

/// The workload has its replicas, and nothing of a restore is left.
fn is_as_before(installation: &Installation) {
    let shop = &installation.shop;
    assert_eq!(shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
    let told = shop.field("deployment/shop", "{.metadata.annotations}{.metadata.labels}");
    assert!(!told.contains("mainstay.dev"), "{told}");
    assert!(!told.contains("reconcile"), "{told}");
    installation.wait_until_gone("jobs,secrets,pvc,volumesnapshots");
    let claims = succeed(shop.kubectl().args(["get", "pvc", "-o", "name"]));
    assert_eq!(claims.lines().count(), 2, "{claims}");
    for claim in ["data", "more"] {
        let volume = volume(installation, claim);
        assert_eq!(shop.field(&format!("pv/{volume}"), "{.spec.persistentVolumeReclaimPolicy}"), "Delete");
        assert_eq!(shop.field(&format!("pvc/{claim}"), "{.status.phase}"), "Bound");
    }
}

fn is_gone(installation: &Installation, volume: &str) {
    wait_for(&format!("volume {volume} to be gone"), 120, || {
        let look = installation.shop.kubectl().args(["get", "pv", volume, "-o", "name"]).output();
        look.is_ok_and(|output| !output.status.success()).then_some(())
    });
}

#[test]
fn in_place_a_claim_gets_a_new_volume_with_what_was_captured() {
    let installation = Installation::new("restore").with_shop();
    let applied = damaged(&installation);
    let (data, more) = (volume(&installation, "data"), volume(&installation, "more"));
    let report = applied.restore("back", IN_PLACE);
    let phases: Vec<String> = report["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| format!("{} {}", part["source"], part["phase"]))
        .collect();
    assert_eq!(phases, ["\"files/data\" \"Succeeded\"", "\"files/more\" \"Succeeded\""], "{report:#}");
    let shop = &installation.shop;
    let private = shop.shell("deployment/shop", "cat /data/private; stat -c %u:%a /data/private; cat /more/deep/file");
    assert_eq!(private, "hello\n1234:600\nkept\n");
    let after = shop.shell("deployment/shop", "ls /data /more");
    assert!(!after.contains("after"), "what came after the restore point is gone: {after}");
    assert_ne!(volume(&installation, "data"), data);
    assert_eq!(shop.field("pvc/data", "{.metadata.labels.hosting}"), "domain", "the claim is as its owner made it");
    is_as_before(&installation);
    for former in [data, more] {
        is_gone(&installation, &former);
    }
    // A run after it captures the same claims, and the history tells of the restore.
    applied.run("after");
    assert_eq!(applied.points().len(), 2);
}

#[test]
fn a_workload_that_is_not_ready_on_what_was_restored_gets_its_volumes_back() {
    let installation = Installation::new("unready").with_shop();
    let applied = damaged(&installation);
    let shop = &installation.shop;
    // From now on it needs a file that the restore point does not have.
    shop.shell("deployment/shop", "touch /data/needed");
    let probe = r#"{"spec":{"template":{"spec":{"containers":[{"name":"app","readinessProbe":
        {"exec":{"command":["test","-e","/data/needed"]},"periodSeconds":1}}]}}}}"#;
    succeed(shop.kubectl().args(["patch", "deployment", "shop", "-p", probe]));
    succeed(shop.kubectl().args(["rollout", "status", "deployment/shop", "--timeout=120s"]));
    let former = volume(&installation, "data");
    let restore = applied.start_restore("unready", IN_PLACE, &[("MAINSTAY_RESTORE_READY_SECONDS", "10")]);
    let report = restore.report();
    assert_eq!(report["phase"], "Failed", "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("ready after 10 s") && message.contains("there again"), "{message}");
    assert_eq!(volume(&installation, "data"), former);
    assert!(shop.shell("deployment/shop", "ls /data /more").contains("after"));
    is_as_before(&installation);
}

#[test]
fn killed_at_any_point_a_restore_is_taken_back() {
    let installation = Installation::new("undone").with_shop();
    let applied = damaged(&installation);
    let former = (volume(&installation, "data"), volume(&installation, "more"));
    for (number, point) in ["fill:done", "restoreStop:done", "swap:intended", "swap:done"].iter().enumerate() {
        let pause = format!("{point}=forever");
        let restore = applied.start_restore(&format!("killed-{number}"), IN_PLACE, &[("MAINSTAY_TEST_PAUSE", &pause)]);
        wait_for(&format!("the restore to stand at {point}"), 300, || {
            let record = restore.record();
            let swaps = record["swaps"].as_array().cloned().unwrap_or_default();
            let replicas = installation.shop.field("deployment/shop", "{.spec.replicas}{.status.replicas}");
            let is_there = match *point {
                "fill:done" => swaps.len() == 2 && swaps.iter().all(|swap| swap["new"].is_object()),
                "restoreStop:done" => record["stopped"].is_array() && replicas == "0",
                "swap:intended" => swaps.iter().any(|swap| swap["begun"] == true),
                _ => {
                    swaps.iter().all(|swap| {
                        let claim = swap["claim"].as_str().unwrap_or_default();
                        let now = installation.shop.kubectl().args(["get", "pvc", claim, "-o", "json"]).output();
                        let now =
                            now.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
                        now.contains("\"Bound\"") && now.contains(swap["new"]["name"].as_str().unwrap_or("none"))
                    }) && swaps.len() == 2
                }
            };
            is_there.then_some(())
        });
        let selector = format!("job-name={}", restore.job);
        let system = &installation.system;
        succeed(system.kubectl().args(["delete", "pods", "-l", &selector, "--grace-period=0", "--force"]));
        let report = restore.report();
        assert_eq!(report["phase"], "Failed", "{point}: {report:#}");
        assert!(report["message"].as_str().unwrap().contains("went away"), "{point}: {report:#}");
        assert_eq!((volume(&installation, "data"), volume(&installation, "more")), former, "{point}");
        wait_for("the workload to be up again", 120, || {
            let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
            (up == "2 2").then_some(())
        });
        is_as_before(&installation);
        assert!(installation.shop.shell("deployment/shop", "ls /data /more").contains("after"), "{point}");
    }
    applied.restore("at-last", IN_PLACE);
    is_as_before(&installation);
}

#[test]
fn a_workload_that_is_deleted_meanwhile_proves_nothing() {
    let installation = Installation::new("witness").with_shop();
    let applied = damaged(&installation);
    let shop = &installation.shop;
    let former = volume(&installation, "data");
    let restore = applied.start_restore("back", IN_PLACE, &[]);
    wait_for("the workload to be scaled to 0", 300, || {
        (shop.field("deployment/shop", "{.spec.replicas}") == "0").then_some(())
    });
    succeed(shop.kubectl().args(["delete", "deployment", "shop", "--wait=false"]));
    let report = restore.report();
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("Deployment/shop could not prove it") && message.contains(&former), "{message}");
    assert_ne!(volume(&installation, "data"), former);
    assert_eq!(shop.field(&format!("pv/{former}"), "{.spec.persistentVolumeReclaimPolicy}"), "Retain");
    succeed(shop.kubectl().args(["delete", "pv", &former, "--wait=false"]));
}

#[test]
fn elsewhere_a_claim_is_made_like_the_one_that_was_captured() {
    let installation = Installation::new("elsewhere").with_shop();
    let applied = damaged(&installation);
    let other = installation.shop.second("runs-elsewhere-other");
    installation.rights().protect(&other);
    let report = applied.restore("copy", "{policy: '', into: {namespace: runs-elsewhere-other, claims: {data: copy}}}");
    assert_eq!(report["sources"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(other.field("pvc/copy", "{.spec.storageClassName} {.spec.resources.requests.storage}"), "local 64Mi");
    let pod = installation.looks(&other, "copy");
    assert_eq!(other.shell(&pod, "cat /data/private; stat -c %u:%a /data/private"), "hello\n1234:600\n");
    let pod = installation.looks(&other, "more");
    assert_eq!(other.shell(&pod, "cat /data/deep/file"), "kept\n");
    // The workload was not touched.
    assert!(installation.shop.shell("deployment/shop", "ls /data").contains("after"));
    // What is there is not overwritten unless that is allowed, and not while somebody uses it.
    let again = "{policy: '', sources: [files/data], into: {namespace: runs-elsewhere-other, claims: {data: copy}}}";
    let report = applied.start_restore("again", again, &[]).report();
    assert!(report["message"].as_str().unwrap().contains("exist"), "{report:#}");
    assert_eq!(other.field("pvc/copy", "{.status.phase}"), "Bound", "it was not this restore that made it");
    let update = again.replace("into:", "existing: Update, into:");
    let report = applied.start_restore("used", &update, &[]).report();
    assert!(report["message"].as_str().unwrap().contains("is used by pod looks-copy"), "{report:#}");
    other.shell("pod/looks-copy", "echo bad > /data/private");
    succeed(other.kubectl().args(["delete", "pod", "looks-copy"]));
    applied.restore("update", &update);
    let pod = installation.looks(&other, "copy");
    assert_eq!(other.shell(&pod, "cat /data/private"), "hello\n");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let installation = Installation::new("unfit").with_shop();
    installation.shop.shell("deployment/shop", "head -c 30000000 /dev/urandom > /data/large");
    let applied = damaged(&installation);
    installation.shop.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: small}\nspec: {accessModes: [ReadWriteOnce], \
         storageClassName: local, resources: {requests: {storage: 8Mi}}}\n",
    );
    let refused = |name: &str, spec: &str| {
        let report = applied.start_restore(name, spec, &[]).report();
        assert_eq!(report["phase"], "Failed", "{report:#}");
        report["message"].as_str().unwrap().to_owned()
    };
    let message = refused("small", "{policy: '', sources: [files/data], into: {claims: {data: small}}}");
    assert!(message.contains("claim small has 8Mi and the restore point needs 29 MiB"), "{message}");
    let message = refused("unasked", "{policy: ''}");
    assert!(message.contains("claim data is there") && message.contains("existing: Update"), "{message}");
    let message = refused("unknown", "{policy: '', sources: [mail], existing: Update}");
    assert!(message.contains("has no source mail; it has files/data, files/more"), "{message}");
    let message = refused("nowhere", "{policy: '', into: {namespace: runs-nowhere}}");
    assert!(message.contains("there is no namespace runs-nowhere"), "{message}");
    let message = refused("point", "{policy: '', restorePoint: 20200101-000000, existing: Update}");
    assert!(message.contains("has no restore point 20200101-000000"), "{message}");
}

#[test]
fn a_person_restores_by_hand_after_a_look() {
    let installation = Installation::new("byhand").with_shop();
    let applied = damaged(&installation);
    let former = volume(&installation, "data");
    let common = ["restore", &applied.policy, "--existing", "update", "--in-place", "--source", "files/data"];
    let output = installation.mainstay().args(common).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains(&format!("takes the place of {former} under claim data")), "{shown}");
    assert!(shown.contains("Deployment/shop is scaled to 0 meanwhile"), "{shown}");
    assert_eq!(volume(&installation, "data"), former);
    let output = succeed(installation.mainstay().args(common).arg("--yes"));
    assert!(output.contains("was restored"), "{output}");
    assert_ne!(volume(&installation, "data"), former);
    let files = installation.shop.shell("deployment/shop", "cat /data/private; ls /more");
    assert!(files.contains("hello") && files.contains("after"), "only what was asked for: {files}");
    is_as_before(&installation);
}

#[test]
fn a_claim_that_is_gone_comes_back() {
    let installation = Installation::new("lost").with_shop();
    let applied = damaged(&installation);
    let shop = &installation.shop;
    succeed(shop.kubectl().args(["scale", "deployment/shop", "--replicas=0"]));
    succeed(shop.kubectl().args(["wait", "pods", "-l", "app=shop", "--for=delete", "--timeout=300s"]));
    succeed(shop.kubectl().args(["delete", "pvc", "data", "--timeout=120s"]));
    succeed(shop.kubectl().args(["scale", "deployment/shop", "--replicas=2"]));
    // Its pods wait for the claim: they must not start on one that is half filled.
    applied.restore("lost", "{policy: '', sources: [files/data]}");
    assert_eq!(shop.shell("deployment/shop", "cat /data/private"), "hello\n");
    assert_eq!(shop.field("pvc/data", "{.spec.storageClassName} {.spec.resources.requests.storage}"), "local 64Mi");
}

#[test]
fn an_archive_takes_the_place_of_what_a_claim_holds() {
    let installation = Installation::new("archive").with_shop();
    let applied = damaged(&installation);
    let shop = &installation.shop;
    let folder = tempfile::tempdir().unwrap();
    // A download is what an upload takes; 20 MiB do not fit into one message of any layer on the way.
    shop.shell("deployment/shop", "head -c 20971520 /dev/urandom > /more/large; sha256sum /more/large > /more/sum");
    applied.run("large");
    let file = folder.path().join("more.tar.gz");
    let download = ["points", "download", &applied.policy, "--source", "files/more", "--output"];
    let output = succeed(installation.mainstay().args(download).arg(&file));
    assert!(output.contains("wrote"), "{output}");
    let listed = succeed(std::process::Command::new("tar").arg("-tzf").arg(&file));
    assert!(listed.contains("volumes/more/large"), "{listed}");
    let second = installation.mainstay().args(download).arg(&file).output().unwrap();
    assert!(!second.status.success(), "what is there is not overwritten");
    // What a person brings has its own paths, and owners.
    succeed(std::process::Command::new("tar").arg("-C").arg(folder.path()).arg("-xzf").arg(&file));
    let site = folder.path().join("site.tar.gz");
    let inside = folder.path().join("volumes/more");
    succeed(
        std::process::Command::new("tar")
            .args(["--owner=1234", "--group=4321", "-czf"])
            .arg(&site)
            .arg("-C")
            .arg(inside)
            .arg("."),
    );
    let former = volume(&installation, "data");
    let restore =
        ["restore", &applied.policy, "--claim", "data", "--in-place", "--existing", "update", "--yes", "--archive"];
    let output = succeed(installation.mainstay().args(restore).arg(&site));
    assert!(output.contains("the archive was unpacked"), "{output}");
    assert_ne!(volume(&installation, "data"), former);
    let sums = shop.shell("deployment/shop", "cd /data; sed s,/more/,/data/, sum | sha256sum -c; stat -c %u:%g large");
    assert_eq!(sums, "/data/large: OK\n1234:4321\n");
    is_as_before(&installation);
    // One that leads elsewhere, or is none, changes nothing.
    let bad = folder.path().join("bad.tar.gz");
    std::fs::write(&bad, "no archive").unwrap();
    let former = volume(&installation, "data");
    let output = installation.mainstay().args(restore).arg(&bad).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is it a tar.gz?"), "{said}");
    assert_eq!(volume(&installation, "data"), former);
    is_as_before(&installation);
    // Into a claim of its own there is nothing to stop.
    let copy = ["restore", &applied.policy, "--claim", "uploaded", "--archive"];
    succeed(installation.mainstay().args(copy).arg(&site));
    let pod = installation.looks(shop, "uploaded");
    assert!(shop.shell(&pod, "ls /data").contains("large"));
}

#[test]
fn a_person_verifies_and_downloads_a_dump() {
    let installation = super::databases::with_servers("verify");
    let applied = installation.apply("kubernetes-hosting", &super::databases::MARIADB);
    applied.run("domain");
    let output = succeed(installation.mainstay().args(["verify", &applied.policy, "--read-data", "100%"]));
    assert!(output.contains("offsite: good,"), "{output}");
    assert!(applied.points()[0]["verifiedAt"].is_string());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.sql");
    let download = ["points", "download", &applied.policy, "latest", "--source", "db", "--output"];
    succeed(installation.mainstay().args(download).arg(&file));
    assert!(std::fs::read_to_string(&file).unwrap().contains("INSERT INTO `visits`"));
    let snapshot = ["points", "download", &applied.policy, "latest", "--source", "site"];
    let output = installation.mainstay().args(snapshot).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is a volume snapshot") && said.contains("--claim OLD=NEW"), "{said}");
    let listed = succeed(installation.mainstay().args(["points", "show", &applied.policy]));
    assert!(listed.contains("VolumeSnapshot"), "{listed}");
}
