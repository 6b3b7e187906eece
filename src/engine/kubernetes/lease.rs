//! Leases: at most one holder of a name at a time.
//!
//! A run, a cleanup or a restore holds the lease of its policy as long as its pod lives. A holder is dead when its pod
//! is gone or has ended: its age alone says nothing, for a run may be long and the API server away. Only a holder
//! outside of the cluster, whose process nobody can look up, is given up by age.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease as LeaseObject, LeaseSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::{
    labels::{self, Kind},
    store::{is, is_for_a_person, post},
};
use crate::engine::EngineError;

mod captures;

/// After this long without a sign of life a holder outside of the cluster is given up.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// Who holds a lease. A pod is looked up by its uid, so that a later one with the same name is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIdentity {
    /// Namespace of the pod; empty: not a pod but a process outside of the cluster.
    pub namespace: String,
    /// Its name; outside of the cluster, that of the host.
    pub name: String,
    /// Its uid; outside of the cluster, something random.
    pub uid: String,
}

/// Why a lease could not be taken, kept or given back.
#[derive(Debug, thiserror::Error)]
#[error("{operation} Lease {name} in namespace {namespace} did not go through")]
pub struct LeaseError {
    operation: &'static str,
    namespace: String,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

impl From<LeaseError> for EngineError {
    fn from(error: LeaseError) -> Self {
        let operation = error.to_string();
        match is_for_a_person(&error.source) {
            true => Self::Permanent {
                operation,
                hint: "give Mainstay's service account the rights that deploy/ names".to_owned(),
                source: Some(error.into()),
            },
            false => Self::Transient { operation, source: error.into() },
        }
    }
}

/// The leases of one namespace.
#[derive(Clone)]
pub struct Leases {
    client: Client,
    namespace: String,
}

/// A lease that this process holds, until [`Held::release`] or the end of its pod.
pub struct Held {
    leases: Leases,
    name: String,
    holder: PodIdentity,
}

impl PodIdentity {
    /// This process: the pod that the downward API names in `POD_NAMESPACE`, `POD_NAME` and `POD_UID`; else something
    /// that is unique to it.
    pub fn own() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("POD_NAMESPACE"), variable("POD_NAME"), variable("POD_UID")) {
            (Some(namespace), Some(name), Some(uid)) => Self { namespace, name, uid },
            _ => Self {
                namespace: String::new(),
                name: variable("HOSTNAME").unwrap_or_else(|| "elsewhere".to_owned()),
                uid: format!("{:016x}", rand::random::<u64>()),
            },
        }
    }

    /// Whether it is a pod, which can be looked up.
    pub fn is_pod(&self) -> bool {
        !self.namespace.is_empty()
    }

    /// As it stands in a Lease.
    fn text(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.name, self.uid)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        Some(Self { namespace: parts.next()?, name: parts.next()?, uid: parts.next()? })
    }
}

impl std::fmt::Display for PodIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_pod() {
            true => write!(formatter, "pod {}/{}", self.namespace, self.name),
            false => write!(formatter, "a process on {}", self.name),
        }
    }
}

/// Whether a pod is there and has not ended.
///
/// # Errors
/// The API server does not say.
pub async fn is_alive(client: &Client, pod: &PodIdentity) -> Result<bool, kube::Error> {
    let found = Api::<Pod>::namespaced(client.clone(), &pod.namespace).get_opt(&pod.name).await?;
    Ok(found.is_some_and(|found| {
        let phase = found.status.and_then(|status| status.phase);
        found.metadata.uid.as_deref() == Some(&pod.uid) && !matches!(phase.as_deref(), Some("Succeeded" | "Failed"))
    }))
}

