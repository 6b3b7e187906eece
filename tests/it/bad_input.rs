//! Bad input of every kind: the message says where and what to do, the exit code says that it failed, and nothing is
//! lost.
//!
//! What each command says stands in `cases/bad-input/NAME.txt`. After a change of words:
//! `UPDATE_EXPECT=1 cargo test --test it bad_input::`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use expect_test::expect_file;
use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{Engine as _, local::LocalEngine},
    policy::document::SettingsSpec,
    run::Phase,
};

use crate::folder_host::Host;

const POLICY: &str = "shop/nightly";
const RUN: [&str; 4] = ["run", POLICY, "--scheduled", "2026-11-20T02:00:00Z"];
const APPLY: [&str; 5] = ["apply", "--path", "documents", "--now", "2026-11-21T12:00:00Z"];

/// A host whose policy ran once, from good documents.
fn host(source: &str) -> Host {
    with_point(Host::new(), source)
}

fn with_point(host: Host, source: &str) -> Host {
    host.write("srv/shop/file", "content");
    host.write("etc/mainstay/password", "correct horse");
    host.write(
        "documents/backup.yaml",
        host.moved(&format!(
            "apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: nightly, namespace: shop}}
spec:
  schedule: \"0 2 * * *\"
  timeZone: Europe/Berlin
  repositories: [disk]
  sources:
    - {source}
  retention: {{keepLast: 7}}
---
apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {{name: disk}}
spec:
  directory: /var/backups/disk
  layout: Shared
  password: {{file: /etc/mainstay/password}}
"
        ))
        .replace("HOST/", &host.text("")),
    );
    host.apply();
    host.good(&["run", POLICY, "--scheduled", "2026-11-19T02:00:00Z"]);
    assert_eq!(host.ids(POLICY), ["20261119-020000"]);
    host
}

const FILES: &str = "{name: files, paths: [/srv/shop]}";

/// Carries a command out that must fail with this exit code, and compares what it says.
fn check(host: &Host, case: &str, arguments: &[&str], code: i32) {
    let said = host.bad(arguments, code);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/cases/bad-input/{case}.txt"));
    let shown = arguments.join(" ").replace(&host.text(""), "HOST/");
    expect_file![file].assert_eq(&format!("$ mainstay {shown}\n{said}exit code: {code}\n"));
}

/// A document that is wrong freezes its policy: it keeps what it has, runs on under the former rules, and says so.
fn wrong_document(case: &str, from: &str, to: &str) {
    let host = host(FILES);
    host.edit("documents/backup.yaml", from, to);
    check(&host, case, &APPLY, 4);
    assert_eq!(host.ids(POLICY), ["20261119-020000"], "{case}");
    host.good(&RUN);
    assert_eq!(host.ids(POLICY).len(), 2, "{case}: the policy does not run any more");
    host.restores(POLICY, "srv/shop");
}

#[test]
fn wrong_yaml() {
    wrong_document("wrong-yaml", "repositories: [disk]", "repositories: [disk");
}

#[test]
fn an_unknown_field() {
    wrong_document("unknown-field", "keepLast", "keepLatest");
}

#[test]
fn an_impossible_cron_expression() {
    wrong_document("impossible-cron", "0 2 * * *", "0 2 31 2 *");
}

#[test]
fn an_unknown_zone() {
    wrong_document("unknown-zone", "Europe/Berlin", "Europe/Berlln");
}

#[test]
fn a_retention_that_keeps_nothing() {
    wrong_document("keeps-nothing", "keepLast: 7", "keepLast: 0");
}

#[test]
fn two_policies_of_one_name() {
    let host = host(FILES);
    let text = host.read("documents/backup.yaml");
    let policy = text.split("---\n").next().expect("the policy");
    host.write("documents/more.backup.yaml", policy);
    check(&host, "two-of-one-name", &APPLY, 4);
    assert_eq!(host.ids(POLICY).len(), 1);
    host.good(&RUN);
    assert_eq!(host.ids(POLICY).len(), 2);
}

/// A run that fails: said by the command and by the status; the restore points are as before.
fn failing_run(host: &Host, case: &str) {
    failing_run_again(host, case, RUN[3]);
}

fn failing_run_again(host: &Host, case: &str, scheduled: &str) {
    check(host, case, &["run", POLICY, "--scheduled", scheduled], 1);
    let status = host.status(POLICY);
    assert_eq!(status["condition"], "Failed", "{case}: {status:#}");
    assert_eq!(host.ids(POLICY), ["20261119-020000"], "{case}");
}

