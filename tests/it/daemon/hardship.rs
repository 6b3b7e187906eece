//! Hard times: kills, restarts, two daemons, a repository or a server that is away.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use mainstay::{
    run::Phase,
    status::ledger::{self, EventKind},
};

use super::host::{Host, wait_for};
use crate::git::{fixture::git, http::Server};

/// A policy whose dump says when it begins, and waits for the file `gate`.
fn gated(host: &Host, hour: usize) -> String {
    let (begun, gate) = (host.path("begun"), host.path("gate"));
    let script = format!(
        "echo x >>{}; while [ ! -e {} ]; do sleep 0.02; done; echo rows; echo END",
        begun.display(),
        gate.display()
    );
    host.policy("nightly", "").replace("0 3 29 2 *", &format!("0 {hour} 29 2 *")).replace(
        &format!("[{{name: files, paths: [{}]}}]", host.path("data").display()),
        &format!("[{{name: db, command: {{dump: [sh, -c, \"{script}\"], trailer: END}}}}]"),
    )
}

fn begun(host: &Host) -> usize {
    fs::read_to_string(host.path("begun")).unwrap_or_default().lines().count()
}

/// How the runs ended that the ledger knows.
fn ended(host: &Host) -> Vec<Phase> {
    let phase = |kind| if let EventKind::RunEnded(report) = kind { Some(report.phase) } else { None };
    host.ledger().into_iter().filter_map(|entry| phase(entry.event.kind)).collect()
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_starts_no_run_twice() {
    let host = Host::new();
    host.commit(&[("backup.yaml", &gated(&host, 0)), ("store.backup.yaml", &host.store())]);
    let repository = host.documents.path().display().to_string();
    // Before and after anything was applied.
    host.daemon().kill();
    let mut daemon = host.daemon();
    daemon.wait_for_log("applied");
    daemon.kill();
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.kill();

    for (moment, runs) in [("the start is told", 1), ("the dump is under way", 2), ("the run has ended", 3)] {
        // Another hour: a run is known by its scheduled time, and that of the last round was carried out already.
        host.commit(&[("backup.yaml", &gated(&host, runs))]);
        let mut daemon = host.daemon();
        host.wait_for_status("status/shop/nightly.yaml", &format!("0 {runs} 29 2 *"));
        daemon.kill();
        let _ = fs::remove_file(host.path("gate"));
        host.make_due();
        let mut daemon = host.daemon();
        match runs {
            1 => daemon.wait_for_log("run started"),
            2 => wait_for("the dump", || (begun(&host) == runs).then_some(())),
            _ => {
                fs::write(host.path("gate"), "").expect("the gate");
                wait_for("the run's end", || (host.points().len() == runs).then_some(()));
            }
        }
        daemon.kill();
        // Another one takes over, while the run of the first one goes on or has ended.
        let mut daemon = host.daemon_with(&["--repo", &repository], &[]);
        wait_for("the first turn", || (daemon.get("/readyz").0 == 200).then_some(()));
        daemon.settle(&host);
        wait_for("the dump", || (begun(&host) == runs).then_some(()));
        fs::write(host.path("gate"), "").expect("the gate");
        wait_for("the run's end in the ledger", || (ended(&host).len() == runs).then_some(()));
        assert_eq!(host.points().len(), runs, "killed when {moment}");
        assert_eq!(begun(&host), runs, "killed when {moment}: a run was started twice");
        daemon.kill();
    }
    assert_eq!(ended(&host), [Phase::Succeeded; 3]);
}

#[test]
fn a_signal_ends_the_daemon_and_not_the_run() {
    let host = Host::new();
    host.commit(&[("backup.yaml", &gated(&host, 0)), ("store.backup.yaml", &host.store())]);
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.terminate();
    host.make_due();
    let mut daemon = host.daemon();
    wait_for("the dump", || (begun(&host) == 1).then_some(()));
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(daemon.log().contains("asked to end"));
    fs::write(host.path("gate"), "").expect("the gate");
    wait_for("the run's end", || (host.points().len() == 1).then_some(()));
    // The next daemon learns of it.
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", &host.points()[0]);
    assert_eq!(begun(&host), 1);
}

#[test]
fn a_second_daemon_on_one_state_is_refused_and_told_who_holds_it() {
    let host = Host::new();
    host.commit_policy("");
    let mut first = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    let repository = host.documents.path().display().to_string();
    let output = host.mainstay(&["daemon", "--repo", &repository]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("another daemon (process {})", first.child.id())), "{said}");
    // One that was killed holds nothing.
    first.kill();
    let mut second = host.daemon();
    wait_for("the second daemon", || (second.get("/readyz").0 == 200).then_some(()));
    assert!(second.terminate().success());
}

