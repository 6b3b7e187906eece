//! Making a workload still: scaled to 0, with the count that it had on the workload itself, and back on every path.
//!
//! The count, the mark of who stopped it and the 0 are one patch, bound to the version that was looked at: no crash
//! and no autoscaler in between can lose the count. A label on the workload lets any guard find it, even if every
//! record of the run is gone.
//!
//! A HorizontalPodAutoscaler leaves a workload with 0 replicas alone (its condition ScalingActive says ScalingDisabled) and
//! goes on as soon as there are some again.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::engine::kubernetes::{labels, store::StoppedWorkload};

mod found;

use found::{ready, recorded, remark, replicas, selector, start_patch, started, stop_patch};

/// Label on a workload that is stopped: guards look for it.
pub const STOPPED: &str = "mainstay.dev/stopped";
/// How often a change is tried while others change the workload.
const MOST_TRIES: u32 = 8;
/// How often is looked whether pods are gone, or ready.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What can be scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
}

/// A workload, as documents name it: `Deployment/shop`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// What came of the wish to give a workload its replicas back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// All of them are ready.
    Ready,
    /// There are none that could be: it is gone, somebody else keeps it stopped, or somebody scaled it to 0.
    Without,
}

/// Why a workload could not be looked at, stopped or started.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The API server refused, or did not answer.
    #[error("{operation} did not go through")]
    Api {
        /// What was tried, with its object.
        operation: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// It is not a name of the right form.
    #[error("`{0}` names no workload that can be stopped; write Deployment/NAME or StatefulSet/NAME")]
    Name(String),
    /// There is no such workload.
    #[error("there is no {workload} in namespace {namespace}; correct its name in the document")]
    Missing {
        /// Which.
        workload: String,
        /// Where.
        namespace: String,
    },
    /// Scaling it down deletes its claims.
    #[error(
        "{workload} is not stopped: its claims would be deleted with its pods; set \
         `persistentVolumeClaimRetentionPolicy.whenScaled` to Retain in it"
    )]
    ClaimsWouldGo {
        /// Which.
        workload: String,
    },
    /// Somebody else stopped it.
    #[error("{workload} was stopped by {owner}, and is not started again yet")]
    StoppedByOther {
        /// Which.
        workload: String,
        /// The run that did, as POLICY/RUN.
        owner: String,
    },
    /// Others change it all the time.
    #[error("{workload} was changed by others {MOST_TRIES} times in a row; try again")]
    Busy {
        /// Which.
        workload: String,
    },
    /// Its pods stay.
    #[error("the pods of {workload} are not gone after {seconds} s: {pods}; look why with `kubectl describe pod`")]
    NotGone {
        /// Which.
        workload: String,
        /// How long was waited.
        seconds: u64,
        /// Which pods are left.
        pods: String,
    },
    /// Its pods do not become ready.
    #[error(
        "{workload} was scaled to {replicas} again, but only {ready} of them are ready after {seconds} s; look at its pods"
    )]
    NotReady {
        /// Which.
        workload: String,
        /// How many there should be.
        replicas: i64,
        /// How many are.
        ready: i64,
        /// How long was waited.
        seconds: u64,
    },
    /// It did not stay stopped.
    #[error("{workload} was scaled to {replicas} during the copy, so the copy is not a cold one{advice}")]
    Awake {
        /// Which.
        workload: String,
        /// To how many.
        replicas: i64,
        /// Who may have done it.
        advice: String,
    },
}

impl WorkloadError {
    /// For a request that failed.
    pub fn api(operation: String, source: kube::Error) -> Self {
        Self::Api { operation, source: Box::new(source) }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.name)
    }
}

impl std::str::FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let wrong = || WorkloadError::Name(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "deployment" => WorkloadKind::Deployment,
            "statefulset" => WorkloadKind::StatefulSet,
            _ => return Err(wrong()),
        };
        if name.is_empty() || name.contains('/') { Err(wrong()) } else { Ok(Self { kind, name: name.to_owned() }) }
    }
}