fn whole(host: &Host) {
    host.good(&["verify", POLICY, "--read-data", "100%"]);
    host.restores(POLICY, "srv/shop");
}

#[test]
fn a_wrong_repository_password() {
    let host = host(FILES);
    host.write("etc/mainstay/password", "wrong horse");
    failing_run(&host, "wrong-password");
    check(&host, "wrong-password-restore", &["restore", POLICY, "latest", "--into", "restored"], 1);
    host.write("etc/mainstay/password", "correct horse");
    whole(&host);
}

#[test]
fn a_missing_password_file() {
    let host = host(FILES);
    fs::remove_file(host.path("etc/mainstay/password")).expect("a file");
    failing_run(&host, "missing-password");
    host.write("etc/mainstay/password", "correct horse");
    whole(&host);
}

/// It is never made anew in silence: what is missing may be a disk that is not mounted.
#[test]
fn a_repository_that_vanished() {
    let host = host(FILES);
    fs::rename(host.path("var/backups/disk"), host.path("away")).expect("the folder moves away");
    failing_run(&host, "vanished-repository");
    assert!(!host.path("var/backups/disk/config").exists(), "it was made anew");
    if host.path("var/backups/disk").exists() {
        fs::remove_dir_all(host.path("var/backups/disk")).expect("a folder");
    }
    fs::rename(host.path("away"), host.path("var/backups/disk")).expect("the folder comes back");
    whole(&host);
}

#[test]
fn a_corrupted_pack() {
    let host = host(FILES);
    let find = "find . -path './data/*' -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2";
    let output = Command::new("sh").current_dir(host.path("var/backups/disk")).args(["-c", find]).output();
    let pack = String::from_utf8(output.expect("find").stdout).expect("text");
    let pack = host.path("var/backups/disk").join(pack.trim());
    let good = fs::read(&pack).expect("a pack");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0xff;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::write(&pack, bad).expect("a file of ours");
    // The pack's name is random, as the key is.
    let said = host.bad(&["verify", POLICY, "--read-data", "100%"], 1);
    let name = pack.file_name().and_then(|name| name.to_str()).expect("a name");
    let (before, place) = said.split_once("BlobLocation {").expect("where it is damaged");
    let (_, after) = place.split_once('}').expect("its end");
    let said = format!("{before}BlobLocation {{…}}{after}");
    let said = said.replace(name, "PACK").replace(&name[..12], "PACK").replace(&name[..8], "PACK");
    expect_file!["cases/bad-input/corrupted-pack.txt"].assert_eq(&said);
    assert_eq!(host.ids(POLICY).len(), 1);
    fs::write(&pack, good).expect("a file of ours");
    whole(&host);
}

#[test]
fn a_source_that_is_not_there() {
    let host = host(FILES);
    fs::rename(host.path("srv/shop"), host.path("srv/away")).expect("the folder moves away");
    failing_run(&host, "missing-source");
    fs::rename(host.path("srv/away"), host.path("srv/shop")).expect("the folder comes back");
    whole(&host);
}

/// A database, by a stand-in for its dump program. The real ones refuse in `tests/live`.
fn database() -> Host {
    let host = Host::new();
    host.program("mariadb-dump", "echo rows; echo '-- Dump completed'");
    host.write("etc/mainstay/database", "of the database");
    with_point(
        host,
        "{name: db, mariadb: {databases: [shop], user: backup, password: {file: /etc/mainstay/database}, \
         programDirectory: HOST/bin}}",
    )
}

#[test]
fn a_database_that_refuses() {
    let host = database();
    host.program(
        "mariadb-dump",
        "echo \"mariadb-dump: Got error: 1045: \\\"Access denied for user 'backup'@'localhost'\\\" when trying to connect\" >&2; exit 2",
    );
    failing_run(&host, "database-refuses");
    host.good(&["verify", POLICY, "--read-data", "100%"]);
}

#[test]
fn a_dump_that_is_cut_off() {
    let host = database();
    host.program("mariadb-dump", "echo rows");
    failing_run(&host, "dump-cut-off");
    host.program("mariadb-dump", "true");
    failing_run_again(&host, "dump-empty", "2026-11-20T03:00:00Z");
}

#[test]
fn a_dump_program_that_is_missing() {
    let host = database();
    fs::remove_file(host.path("bin/mariadb-dump")).expect("a file");
    failing_run(&host, "dump-program-missing");
}

