//! 10,000 policies and 100,000 restore points: how long `validate` and a cold `plan` take.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use crate::measure::{against_goal, measure};

pub const POLICIES: usize = 10_000;
pub const POINTS_EACH: usize = 10;
const NOW: &str = "2026-11-21T12:00:00Z";

/// Measures and prints.
pub fn bench() {
    let folder = tempfile::tempdir().expect("a folder");
    let documents = folder.path().join("documents");
    write_documents(&documents, 10);
    git(&documents, &["init", "-q", "-b", "main"]);
    git(&documents, &["add", "-A"]);
    git(&documents, &["commit", "-q", "-m", "before"]);
    let inventory = folder.path().join("inventory.json");
    fs::write(&inventory, inventory_text()).expect("an inventory");

    println!("\n{POLICIES} policies, {} restore points: ours / goal", POLICIES * POINTS_EACH);
    let program = env!("CARGO_BIN_EXE_mainstay");
    let path = documents.display();
    let (validated, _) = measure(folder.path(), &format!("{program} validate --path {path}"), &[0]);
    against_goal("validate", validated, 1.0, 150e6);
    let offline = format!("{program} plan --path {path} --offline {} --now {NOW} -o json", inventory.display());
    against_goal("plan --offline", measure(folder.path(), &offline, &[0]).0, 1.0, 150e6);
    let plan = format!("{offline} --base HEAD");
    let (unchanged, _) = measure(folder.path(), &plan, &[0]);
    against_goal("plan --offline --base", unchanged, 1.0, 150e6);

    // A tenth of the policies keeps less: 1,000 updates, each of which loses restore points.
    for number in (0..POLICIES).step_by(10) {
        fs::write(file(&documents, number), document(number, 2)).expect("a document");
    }
    let (edited, text) = measure(folder.path(), &plan, &[0]);
    against_goal("the same, 1,000 changed", edited, 1.0, 150e6);
    let plan: serde_json::Value = serde_json::from_str(&text).expect("the plan is JSON");
    let losses = plan["losses"].as_array().map_or(0, Vec::len);
    assert_eq!(losses, POLICIES / 10 * (POINTS_EACH - 2), "the plan does not list the losses that were made");
}

pub fn file(documents: &Path, number: usize) -> std::path::PathBuf {
    documents.join(format!("team-{:02}/policy-{number:05}.backup.yaml", number % 100))
}

pub fn write_documents(documents: &Path, keep_last: usize) {
    for team in 0..100 {
        fs::create_dir_all(documents.join(format!("team-{team:02}"))).expect("a folder");
    }
    let repository = "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: disk}\nspec:\n  directory: /backup\n  password: {generate: true}\n";
    fs::write(documents.join("repository.backup.yaml"), repository).expect("a document");
    for number in 0..POLICIES {
        fs::write(file(documents, number), document(number, keep_last)).expect("a document");
    }
}

pub fn document(number: usize, keep_last: usize) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: policy-{number:05}, namespace: team-{team:02}}}
spec:
  schedule: \"{minute} {hour} * * *\"
  timeZone: Europe/Berlin
  repositories: [disk]
  sources:
    - name: files
      paths: [/srv/{number:05}/www, /srv/{number:05}/mail]
      exclude: [\"cache/**\", \"*.tmp\"]
    - name: db
      mariadb: {{host: db.example.org, port: 3306, databases: [shop{number}], user: backup, password: {{env: DB_PASSWORD}}}}
  hooks:
    before:
      - command: [sh, -c, \"touch /run/before-{number}\"]
        timeout: 5m
  retention: {{keepLast: {keep_last}, grace: 24h}}
  limits: {{timeout: 2h}}
",
        team = number % 100,
        minute = number % 60,
        hour = number / 60 % 24,
    )
}

fn inventory_text() -> String {
    let mut text = format!("{{\"formatVersion\":1,\"observedAt\":\"{NOW}\",\"complete\":true,\"policies\":{{");
    for number in 0..POLICIES {
        let comma = if number == 0 { "" } else { "," };
        let (minute, hour) = (number % 60, number / 60 % 24);
        write!(
            text,
            "{comma}\"team-{:02}/policy-{number:05}\":{{\"schedule\":\"{minute} {hour} * * *\",\"restorePoints\":[",
            number % 100
        )
        .expect("a String takes everything");
        for point in 0..POINTS_EACH {
            let comma = if point == 0 { "" } else { "," };
            let day = 11 + point;
            write!(
                text,
                "{comma}{{\"id\":\"202611{day:02}-{hour:02}{minute:02}00\",\"time\":\"2026-11-{day:02}T{hour:02}:{minute:02}:00Z\",\"sizeBytes\":{}}}",
                1_000_000 + number * 1000 + point
            )
            .expect("a String takes everything");
        }
        text.push_str("]}");
    }
    text.push_str("}}");
    text
}

pub fn git(folder: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .status()
        .expect("git is needed");
    assert!(status.success());
}
