//! The daemon through the real binary: what is committed happens, and the status comes back. Its hard times are in
//! `hardship`, what it shows of itself in `surface`.

use std::fs;

mod hardship;
pub mod host;
#[cfg(feature = "live")]
mod signed;
mod surface;

use mainstay::status::ledger::EventKind;

use host::{Host, wait_for};

/// The digest in the command that approves, from the dashboard.
fn digest(dashboard: &str) -> String {
    let command = dashboard.split("mainstay approve ").nth(1).expect("the command that approves");
    command.split_whitespace().next().expect("a digest").to_owned()
}

#[test]
fn a_commit_is_applied_and_the_status_comes_back() {
    let host = Host::new();
    let first = host.commit_policy("");
    let _daemon = host.daemon();
    let status = host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    assert!(status.contains(&first), "{status}");
    let second = host.commit_policy("  retention: {keepLast: 3}");
    host.wait_for_status("status/shop/nightly.yaml", &second);
    host.commit(&[("other.backup.yaml", &host.policy("other", ""))]);
    host.wait_for_status("status/shop/other.yaml", "observedRevision");
    let applied = host.ledger();
    assert_eq!(applied.len(), 3, "{applied:?}");
}

#[test]
fn what_other_processes_do_is_noticed() {
    let host = Host::new();
    host.commit_policy("");
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    host.run_by_hand();
    let point = host.points().pop().expect("a point");
    host.wait_for_status("status/shop/nightly.yaml", &point);
    host.good(&["points", "hold", "shop/nightly", &point]);
    host.wait_for_status("status/shop/nightly.yaml", "held: true");
    host.good(&["points", "release", "shop/nightly", &point]);
    wait_for("the release", || {
        host.status("status/shop/nightly.yaml").filter(|status| !status.contains("held: true")).map(drop)
    });
    assert_eq!(host.ledger().len(), 4);
}

#[test]
fn a_restore_in_git_is_carried_out_once_and_its_end_comes_back() {
    let host = Host::new();
    host.commit_policy("");
    let daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    host.run_by_hand();
    let into = host.path("restored");
    let restore = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Restore\nmetadata: {{name: look, namespace: shop}}\nspec:\n  \
         policy: nightly\n  into: {{path: {}}}\n",
        into.display()
    );
    host.commit(&[("restore.backup.yaml", &restore)]);
    host.wait_for_status("restores/shop/look.yaml", "phase: Succeeded");
    assert!(into.exists());
    // The same document does nothing more.
    std::fs::remove_dir_all(&into).expect("what was restored");
    host.commit(&[]);
    daemon.settle(&host);
    assert!(!into.exists(), "it was restored twice");
    let is_restore = |kind: &EventKind| matches!(kind, EventKind::RestoreEnded(_));
    assert_eq!(host.ledger().iter().filter(|entry| is_restore(&entry.event.kind)).count(), 1);
}

#[test]
fn a_wrong_document_freezes_its_policy_and_no_other() {
    let host = Host::new();
    host.commit(&[
        ("backup.yaml", &host.policy("nightly", "")),
        ("other.backup.yaml", &host.policy("other", "")),
        ("store.backup.yaml", &host.store()),
    ]);
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/other.yaml", "observedRevision");
    let revision = host.commit(&[
        ("backup.yaml", &host.policy("nightly", "  retention: {keepLats: 1}")),
        ("other.backup.yaml", &host.policy("other", "  retention: {keepLast: 2}")),
    ]);
    host.wait_for_status("status/shop/other.yaml", &revision);
    let dashboard = host.wait_for_dashboard("backup.yaml:8:15");
    assert!(dashboard.contains("keepLats") && dashboard.contains("1 needs attention"), "{dashboard}");
    let frozen = host.status("status/shop/nightly.yaml").expect("a status");
    assert!(frozen.contains("DocumentNotInForce") && !frozen.contains(&revision), "{frozen}");
    host.run_by_hand();
}