impl Workload {
    /// The workload as the cluster has it.
    ///
    /// # Errors
    /// There is none, or the API server does not say.
    pub async fn get(&self, client: &Client, namespace: &str) -> Result<DynamicObject, WorkloadError> {
        let found = api(client, namespace, self.kind).get_opt(&self.name).await;
        let found = found.map_err(|source| WorkloadError::api(format!("reading {self}"), source))?;
        found.ok_or_else(|| WorkloadError::Missing { workload: self.to_string(), namespace: namespace.to_owned() })
    }

    /// The label selector of its pods.
    ///
    /// # Errors
    /// There is no such workload, or the API server does not say.
    pub async fn selector(&self, client: &Client, namespace: &str) -> Result<String, WorkloadError> {
        Ok(selector(&self.get(client, namespace).await?.data["spec"]["selector"]))
    }

    /// How it is put down before it is stopped; none: it has no replicas, so there is nothing to stop.
    ///
    /// # Errors
    /// As for [`Workload::get`]; or another run stopped it.
    pub async fn before_stop(
        &self,
        client: &Client,
        namespace: &str,
        owner: &str,
    ) -> Result<Option<StoppedWorkload>, WorkloadError> {
        let found = self.get(client, namespace).await?;
        self.check_claims_stay(&found)?;
        let replicas = match recorded(&found) {
            Some((by, replicas)) if by == owner => replicas,
            Some((by, _)) => return Err(WorkloadError::StoppedByOther { workload: self.to_string(), owner: by }),
            None => replicas(&found),
        };
        Ok((replicas > 0).then(|| StoppedWorkload {
            kind: self.kind.to_string(),
            namespace: namespace.to_owned(),
            name: self.name.clone(),
            replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
            attempted_at: None,
        }))
    }

