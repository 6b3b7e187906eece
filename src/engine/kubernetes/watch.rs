//! The watches that fill the index: one for each kind, and no list while they last.
//!
//! A watch that breaks goes on from where it was; where the API server forgot that (410 Gone) it tells everything anew.
//! Both happen without us, with pauses that grow.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::CronJob, core::v1::ConfigMap};
use kube::{
    Api, Client,
    core::{ObjectMeta, PartialObjectMeta, Resource},
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use super::{
    index::{Index, Job, Map, collection::Collection},
    labels::{self, ADOPT},
};

/// The index and who looks at it: shared between the watches and the engine.
#[derive(Clone)]
pub struct Shared {
    index: Arc<Mutex<Index>>,
    changes: watch::Sender<u64>,
}

/// The watches of one engine; they end when this is dropped.
pub struct Watches {
    _tasks: JoinSet<()>,
}

impl Shared {
    /// An index that nobody fills yet.
    pub fn new(index: Index) -> Self {
        Self { index: Arc::new(Mutex::new(index)), changes: watch::Sender::new(0) }
    }

    /// Looks at the index.
    pub fn look(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when the index has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Changes the index, and tells.
    pub fn change(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.look());
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Starts all watches of one namespace.
pub fn start(client: &Client, namespace: &str, shared: &Shared) -> Watches {
    let mut tasks = JoinSet::new();
    let api = || Api::<ConfigMap>::namespaced(client.clone(), namespace);
    tasks.spawn(follow(api(), labels::watched(), shared.clone(), |index| &mut index.maps, Map::read));
    let api = || Api::<CronJob>::namespaced(client.clone(), namespace);
    tasks.spawn(follow(api(), labels::managed(), shared.clone(), |index| &mut index.jobs, Job::read));
    // Of what is not ours only the names count, and who may adopt it.
    let api = || Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), namespace);
    tasks.spawn(follow(
        api(),
        labels::foreign(),
        shared.clone(),
        |index| &mut index.foreign_maps,
        |object| adopter(&object.metadata),
    ));
    let api = || Api::<PartialObjectMeta<CronJob>>::namespaced(client.clone(), namespace);
    tasks.spawn(follow(
        api(),
        labels::foreign(),
        shared.clone(),
        |index| &mut index.foreign_jobs,
        |object| adopter(&object.metadata),
    ));
    Watches { _tasks: tasks }
}

/// One watch, for ever.
async fn follow<K, T>(
    api: Api<K>,
    selector: String,
    shared: Shared,
    collection: impl Fn(&mut Index) -> &mut Collection<T> + Send,
    read: impl Fn(&K) -> T + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Clone + Send,
{
    let config = watcher::Config::default().labels(&selector);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let name = |object: &K| object.meta().name.clone().unwrap_or_default();
        let version = |object: &K| object.meta().resource_version.clone();
        match event {
            Ok(watcher::Event::Init) => collection(&mut shared.look()).begin(),
            Ok(watcher::Event::InitDone) => shared.change(|index| collection(index).end()),
            Ok(watcher::Event::InitApply(object)) => {
                let read = read(&object);
                collection(&mut shared.look()).apply(&name(&object), version(&object).as_deref(), read);
            }
            Ok(watcher::Event::Apply(object)) => {
                let read = read(&object);
                shared.change(|index| collection(index).apply(&name(&object), version(&object).as_deref(), read));
            }
            Ok(watcher::Event::Delete(object)) => shared.change(|index| collection(index).remove(&name(&object))),
            Err(error) => {
                let reason = crate::engine::chain(&error);
                tracing::warn!(kind = std::any::type_name::<K>(), %reason, "a watch was interrupted");
                shared.change(|index| index.failed(Timestamp::now(), reason));
            }
        }
    }
}

/// The policy that may take an object over, as a person says in an annotation of it.
fn adopter(metadata: &ObjectMeta) -> Option<String> {
    metadata.annotations.as_ref()?.get(ADOPT).cloned()
}
