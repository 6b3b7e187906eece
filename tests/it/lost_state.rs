//! The state of a host is lost, older than the repository, or one of two: the repository still says what there is, and
//! no restore point goes that nobody has seen go.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{
        Engine as _,
        local::{
            LocalEngine,
            cleanup::{Cleaned, Extent, clean},
            movers::Bounds,
        },
    },
    status::ledger::EventKind,
};
use serde_json::json;

use crate::host::{Host, bad, good};

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

async fn clean_at(engine: &LocalEngine, now: Timestamp) -> Cleaned {
    let bounds = Bounds::within(Duration::from_secs(60), None);
    clean(engine.context(), &Host::name(), Extent::Whole, now, &bounds).await.unwrap()
}

async fn ids(host: &Host) -> Vec<String> {
    host.actual().await.inventory.points.iter().map(|point| point.id.to_string()).collect()
}

/// Copies a directory and all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A run that stands at a point until what is returned is dropped.
fn run_that_stands_at(host: &Host, point: &str, gate: PathBuf) -> (Child, fs::File) {
    let run = host
        .command(&["run", "shop/nightly"])
        .env("MAINSTAY_TEST_PAUSE", format!("{point}={}", gate.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Opens only once the run stands at the point.
    let held = fs::OpenOptions::new().write(true).open(gate).unwrap();
    (run, held)
}

/// A backup of the host is taken while a run is under way; later the host is restored from it.
#[tokio::test]
async fn a_state_from_the_middle_of_a_run_keeps_the_point_that_the_run_made() {
    for point in ["capture:intended", "capture:done", "record:intended"] {
        let host = Host::new();
        host.put(json!({})).await;
        good(host.mainstay(&["run", "shop/nightly"]));
        fs::write(host.path("data/file"), "changed").unwrap();
        let (mut run, held) = run_that_stands_at(&host, point, host.fifo("gate"));
        copy(&host.path("state"), &host.path("copy"));
        drop(held);
        assert!(run.wait().unwrap().success());
        let made = ids(&host).await;
        fs::remove_dir_all(host.path("state")).unwrap();
        fs::rename(host.path("copy"), host.path("state")).unwrap();
        let engine = host.engine();
        engine.recover(Timestamp::now()).await.unwrap();
        let cleaned = clean_at(&engine, Timestamp::now() + hours(1000)).await;
        assert_eq!((ids(&host).await, cleaned.leftovers), (made.clone(), 0), "{point}");
        let into = host.text("restored");
        good(host.mainstay(&["restore", "shop/nightly", &made[1], "--into", &into]));
        assert_eq!(crate::host::walk(&host.path("restored")), ["changed"], "{point}");
    }
}

/// Puts the state away and takes another one, which is made if it is not there.
fn switch_state(host: &Host, put_away_as: &str, take: &str) {
    fs::rename(host.path("state"), host.path(put_away_as)).unwrap();
    if host.path(take).exists() {
        fs::rename(host.path(take), host.path("state")).unwrap();
    }
}

/// A policy in a repository that several states share.
async fn put_shared(host: &Host, retention: serde_json::Value) {
    fs::write(host.path("password"), "correct horse").unwrap();
    let shared = json!({"layout": "Shared", "password": {"file": host.text("password")}});
    let policy = host.policy_in(&["disk"], shared, json!({"retention": retention}));
    host.engine().put(&policy).await.unwrap();
}

fn run_with(host: &Host, content: &str) {
    fs::write(host.path("data/file"), content).unwrap();
    good(host.mainstay(&["run", "shop/nightly"]));
}

fn run_at(host: &Host, scheduled: &str) {
    let arguments = ["run", "shop/nightly", "--scheduled", scheduled, "--trigger", "schedule"];
    good(host.mainstay(&arguments));
}

/// Which points nothing here made.
async fn found(host: &Host) -> Vec<String> {
    let points = host.actual().await.inventory.points;
    points.iter().filter(|point| point.found).map(|point| point.id.to_string()).collect()
}

/// The host is gone. A new one is pointed at the documents and the repository.
#[tokio::test]
async fn a_new_host_sees_every_point_restores_and_loses_none_unseen() {
    let host = Host::new();
    let keep_one = json!({"keepLast": 1, "grace": "1h"});
    put_shared(&host, json!({"keepLast": 3})).await;
    for content in ["one", "two", "three"] {
        run_with(&host, content);
    }
    let before = ids(&host).await;
    fs::remove_dir_all(host.path("state")).unwrap();

    put_shared(&host, keep_one.clone()).await;
    // Before anything ran here, so that nothing empty is captured first.
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("before")]));
    assert_eq!(crate::host::walk(&host.path("before")), ["three"]);
    run_with(&host, "four");
    let now = Timestamp::now();
    assert!(clean_at(&host.engine(), now).await.marked.is_empty());
    assert!(clean_at(&host.engine(), now + hours(5000)).await.forgotten.is_empty(), "nobody saw it go");
    assert_eq!((ids(&host).await.len(), found(&host).await.len()), (4, 3));
    // They answer to the ids that the dashboard and the ledger know, too.
    good(host.mainstay(&["restore", "shop/nightly", &before[1], "--into", &host.text("restored")]));
    assert_eq!(crate::host::walk(&host.path("restored")), ["two"]);
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("latest")]));
    assert_eq!(crate::host::walk(&host.path("latest")), ["four"], "what was made here comes first");
    let events = host.engine().history(0).await.unwrap();
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::Found { points } if points.len() == 3)));

    let said = good(host.mainstay(&["points", "release", "shop/nightly", "found"]));
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(clean_at(&host.engine(), now + hours(5000)).await.marked.len(), 3);
    assert_eq!(clean_at(&host.engine(), now + hours(5002)).await.forgotten.len(), 3);
}

