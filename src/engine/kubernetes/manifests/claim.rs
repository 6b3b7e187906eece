//! Claims that a restore makes: anew, or in the place of one that was there.
//!
//! Pure. A volume changes its claim by two steps that the API server knows anyway: the old claim goes while its volume
//! is kept, and a claim of the same name asks for the other volume by name.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::snapshot::{GROUP, Identity};

/// What a claim asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimShape {
    /// The class that makes its volume; none: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// How large it is, as Kubernetes writes it.
    pub size: String,
    /// Who may mount it at once.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// Whether it is a block device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block: bool,
}

/// A new claim, empty or with what a volume snapshot holds.
pub fn fresh(identity: &Identity, shape: &ClaimShape, snapshot: Option<&str>) -> Value {
    let ClaimShape { storage_class, size, access_modes, block } = shape;
    let modes = if access_modes.is_empty() { vec!["ReadWriteOnce".to_owned()] } else { access_modes.clone() };
    let mut spec = json!({"accessModes": modes, "resources": {"requests": {"storage": size}}});
    if let Some(class) = storage_class {
        spec["storageClassName"] = json!(class);
    }
    if *block {
        spec["volumeMode"] = json!("Block");
    }
    if let Some(snapshot) = snapshot {
        spec["dataSource"] = json!({"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": snapshot});
    }
    let Identity { name, namespace, labels, annotations } = identity;
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": spec,
    })
}

/// A claim as its owner made it, without what the cluster added: so it can be made again.
pub fn as_made(claim: &PersistentVolumeClaim) -> Value {
    let metadata = &claim.metadata;
    let annotations: Map<String, Value> = metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !is_of_the_cluster(key))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let mut made = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": metadata.labels.clone().unwrap_or_default(),
            "annotations": annotations,
        },
        "spec": {},
    });
    if let Some(owners) = &metadata.owner_references {
        made["metadata"]["ownerReferences"] = json!(owners);
    }
    let spec = json!(claim.spec.clone().unwrap_or_default());
    for key in ["accessModes", "resources", "storageClassName", "volumeMode", "volumeAttributesClassName"] {
        if let Some(value) = spec.get(key) {
            made["spec"][key] = value.clone();
        }
    }
    made
}

/// The same claim, bound to this volume.
pub fn bound_to(made: &Value, volume: &str) -> Value {
    let mut claim = made.clone();
    claim["spec"]["volumeName"] = json!(volume);
    claim
}

/// The patch that lets a volume wait for a claim of this name, whichever it was bound to.
pub fn waits_for(namespace: &str, claim: &str) -> Value {
    json!({"spec": {"claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim,
        "uid": null, "resourceVersion": null,
    }}})
}

/// The patch that says what becomes of a volume whose claim is gone: `Retain` or `Delete`.
pub fn reclaim(policy: &str) -> Value {
    json!({"spec": {"persistentVolumeReclaimPolicy": policy}})
}

/// Annotations by which controllers note what they did for one binding.
fn is_of_the_cluster(key: &str) -> bool {
    ["pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_made_again_as_its_owner_made_it() {
        let found = json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "1", "resourceVersion": "7",
                "labels": {"app": "shop"}, "finalizers": ["kubernetes.io/pvc-protection"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "2"}],
                "annotations": {"pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/selected-node": "n1",
                    "owner": "ops"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv-1", "storageClassName": "fast",
                "volumeMode": "Filesystem", "resources": {"requests": {"storage": "1Gi"}},
                "dataSource": {"kind": "VolumeSnapshot", "name": "old", "apiGroup": GROUP}},
        });
        let made = as_made(&serde_json::from_value(found).unwrap());
        assert_eq!(made["metadata"]["annotations"], json!({"owner": "ops"}));
        assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "db");
        assert!(made["metadata"].get("uid").is_none() && made["metadata"].get("finalizers").is_none());
        let spec = &made["spec"];
        assert!(spec.get("volumeName").is_none() && spec.get("dataSource").is_none());
        let bound = bound_to(&made, "pv-2");
        assert_eq!(
            (&bound["spec"]["volumeName"], &bound["spec"]["storageClassName"]),
            (&json!("pv-2"), &json!("fast"))
        );
        serde_json::from_value::<PersistentVolumeClaim>(bound).unwrap();
    }

    #[test]
    fn a_new_claim_asks_for_what_the_old_one_had() {
        let identity = Identity {
            name: "data".to_owned(),
            namespace: "other".to_owned(),
            labels: Default::default(),
            annotations: Default::default(),
        };
        let shape = ClaimShape { size: "2Gi".into(), block: true, ..ClaimShape::default() };
        let claim: PersistentVolumeClaim = serde_json::from_value(fresh(&identity, &shape, Some("snap"))).unwrap();
        let spec = claim.spec.unwrap();
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
        assert_eq!((spec.volume_mode.as_deref(), spec.storage_class_name), (Some("Block"), None));
        assert_eq!(spec.data_source.unwrap().name, "snap");
    }
}