    /// A StatefulSet may ask for its claims to be deleted when it is scaled down: then to stop it is to lose the data.
    fn check_claims_stay(&self, found: &DynamicObject) -> Result<(), WorkloadError> {
        match found.data["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"].as_str() {
            Some("Delete") => Err(WorkloadError::ClaimsWouldGo { workload: self.to_string() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Scales it to 0 and waits until its pods are really gone. Returns what a person should know.
    ///
    /// # Errors
    /// It cannot be scaled, or its pods stay.
    pub async fn stop(
        &self,
        client: &Client,
        namespace: &str,
        owner: &str,
        limit: Duration,
    ) -> Result<Option<String>, WorkloadError> {
        let mut found = self.get(client, namespace).await?;
        for attempt in 0.. {
            if recorded(&found).is_some() {
                break;
            }
            let patch = stop_patch(&found, owner);
            match self.patch(client, namespace, &patch).await {
                Ok(patched) => {
                    found = patched;
                    break;
                }
                Err(error) if is_conflict(&error) && attempt < MOST_TRIES => {
                    found = self.get(client, namespace).await?
                }
                Err(error) if is_conflict(&error) => return Err(WorkloadError::Busy { workload: self.to_string() }),
                Err(source) => return Err(WorkloadError::api(format!("scaling {self} to 0"), source)),
            }
        }
        self.wait_until_gone(client, namespace, &found, limit).await?;
        Ok(remark(self, &found))
    }

    async fn wait_until_gone(
        &self,
        client: &Client,
        namespace: &str,
        found: &DynamicObject,
        limit: Duration,
    ) -> Result<(), WorkloadError> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let parameters = ListParams::default().labels(&selector(&found.data["spec"]["selector"]));
        let until = Instant::now() + limit;
        loop {
            let listed = pods.list(&parameters).await;
            let listed = listed.map_err(|source| WorkloadError::api(format!("listing the pods of {self}"), source))?;
            // A pod that has ended holds no file open, but its volumes may still be mounted: only gone is gone.
            let left: Vec<String> = listed.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let (workload, seconds) = (self.to_string(), limit.as_secs());
                return Err(WorkloadError::NotGone { workload, seconds, pods: left.join(", ") });
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Looks whether it is still stopped.
    ///
    /// # Errors
    /// It is not, or the API server does not say.
    pub async fn check_still(&self, client: &Client, namespace: &str) -> Result<(), WorkloadError> {
        let found = self.get(client, namespace).await?;
        match replicas(&found) {
            0 => Ok(()),
            replicas => {
                let advice = remark(self, &found).map_or(String::new(), |remark| format!("; {remark}"));
                Err(WorkloadError::Awake { workload: self.to_string(), replicas, advice })
            }
        }
    }

    /// Gives it the replicas back that it had, and waits until they are ready. One that nobody stopped, or that is gone,
    /// is left as it is; one that somebody scaled meanwhile keeps that count.
    ///
    /// # Errors
    /// It cannot be scaled, or does not become ready.
    pub async fn start(
        &self,
        client: &Client,
        namespace: &str,
        owner: &str,
        limit: Duration,
    ) -> Result<Started, WorkloadError> {
        let mut found = match self.get(client, namespace).await {
            Err(WorkloadError::Missing { .. }) => return Ok(Started::Without),
            other => other?,
        };
        for attempt in 0.. {
            match recorded(&found) {
                Some((by, _)) if by == owner => {}
                Some(_) => return Ok(Started::Without),
                None => break,
            }
            match self.patch(client, namespace, &start_patch(&found)).await {
                Ok(patched) => {
                    found = patched;
                    break;
                }
                Err(error) if is_conflict(&error) && attempt < MOST_TRIES => {
                    found = self.get(client, namespace).await?
                }
                Err(error) if is_conflict(&error) => return Err(WorkloadError::Busy { workload: self.to_string() }),
                Err(source) => return Err(WorkloadError::api(format!("scaling {self} back"), source)),
            }
        }
        self.wait_until_ready(client, namespace, found, limit).await
    }

    async fn wait_until_ready(
        &self,
        client: &Client,
        namespace: &str,
        mut found: DynamicObject,
        limit: Duration,
    ) -> Result<Started, WorkloadError> {
        let until = Instant::now() + limit;
        loop {
            if let Some(started) = started(&found) {
                return Ok(started);
            }
            if Instant::now() >= until {
                let (workload, seconds) = (self.to_string(), limit.as_secs());
                return Err(WorkloadError::NotReady {
                    workload,
                    replicas: replicas(&found),
                    ready: ready(&found),
                    seconds,
                });
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            found = match self.get(client, namespace).await {
                Err(WorkloadError::Missing { .. }) => return Ok(Started::Without),
                other => other?,
            };
        }
    }

    async fn patch(&self, client: &Client, namespace: &str, patch: &Value) -> Result<DynamicObject, kube::Error> {
        let parameters =
            PatchParams { field_manager: Some(labels::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api(client, namespace, self.kind).patch(&self.name, &parameters, &Patch::Merge(patch)).await
    }
}

/// The workloads of a namespace that are stopped just now, each with the run that did it.
///
/// # Errors
/// The API server does not say.
pub async fn stopped(client: &Client, namespace: &str) -> Result<Vec<(StoppedWorkload, String)>, WorkloadError> {
    let mut all = Vec::new();
    for kind in [WorkloadKind::Deployment, WorkloadKind::StatefulSet] {
        let listed = api(client, namespace, kind).list(&ListParams::default().labels(STOPPED)).await;
        let operation = || format!("listing the stopped {kind}s of namespace {namespace}");
        let listed = listed.map_err(|source| WorkloadError::api(operation(), source))?;
        for found in listed.items {
            let Some((owner, replicas)) = recorded(&found) else { continue };
            let stopped = StoppedWorkload {
                kind: kind.to_string(),
                namespace: found.metadata.namespace.clone().unwrap_or_default(),
                name: found.metadata.name.clone().unwrap_or_default(),
                replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
                attempted_at: None,
            };
            all.push((stopped, owner));
        }
    }
    Ok(all)
}

fn resource(kind: WorkloadKind) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", &kind.to_string()))
}

fn api(client: &Client, namespace: &str, kind: WorkloadKind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests;
