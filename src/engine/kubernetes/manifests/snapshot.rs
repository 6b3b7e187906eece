//! Volume snapshots, and the temporary claims that are made from them.
//!
//! Pure. A volume snapshot that is a restore point has no owner: nothing but its expiry removes it.

use std::collections::BTreeMap;

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

/// The API group of volume snapshots.
pub const GROUP: &str = "snapshot.storage.k8s.io";

/// The kind of volume snapshots.
pub fn volume_snapshots() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshot"))
}

/// The kind of what drivers keep for them.
pub fn contents() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshotContent"),
        "volumesnapshotcontents",
    )
}

/// The kind of their classes.
pub fn classes() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1", "VolumeSnapshotClass"),
        "volumesnapshotclasses",
    )
}

/// What both kinds of objects carry.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the object.
    pub name: String,
    /// Where it is.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A volume snapshot of a claim. Without a class the driver's default class is used.
pub fn volume_snapshot(identity: &Identity, claim: &str, class: Option<&str>) -> Value {
    let mut spec = json!({"source": {"persistentVolumeClaimName": claim}});
    if let Some(class) = class {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let Identity { name, namespace, labels, annotations } = identity;
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": spec,
    })
}

/// A claim made from a volume snapshot, only to be read once.
pub fn temporary_claim(identity: &Identity, snapshot: &str, storage_class: Option<&str>, size: &str) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
        "dataSource": {"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": snapshot},
    });
    if let Some(class) = storage_class {
        spec["storageClassName"] = json!(class);
    }
    let Identity { name, namespace, labels, annotations } = identity;
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "nightly-1a2b3c-20261121-020000-s0".to_owned(),
            namespace: "shop".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_snapshot_has_no_owner_and_only_the_class_that_was_named() {
        let snapshot = volume_snapshot(&identity(), "data", None);
        assert_eq!(snapshot["spec"], json!({"source": {"persistentVolumeClaimName": "data"}}));
        assert!(snapshot["metadata"].get("ownerReferences").is_none());
        let snapshot = volume_snapshot(&identity(), "data", Some("fast"));
        assert_eq!(snapshot["spec"]["volumeSnapshotClassName"], "fast");
    }

    #[test]
    fn a_temporary_claim_comes_from_its_snapshot() {
        let claim = temporary_claim(&identity(), "snap", Some("fast"), "1Gi");
        let typed: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let spec = typed.spec.unwrap();
        assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
        assert_eq!(spec.data_source.unwrap().api_group.as_deref(), Some(GROUP));
    }

    #[test]
    fn kinds_have_the_plurals_that_the_api_server_knows() {
        assert_eq!(volume_snapshots().plural, "volumesnapshots");
        assert_eq!(classes().plural, "volumesnapshotclasses");
    }
}
