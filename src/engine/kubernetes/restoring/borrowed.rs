//! A volume snapshot of another namespace. Volume snapshots are made claims of in their own namespace only, but what the
//! driver keeps can be known under a second name: a content that never deletes it, and a volume snapshot for it.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::engine::kubernetes::{
    manifests::snapshot::{GROUP, Identity, contents, volume_snapshots},
    site::SiteError,
};

/// How long the second name may take to be ready.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How often is looked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Refuses a restore for which this account may not make a second name, before anything is begun.
///
/// # Errors
/// It may not, or the API server does not say.
pub async fn check_allowed(client: &Client, path: &str, namespace: &str) -> Result<(), SiteError> {
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        resource: Some(contents().plural),
        verb: Some("create".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let all: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = all.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| {
        SiteError::cluster("asking whether VolumeSnapshotContents may be created".to_owned(), error)
    })?;
    match answer.status.is_some_and(|status| status.allowed) {
        true => Ok(()),
        false => Err(SiteError::Refused(format!(
            "the volume snapshot {path} cannot be used in namespace {namespace}, because this account may not create \
             VolumeSnapshotContents; allow it (`restoreAcrossNamespaces` of the chart, or the component `across` of the \
             kustomization), or restore into another claim of its own namespace (`into.claims` without `into.namespace`)"
        ))),
    }
}

/// Makes what a volume snapshot (`NAMESPACE/NAME`) holds known in the namespace of `identity`, under its name.
///
/// # Errors
/// The cluster refuses, or it is not ready in time.
pub async fn borrow(client: &Client, identity: &Identity, path: &str) -> Result<(), SiteError> {
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let api_error = |operation: String| move |error| SiteError::cluster(operation, error);
    let source = snapshots(client, namespace).get(name).await;
    let source = source.map_err(api_error(format!("reading the volume snapshot {path}")))?;
    let content = source.data["status"]["boundVolumeSnapshotContentName"].as_str().unwrap_or_default().to_owned();
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &contents());
    let found = all.get(&content).await.map_err(api_error(format!("reading VolumeSnapshotContent {content}")))?;
    let [content, snapshot] = manifests(identity, &found.data).ok_or_else(|| {
        SiteError::Refused(format!("the driver says not yet what it keeps for the volume snapshot {path}; try again"))
    })?;
    let typed = |manifest: Value| {
        serde_json::from_value::<DynamicObject>(manifest).map_err(|error| {
            SiteError::Refused(format!("a manifest cannot be written ({error}); this is a defect, please report it"))
        })
    };
    let here = snapshots(client, &identity.namespace);
    all.create(&PostParams::default(), &typed(content)?)
        .await
        .map_err(api_error(format!("creating VolumeSnapshotContent {}", identity.name)))?;
    here.create(&PostParams::default(), &typed(snapshot)?)
        .await
        .map_err(api_error(format!("creating the volume snapshot {}", identity.name)))?;
    let until = Instant::now() + LIMIT;
    loop {
        let found = here.get(&identity.name).await;
        let found = found.map_err(api_error(format!("reading the volume snapshot {}", identity.name)))?;
        if found.data["status"]["readyToUse"] == true {
            return Ok(());
        }
        if Instant::now() >= until {
            let told =
                found.data["status"]["error"]["message"].as_str().unwrap_or("its driver says nothing").to_owned();
            return Err(SiteError::Refused(format!(
                "the volume snapshot {path} cannot be used in namespace {}: {told}; restore it in its own namespace \
                 (`into.claims`)",
                identity.namespace
            )));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Takes second names away again. What the driver keeps stays. One that is gone, or was never made, is no error.
///
/// # Errors
/// The cluster does not answer. One that knows no volume snapshots has none, and an account that may not remove them could
/// not make any.
pub async fn give_back(client: &Client, namespace: &str, names: &[String]) -> Result<(), SiteError> {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &contents());
    for name in names {
        for api in [&snapshots(client, namespace), &all] {
            match api.delete(name, &DeleteParams::default()).await {
                Err(error) if !is_none_there(&error) => {
                    let operation = format!("removing {name}, the second name of a volume snapshot");
                    return Err(SiteError::cluster(operation, error));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// The content, which never deletes what it stands for, and the volume snapshot for it; none: the driver has not said
/// yet what it is.
fn manifests(identity: &Identity, content: &Value) -> Option<[Value; 2]> {
    let handle = content["status"]["snapshotHandle"].as_str()?;
    let driver = content["spec"]["driver"].as_str()?;
    let Identity { name, namespace, labels, annotations } = identity;
    let mut spec = json!({
        "deletionPolicy": "Retain",
        "driver": driver,
        "source": {"snapshotHandle": handle},
        "volumeSnapshotRef": {"apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshot", "name": name, "namespace": namespace},
    });
    if let Some(class) = content["spec"]["volumeSnapshotClassName"].as_str() {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let object = |kind: &str, namespace: Option<&str>, spec: Value| {
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
            "spec": spec,
        })
    };
    let mut snapshot = json!({"source": {"volumeSnapshotContentName": name}});
    if let Some(class) = spec.get("volumeSnapshotClassName") {
        snapshot["volumeSnapshotClassName"] = class.clone();
    }
    Some([object("VolumeSnapshotContent", None, spec), object("VolumeSnapshot", Some(namespace), snapshot)])
}

fn snapshots(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &volume_snapshots())
}

fn is_none_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_name_never_deletes_what_it_stands_for() {
        let identity = Identity {
            name: "restore-1-v0".into(),
            namespace: "other".into(),
            labels: Default::default(),
            annotations: Default::default(),
        };
        let content = json!({"spec": {"driver": "d", "volumeSnapshotClassName": "fast", "deletionPolicy": "Delete"},
            "status": {"snapshotHandle": "h"}});
        let [content, snapshot] = manifests(&identity, &content).unwrap();
        assert_eq!(content["spec"]["deletionPolicy"], "Retain");
        assert_eq!(content["spec"]["source"], json!({"snapshotHandle": "h"}));
        assert_eq!(snapshot["spec"]["source"], json!({"volumeSnapshotContentName": "restore-1-v0"}));
        assert_eq!(manifests(&identity, &json!({"spec": {"driver": "d"}})), None);
    }

    #[test]
    fn who_may_not_make_second_names_has_none_to_take_away() {
        let answer = |code: u16| kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }));
        assert!(is_none_there(&answer(403)) && is_none_there(&answer(404)));
        assert!(!is_none_there(&answer(409)) && !is_none_there(&answer(500)));
    }
}