#[test]
fn a_repository_that_is_away_keeps_the_policies_and_comes_back() {
    let host = Host::new();
    host.commit_policy("");
    let repository = host.documents.path().display().to_string();
    let daemon = host.daemon_with(&["--repo", &repository, "--poll", "1s"], &[]);
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    let away = host.path("away");
    fs::rename(host.documents.path(), &away).expect("it moves away");
    wait_for("not ready", || {
        let (code, why) = daemon.get("/readyz");
        (code == 503 && why.contains("there is no git repository")).then_some(())
    });
    assert!(daemon.metric("mainstay_git_errors_total") >= 1.0);
    assert_eq!(daemon.get("/healthz").0, 200);
    // Backups go on without git.
    let mut run = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    run.args(["run", "shop/nightly"]).env("MAINSTAY_STATE", host.path("state")).env("HOME", host.path(""));
    assert!(run.output().expect("the binary under test").status.success());
    fs::rename(&away, host.documents.path()).expect("it comes back");
    wait_for("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    host.wait_for_status("status/shop/nightly.yaml", &host.points()[0]);
    // It is watched again, not only asked.
    let revision = host.commit_policy("  retention: {keepLast: 2}");
    host.wait_for_status("status/shop/nightly.yaml", &revision);
}

#[test]
fn a_server_that_does_not_answer_holds_up_no_schedule() {
    let host = Host::new();
    host.commit_policy("");
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.terminate();
    host.make_due();
    // It takes connections (the kernel does) and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/documents.git", silent.local_addr().expect("an address"));
    let mut daemon = host.daemon_with(&["--repo", &address, "--git-timeout", "1s"], &[]);
    wait_for("not ready", || {
        let (code, why) = daemon.get("/readyz");
        (code == 503 && why.contains("git did not answer within 1 s")).then_some(())
    });
    wait_for("the missed run", || (!host.points().is_empty()).then_some(()));
    assert!(daemon.metric("mainstay_git_errors_total") >= 1.0);
    assert!(daemon.terminate().success(), "{}", daemon.log());
}

/// A rule of the server forbids the branch of the status: that is said, backups go on, and once it is lifted all that
/// happened meanwhile arrives.
#[test]
fn a_protected_status_branch_holds_up_nothing_and_the_ledger_arrives_whole() {
    let host = Host::new();
    host.commit_policy("");
    let bare = host.path("hosted/policies.git");
    git(host.documents.path(), &["clone", "--quiet", "--bare", ".", &bare.display().to_string()]);
    let server = Server::start(&host.path("hosted"));
    let hook = bare.join("hooks/update");
    fs::write(&hook, "#!/bin/sh\ncase $1 in refs/heads/mainstay/*) exit 1;; esac\n").expect("a hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::write(host.path("token"), "good-token\n").expect("a file");
    let (address, token) = (format!("{}/policies.git", server.address), host.path("token").display().to_string());
    let daemon = host.daemon_with(&["--repo", &address, "--git-token-file", &token, "--poll", "1s"], &[]);
    wait_for("the policy to be applied", || host.mainstay(&["run", "shop/nightly"]).status.success().then_some(()));
    daemon.wait_for_log("the status could not be written back");
    let before = daemon.metric("mainstay_git_errors_total");
    assert!(before >= 1.0);
    host.run_by_hand();
    wait_for("another try", || (daemon.metric("mainstay_git_errors_total") > before).then_some(()));
    assert_eq!(daemon.get("/readyz").0, 200, "the documents can be read, and turns go on");
    assert!(git(&bare, &["branch", "--list", "mainstay/*"]).is_empty());

    fs::remove_file(&hook).expect("the hook");
    let ledger = wait_for("both runs in the ledger", || {
        if git(&bare, &["branch", "--list", "mainstay/*"]).is_empty() {
            return None;
        }
        let files = git(&bare, &["ls-tree", "-r", "--name-only", "refs/heads/mainstay/status", "runs/"]);
        let text: String =
            files.lines().map(|path| git(&bare, &["show", &format!("refs/heads/mainstay/status:{path}")])).collect();
        (text.matches("runEnded").count() >= 2).then_some(text)
    });
    ledger::verify(ledger.lines()).expect("the chain is whole");
    assert!(ledger.contains("applied"), "{ledger}");
}
