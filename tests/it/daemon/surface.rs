//! What the daemon shows of itself, and that it leaves everything alone while there is nothing to do.

use super::host::{Host, fingerprint, force_turn, wait_for};

#[test]
fn a_turn_with_nothing_to_do_writes_nothing_and_wakes_nothing() {
    let host = Host::new();
    host.commit_policy("");
    let daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    host.run_by_hand();
    host.wait_for_status("status/shop/nightly.yaml", &host.points()[0]);
    daemon.settle(&host);

    let (state, commits, turns) = (fingerprint(&host.path("state")), host.status_commits(), daemon.turns());
    for forced in 1..=5 {
        force_turn(&host);
        wait_for("a forced turn", || (daemon.turns() >= turns + f64::from(forced)).then_some(()));
    }
    assert_eq!(daemon.turns(), turns + 5.0, "a turn woke another one");
    assert_eq!(fingerprint(&host.path("state")), state);
    assert_eq!(host.status_commits(), commits);
}

#[test]
fn a_run_by_hand_costs_few_turns() {
    let host = Host::new();
    host.commit_policy("");
    let daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.settle(&host);
    let (turns, commits) = (daemon.turns(), host.status_commits());
    host.good(&["run", "shop/nightly"]);
    host.wait_for_status("status/shop/nightly.yaml", &host.points()[0]);
    daemon.settle(&host);
    // One for the run's end, one more if its last words came a moment later; the settling itself is at most two.
    assert!(daemon.turns() <= turns + 5.0, "{} turns", daemon.turns() - turns);
    assert_eq!(host.status_commits(), commits + 1);
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let host = Host::new();
    host.commit_policy("");
    let daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    wait_for("readiness", || (daemon.get("/readyz") == (200, "ok\n".to_owned())).then_some(()));
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/elsewhere").0, 404);
    host.run_by_hand();
    let policy = "{policy=\"shop/nightly\"}";
    wait_for("the run in the metrics", || {
        (daemon.metric("mainstay_runs_total{policy=\"shop/nightly\",result=\"success\"}") == 1.0).then_some(())
    });
    assert_eq!(daemon.metric(&format!("mainstay_restore_points{policy}")), 1.0);
    assert_eq!(daemon.metric(&format!("mainstay_restore_points_size_bytes{policy}")), 7.0);
    assert_eq!(daemon.metric(&format!("mainstay_run_size_bytes{policy}")), 7.0);
    assert!(daemon.metric(&format!("mainstay_run_added_bytes{policy}")) > 0.0);
    assert!(daemon.metric(&format!("mainstay_run_duration_seconds{policy}")) > 0.0);
    assert!(daemon.metric(&format!("mainstay_run_last_success_timestamp_seconds{policy}")) > 1.7e9);
    assert_eq!(daemon.metric("mainstay_git_errors_total"), 0.0);
    host.commit(&[("wrong.backup.yaml", "kind: Nothing\n")]);
    wait_for("the finding", || (daemon.metric("mainstay_document_findings") >= 1.0).then_some(()));
    let (_, text) = daemon.get("/metrics");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn a_json_log_is_json_in_every_line() {
    let host = Host::new();
    host.commit_policy("");
    let repository = host.documents.path().display().to_string();
    let mut daemon = host.daemon_with(&["--repo", &repository, "--log-format", "json"], &[]);
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.terminate();
    let log = daemon.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let applied = lines.iter().find(|line| line["fields"]["message"] == "applied").expect("a line about the policy");
    assert_eq!(applied["fields"]["policy"], "shop/nightly");
    assert_eq!(applied["level"], "INFO");
    assert!(applied["timestamp"].is_string());
}
