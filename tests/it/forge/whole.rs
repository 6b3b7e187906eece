//! A whole daemon beside a forge that speaks as GitHub does.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use mainstay::{
    forge::memory::ForgeMemory,
    git::Revision,
    plan::{approval, digest},
};
use serde_json::json;

use super::{
    hosted::{Hosted, answer, pull},
    published::Server,
};
use crate::daemon::host::{Host, wait_for};

fn keep(count: u32) -> String {
    format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}")
}

/// Settings with a forge whose token is in a file.
fn settings(url: &str, token: &Path) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {{name: settings}}\nspec:\n  forge: {{kind: \
         GitHub, url: \"{url}\", repository: ada/backups, token: {{file: {}}}}}\n",
        token.display()
    )
}

/// A fork's squashed message names exactly what would be lost; the daemon sees the commit before any look does.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_is_squashed_consents_to_nothing_and_a_push_does() {
    let hosted: Arc<Mutex<Hosted>> = Arc::default();
    let known = Arc::clone(&hosted);
    let server = Server::start(move |asked| {
        answer(&mut known.lock().expect("no panic"), asked).with("x-ratelimit-remaining", "4321")
    })
    .await;
    let host = Host::new();
    fs::write(host.path("token"), "a-token\n").expect("a file");
    let settings = settings(&server.url, &host.path("token"));
    let documents = |count: u32| host.policy("nightly", &keep(count));
    let files = |policy: &str| {
        host.documents.write("backup.yaml", policy);
        host.documents.write("store.backup.yaml", host.store());
        host.documents.write("settings.backup.yaml", &settings);
    };
    files(&documents(3));
    host.commit(&[]);
    let mut daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", "observedRevision");
    (0..3).for_each(|_| host.run_by_hand());
    let points = host.points();
    host.wait_for_status("status/shop/nightly.yaml", &points[2]);
    let repository = format!("{{repository=\"{}/ada/backups\"}}", server.url);
    wait_for("a look", || (daemon.metric("mainstay_forge_looks_total{result=\"success\"}") > 0.0).then_some(()));
    assert_eq!(daemon.metric(&format!("mainstay_forge_rate_limit_remaining{repository}")), 4321.0);
    assert_eq!(daemon.metric(&format!("mainstay_forge_open_change_requests{repository}")), 0.0);
    assert!(daemon.metric("mainstay_forge_requests_total{result=\"success\"}") >= 2.0);

    // While the daemon is away, a fork's change request is opened and squashed.
    daemon.terminate();
    let effects: BTreeSet<_> =
        points[..2].iter().map(|point| format!("lose shop/nightly {point}").parse().expect("an effect")).collect();
    let message = format!("Tidy up\n\n{}", approval::trailers(&digest::of(&effects), &effects));
    host.documents.write("backup.yaml", documents(1));
    let squashed = host.documents.commit(&[], &message);
    {
        let mut hosted = hosted.lock().expect("no panic");
        let mut request = pull(1, &Revision("1".repeat(40)));
        request["head"]["repo"]["id"] = json!(2);
        hosted.pulls.insert(1, request);
        hosted.merged(1, &squashed);
    }
    let daemon = host.daemon();
    let judged = |revision: &Revision| {
        let memory = ForgeMemory::load(&host.path("state")).expect("a memory");
        (memory.judged.as_ref() == Some(revision)).then_some(memory)
    };
    let memory = wait_for("a judgement", || judged(&squashed));
    assert_eq!(memory.trusted, BTreeSet::new());
    host.wait_for_status("status/shop/nightly.yaml", "ApprovalNeeded");
    let after = host.commit(&[("docs.txt", "x")]);
    let status = wait_for("another turn", || {
        let status = host.status("status/shop/nightly.yaml")?;
        judged(&Revision(after.clone())).map(|_| status)
    });
    assert!(status.contains("ApprovalNeeded") && !status.contains("expiredSince"), "{status}");

    // No other change request takes it for consent either.
    host.git(&["checkout", "--quiet", "-b", "edit-2"]);
    let head = Revision(host.commit(&[("more.txt", "x")]));
    host.git(&["checkout", "--quiet", "main"]);
    hosted.lock().expect("no panic").pulls.insert(2, pull(2, &head));
    host.commit(&[("docs.txt", "y")]);
    let comment = wait_for("a comment on another change request", || {
        let hosted = hosted.lock().expect("no panic");
        let comment = hosted.comments.get(&2)?.first()?;
        Some(comment["body"].as_str().expect("a text").to_owned())
    });
    assert!(comment.contains("1 change refused") && comment.contains("2 lost"), "{comment}");

    // One whose own commit consents is green.
    host.git(&["checkout", "--quiet", "-b", "edit-3"]);
    host.documents.write("even-more.txt", "x");
    let head = host.documents.commit(&[], &message);
    host.git(&["checkout", "--quiet", "main"]);
    hosted.lock().expect("no panic").pulls.insert(3, pull(3, &head));
    host.commit(&[("docs.txt", "z")]);
    wait_for("a green check", || {
        let hosted = hosted.lock().expect("no panic");
        let mut last = hosted.statuses.iter().rev();
        last.find(|(revision, _)| *revision == head.0).filter(|(_, check)| check["state"] == "success").map(drop)
    });
    let others =
        hosted.lock().expect("no panic").statuses.iter().rev().find(|(_, check)| check["state"] == "failure").cloned();
    assert!(others.is_some(), "that of the other one stays red");

    // Whoever may push to the branch consents.
    host.good(&["approve", &digest::of(&effects).0]);
    host.wait_for_status("status/shop/nightly.yaml", "expiredSince");
    drop(daemon);
}

/// An alert counts looks that fail; one that could not even begin is among them.
#[test]
fn a_forge_whose_token_is_missing_counts_as_a_look_that_failed() {
    let host = Host::new();
    let settings = settings("http://127.0.0.1:1", &host.path("nowhere"));
    host.commit(&[
        ("backup.yaml", &host.policy("nightly", "")),
        ("store.backup.yaml", &host.store()),
        ("settings.backup.yaml", &settings),
    ]);
    let daemon = host.daemon();
    wait_for("a look that failed", || {
        (daemon.metric("mainstay_forge_looks_total{result=\"failure\"}") > 0.0).then_some(())
    });
    assert_eq!(daemon.metric("mainstay_forge_looks_total{result=\"success\"}"), 0.0);
}