#[test]
fn a_loss_waits_for_approval_and_a_revert_takes_it_back() {
    let host = Host::new();
    let keep = |count: u32| format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}");
    host.commit_policy(&keep(3));
    let daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    (0..3).for_each(|_| host.run_by_hand());
    let points = host.points();
    host.wait_for_status("status/shop/nightly.yaml", &points[2]);

    host.commit_policy(&keep(1));
    let dashboard = host.wait_for_dashboard("mainstay approve ");
    let status = host.wait_for_status("status/shop/nightly.yaml", "ApprovalNeeded");
    assert!(status.contains("type: Stalled") && status.contains(&digest(&dashboard)), "{status}");
    assert!(!status.contains("expiredSince"), "{status}");
    let waits = wait_for("status to tell what waits", || {
        Some(host.good(&["status"])).filter(|status| status.contains("Refused"))
    });
    assert!(waits.contains(&format!("`mainstay approve {}", digest(&dashboard))), "{waits}");
    let refusals = |count: f64| (daemon.metric("mainstay_plan_refusals") == count).then_some(());
    wait_for("the metric of refusals", || refusals(1.0));

    host.good(&["approve", &digest(&dashboard)]);
    let status = host.wait_for_status("status/shop/nightly.yaml", "expiredSince");
    assert_eq!(status.matches("expiredSince").count(), 2, "{status}");
    assert_eq!(host.points().len(), 3, "a point was forgotten before its grace time");

    wait_for("status to tell that nothing waits", || {
        Some(host.good(&["status"])).filter(|status| !status.contains("Refused"))
    });
    wait_for("the metric of refusals", || refusals(0.0));

    // The rules of the reverted commit keep the two again, from the very turn that applies it. The next cleanup, here
    // that of a run, lets only go what these rules let go, and the run's own point is the newest.
    host.git(&["revert", "--no-edit", "HEAD~1"]);
    let reverted = host.git(&["rev-parse", "HEAD"]);
    let status = host.wait_for_status("status/shop/nightly.yaml", reverted.trim());
    assert!(!status.contains("expiredSince"), "{status}");
    host.run_by_hand();
    let newest = host.points().pop().expect("a point");
    let status = host.wait_for_status("status/shop/nightly.yaml", &newest);
    assert_eq!(status.matches("expiredSince").count(), 1, "{status}");
    let taken_back: Vec<_> = host
        .ledger()
        .into_iter()
        .filter_map(|entry| if let EventKind::TakenBack { points } = entry.event.kind { Some(points) } else { None })
        .flatten()
        .map(|point| point.0)
        .collect();
    assert_eq!(taken_back, points[..2]);

    // Consent holds once: the same point is not lost again by it.
    host.commit_policy(&keep(2));
    let status = host.wait_for_status("status/shop/nightly.yaml", "ApprovalNeeded");
    assert_eq!(status.matches("expiredSince").count(), 1, "{status}");
}

#[test]
fn a_commit_that_raises_the_limit_does_not_consent_to_its_own_losses() {
    let host = Host::new();
    let keep = |count: u32| format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}");
    let settings = "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {safety: \
                    {losses: 100}}\n";
    let commit = |count: u32| {
        host.commit(&[("backup.yaml", &host.policy("nightly", &keep(count))), ("settings.backup.yaml", settings)])
    };
    host.commit_policy(&keep(3));
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    (0..3).for_each(|_| host.run_by_hand());
    let newest = host.points().pop().expect("a point");
    host.wait_for_status("status/shop/nightly.yaml", &newest);

    commit(1);
    let dashboard = host.wait_for_dashboard("mainstay approve ");
    assert!(dashboard.contains("the 100 of this edit count once nothing is held back"), "{dashboard}");
    // The turns that follow have seen the raise before, and it holds back what came with it all the same.
    let next = host.commit(&[("other.backup.yaml", &host.policy("other", ""))]);
    host.wait_for_status("status/shop/other.yaml", &next);
    let status = host.wait_for_status("status/shop/nightly.yaml", "ApprovalNeeded");
    assert!(!status.contains("expiredSince"), "{status}");

    host.good(&["approve", &digest(&dashboard)]);
    host.wait_for_status("status/shop/nightly.yaml", "expiredSince");
    // From now on it counts.
    let back = commit(3);
    host.wait_for_status("status/shop/nightly.yaml", &back);
    commit(1);
    let status = wait_for("the loss or a refusal", || {
        host.status("status/shop/nightly.yaml")
            .filter(|status| status.contains("ApprovalNeeded") || status.contains("expiredSince"))
    });
    assert!(status.contains("expiredSince") && !status.contains("ApprovalNeeded"), "{status}");
}