/// Two hosts have the same cluster name, a policy of the same name, and one repository, by mistake or for a time.
#[tokio::test]
async fn two_states_on_one_repository_take_nothing_of_each_other() {
    let host = Host::new();
    let keep_one = json!({"keepLast": 1, "grace": "1h"});
    put_shared(&host, keep_one.clone()).await;
    run_at(&host, "2026-11-20T02:00:00Z");
    switch_state(&host, "first", "second");
    put_shared(&host, keep_one.clone()).await;
    // The same scheduled time is the same id.
    run_at(&host, "2026-11-20T02:00:00Z");
    run_at(&host, "2026-11-21T02:00:00Z");
    switch_state(&host, "second", "first");
    run_at(&host, "2026-11-21T02:00:00Z");
    let now = Timestamp::now();
    for (here, there) in [("first", "second"), ("second", "first")] {
        clean_at(&host.engine(), now + hours(25)).await;
        clean_at(&host.engine(), now + hours(27)).await;
        let (all, found) = (ids(&host).await, found(&host).await);
        let own: Vec<&String> = all.iter().filter(|id| !found.contains(id)).collect();
        assert_eq!(own, ["20261121-020000"], "{here}: {all:?}");
        assert_eq!(found.len(), 2, "{here}: {all:?}");
        switch_state(&host, here, there);
    }
}

/// The same with a place for each policy, whose suffix only the lost state knew.
#[tokio::test]
async fn a_new_host_finds_the_places_of_the_one_before() {
    let host = Host::new();
    fs::write(host.path("password"), "correct horse").unwrap();
    let put = async || {
        let password = json!({"password": {"file": host.text("password")}});
        let policy = host.policy_in(&["disk"], password, json!({"retention": {"keepLast": 1, "grace": "1h"}}));
        host.engine().put(&policy).await.unwrap();
    };
    put().await;
    run_with(&host, "one");
    // One of another policy whose name begins alike, and one that is none.
    copy(&host.path("disk/local"), &host.path("others"));
    for (number, entry) in fs::read_dir(host.path("others")).unwrap().enumerate() {
        fs::rename(entry.unwrap().path(), host.path("disk/local").join(format!("shop-nightly-full-{number}abcd")))
            .unwrap();
    }
    fs::create_dir(host.path("disk/local/shop-nightly-empty")).unwrap();
    fs::remove_dir_all(host.path("state")).unwrap();

    put().await;
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("restored")]));
    assert_eq!(crate::host::walk(&host.path("restored")), ["one"]);
    run_with(&host, "two");
    assert!(clean_at(&host.engine(), Timestamp::now() + hours(5000)).await.forgotten.is_empty());
    assert_eq!((ids(&host).await.len(), found(&host).await.len()), (2, 1));
    assert_eq!(host.engine().context().state.places(&Host::name()).unwrap().len(), 2);
    good(host.mainstay(&["points", "release", "shop/nightly", "found"]));
    clean_at(&host.engine(), Timestamp::now() + hours(5000)).await;
    assert_eq!(clean_at(&host.engine(), Timestamp::now() + hours(5002)).await.forgotten.len(), 1);
}

/// A look that fails, as with a password that was made anew, leaves them to be found by the next one.
#[tokio::test]
async fn a_new_host_finds_them_once_it_has_the_right_password() {
    let host = Host::new();
    let put = async |password: &str| {
        fs::write(host.path("password"), password).unwrap();
        let password = json!({"password": {"file": host.text("password")}});
        host.engine().put(&host.policy_in(&["disk"], password, json!({}))).await.unwrap();
    };
    put("correct horse").await;
    run_with(&host, "one");
    fs::remove_dir_all(host.path("state")).unwrap();

    put("battery staple").await;
    let restore = || host.mainstay(&["restore", "shop/nightly", "--into", &host.text("restored")]);
    for attempt in ["first", "second"] {
        let (_, said) = bad(restore());
        assert!(said.contains("the password does not open the repository"), "{attempt}: {said}");
    }
    // Nor does a run begin anew as if there were nothing.
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("put the former password back") && said.contains("local/shop-nightly-"), "{said}");
    assert_eq!(fs::read_dir(host.path("disk/local")).unwrap().count(), 1);
    fs::write(host.path("password"), "correct horse").unwrap();
    good(restore());
    assert_eq!(crate::host::walk(&host.path("restored")), ["one"]);
    good(host.mainstay(&["run", "shop/nightly"]));
}

/// A password that was generated is not made anew where a repository needs the former one.
#[tokio::test]
async fn a_generated_password_that_was_lost_is_not_made_anew() {
    let host = Host::new();
    host.put(json!({})).await;
    run_with(&host, "one");
    let keys = host.path("state/keys");
    fs::rename(&keys, host.path("keys")).unwrap();
    let (_, said) = bad(host.mainstay(&["run", "shop/nightly"]));
    assert!(said.contains("disk.password") && said.contains("put it back"), "{said}");
    assert!(!keys.join("disk.password").exists());
    fs::remove_dir_all(&keys).ok();
    fs::rename(host.path("keys"), &keys).unwrap();
    run_with(&host, "two");
}
