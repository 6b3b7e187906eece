//! Runs in the real cluster, carried out by the pod of a Job that nobody but Kubernetes started.

use crate::peers::{succeed, wait_for};

mod admission;
mod captures;
mod databases;
mod guard;
pub mod installation;
mod restore_documents;
mod restoring;
mod restoring_databases;

use installation::Installation;

#[test]
fn files_of_a_live_claim_are_copied_where_it_is_mounted() {
    let installation = Installation::new("files").with_shop();
    installation.shop.shell("deployment/shop", "head -c 4194304 /dev/urandom > /data/large");
    let applied = installation.apply("kubernetes-files", &[]);
    let report = applied.run("first");
    assert_eq!(report["sources"][0]["source"], "files/data");
    assert_eq!(report["sources"][0]["unreadable"], 0, "{report:#}");
    let snapshots = applied.restic();
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0]["paths"][0], "/volumes/data");
    // A file that belongs to somebody else, and is for nobody else's eyes.
    assert_eq!(applied.restic_dump("latest", "/volumes/data/private"), "hello\n");
    let listed = applied.restic_dump("latest", "/volumes/data");
    assert!(!listed.contains("cache/b"), "the exclude was not heeded");
    let report = applied.run("second");
    assert_eq!(applied.restic().len(), 2);
    let (added, size) = (report["sources"][0]["addedBytes"].as_u64(), report["sources"][0]["sizeBytes"].as_u64());
    assert!(added < Some(100_000) && size > Some(4_194_304), "the second copy is incremental: {report:#}");
    // The movers and their secrets are gone.
    installation.wait_until_gone("jobs,secrets");
}

#[test]
fn a_hook_comes_first_and_its_failure_copies_nothing() {
    let installation = Installation::new("hooks").with_shop();
    let applied = installation.apply("kubernetes-hot", &[]);
    applied.run("good");
    assert!(!applied.restic_dump("latest", "/volumes/data/flushed").is_empty());
    let bad = installation.apply("kubernetes-hot", &[("sync && date > /data/flushed", "echo no disk >&2; exit 3")]);
    bad.start("bad", &[]);
    let report = bad.report("bad");
    assert_eq!(report["phase"], "Failed");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("exit status 3") && message.contains("no disk"), "{message}");
    assert_eq!(bad.points().len(), 1);
    // A run that failed is over: its Job starts no other pod.
    let pods = succeed(installation.system.kubectl().args(["get", "pods", "-l", "job-name=bad", "-o", "name"]));
    assert_eq!(pods.lines().count(), 1, "{pods}");
}

#[test]
fn a_stack_is_one_restore_point_and_its_claims_are_staggered() {
    let installation = Installation::new("stack").with_shop();
    let applied = installation.apply("kubernetes-stack", &[("[Deployment/shop, StatefulSet/db]", "[Deployment/shop]")]);
    applied.run("all");
    let names: Vec<String> =
        applied.points()[0]["parts"].as_array().unwrap().iter().map(|part| part["source"].to_string()).collect();
    assert_eq!(names, ["\"stack/data\"", "\"stack/more\""]);
    assert_eq!(applied.restic().len(), 2);
}

#[test]
fn a_cold_workload_is_still_for_the_snapshot_only_and_gets_its_replicas_back() {
    let installation = Installation::new("cold").with_shop();
    let applied = installation.apply("kubernetes-cold", &[]);
    applied.start("cold", &[]);
    wait_for("the workload to be scaled to 0", 300, || {
        (installation.shop.field("deployment/shop", "{.spec.replicas}") == "0").then_some(())
    });
    let told = installation.shop.field("deployment/shop", "{.metadata.annotations}");
    assert!(told.contains("\"mainstay.dev/replicas\":\"2\""), "{told}");
    assert!(told.contains("\"kustomize.toolkit.fluxcd.io/reconcile\":\"disabled\""), "{told}");
    let report = applied.report("cold");
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
    let told = installation.shop.field("deployment/shop", "{.metadata.annotations}{.metadata.labels}");
    assert!(!told.contains("mainstay.dev"), "{told}");
    assert!(!told.contains("reconcile"), "{told}");
    assert_eq!(applied.restic().len(), 2);
    installation.wait_until_gone("volumesnapshots");
    wait_for("the temporary claims to be gone", 300, || {
        let claims = succeed(installation.shop.kubectl().args(["get", "pvc", "-o", "name"]));
        (claims.lines().count() == 2).then_some(())
    });
}

#[test]
fn two_schedules_and_two_repositories_and_old_points_go_after_each_run() {
    let installation = Installation::new("twice").with_shop();
    let keep = ("{keepLast: 7, keepDaily: 7, keepWeekly: 4}", "{keepLast: 2, grace: 0s}");
    let applied = installation.apply("kubernetes-repositories", &[keep]);
    let schedules = "{range .items[*]}{.spec.schedule};{end}";
    let schedules =
        succeed(installation.system.kubectl().args(["get", "cronjobs", "-o", &format!("jsonpath={schedules}")]));
    assert_eq!(schedules, "0 0,6,12,18 * * *;30 3 * * 0;", "as the controller takes them");
    let report = applied.run("first");
    let sources = report["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 2, "one for each repository: {report:#}");
    for (source, repository) in sources.iter().zip(["near", "far"]) {
        assert_eq!((&source["repository"], &source["phase"]), (&repository.into(), &"Succeeded".into()), "{report:#}");
        assert!(source["sizeBytes"].as_u64() > Some(0) && source["files"].as_u64() > Some(0), "{report:#}");
        assert!(source["durationMilliseconds"].as_u64() > Some(0) && source["snapshot"].is_string(), "{report:#}");
    }
    let first = applied.points()[0]["id"].clone();
    applied.run("second");
    applied.run("third");
    // What expires is marked by one cleanup, and forgotten by the next one after its grace time.
    let marked = |points: &[serde_json::Value]| points.iter().filter(|point| point["expiredSince"].is_string()).count();
    let points = applied.points();
    assert_eq!((points.len(), marked(&points)), (3, 1), "the rules are applied after each run: {points:#?}");
    assert!(points[0]["id"] == first && points[0]["expiredSince"].is_string(), "{points:#?}");
    applied.run("fourth");
    let points = applied.points();
    assert_eq!((points.len(), marked(&points)), (3, 1), "{points:#?}");
    assert!(points.iter().all(|point| point["id"] != first), "what expired is forgotten: {points:#?}");
    assert_eq!(applied.restic().len(), 3);

    // What a person sees.
    let documents = tempfile::tempdir().expect("a folder");
    let text = installation.document("kubernetes-repositories", &[keep]);
    std::fs::write(documents.path().join("backup.yaml"), text).expect("a file");
    let mainstay = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).args(["--engine", "kubernetes", "--namespace", installation.system.name()]);
        succeed(&mut command)
    };
    let path = documents.path().display().to_string();
    let listed = mainstay(&["points", &applied.policy, "--path", &path, "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let kept = listed.as_array().map(|points| points.iter().filter(|point| point["kept"] == true).count());
    assert_eq!(kept, Some(2), "{listed:#}");
    let status = mainstay(&["status", &applied.policy]);
    assert!(status.contains("Succeeded") || status.contains("Ready"), "{status}");
    for repository in ["near", "far"] {
        assert!(status.contains(repository), "{status}");
    }
}