#[test]
fn nothing_is_deleted_while_the_documents_cannot_be_known() {
    let host = Host::new();
    host.commit(&[("backups/backup.yaml", &(host.policy("nightly", "") + "---\n" + &host.store()))]);
    let first = host.git(&["rev-parse", "HEAD"]);
    let repository = host.documents.path().display().to_string();
    let _daemon = host.daemon_with(&["--repo", &repository, "--path", "backups"], &[]);
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    let still_there = |problem: &str| {
        let dashboard = host.wait_for_dashboard(problem);
        assert!(dashboard.contains("## Problems"), "{dashboard}");
        assert!(!dashboard.contains("| withdrawn |"), "{dashboard}");
        host.run_by_hand();
    };

    // The directory is gone.
    host.git(&["mv", "backups", "elsewhere"]);
    host.commit(&[]);
    still_there("there is no directory");
    // It is there, and empty of documents.
    host.commit(&[("backups/notes.txt", "no document")]);
    still_there("there is no backup.yaml");
    // The branch is gone.
    host.git(&["checkout", "--quiet", "-b", "other"]);
    host.git(&["branch", "-D", "main"]);
    still_there("has no branch");
    // Back again: all is well.
    host.git(&["checkout", "--quiet", "-B", "main", first.trim()]);
    host.commit(&[("backups/notes.txt", "no document")]);
    wait_for("no problem", || host.status("README.md").filter(|page| !page.contains("## Problems")).map(drop));
    // Another history, in which the policy is not: that is no wish to delete it.
    host.git(&["checkout", "--quiet", "--orphan", "new"]);
    fs::write(host.documents.path().join("backups/backup.yaml"), host.store()).expect("a file");
    host.commit(&[]);
    host.git(&["branch", "--force", "main", "new"]);
    still_there("history of the branch was rewritten");
}

#[test]
fn only_the_branch_that_is_watched_counts() {
    let host = Host::new();
    host.commit_policy("");
    host.git(&["checkout", "--quiet", "-b", "trunk"]);
    host.commit(&[("backup.yaml", &host.policy("weekly", ""))]);
    let repository = host.documents.path().display().to_string();
    let _daemon = host.daemon_with(&["--repo", &repository, "--branch", "trunk"], &[]);
    host.wait_for_status("status/shop/weekly.yaml", "observedRevision");
    // A commit elsewhere changes nothing, and the next one here does.
    host.git(&["checkout", "--quiet", "main"]);
    host.commit(&[("other.backup.yaml", &host.policy("elsewhere", ""))]);
    host.git(&["checkout", "--quiet", "trunk"]);
    host.commit(&[("more.backup.yaml", &host.policy("more", ""))]);
    host.wait_for_status("status/shop/more.yaml", "observedRevision");
    for name in ["nightly", "elsewhere"] {
        assert_eq!(host.status(&format!("status/shop/{name}.yaml")), None, "{name}");
    }
}

