//! Restores that documents ask for: the daemon starts each once, and the status tells how every source went.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use serde_json::Value;

use super::{Installation, succeed, wait_for};
use crate::{cluster::image, rights};

/// A daemon, until this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon on this host, with the account and the rights that are shipped for it.
fn daemon(installation: &Installation, folder: &Path, log: &str) -> Daemon {
    daemon_with(installation, folder, log, &image())
}

fn daemon_with(installation: &Installation, folder: &Path, log: &str, image: &str) -> Daemon {
    let config = folder.join("kubeconfig");
    fs::write(&config, rights::kubeconfig(&installation.system, "mainstay")).expect("a kubeconfig");
    let log = fs::File::create(folder.join(log)).expect("a log");
    let mut command = installation.mainstay();
    command.arg("daemon").arg("--repo").arg(folder.join("documents")).arg("--state").arg(folder.join("state"));
    command.args(["--poll", "2s"]).env("MAINSTAY_IMAGE", image).env("KUBECONFIG", config);
    command.env("NO_PROXY", "*").stderr(log.try_clone().expect("a log")).stdout(log);
    Daemon(command.spawn().expect("a daemon"))
}

/// A repository of documents, with this one in it.
fn documents(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("documents")).unwrap();
    git(folder.path(), &["init", "-q", "-b", "main"]);
    commit(folder.path(), "policy.backup.yaml", text);
    folder
}

/// The reports of restores, as a person sees them.
fn reports(installation: &Installation) -> Vec<Value> {
    let text = succeed(installation.mainstay().args(["status", "-o", "json"]));
    let status: Value = serde_json::from_str(&text).expect("JSON");
    status["restores"].as_array().expect("restores").clone()
}

/// The report of a restore, as soon as it ended.
fn ended(installation: &Installation, name: &str) -> Value {
    wait_for(&format!("the end of restore {name}"), 300, || {
        let all = reports(installation);
        let found = all.iter().find(|one| one["name"].as_str().is_some_and(|full| full.ends_with(name)))?;
        found["report"]["finishedAt"].is_string().then(|| found["report"].clone())
    })
}

