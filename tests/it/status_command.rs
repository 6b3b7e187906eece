//! `mainstay status` and the texts of `mainstay points` on a real state.

use std::fs;

use mainstay::actual::inventory;
use serde_json::{Value, json};

use crate::host::{Host, bad, good};

#[tokio::test]
async fn the_inventory_that_status_writes_is_the_one_that_is_read() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let text = good(host.mainstay(&["status", "-o", "json", "--inventory"]));
    let read = inventory::read(text.as_bytes()).unwrap();
    assert_eq!(inventory::write(&read), text, "another form than the one format");
    let policy = &read.policies[&Host::name()];
    assert_eq!(policy.compiled.as_ref(), Some(&host.policy(json!({}))), "it tells what was applied");
    assert_eq!(
        policy.inventory,
        mainstay::restore_point::Inventory { observed_at: read.observed_at, ..host.actual().await.inventory }
    );
    bad(host.mainstay(&["status", "--inventory"]));
}

#[tokio::test]
async fn times_have_at_most_milliseconds_and_people_read_seconds() {
    let host = Host::new();
    host.put(json!({})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let actual = host.actual().await;
    let (point, run) = (&actual.inventory.points[0], actual.last_run.as_ref().unwrap());
    for time in [point.time, run.started_at, run.scheduled_at, run.finished_at.unwrap(), actual.last_success.unwrap()] {
        assert_eq!(time.subsec_nanosecond() % 1_000_000, 0, "{time}");
    }
    fs::create_dir(host.path("documents")).unwrap();
    let second = point.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let listed = good(host.mainstay(&["points", "list", "--path", &host.text("documents")]));
    assert!(listed.contains(&second), "{second} is not in\n{listed}");
    assert!(!listed.contains('T'), "{listed}");
    let shown = good(host.mainstay(&["points", "show", "shop/nightly"]));
    assert!(shown.contains(&second), "{second} is not in\n{shown}");
}

#[tokio::test]
async fn status_tells_of_each_policy_and_of_each_source_of_one() {
    let host = Host::new();
    assert!(good(host.mainstay(&["status"])).contains("There is no policy yet"));
    host.put(json!({})).await;
    let never: Value = serde_json::from_str(&good(host.mainstay(&["status", "-o", "json"]))).unwrap();
    assert_eq!(never["policies"]["shop/nightly"]["restorePoints"], 0);
    let ran = good(host.mainstay(&["run", "shop/nightly"]));
    assert!(ran.contains("1 file,"), "{ran}");
    let text = good(host.mainstay(&["status"]));
    let row = text.lines().find(|line| line.contains("shop/nightly")).unwrap();
    assert!(row.contains("Ready") && row.contains("7 B"), "{text}");
    let one = good(host.mainstay(&["status", "shop/nightly"]));
    assert!(one.contains("succeeded  files → disk: 1 file, 0 unreadable"), "{one}");
    let json: Value = serde_json::from_str(&good(host.mainstay(&["status", "-o", "json"]))).unwrap();
    let policy = &json["policies"]["shop/nightly"];
    assert_eq!((&policy["condition"], &policy["restorePoints"]), (&json!("Ready"), &json!(1)));
    assert_eq!(policy["lastRun"]["phase"], "Succeeded");
    assert!(policy["nextRun"].is_string());
    fs::remove_dir_all(host.path("data")).unwrap();
    bad(host.mainstay(&["run", "shop/nightly"]));
    let text = good(host.mainstay(&["status"]));
    assert!(text.contains("Failed") && text.contains("source files was not captured"), "{text}");
    bad(host.mainstay(&["status", "shop/unknown"]));
}
