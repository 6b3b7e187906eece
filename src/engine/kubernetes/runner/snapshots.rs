//! Volume snapshots: taken, waited for, read through a temporary claim, and removed.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
use tokio::time::Instant;

use super::claims::Claim;
use crate::engine::{
    kubernetes::manifests::snapshot::{self as manifest, Identity},
    process::Stop,
};

/// How long a volume snapshot may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How often is looked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// A class that says it is the one to use.
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// For tests: a shorter limit, in seconds.
const LIMIT_VARIABLE: &str = "MAINSTAY_SNAPSHOT_SECONDS";

/// A volume snapshot that is ready.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its name.
    pub name: String,
    /// How large a claim made from it must be, as Kubernetes writes it; none: the driver does not say.
    pub restore_size: Option<String>,
}

/// Why there is no volume snapshot, or no claim from it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The API server refused, or did not answer.
    #[error("{operation} did not go through")]
    Api {
        /// What was tried.
        operation: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The cluster has no volume snapshots.
    #[error(
        "this cluster knows no VolumeSnapshots; install the CSI snapshot controller with its definitions, or use `method: Files`"
    )]
    NoApi,
    /// The named class is not there.
    #[error(
        "there is no VolumeSnapshotClass {class}; correct `snapshotClass`, or create it (`kubectl get volumesnapshotclass`)"
    )]
    NoClass {
        /// Which.
        class: String,
    },
    /// No class is the default.
    #[error(
        "no VolumeSnapshotClass is the default one; name one as `snapshotClass`, or annotate one with {DEFAULT_CLASS}=true"
    )]
    NoDefaultClass,
    /// It was not ready in time.
    #[error(
        "the volume snapshot {name} of claim {claim} was not ready after {seconds} s{told}; look at it, and at the CSI driver's log"
    )]
    NeverReady {
        /// The volume snapshot.
        name: String,
        /// Of which claim.
        claim: String,
        /// How long was waited.
        seconds: u64,
        /// What the driver said, or nothing.
        told: String,
    },
    /// It is gone.
    #[error("the volume snapshot {name} was deleted while it was made")]
    Gone {
        /// Which.
        name: String,
    },
    /// The run was asked to stop.
    #[error("the run was asked to stop while the volume snapshot {name} was made")]
    Stopped {
        /// Which.
        name: String,
    },
    /// A manifest of ours is none.
    #[error("the manifest of {name} cannot be written; this is a defect of Mainstay, please report it")]
    Manifest {
        /// Of what.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Takes a volume snapshot of a claim and waits until it is ready. One that does not become ready is removed.
///
/// # Errors
/// See [`SnapshotError`].
pub async fn take(
    client: &Client,
    identity: &Identity,
    claim: &str,
    class: Option<&str>,
    limit: Duration,
    stop: Option<&Stop>,
) -> Result<Ready, SnapshotError> {
    check_class(client, class).await?;
    let name = &identity.name;
    let object: DynamicObject = serde_json::from_value(manifest::volume_snapshot(identity, claim, class))
        .map_err(|source| SnapshotError::Manifest { name: name.clone(), source })?;
    let api = snapshots(client, &identity.namespace);
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(SnapshotError::NoApi),
        Err(source) => return Err(api_error(format!("creating the volume snapshot {name}"), source)),
    }
    let result = wait(&api, name, claim, limit, stop).await;
    if result.is_err() {
        remove(client, &identity.namespace, name).await;
    }
    result
}

