//! Objects: what is ours is repaired and cleared away, what is not is left alone.

use serde_json::Value;

use super::{Installation, refused};
use crate::peers::succeed;

fn drift(plan: &Value) -> Vec<String> {
    let list = plan["drift"].as_array().expect("a list");
    list.iter().map(|drift| drift["difference"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn plan_and_apply_need_no_daemon_and_come_to_rest() {
    let installation = Installation::new("k1-apply");
    installation.document("shop/nightly", "  cleanup: {schedule: '0 4 * * *'}");
    installation.document("a-b/c", "");
    installation.document("a/b-c", "");
    let plan = installation.plan();
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(3), "{plan}");
    installation.apply();
    let names = installation.cron_jobs();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"a-b-c-0".to_owned()) && names.contains(&"shop-nightly-cleanup".to_owned()), "{names:?}");
    let plan = installation.plan();
    assert_eq!((plan["changes"].as_array().map(Vec::len), drift(&plan)), (Some(0), vec![]), "{plan}");
    let before = installation.namespace.field("cronjob/shop-nightly-0", "{.metadata.resourceVersion}");
    installation.apply();
    assert_eq!(installation.namespace.field("cronjob/shop-nightly-0", "{.metadata.resourceVersion}"), before);

    // A field that the document no longer has goes from the object, too: one manager owns it, and only once.
    let managers = installation.namespace.field("cronjob/shop-nightly-0", "{.metadata.managedFields[*].manager}");
    assert_eq!(managers, "mainstay");
}

#[test]
fn what_a_hand_changed_is_shown_apart_and_repaired() {
    let installation = Installation::new("k1-drift");
    installation.document("shop/nightly", "");
    installation.apply();
    installation.patch("cronjob/shop-nightly-0", r#"{"spec":{"schedule":"0 3 * * *","suspend":true}}"#);
    // What others add is theirs.
    installation.patch("cronjob/shop-nightly-0", r#"{"metadata":{"labels":{"team":"shop"}}}"#);
    let plan = installation.plan();
    let expected =
        "CronJob shop-nightly-0: spec.schedule: 0 3 * * * instead of 0 2 * * *, spec.suspend: true instead of false";
    assert_eq!(drift(&plan), [expected]);
    installation.apply();
    assert_eq!(installation.schedule("shop-nightly-0"), "0 2 * * *");
    assert_eq!(installation.namespace.field("cronjob/shop-nightly-0", "{.metadata.labels.team}"), "shop");
    assert!(drift(&installation.plan()).is_empty());
}

#[test]
fn leftovers_of_a_crash_are_found_by_their_label() {
    let installation = Installation::new("k1-leftovers");
    installation.document("shop/nightly", "");
    installation.document("shop/other", "");
    installation.apply();
    // A withdrawal that broke off, and an apply that did.
    succeed(installation.namespace.kubectl().args(["delete", "configmap", "policy-shop-other"]));
    succeed(installation.namespace.kubectl().args(["delete", "cronjob", "shop-nightly-0"]));
    installation.remove_document("shop/other");
    let plan = installation.plan();
    assert!(drift(&plan).contains(&"CronJob shop-nightly-0 is gone".to_owned()), "{plan}");
    installation.apply();
    assert_eq!(installation.cron_jobs(), ["shop-nightly-0"]);
}

#[test]
fn objects_of_others_are_refused_until_they_may_be_adopted() {
    let installation = Installation::new("k1-foreign");
    let theirs = r#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"shop-nightly-0"},"spec":{"schedule":"0 0 1 1 *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"theirs","image":"theirs:1"}]}}}}}}"#;
    installation.namespace.apply(theirs);
    installation.document("shop/nightly", "");
    let output = installation.mainstay(&["apply", "--path", "documents"]);
    let said = refused(&output);
    assert!(said.contains("CronJob shop-nightly-0 is there and is not Mainstay's"), "{said}");
    assert_eq!(installation.schedule("shop-nightly-0"), "0 0 1 1 *");
    installation
        .patch("cronjob/shop-nightly-0", r#"{"metadata":{"annotations":{"mainstay.dev/adopt":"shop/nightly"}}}"#);
    installation.apply();
    assert_eq!(installation.schedule("shop-nightly-0"), "0 2 * * *");
}

#[test]
fn a_run_is_a_job_from_the_policys_own_cron_job_and_asked_for_once() {
    let installation = Installation::new("k1-run");
    installation.document("shop/nightly", "");
    installation.apply();
    let arguments = ["run", "shop/nightly", "--scheduled", "2026-11-21T02:00:00Z"];
    let said = installation.good(&arguments);
    assert!(said.contains("Job shop-nightly-20261121-020000"), "{said}");
    assert!(installation.good(&arguments).contains("asked for already"));
    let job = "job/shop-nightly-20261121-020000";
    let at = installation.namespace.field(job, r"{.metadata.annotations.mainstay\.dev/scheduled-at}");
    assert_eq!(at, "2026-11-21T02:00:00Z");
    let arguments = installation.namespace.field(job, "{.spec.template.spec.containers[0].args}");
    assert_eq!(arguments, r#"["run","shop/nightly","--engine","kubernetes","--trigger","manual"]"#);
}