/// PW13: the run is over before anything is copied, and the hook's own words are shown.
#[test]
fn a_hook_that_fails_and_one_that_hangs() {
    let host = host(FILES);
    host.edit(
        "documents/backup.yaml",
        "  retention:",
        "  hooks: {before: [{command: [sh, -c, \"echo no lock >&2; exit 7\"]}]}\n  retention:",
    );
    host.apply();
    failing_run(&host, "hook-fails");
    host.edit(
        "documents/backup.yaml",
        "{command: [sh, -c, \"echo no lock >&2; exit 7\"]}",
        "{command: [sleep, infinity], timeout: 1s}",
    );
    host.apply();
    failing_run_again(&host, "hook-hangs", "2026-11-20T03:00:00Z");
}

/// PW13: a run that hangs is ended at its limit.
#[test]
fn a_run_that_is_stuck() {
    let host = Host::new();
    host.program("dump-shop", "echo END");
    let host = with_point(host, "{name: db, command: {dump: [dump-shop], trailer: END}}");
    host.program("dump-shop", "echo begun; exec sleep infinity");
    host.edit("documents/backup.yaml", "  retention:", "  limits: {timeout: 2s}\n  retention:");
    host.apply();
    failing_run(&host, "stuck");
}

/// PW13: what has not run yet says when it will, and how to run it now.
#[test]
fn a_policy_that_has_not_run() {
    let host = Host::of_example("cold");
    host.apply();
    let status = host.status("office/wiki");
    assert_eq!(status["condition"], "Waiting", "{status:#}");
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("it has not run yet; a daemon runs it at 20"), "{message}");
    assert!(host.good(&["status"]).contains(message));
}

/// PW13: a policy that waits, and names that are not there.
#[test]
fn what_is_not_there_is_named() {
    let host = Host::new();
    check(&host, "no-policy-run", &["run", POLICY], 1);
    check(&host, "no-policy-points", &["points", POLICY], 1);
    check(&host, "no-policy-verify", &["verify", POLICY], 1);
    check(&host, "no-policy-status", &["status", POLICY], 1);
    check(&host, "no-documents", &["plan", "--path", "nowhere"], 1);
    let host = self::host(FILES);
    check(&host, "no-point", &["restore", POLICY, "20200101-000000", "--into", "restored"], 1);
    check(&host, "no-destination", &["restore", POLICY, "latest"], 1);
    check(&host, "unwilling", &["restore", POLICY, "latest", "--into", "restored", "--source", "file"], 1);
}

/// The clock jumps ten years forth and back again: one catch-up run, nothing expires, and the schedule goes on.
#[tokio::test]
async fn a_clock_that_jumps() {
    let host = host(FILES);
    let engine = || LocalEngine::open(&host.path("state")).unwrap().with_program(env!("CARGO_BIN_EXE_mainstay").into());
    let (jumping, settings) = (engine(), SettingsSpec::default());
    let (sender, mut ended) = tokio::sync::mpsc::channel(8);
    jumping.tell_ended(sender);
    let now = Timestamp::now();
    let later = now + SignedDuration::from_hours(10 * 365 * 24);
    assert_eq!(jumping.schedule_turn(later, &settings).unwrap().started.len(), 1);
    ended.recv().await.unwrap();
    assert!(
        jumping.schedule_turn(later, &settings).unwrap().started.is_empty(),
        "one catch-up for all that was missed"
    );

    // Back again: nothing starts twice, and the next night is not ten years away.
    let turn = jumping.schedule_turn(now, &settings).unwrap();
    assert!(turn.started.is_empty());
    let day = SignedDuration::from_hours(24);
    assert!(turn.next_due.is_some_and(|next| next <= now + day), "{turn:?}");
    assert_eq!(jumping.schedule_turn(now + day, &settings).unwrap().started.len(), 1, "it is due the next night");
    ended.recv().await.unwrap();
    assert!(jumping.schedule_turn(now + day, &settings).unwrap().started.is_empty());
    // Restarted with the wrong year, it starts what it started then no second time.
    assert!(engine().schedule_turn(later, &settings).unwrap().started.is_empty());

    let policy = engine().observe(now).await.unwrap().policies.remove(&POLICY.parse().unwrap()).unwrap();
    assert_eq!(policy.inventory.points.len(), 3, "{:?}", policy.last_run);
    assert_eq!(policy.last_run.as_ref().map(|run| run.phase), Some(Phase::Succeeded));
    assert!(policy.inventory.points.iter().all(|point| point.expired_since.is_none()));
}