impl Leases {
    /// Of Mainstay's own namespace.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into() }
    }

    /// Takes the lease of a name; `Err` in the result: who holds it.
    ///
    /// # Errors
    /// The API server does not say, or does not do it.
    pub async fn take(
        &self,
        name: &str,
        holder: &PodIdentity,
        now: Timestamp,
    ) -> Result<Result<Held, PodIdentity>, LeaseError> {
        let held = || Held { leases: self.clone(), name: name.to_owned(), holder: holder.clone() };
        match self.get(name).await? {
            None => match self.api().create(&post(), &self.object(name, holder, now, 0)).await {
                Ok(_) => Ok(Ok(held())),
                // Another process was quicker.
                Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(Err(self.holder(name).await?)),
                Err(source) => Err(self.failed("taking", name, source)),
            },
            Some(found) => {
                let spec = found.spec.clone().unwrap_or_default();
                let other =
                    spec.holder_identity.as_deref().and_then(PodIdentity::parse).filter(|other| other != holder);
                if let Some(other) = other
                    && self.holds(&other, &spec, now).await.map_err(|error| self.failed("judging", name, error))?
                {
                    return Ok(Err(other));
                }
                let mut object = self.object(name, holder, now, spec.lease_transitions.unwrap_or(0).saturating_add(1));
                // With the version that was judged: whoever took it meanwhile keeps it.
                object.metadata.resource_version = found.metadata.resource_version;
                match self.api().replace(name, &post(), &object).await {
                    Ok(_) => Ok(Ok(held())),
                    Err(error) if is(&error, |s| s.is_conflict() || s.is_not_found()) => {
                        Ok(Err(self.holder(name).await?))
                    }
                    Err(source) => Err(self.failed("taking", name, source)),
                }
            }
        }
    }

    async fn holds(&self, other: &PodIdentity, spec: &LeaseSpec, now: Timestamp) -> Result<bool, kube::Error> {
        if other.is_pod() {
            return is_alive(&self.client, other).await;
        }
        let patience = SignedDuration::try_from(GIVEN_UP_AFTER).unwrap_or(SignedDuration::MAX);
        Ok(spec.renew_time.as_ref().is_some_and(|renewed| now.duration_since(renewed.0) < patience))
    }

    async fn holder(&self, name: &str) -> Result<PodIdentity, LeaseError> {
        let found = self.get(name).await?.and_then(|found| found.spec?.holder_identity);
        Ok(found.as_deref().and_then(PodIdentity::parse).unwrap_or_else(|| PodIdentity {
            namespace: String::new(),
            name: "somewhere".to_owned(),
            uid: String::new(),
        }))
    }

    fn object(&self, name: &str, holder: &PodIdentity, now: Timestamp, transitions: i32) -> LeaseObject {
        LeaseObject {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels::labels(Kind::Run, None)),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.text()),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                lease_duration_seconds: i32::try_from(GIVEN_UP_AFTER.as_secs()).ok(),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<LeaseObject>, LeaseError> {
        self.api().get_opt(name).await.map_err(|source| self.failed("reading", name, source))
    }

    fn api(&self) -> Api<LeaseObject> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn failed(&self, operation: &'static str, name: &str, source: kube::Error) -> LeaseError {
        LeaseError { operation, namespace: self.namespace.clone(), name: name.to_owned(), source: Box::new(source) }
    }
}

impl Held {
    /// Shows that the holder still lives; a pod need not, a process outside of the cluster must, well before
    /// [`GIVEN_UP_AFTER`]. False: another process has it now, and this one must stop.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn renew(&self, now: Timestamp) -> Result<bool, LeaseError> {
        let Some(mut found) = self.leases.get(&self.name).await? else { return Ok(false) };
        let Some(spec) =
            found.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.holder.text()))
        else {
            return Ok(false);
        };
        spec.renew_time = Some(MicroTime(now));
        match self.leases.api().replace(&self.name, &post(), &found).await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, |s| s.is_conflict() || s.is_not_found()) => Ok(false),
            Err(source) => Err(self.leases.failed("renewing", &self.name, source)),
        }
    }

    /// Gives the lease back. One that is not given back is free as soon as the pod is gone.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn release(self) -> Result<(), LeaseError> {
        let Some(mut found) = self.leases.get(&self.name).await? else { return Ok(()) };
        let Some(spec) =
            found.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.holder.text()))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        match self.leases.api().replace(&self.name, &post(), &found).await {
            Err(error) if !is(&error, |s| s.is_conflict() || s.is_not_found()) => {
                Err(self.leases.failed("giving back", &self.name, error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