/// What the status branch says of a restore.
fn written(folder: &Path, installation: &Installation, name: &str) -> Option<String> {
    let path = format!("mainstay/status:restores/{}/{name}.yaml", installation.shop.name());
    let output = Command::new("git").current_dir(folder.join("documents")).args(["show", &path]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
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
    let applied = installation.apply("kubernetes-cold", &[]);
    let folder = documents(&installation.document("kubernetes-cold", &[]));
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
    let report = ended(&installation, "/copy");
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    assert_eq!(
        (&report["sources"][0]["source"], &report["sources"][0]["phase"]),
        (&"files/data".into(), &"Succeeded".into())
    );
    let file = |name: &str| written(folder.path(), &installation, name);
    let told = wait_for("the status of the restore", 120, || file("copy"));
    assert!(told.contains("files/data") && told.contains("Succeeded"), "{told}");
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
    assert_eq!(reports(&installation).len(), 1, "nobody consented");
    // A second daemon takes over in the middle: the restore is not carried out twice.
    let mut approve = installation.mainstay();
    succeed(approve.args(["approve", &digest, "--path"]).arg(folder.path().join("documents")));
    wait_for("the restore to begin", 120, || (reports(&installation).len() == 2).then_some(()));
    drop(first);
    let _second = daemon(&installation, folder.path(), "second.log");
    let report = ended(&installation, "/back");
    assert_eq!(report["phase"], "Succeeded", "{report:#}");
    assert_ne!(shop.field("pvc/data", "{.spec.volumeName}"), former);
    assert!(!shop.shell("deployment/shop", "ls /data").contains("after"));
    wait_for("the status of both", 120, || file("back").filter(|text| text.contains("Succeeded")));
    let jobs = ["get", "jobs", "-l", "mainstay.dev/kind=restore", "-o", "name"];
    assert_eq!(succeed(installation.system.kubectl().args(jobs)).lines().count(), 2);
}

#[test]
fn a_restore_of_which_the_job_is_gone_too_is_taken_back_for_the_daemon() {
    let installation = Installation::new("left").with_shop();
    let (shop, system) = (&installation.shop, &installation.system);
    let applied = installation.apply("kubernetes-cold", &[]);
    let folder = documents(&installation.document("kubernetes-cold", &[]));
    applied.run("good");
    shop.shell("deployment/shop", "touch /data/after");
    let former = shop.field("pvc/data", "{.spec.volumeName}");
    let pause = [("MAINSTAY_TEST_PAUSE", "swap:done=forever")];
    let restore = applied.start_restore("left", "{policy: '', existing: Update}", &pause);
    wait_for("the claim to have its new volume", 300, || {
        let now =
            shop.kubectl().args(["get", "pvc", "data", "-o", "jsonpath={.spec.volumeName} {.status.phase}"]).output();
        let now = String::from_utf8_lossy(&now.expect("kubectl").stdout).into_owned();
        (now.ends_with(" Bound") && !now.starts_with(&former)).then_some(())
    });
    // Its Job first, so that no other pod of it comes.
    succeed(system.kubectl().args(["delete", "job", &restore.job, "--cascade=orphan"]));
    let pods = ["delete", "pods", "-l", &format!("job-name={}", restore.job), "--grace-period=0", "--force"];
    succeed(system.kubectl().args(pods));
    assert_eq!(shop.field("deployment/shop", "{.spec.replicas}"), "0");
    let _daemon = daemon(&installation, folder.path(), "daemon.log");
    let log = || fs::read_to_string(folder.path().join("daemon.log")).unwrap_or_default();
    let report = ended(&installation, "/left");
    assert_eq!(report["phase"], "Failed", "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("went away") && message.contains("there again"), "{message}");
    assert_eq!(shop.field("pvc/data", "{.spec.volumeName}"), former, "{}", log());
    wait_for("the workload to be up again", 120, || {
        (shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}") == "2 2").then_some(())
    });
    assert!(shop.shell("deployment/shop", "ls /data").contains("after"));
    assert!(!log().contains("orbidden"), "the daemon needs no more than it has: {}", log());
}

#[test]
fn a_restore_whose_image_is_missing_says_so() {
    const NONE: &str = "nowhere.invalid/none:1";
    let installation = Installation::new("noimage").with_shop();
    let applied = installation.apply("kubernetes-cold", &[]);
    let folder = documents(&installation.document("kubernetes-cold", &[]));
    applied.run("good");
    let copy = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Restore\nmetadata: {{name: copy, namespace: {}}}\nspec: {{policy: cold, \
         sources: [files/data], into: {{claims: {{data: copy}}}}}}\n",
        installation.shop.name()
    );
    commit(folder.path(), "copy.backup.yaml", &copy);
    let daemon = daemon_with(&installation, folder.path(), "none.log", NONE);
    let told = wait_for("the status to say what it waits for", 180, || {
        written(folder.path(), &installation, "copy").filter(|text| text.contains("Waiting"))
    });
    assert!(told.contains(&format!("the image {NONE} cannot be pulled")), "{told}");
    let shown = succeed(installation.mainstay().args(["status"]));
    assert!(shown.contains(NONE), "{shown}");
    // What it says to do helps.
    drop(daemon);
    let job =
        succeed(installation.system.kubectl().args(["get", "jobs", "-l", "mainstay.dev/kind=restore", "-o", "name"]));
    let job = job.trim().rsplit('/').next().unwrap_or_default().to_owned();
    assert!(told.contains(&format!("delete Job {job}")), "{told}");
    let _second = self::daemon(&installation, folder.path(), "good.log");
    succeed(installation.system.kubectl().args(["delete", "job", &job]));
    assert_eq!(ended(&installation, "/copy")["phase"], "Succeeded");
}