async fn wait(
    api: &Api<DynamicObject>,
    name: &str,
    claim: &str,
    limit: Duration,
    stop: Option<&Stop>,
) -> Result<Ready, SnapshotError> {
    let asked = std::env::var(LIMIT_VARIABLE).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let limit = limit.min(asked.unwrap_or(READY_LIMIT));
    let until = Instant::now() + limit;
    loop {
        let found = api.get_opt(name).await;
        let found = found.map_err(|source| api_error(format!("reading the volume snapshot {name}"), source))?;
        let found = found.ok_or_else(|| SnapshotError::Gone { name: name.to_owned() })?;
        if found.data["status"]["readyToUse"] == true {
            let restore_size = found.data["status"]["restoreSize"].as_str().map(str::to_owned);
            return Ok(Ready { name: name.to_owned(), restore_size });
        }
        if stop.is_some_and(|stop| *stop.borrow()) {
            return Err(SnapshotError::Stopped { name: name.to_owned() });
        }
        if Instant::now() >= until {
            // Drivers report what passes, too: it is told only when the time is over.
            let told =
                found.data["status"]["error"]["message"].as_str().map_or(String::new(), |text| format!(": {text}"));
            let (name, claim) = (name.to_owned(), claim.to_owned());
            return Err(SnapshotError::NeverReady { name, claim, seconds: limit.as_secs(), told });
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Looks whether there is a class, because a snapshot without one would only never be ready. Where classes may not be
/// looked at, this is left to the snapshot controller.
async fn check_class(client: &Client, class: Option<&str>) -> Result<(), SnapshotError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &manifest::classes());
    match class {
        Some(class) => match api.get_opt(class).await {
            Ok(Some(_)) | Err(_) => Ok(()),
            Ok(None) => Err(SnapshotError::NoClass { class: class.to_owned() }),
        },
        None => match api.list(&ListParams::default()).await {
            Ok(listed) => {
                let is_default = |class: &DynamicObject| {
                    let annotations = class.metadata.annotations.as_ref();
                    annotations.and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
                };
                match listed.items.iter().any(is_default) {
                    true => Ok(()),
                    false => Err(SnapshotError::NoDefaultClass),
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Err(SnapshotError::NoApi),
            Err(_) => Ok(()),
        },
    }
}

/// Makes a claim from a volume snapshot, to be read once.
///
/// # Errors
/// The API server refuses.
pub async fn temporary_claim(
    client: &Client,
    identity: &Identity,
    snapshot: &Ready,
    claim: &Claim,
) -> Result<(), SnapshotError> {
    // A claim that was enlarged after the snapshot, and one that the driver rounded up: the larger of the two fits.
    let size = larger(&claim.size, snapshot.restore_size.as_deref());
    let manifest = manifest::temporary_claim(identity, &snapshot.name, claim.storage_class.as_deref(), &size);
    let object: PersistentVolumeClaim = serde_json::from_value(manifest)
        .map_err(|source| SnapshotError::Manifest { name: identity.name.clone(), source })?;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &identity.namespace);
    let created = api.create(&PostParams::default(), &object).await;
    created.map_err(|source| api_error(format!("creating the temporary claim {}", identity.name), source)).map(|_| ())
}

/// Removes a temporary claim. One that stays is found by its label by the next run.
pub async fn remove_claim(client: &Client, namespace: &str, name: &str) {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = api.delete(name, &DeleteParams::default()).await {
        tracing::debug!(claim = name, namespace, "a temporary claim was not removed: {error}");
    }
}

/// Removes a volume snapshot. One that stays is found by its label by the next run.
pub async fn remove(client: &Client, namespace: &str, name: &str) {
    if let Err(error) = snapshots(client, namespace).delete(name, &DeleteParams::default()).await {
        tracing::debug!(snapshot = name, namespace, "a volume snapshot was not removed: {error}");
    }
}

/// Deletes volume snapshots that are restore points no longer. Those that are gone are no error.
///
/// # Errors
/// The API server refuses.
pub async fn forget(client: &Client, snapshots_by_path: &[String]) -> Result<usize, SnapshotError> {
    let mut count = 0;
    for path in snapshots_by_path {
        let Some((namespace, name)) = path.split_once('/') else { continue };
        match snapshots(client, namespace).delete(name, &DeleteParams::default()).await {
            Ok(_) => count += 1,
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(api_error(format!("deleting the volume snapshot {path}"), source)),
        }
    }
    Ok(count)
}

/// The volume snapshots of a namespace with these labels.
///
/// # Errors
/// The API server refuses. A cluster that knows no volume snapshots has none.
pub async fn list(client: &Client, namespace: &str, selector: &str) -> Result<Vec<DynamicObject>, SnapshotError> {
    match snapshots(client, namespace).list(&ListParams::default().labels(selector)).await {
        Ok(listed) => Ok(listed.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => Err(api_error(format!("listing the volume snapshots of namespace {namespace}"), source)),
    }
}

/// The bytes of a size as Kubernetes writes it; 0: it says none.
pub fn bytes(size: Option<&str>) -> u64 {
    let Some(text) = size else { return 0 };
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let units: BTreeMap<&str, f64> = BTreeMap::from([
        ("", 1.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
    ]);
    let number: f64 = number.parse().unwrap_or(0.0);
    units.get(unit).map_or(0, |factor| (number * factor) as u64)
}

fn larger(one: &str, other: Option<&str>) -> String {
    match other {
        Some(other) if bytes(Some(other)) > bytes(Some(one)) => other.to_owned(),
        Some(_) | None => one.to_owned(),
    }
}

fn snapshots(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &manifest::volume_snapshots())
}

fn api_error(operation: String, source: kube::Error) -> SnapshotError {
    SnapshotError::Api { operation, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_claim_is_as_large_as_the_larger_of_the_two() {
        assert_eq!(larger("1Gi", Some("2Gi")), "2Gi");
        assert_eq!(larger("1Gi", Some("1073741824")), "1Gi");
        assert_eq!(larger("1Gi", None), "1Gi");
        assert_eq!(bytes(Some("1.5k")), 1500);
        assert_eq!(bytes(Some("5Ei?")), 0);
    }
}
