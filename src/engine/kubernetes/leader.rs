//! Which daemon works: the one that holds the Lease. All others wait.
//!
//! The one at work renews it every few seconds. It stops by its own clock well before another may take over, so two
//! never write at once, whatever happens to either or to the network between them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    labels::{self, Kind},
    lease::{PodIdentity, is_alive},
    names::LEADER_LEASE,
    store::{is, post},
};
use crate::engine::EngineError;

/// After this long without a renewal another daemon takes over.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the daemon at work stops working. What is under way then ends within the rest.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is renewed, and how often those that wait look.
const RENEW: Duration = Duration::from_secs(4);

/// The right to write, as long as it lasts. Shared by everything that writes for the daemon.
#[derive(Debug, Clone)]
pub struct Fence(Arc<Mutex<Instant>>);

impl Fence {
    fn until(deadline: Instant) -> Self {
        Self(Arc::new(Mutex::new(deadline)))
    }

    /// Whether this daemon may write now.
    ///
    /// # Errors
    /// It could not renew its lease in time, so another may be at work.
    pub fn check(&self, operation: &str) -> Result<(), EngineError> {
        let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < deadline {
            return Ok(());
        }
        Err(EngineError::Transient {
            operation: operation.to_owned(),
            source: "this daemon could not renew its lease, and another may be at work".into(),
        })
    }

    fn extend(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// The lease as this daemon holds it, renewed in the background.
pub struct Leadership {
    /// The right to write.
    pub fence: Fence,
    /// Becomes true when the lease is lost for good.
    pub lost: watch::Receiver<bool>,
    api: Api<Lease>,
    identity: String,
    task: tokio::task::JoinHandle<()>,
}

impl Leadership {
    /// Waits until this daemon is the one at work. The future can be dropped at any time.
    pub async fn wait(client: &Client, namespace: &str, own: &PodIdentity) -> Self {
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let identity = format!("{}/{}/{}", own.namespace, own.name, own.uid);
        // What another wrote last, and since when by our own clock it has not changed: clocks may differ.
        let mut seen: Option<(LeaseSpec, Instant)> = None;
        let mut is_told = false;
        loop {
            let began = Instant::now();
            match attempt(client, &api, &identity, &mut seen).await {
                Ok(None) => {
                    let fence = Fence::until(began + DEADLINE);
                    let (sender, lost) = watch::channel(false);
                    let task = tokio::spawn(keep(api.clone(), identity.clone(), fence.clone(), sender));
                    return Self { fence, lost, api, identity, task };
                }
                Ok(Some(holder)) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::info!(%holder, "another daemon is at work; waiting");
                    }
                }
                Err(error) => {
                    tracing::warn!(reason = crate::engine::chain(&error), "the lease cannot be taken; trying again")
                }
            }
            sleep(RENEW.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        }
    }

    /// Gives the lease back, so that another daemon need not wait.
    pub async fn release(self) {
        self.task.abort();
        self.fence.extend(Instant::now());
        let Ok(Some(mut lease)) = self.api.get_opt(LEADER_LEASE).await else { return };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) {
            spec.holder_identity = None;
            // Another may be quicker; then there is nothing to give back.
            let _ = self.api.replace(LEADER_LEASE, &post(), &lease).await;
        }
    }
}

/// One try; the result is who holds it, none: this daemon.
async fn attempt(
    client: &Client,
    api: &Api<Lease>,
    identity: &str,
    seen: &mut Option<(LeaseSpec, Instant)>,
) -> Result<Option<String>, kube::Error> {
    let Some(found) = api.get_opt(LEADER_LEASE).await? else {
        return match api.create(&post(), &lease(identity, None)).await {
            Ok(_) => Ok(None),
            Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(Some("another".to_owned())),
            Err(error) => Err(error),
        };
    };
    let spec = found.spec.clone().unwrap_or_default();
    if let Some(holder) = spec.holder_identity.clone().filter(|holder| holder != identity) {
        let since = match seen {
            Some((known, since)) if *known == spec => *since,
            _ => seen.insert((spec.clone(), Instant::now())).1,
        };
        // A pod that is gone, or has ended, writes nothing any more: nobody need wait for its lease to run out.
        let is_gone = match pod(&holder) {
            Some(pod) => !is_alive(client, &pod).await?,
            None => false,
        };
        if !is_gone && since.elapsed() < DURATION {
            return Ok(Some(holder));
        }
    }
    match api.replace(LEADER_LEASE, &post(), &lease(identity, Some(&found))).await {
        Ok(_) => Ok(None),
        Err(error) if is(&error, |s| s.is_conflict() || s.is_not_found()) => Ok(Some("another".to_owned())),
        Err(error) => Err(error),
    }
}

/// Renews the lease until it is lost.
async fn keep(api: Api<Lease>, identity: String, fence: Fence, lost: watch::Sender<bool>) {
    loop {
        sleep(RENEW).await;
        let began = Instant::now();
        match tokio::time::timeout(RENEW, renew(&api, &identity)).await {
            Ok(Ok(true)) => fence.extend(began + DEADLINE),
            Ok(Ok(false)) => break,
            Ok(Err(error)) => tracing::warn!(reason = crate::engine::chain(&error), "the lease could not be renewed"),
            Err(_) => tracing::warn!("the lease could not be renewed in time"),
        }
        if fence.check("renewing").is_err() {
            break;
        }
    }
    fence.extend(Instant::now());
    tracing::error!("this daemon lost its lease, and writes nothing any more");
    let _ = lost.send(true);
}

async fn renew(api: &Api<Lease>, identity: &str) -> Result<bool, kube::Error> {
    let Some(found) = api.get_opt(LEADER_LEASE).await? else { return Ok(false) };
    let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    if holder != Some(identity) {
        return Ok(false);
    }
    match api.replace(LEADER_LEASE, &post(), &lease(identity, Some(&found))).await {
        Ok(_) => Ok(true),
        Err(error) if is(&error, |s| s.is_conflict() || s.is_not_found()) => Ok(false),
        Err(error) => Err(error),
    }
}

fn lease(identity: &str, before: Option<&Lease>) -> Lease {
    let now = MicroTime(Timestamp::now());
    let spec = before.and_then(|before| before.spec.clone()).unwrap_or_default();
    let is_same = spec.holder_identity.as_deref() == Some(identity);
    Lease {
        metadata: ObjectMeta {
            name: Some(LEADER_LEASE.to_owned()),
            labels: Some(labels::labels(Kind::Memory, None)),
            resource_version: before.and_then(|before| before.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            acquire_time: if is_same { spec.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_same)),
            ..LeaseSpec::default()
        }),
    }
}

/// The pod in a holder's identity; none: it is no pod.
fn pod(holder: &str) -> Option<PodIdentity> {
    let mut parts = holder.splitn(3, '/').map(str::to_owned);
    let pod = PodIdentity { namespace: parts.next()?, name: parts.next()?, uid: parts.next()? };
    pod.is_pod().then_some(pod)
}
