//! The whole story: a commit becomes a CronJob, an edit changes it, a hand is corrected, a removal keeps what counts.

use super::{Installation, wait_for_with};

#[test]
fn a_commit_becomes_a_cron_job_and_follows_the_document() {
    let installation = Installation::new("k1-story");
    installation.document("shop/nightly", "  schedule: '0 2 * * *'\n  timeZone: Europe/Berlin");
    installation.commit("protect the shop");
    let daemon = installation.daemon("daemon");
    installation.wait_for_cron_jobs(&["shop-nightly-0"], &daemon);
    assert_eq!(installation.schedule("shop-nightly-0"), "0 2 * * *");
    assert_eq!(installation.namespace.field("cronjob/shop-nightly-0", "{.spec.timeZone}"), "Europe/Berlin");
    let status = installation.good(&["status", "shop/nightly"]);
    assert!(status.contains("shop/nightly"), "{status}");

    // An edit: another time, and one schedule more.
    installation.document("shop/nightly", "  schedule: ['15 3 * * *', '0 12 * * *']\n  timeZone: Europe/Berlin");
    installation.commit("twice a day");
    installation.wait_for_cron_jobs(&["shop-nightly-0", "shop-nightly-1"], &daemon);
    wait_for_with("the new time", 30, || installation.schedule("shop-nightly-0") == "15 3 * * *", &daemon);

    // A hand changes it, with every annotation as it was: it is put back, and said.
    installation.patch("cronjob/shop-nightly-0", r#"{"spec":{"schedule":"59 23 * * *"}}"#);
    wait_for_with("the repair", 30, || installation.schedule("shop-nightly-0") == "15 3 * * *", &daemon);
    let managers = installation.namespace.field("cronjob/shop-nightly-0", "{.metadata.managedFields[*].manager}");
    assert!(managers.contains("mainstay"), "{managers}");

    // A hand deletes one.
    let delete = ["delete", "cronjob", "shop-nightly-1"];
    crate::peers::succeed(installation.namespace.kubectl().args(delete));
    installation.wait_for_cron_jobs(&["shop-nightly-0", "shop-nightly-1"], &daemon);

    // There is a restore point, as a run leaves one.
    installation.namespace.apply(&points());
    wait_for_with(
        "the restore point in the status",
        30,
        || installation.good(&["points", "shop/nightly", "--path", "documents"]).contains("20261120-020000"),
        &daemon,
    );

    // The document goes: the schedules go with it, the restore points stay.
    installation.remove_document("shop/nightly");
    installation.document("shop/other", "  suspend: true");
    installation.commit("the shop is closed");
    installation.wait_for_cron_jobs(&["shop-other-0"], &daemon);
    assert_eq!(installation.namespace.field("cronjob/shop-other-0", "{.spec.suspend}"), "true");
    wait_for_with(
        "the ConfigMap of the policy to go",
        30,
        || !installation.names("configmaps").contains(&"policy-shop-nightly".to_owned()),
        &daemon,
    );
    assert!(installation.names("configmaps").contains(&"points-shop-nightly".to_owned()));
    let points = installation.good(&["points", "shop/nightly", "--path", "documents"]);
    assert!(points.contains("20261120-020000"), "{points}");

    // Frozen: nothing starts, whatever the documents say; and back.
    installation.world.write(
        "documents/settings.backup.yaml",
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freeze: true}\n",
    );
    installation.document("shop/other", "  schedule: '0 5 * * *'");
    installation.commit("freeze");
    daemon.wait_for_log("frozen=true");
    let suspended = || installation.namespace.field("cronjob/shop-other-0", "{.spec.suspend}");
    assert_eq!(suspended(), "true");
    installation.world.write(
        "documents/settings.backup.yaml",
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freeze: false}\n",
    );
    installation.commit("thaw");
    wait_for_with("the schedule to go on", 60, || suspended() == "false", &daemon);
}

/// What a run leaves: one restore point.
fn points() -> String {
    let record = serde_json::json!({
        "policy": "shop/nightly",
        "observedAt": "2026-11-20T02:01:00Z",
        "complete": true,
        "points": [{"id": "20261120-020000", "time": "2026-11-20T02:00:00Z", "sizeBytes": 1000, "parts": []}],
    });
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "points-shop-nightly",
            "labels": {
                "app.kubernetes.io/managed-by": "mainstay",
                "mainstay.dev/kind": "points",
                "mainstay.dev/policy": "shop-nightly",
            },
            "annotations": {"mainstay.dev/policy": "shop/nightly"},
        },
        "data": {"record.json": record.to_string()},
    });
    map.to_string()
}