/// Nobody can tell what an unreadable file asks for: it may be the very policy that is nowhere else.
#[test]
fn a_policy_that_moves_into_a_file_that_cannot_be_read_stays() {
    let host = Host::new();
    let good = host.policy("nightly", "");
    let names = [("store.backup.yaml", host.store()), ("a.backup.yaml", good.clone())];
    host.commit(&names.each_ref().map(|(path, text)| (*path, text.as_str())));
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    host.run_by_hand();
    let moved = |content: &[u8]| {
        host.documents.write("b.backup.yaml", content);
        fs::remove_file(host.documents.path().join("a.backup.yaml")).expect("a file");
    };
    let long = format!("{good}# {}\n", "x".repeat(10 << 20));
    let bad: [(&str, &[u8]); 5] = [
        ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("UTF-8", b"kind: BackupPolicy\nmetadata: {name: \xff\xfe}\n"),
        ("larger than", long.as_bytes()),
        ("not YAML", b"kind: BackupPolicy\nmetadata: {name: [\n"),
        (
            "`metadata.name`",
            b"apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {nam: nightly}\nspec: {}\n",
        ),
    ];
    let stays = |what: &str| {
        let dashboard = host.wait_for_dashboard(&host.git(&["rev-parse", "HEAD"])[..8]);
        assert!(dashboard.contains("b.backup.yaml"), "{what}: {dashboard}");
        assert!(!dashboard.contains("| withdrawn |"), "{what}: {dashboard}");
        assert!(dashboard.contains("nobody can tell which policies b.backup.yaml holds"), "{what}: {dashboard}");
        assert!(dashboard.contains("Held back"), "{what}: {dashboard}");
        host.run_by_hand();
    };
    for (what, content) in bad {
        moved(content);
        host.commit(&[]);
        stays(what);
        fs::remove_file(host.documents.path().join("b.backup.yaml")).expect("a file");
        host.commit(&[("a.backup.yaml", &good)]);
        let all_is_well = || host.status("README.md").filter(|page| !page.contains("b.backup.yaml")).map(drop);
        wait_for("no problem", all_is_well);
    }
    // One that points elsewhere is not followed.
    moved(b"");
    fs::remove_file(host.documents.path().join("b.backup.yaml")).expect("a file");
    std::os::unix::fs::symlink("/etc/hostname", host.documents.path().join("b.backup.yaml")).expect("a link");
    host.commit(&[]);
    stays("a link");
    // Mended where it is now, it goes on in the same place.
    fs::remove_file(host.documents.path().join("b.backup.yaml")).expect("a link");
    host.commit(&[("b.backup.yaml", &good)]);
    let dashboard = host.wait_for_dashboard(&host.git(&["rev-parse", "HEAD"])[..8]);
    assert!(dashboard.contains("Ready") && !dashboard.contains("b.backup.yaml"), "{dashboard}");
    host.run_by_hand();
    let places = host.database().query_row("SELECT count(*) FROM places", [], |row| row.get::<_, i64>(0));
    assert_eq!(places.expect("a number"), 1, "the policy began anew");
    // Where it is really gone, it is withdrawn.
    fs::remove_file(host.documents.path().join("b.backup.yaml")).expect("a file");
    host.commit(&[]);
    host.wait_for_dashboard("| withdrawn |");
}

#[test]
fn a_freeze_holds_also_while_the_settings_cannot_be_read() {
    let host = Host::new();
    let settings =
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freeze: true}\n";
    host.commit_policy("");
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    host.commit(&[("settings.backup.yaml", settings)]);
    host.wait_for_dashboard("**Frozen**");
    let changed = host.commit_policy("  retention: {keepLast: 3}");
    host.wait_for_dashboard(&changed[..8]);
    // The settings become unreadable: those in force stay.
    host.commit(&[("settings.backup.yaml", &settings.replace("freeze: true", "freeze: ["))]);
    let dashboard = host.wait_for_dashboard("settings.backup.yaml:");
    assert!(dashboard.contains("**Frozen**"), "{dashboard}");
    // A restart does not thaw either, and nothing that is due starts.
    daemon.terminate();
    host.make_due();
    let daemon = host.daemon();
    daemon.settle(&host);
    assert_eq!(daemon.metric("mainstay_runs_total{policy=\"shop/nightly\",result=\"success\"}"), 0.0);
    assert!(host.points().is_empty());
    // Thawed: the change is applied, and what was missed is caught up.
    host.commit(&[("settings.backup.yaml", &settings.replace("true", "false"))]);
    wait_for("the change and the run", || {
        let status = host.status("status/shop/nightly.yaml")?;
        (status.contains(&changed) || status.contains("succeeded")).then_some(())
    });
    wait_for("the missed run", || (!host.points().is_empty()).then_some(()));
}

