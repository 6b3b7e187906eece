//! Restores that documents ask for: the daemon starts each once, and the status tells how every source went.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use serde_json::Value;

use super::{Installation, succeed, wait_for};

/// A daemon, until this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(installation: &Installation, folder: &Path, log: &str) -> Daemon {
    let log = fs::File::create(folder.join(log)).expect("a log");
    let mut command = installation.mainstay();
    command.arg("daemon").arg("--repo").arg(folder.join("documents")).arg("--state").arg(folder.join("state"));
    command.args(["--poll", "2s"]).env("MAINSTAY_IMAGE", installation.engine_installation().image.expect("an image"));
    command.env("NO_PROXY", "*").stderr(log.try_clone().expect("a log")).stdout(log);
    Daemon(command.spawn().expect("a daemon"))
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
    succeed(Command::new("git").current_dir(folder.join("documents")).args(identity).args(arguments))
}

fn commit(folder: &Path, file: &str, text: &str) {
    fs::write(folder.join("documents").join(file), text).expect("a document");
    git(folder, &["add", "-A"]);
    git(folder, &["commit", "-q", "-m", file]);
}

#[test]
fn a_document_is_carried_out_once_and_in_place_only_with_consent() {
    let installation = Installation::new("documents").with_shop();
    let shop = &installation.shop;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("documents")).unwrap();
    git(folder.path(), &["init", "-q", "-b", "main"]);
    let applied = installation.apply("kubernetes-cold", &[]);
    commit(folder.path(), "cold.backup.yaml", &installation.document("kubernetes-cold", &[]));
    applied.run("good");
    shop.shell("deployment/shop", "touch /data/after");
    let first = daemon(&installation, folder.path(), "first.log");
    let restore = |name: &str, fields: &str| {
        format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}, namespace: {}}}\nspec: \
             {{policy: cold, {fields}}}\n",
            applied.policy.split_once('/').unwrap().0
        )
    };
    // Into a claim that is not there: nothing is overwritten, so nobody is asked.
    commit(folder.path(), "copy.backup.yaml", &restore("copy", "sources: [files/data], into: {claims: {data: copy}}"));
    let reports = || -> Vec<Value> {
        let text = succeed(installation.mainstay().args(["status", "-o", "json"]));
        let status: Value = serde_json::from_str(&text).expect("JSON");
        status["restores"].as_array().expect("restores").clone()
    };
    let ended = |name: &str| {
        wait_for(&format!("the end of restore {name}"), 300, || {
            let all = reports();
            let found = all.iter().find(|one| one["name"].as_str().is_some_and(|full| full.ends_with(name)))?;
            found["report"]["finishedAt"].is_string().then(|| found["report"].clone())
        })
    };
    let report = ended("/copy");
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    assert_eq!(
        (&report["sources"][0]["source"], &report["sources"][0]["phase"]),
        (&"files/data".into(), &"Succeeded".into())
    );
    let file = |name: &str| {
        let path = format!("mainstay/status:restores/{}/{name}.yaml", applied.policy.split_once('/').unwrap().0);
        let output = Command::new("git").current_dir(folder.path().join("documents")).args(["show", &path]).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let written = wait_for("the status of the restore", 120, || file("copy"));
    assert!(written.contains("files/data") && written.contains("Succeeded"), "{written}");
    // In place it is refused, until somebody consents to exactly this.
    let former = shop.field("pvc/data", "{.spec.volumeName}");
    commit(folder.path(), "back.backup.yaml", &restore("back", "existing: Update"));
    let plan = || {
        let mut command = installation.mainstay();
        command.args(["plan", "-o", "json", "--path"]).arg(folder.path().join("documents"));
        let output = command.output().expect("a plan");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let plan = plan();
    let digest = plan["refused"][0]["digest"].as_str().unwrap_or_else(|| panic!("{plan:#}")).to_owned();
    assert_eq!(shop.field("pvc/data", "{.spec.volumeName}"), former);
    assert_eq!(reports().len(), 1, "nobody consented");
    // A second daemon takes over in the middle: the restore is not carried out twice.
    let mut approve = installation.mainstay();
    succeed(approve.args(["approve", &digest, "--path"]).arg(folder.path().join("documents")));
    wait_for("the restore to begin", 120, || (reports().len() == 2).then_some(()));
    drop(first);
    let _second = daemon(&installation, folder.path(), "second.log");
    let report = ended("/back");
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    assert_ne!(shop.field("pvc/data", "{.spec.volumeName}"), former);
    assert!(!shop.shell("deployment/shop", "ls /data").contains("after"));
    wait_for("the status of both", 120, || file("back").filter(|text| text.contains("Succeeded")));
    let jobs = ["get", "jobs", "-l", "mainstay.dev/kind=restore", "-o", "name"];
    assert_eq!(succeed(installation.system.kubectl().args(jobs)).lines().count(), 2);
}
