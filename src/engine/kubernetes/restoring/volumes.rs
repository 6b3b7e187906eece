//! Volumes change their claims: the claim goes while its volume is kept, and one of the same name asks for the other.
//!
//! Each step looks at what is there first, so that all of it can be repeated after a crash, forwards and back.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::engine::kubernetes::{
    labels::FIELD_MANAGER,
    manifests::claim,
    runner::claims::ClaimError,
    site::SiteError,
    store::restores::{Swap, Volume},
};

/// How long a claim may take to go, to come or to be bound.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How often is looked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// How often a claim is made again that somebody else makes at the same time.
const MOST_TRIES: u32 = 5;
/// A volume that stays when its claim goes.
const RETAIN: &str = "Retain";

/// A claim with its volume.
///
/// # Errors
/// The claim is not bound, or the API server does not say.
pub async fn bound(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<(PersistentVolumeClaim, PersistentVolume), SiteError> {
    let found = get(client, namespace, name)
        .await?
        .ok_or_else(|| ClaimError::Missing { claim: name.to_owned(), namespace: namespace.to_owned() })?;
    let phase = found.status.as_ref().and_then(|status| status.phase.clone());
    let unbound = |phase: Option<String>| ClaimError::Unbound {
        claim: name.to_owned(),
        phase: phase.unwrap_or_else(|| "Pending".to_owned()),
    };
    let volume = found.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let Some(volume) = volume.filter(|_| phase.as_deref() == Some("Bound")) else { return Err(unbound(phase).into()) };
    match volume_of(client, &volume).await? {
        Some(volume) => Ok((found, volume)),
        None => Err(unbound(Some("Lost".to_owned())).into()),
    }
}

/// A claim; none: there is none.
///
/// # Errors
/// The API server does not say.
pub async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, SiteError> {
    let found = claims(client, namespace).get_opt(name).await;
    found.map_err(|error| SiteError::cluster(format!("reading claim {name} in namespace {namespace}"), error))
}

/// A class; none: there is none, or classes may not be looked at.
pub async fn class(client: &Client, name: &str) -> Result<Option<StorageClass>, SiteError> {
    let found = Api::<StorageClass>::all(client.clone()).get_opt(name).await;
    found.map_err(|error| SiteError::cluster(format!("reading StorageClass {name}"), error))
}

/// Makes a claim. One that is there already is an error.
///
/// # Errors
/// The API server refuses.
pub async fn make(client: &Client, namespace: &str, manifest: &Value) -> Result<(), SiteError> {
    let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let created = claims(client, namespace).create(&PostParams::default(), &typed(manifest)?).await;
    created
        .map(|_| ())
        .map_err(|error| SiteError::cluster(format!("creating claim {name} in namespace {namespace}"), error))
}

/// Gives the claim its new volume. The old one is kept, without a claim.
///
/// # Errors
/// The cluster refuses, or something does not come about in time.
pub async fn forward(client: &Client, swap: &Swap) -> Result<(), SiteError> {
    let Some(new) = &swap.new else {
        return Err(SiteError::Refused(format!("the new volume of claim {} is not there", swap.claim)));
    };
    if let Some(old) = &swap.old {
        keep(client, &old.name).await?;
    }
    keep(client, &new.name).await?;
    remove(client, &swap.namespace, &swap.beside).await?;
    bind(client, swap, &new.name).await
}

/// Gives the claim its old volume again. The new one is kept, without a claim.
///
/// # Errors
/// The cluster refuses, or something does not come about in time.
pub async fn back(client: &Client, swap: &Swap) -> Result<(), SiteError> {
    if let Some(new) = &swap.new {
        keep(client, &new.name).await?;
    }
    match &swap.old {
        Some(old) => {
            keep(client, &old.name).await?;
            bind(client, swap, &old.name).await
        }
        None => remove(client, &swap.namespace, &swap.claim).await,
    }
}

/// How a restore ended for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A workload became ready on the new volume: the former one may go.
    Proven,
    /// The new volume is in use, and nothing was there to prove it: the former one stays.
    Unproven,
    /// The former volume is in use again: the new one may go.
    TakenBack,
}

/// Ends the keeping of both volumes: the one that is used gets its former reclaim policy, and the other one goes if it
/// would have gone with its claim, but for a former one in the place of which nothing was proven.
///
/// # Errors
/// The cluster refuses.
pub async fn settle(client: &Client, swap: &Swap, ending: Ending) -> Result<(), SiteError> {
    let (used, other) = match (ending, &swap.new, &swap.old) {
        (Ending::Proven, Some(new), old) => (Some(new), old.as_ref()),
        (Ending::Unproven, Some(new), _) => (Some(new), None),
        (Ending::Proven | Ending::Unproven, None, old) => (old.as_ref(), None),
        (Ending::TakenBack, new, old) => (old.as_ref(), new.as_ref()),
    };
    if let Some(used) = used {
        // What becomes of the data with its claim stays as its owner chose it.
        let reclaim = swap.old.as_ref().map_or(&used.reclaim, |old| &old.reclaim);
        set_reclaim(client, &used.name, reclaim).await?;
    }
    remove(client, &swap.namespace, &swap.beside).await?;
    if let Some(other) = other {
        set_reclaim(client, &other.name, &other.reclaim).await?;
    }
    Ok(())
}