#[test]
fn a_freeze_that_was_committed_while_no_daemon_was_there_counts_first() {
    let host = Host::new();
    host.commit_policy("");
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    daemon.terminate();
    host.make_due();
    let settings =
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freeze: true}\n";
    host.commit(&[("settings.backup.yaml", settings)]);
    let daemon = host.daemon();
    host.wait_for_dashboard("**Frozen**");
    daemon.settle(&host);
    let started = host.database().query_row("SELECT COUNT(*) FROM runs", [], |row| row.get::<_, i64>(0));
    assert_eq!(started.expect("the runs"), 0, "a run started before the freeze was read");
}

#[test]
fn consent_is_used_up_also_while_another_policy_is_refused() {
    let host = Host::new();
    let keep = |count: u32| format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}");
    let commit = |nightly: u32, weekly: u32| {
        let documents =
            [host.policy("nightly", &keep(nightly)), host.policy("weekly", &keep(weekly)), host.store()].join("---\n");
        host.commit(&[("backup.yaml", &documents)])
    };
    commit(3, 3);
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/weekly.yaml", "observedRevision");
    (0..2).for_each(|_| host.run_by_hand());
    let weekly = || host.status("status/shop/weekly.yaml").map_or(0, |status| status.matches("sizeBytes").count());
    wait_for("two restore points of the other policy", || {
        host.good(&["run", "shop/weekly"]);
        let count: i64 = host
            .database()
            .query_row("SELECT count(*) FROM points WHERE policy = 'shop/weekly'", [], |row| row.get(0))
            .expect("a count");
        (count >= 2).then_some(())
    });
    let newest = host.points().pop().expect("a point");
    host.wait_for_status("status/shop/nightly.yaml", &newest);
    assert!(weekly() > 0);

    // Both would lose one; only the first is consented to, so the other stays refused.
    let edited = commit(1, 1);
    let status = host.wait_for_status("status/shop/nightly.yaml", "ApprovalNeeded");
    let line = status.lines().find(|line| line.contains("mainstay approve ")).expect("a command");
    let digest = line.split("mainstay approve ").nth(1).and_then(|rest| rest.get(..64)).expect("a digest").to_owned();
    host.good(&["approve", &digest]);
    host.wait_for_status("status/shop/nightly.yaml", "expiredSince");
    assert!(host.status("status/shop/weekly.yaml").expect("a status").contains("ApprovalNeeded"));

    // Reverted for the first one, and asked for again: the loss was consented to once.
    commit(3, 1);
    wait_for("the loss to be taken back", || {
        host.status("status/shop/nightly.yaml").filter(|status| !status.contains("expiredSince")).map(|_| ())
    });
    let again = commit(1, 1);
    assert_ne!(edited, again);
    let status = wait_for("the edit to be refused", || {
        host.status("status/shop/nightly.yaml")
            .filter(|status| status.contains("ApprovalNeeded") || status.contains("expiredSince"))
    });
    assert!(status.contains("ApprovalNeeded") && !status.contains("expiredSince"), "{status}");

    // Consent that is given anew counts, though it is to the same.
    host.good(&["approve", &digest]);
    host.wait_for_status("status/shop/nightly.yaml", "expiredSince");
}
