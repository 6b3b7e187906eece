//! The patches that stop and start a workload, as the API server merges them.

use serde_json::json;

use super::{
    found::{FLUX_OWNER, FLUX_RECONCILE},
    *,
};

fn workload(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// A merge patch as RFC 7396 says.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(key);
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                merge(&mut target[key], value);
            }
        }
    }
}

#[test]
fn what_a_stop_changes_the_start_gives_back() {
    let flux = json!({FLUX_OWNER: "apps"});
    for (labels, annotations) in
        [(json!({}), json!({})), (flux.clone(), json!({"team": "a"})), (flux, json!({FLUX_RECONCILE: "enabled"}))]
    {
        let before = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "shop", "resourceVersion": "7", "labels": labels, "annotations": annotations},
            "spec": {"replicas": 3}});
        let mut object = before.clone();
        merge(&mut object, &stop_patch(&workload(before.clone()), "shop/nightly/20261121-020000"));
        assert_eq!(object["spec"]["replicas"], 0);
        assert_eq!(object["metadata"]["labels"][STOPPED], "true");
        let is_flux = labels.get(FLUX_OWNER).is_some();
        assert_eq!(object["metadata"]["annotations"][FLUX_RECONCILE] == "disabled", is_flux);
        let patch = start_patch(&workload(object.clone()));
        merge(&mut object, &patch);
        assert_eq!(object, before);
    }
}

#[test]
fn who_scaled_it_meanwhile_keeps_the_count() {
    let object = workload(json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "shop", "annotations": {labels::STOPPED_BY: "a/b/c", labels::REPLICAS: "3"}},
        "spec": {"replicas": 5}}));
    assert!(start_patch(&object).get("spec").is_none());
}

#[test]
fn only_replicas_that_are_ready_prove_anything() {
    let of = |replicas: i64, ready: Value, observed: i64| {
        started(&workload(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "shop", "generation": 4}, "spec": {"replicas": replicas},
            "status": {"observedGeneration": observed, "readyReplicas": ready}})))
    };
    assert_eq!(of(2, json!(2), 4), Some(Started::Ready));
    assert_eq!(of(2, json!(1), 4), None);
    assert_eq!(of(2, Value::Null, 4), None);
    assert_eq!(of(2, json!(2), 3), None, "its controller has not seen the replicas yet");
    assert_eq!(of(0, Value::Null, 4), Some(Started::Without));
}

#[test]
fn selectors_are_written_as_the_api_reads_them() {
    let all = json!({"matchLabels": {"app": "shop"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "old", "operator": "DoesNotExist"},
        {"key": "new", "operator": "Exists"}]});
    assert_eq!(selector(&all), "app=shop,tier in (a,b),!old,new");
}

#[test]
fn only_what_can_be_scaled_is_a_workload() {
    assert_eq!("Deployment/shop".parse::<Workload>().unwrap().to_string(), "Deployment/shop");
    for text in ["shop", "DaemonSet/shop", "Deployment/", "Deployment/a/b"] {
        assert!(text.parse::<Workload>().is_err(), "{text}");
    }
}

#[test]
fn a_stateful_set_that_gives_its_claims_up_is_not_stopped() {
    let of = |policy: Value| {
        workload(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {"replicas": 1, "persistentVolumeClaimRetentionPolicy": policy}}))
    };
    let database: Workload = "StatefulSet/db".parse().unwrap();
    let refused = database.check_claims_stay(&of(json!({"whenScaled": "Delete"}))).unwrap_err();
    assert!(refused.to_string().contains("whenScaled"), "{refused}");
    for policy in [json!({"whenScaled": "Retain", "whenDeleted": "Delete"}), Value::Null] {
        assert!(database.check_claims_stay(&of(policy)).is_ok());
    }
}