/// Removes a claim and waits until it is gone. One that is gone is no error.
///
/// # Errors
/// It stays: a pod uses it.
pub async fn remove(client: &Client, namespace: &str, name: &str) -> Result<(), SiteError> {
    let Some(found) = get(client, namespace, name).await? else { return Ok(()) };
    let uid = found.metadata.uid.clone();
    if found.metadata.deletion_timestamp.is_none() {
        let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match claims(client, namespace).delete(name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                return Err(SiteError::cluster(format!("deleting claim {name} in namespace {namespace}"), error));
            }
        }
    }
    let until = Instant::now() + LIMIT;
    loop {
        match get(client, namespace, name).await? {
            Some(found) if found.metadata.uid == uid => {}
            Some(_) | None => return Ok(()),
        }
        if Instant::now() >= until {
            return Err(SiteError::Refused(format!(
                "claim {name} in namespace {namespace} does not go: a pod still uses it; see `kubectl describe pvc {name}`"
            )));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// A volume with the policy by which it is reclaimed.
pub fn described(volume: &PersistentVolume) -> Volume {
    let spec = volume.spec.clone().unwrap_or_default();
    Volume {
        name: volume.metadata.name.clone().unwrap_or_default(),
        reclaim: spec.persistent_volume_reclaim_policy.unwrap_or_else(|| RETAIN.to_owned()),
    }
}

/// Makes the claim again so that it has this volume.
async fn bind(client: &Client, swap: &Swap, volume: &str) -> Result<(), SiteError> {
    let (namespace, name) = (&swap.namespace, &swap.claim);
    for attempt in 1.. {
        let found = get(client, namespace, name).await?;
        let its = found.as_ref().and_then(|found| found.spec.as_ref()?.volume_name.clone());
        let goes = found.as_ref().is_some_and(|found| found.metadata.deletion_timestamp.is_some());
        if its.as_deref() == Some(volume) && !goes {
            return wait_bound(client, namespace, name).await;
        }
        if found.is_some() {
            if let Some(its) = &its {
                keep(client, its).await?;
            }
            remove(client, namespace, name).await?;
        }
        let patch = claim::waits_for(namespace, name);
        patch_volume(client, volume, &patch).await?;
        let manifest = typed(&claim::bound_to(&swap.made, volume))?;
        match claims(client, namespace).create(&PostParams::default(), &manifest).await {
            Ok(_) => return wait_bound(client, namespace, name).await,
            // Somebody who applies manifests made it in between, with no volume or another one.
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < MOST_TRIES => {}
            Err(error) => {
                return Err(SiteError::cluster(format!("creating claim {name} in namespace {namespace}"), error));
            }
        }
    }
    Ok(())
}

/// Waits until a claim is bound.
///
/// # Errors
/// It is not in time.
pub async fn wait_bound(client: &Client, namespace: &str, name: &str) -> Result<(), SiteError> {
    let until = Instant::now() + LIMIT;
    loop {
        let phase = get(client, namespace, name).await?.and_then(|found| found.status?.phase);
        if phase.as_deref() == Some("Bound") {
            return Ok(());
        }
        if Instant::now() >= until {
            let phase = phase.unwrap_or_else(|| "gone".to_owned());
            return Err(SiteError::Refused(format!(
                "claim {name} in namespace {namespace} is {phase} and not Bound after {} s; see `kubectl describe pvc {name}`",
                LIMIT.as_secs()
            )));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Keeps a volume whatever becomes of its claim. One that is gone is left to whoever needs it.
async fn keep(client: &Client, volume: &str) -> Result<(), SiteError> {
    set_reclaim(client, volume, RETAIN).await
}

async fn set_reclaim(client: &Client, volume: &str, policy: &str) -> Result<(), SiteError> {
    let Some(found) = volume_of(client, volume).await? else { return Ok(()) };
    if described(&found).reclaim == policy {
        return Ok(());
    }
    patch_volume(client, volume, &claim::reclaim(policy)).await
}

async fn patch_volume(client: &Client, volume: &str, patch: &Value) -> Result<(), SiteError> {
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = Api::<PersistentVolume>::all(client.clone()).patch(volume, &parameters, &Patch::Merge(patch)).await;
    patched.map(|_| ()).map_err(|error| SiteError::cluster(format!("changing PersistentVolume {volume}"), error))
}

async fn volume_of(client: &Client, volume: &str) -> Result<Option<PersistentVolume>, SiteError> {
    let found = Api::<PersistentVolume>::all(client.clone()).get_opt(volume).await;
    found.map_err(|error| SiteError::cluster(format!("reading PersistentVolume {volume}"), error))
}

fn claims(client: &Client, namespace: &str) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), namespace)
}

fn typed(manifest: &Value) -> Result<PersistentVolumeClaim, SiteError> {
    serde_json::from_value(manifest.clone()).map_err(|error| {
        SiteError::Refused(format!(
            "the manifest of a claim cannot be written ({error}); this is a defect, please report it"
        ))
    })
}
