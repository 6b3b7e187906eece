//! What a workload says as the cluster has it, and the patches that stop and start it.
//!
//! Pure.

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{STOPPED, Started, Workload};
use crate::engine::kubernetes::labels;

/// Annotation: what Flux was told of this workload before; empty: nothing.
const FLUX_BEFORE: &str = "mainstay.dev/flux-reconcile";
/// Annotation by which Flux leaves an object alone, see its documentation of Kustomizations.
pub(super) const FLUX_RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";
/// Label that Flux puts on what it applies.
pub(super) const FLUX_OWNER: &str = "kustomize.toolkit.fluxcd.io/name";
/// Annotation, or label, that Argo CD puts on what it applies.
const ARGO_OWNERS: [&str; 2] = ["argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"];

/// The patch that stops: everything in one, and only if nobody changed the workload since.
pub(super) fn stop_patch(found: &DynamicObject, owner: &str) -> Value {
    let mut annotations = json!({labels::STOPPED_BY: owner, labels::REPLICAS: replicas(found).to_string()});
    if label(found, FLUX_OWNER).is_some() {
        annotations[FLUX_BEFORE] = json!(annotation(found, FLUX_RECONCILE).unwrap_or_default());
        annotations[FLUX_RECONCILE] = json!("disabled");
    }
    json!({
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "labels": {STOPPED: "true"},
            "annotations": annotations,
        },
        "spec": {"replicas": 0},
    })
}

/// The patch that gives everything back.
pub(super) fn start_patch(found: &DynamicObject) -> Value {
    let mut annotations = json!({labels::STOPPED_BY: null, labels::REPLICAS: null});
    if let Some(before) = annotation(found, FLUX_BEFORE) {
        annotations[FLUX_BEFORE] = Value::Null;
        annotations[FLUX_RECONCILE] = if before.is_empty() { Value::Null } else { json!(before) };
    }
    let mut patch = json!({
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "labels": {STOPPED: null},
            "annotations": annotations,
        },
    });
    // Who scaled it meanwhile knows better.
    if replicas(found) == 0 {
        patch["spec"] = json!({"replicas": recorded(found).map_or(1, |(_, replicas)| replicas)});
    }
    patch
}

/// Who stopped it, and how many replicas it had.
pub(super) fn recorded(found: &DynamicObject) -> Option<(String, i64)> {
    let owner = annotation(found, labels::STOPPED_BY)?;
    // A count that somebody spoilt must not leave it down.
    let replicas = annotation(found, labels::REPLICAS).and_then(|text| text.parse().ok()).unwrap_or(1);
    Some((owner.to_owned(), replicas))
}

/// What a person should know of who else changes this workload.
pub(super) fn remark(workload: &Workload, found: &DynamicObject) -> Option<String> {
    ARGO_OWNERS.iter().any(|owner| annotation(found, owner).is_some() || label(found, owner).is_some()).then(|| {
        format!(
            "{workload} belongs to Argo CD, which may scale it up during a copy: let it ignore /spec/replicas there, or \
             turn selfHeal off"
        )
    })
}

/// Whether a workload that was started is up; none: not yet.
pub(super) fn started(found: &DynamicObject) -> Option<Started> {
    let is_seen = found.data["status"]["observedGeneration"].as_i64() >= found.metadata.generation;
    match replicas(found) {
        _ if !is_seen => None,
        0 => Some(Started::Without),
        replicas => (ready(found) >= replicas).then_some(Started::Ready),
    }
}

pub(super) fn ready(found: &DynamicObject) -> i64 {
    found.data["status"]["readyReplicas"].as_i64().unwrap_or(0)
}

pub(super) fn replicas(found: &DynamicObject) -> i64 {
    found.data["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn annotation<'a>(found: &'a DynamicObject, key: &str) -> Option<&'a str> {
    found.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn label<'a>(found: &'a DynamicObject, key: &str) -> Option<&'a str> {
    found.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// A label selector as one text.
pub(super) fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
