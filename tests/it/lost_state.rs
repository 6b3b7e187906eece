//! The state of a host is lost, older than the repository, or one of two: the repository still says what there is, and
//! no restore point goes that nobody has seen go.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mainstay::engine::local::{
    LocalEngine,
    cleanup::{Cleaned, Extent, clean},
    movers::Bounds,
};
use serde_json::json;

use crate::host::{Host, good};

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
