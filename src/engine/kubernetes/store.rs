//! The store: records in ConfigMaps of Mainstay's own namespace, each changed by compare-and-swap on its resource
//! version.
//!
//! A change is a function of the record as it is now, carried out again where another process was quicker, and bounded.
//! A change that changes nothing writes nothing. Nothing here has an owner reference: restore points must outlive
//! whatever led to them.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    labels::{self, FIELD_MANAGER, Kind},
    names,
};
use crate::{
    engine::EngineError,
    policy::{CompiledPolicy, PolicyName},
    restore_point::RestorePointId,
    run::RunReport,
    status::ledger::EventKind,
};

pub mod codec;
pub mod history;
pub mod points;
mod restore_map;
pub mod restores;
pub mod runs;

use codec::CodecError;
pub use history::History;
pub use points::PointsRecord;
pub use restores::RestoreRecord;
pub use runs::{RunRecord, StoppedWorkload};

/// How often a change is tried while other processes are quicker.
const MOST_TRIES: u32 = 12;
/// The first pause between two tries; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many ended runs of a policy are kept.
pub const MOST_RUNS: usize = 10;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server did not do it.
    #[error("{operation} ConfigMap {name} in namespace {namespace} did not go through")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// Of which namespace.
        namespace: String,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// What is stored is not ours, damaged, or does not fit.
    #[error(
        "ConfigMap {name} in namespace {namespace} cannot be used; compare it with a backup of it, or with the status branch"
    )]
    Content {
        /// Of which namespace.
        namespace: String,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// Others were quicker each time.
    #[error("ConfigMap {name} in namespace {namespace} was changed by others {MOST_TRIES} times in a row")]
    Busy {
        /// Of which namespace.
        namespace: String,
        /// Which.
        name: String,
    },
    /// There is no such object.
    #[error("there is no ConfigMap {name} in namespace {namespace}")]
    Missing {
        /// Of which namespace.
        namespace: String,
        /// Which.
        name: String,
    },
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        let operation = error.to_string();
        match &error {
            StoreError::Api { source, .. } if is_for_a_person(source) => Self::Permanent {
                operation,
                hint: "give Mainstay's service account the rights that deploy/ names".to_owned(),
                source: Some(error.into()),
            },
            StoreError::Api { .. } | StoreError::Busy { .. } => Self::Transient { operation, source: error.into() },
            StoreError::Content { .. } | StoreError::Missing { .. } => {
                Self::Permanent { operation, hint: "mend or delete it".to_owned(), source: Some(error.into()) }
            }
        }
    }
}

/// Whether trying again does not help.
pub(super) fn is_for_a_person(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden() || status.is_invalid() || status.code == 401)
}

/// What came of the wish to begin a run.
#[derive(Debug)]
pub enum Begun {
    /// It is ours.
    Ours,
    /// It is under way in another pod, or was; here is what is known of it.
    Theirs(Box<RunRecord>),
}

/// What the settings say to runs, as the daemon wrote it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Limits {
    /// No scheduled run begins.
    pub freeze: bool,
    /// So many runs may be under way at once.
    pub runs: u32,
}

/// The records of one installation.
#[derive(Clone)]
pub struct Store {
    client: Client,
    namespace: String,
}

/// Where one record lies.
#[derive(Debug, Clone)]
struct Address<'a> {
    name: String,
    kind: Kind,
    policy: Option<&'a PolicyName>,
}

impl Store {
    /// Of Mainstay's own namespace.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into() }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Mainstay's own namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What was applied of a policy; none: it has no schedule.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn policy(&self, policy: &PolicyName) -> Result<Option<CompiledPolicy>, StoreError> {
        let address = Address { name: names::policy_map(policy), kind: Kind::Policy, policy: Some(policy) };
        Ok(self.read(&address).await?.map(|(record, _)| record))
    }

    /// What is known of a policy's restore points; of one that never ran, an empty record.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn points(&self, policy: &PolicyName) -> Result<PointsRecord, StoreError> {
        let found = self.read(&points_address(policy)).await?;
        Ok(found.map_or_else(|| PointsRecord::new(policy), |(record, _)| record))
    }

    /// Changes what is known of a policy's restore points. The function may be called several times, each time with the
    /// record as it is then.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub async fn change_points<T>(
        &self,
        policy: &PolicyName,
        change: impl FnMut(&mut PointsRecord) -> T + Send,
    ) -> Result<T, StoreError> {
        self.change(&points_address(policy), || Some(PointsRecord::new(policy)), change).await
    }

    /// Begins a run in this pod. One that is known already stays whose it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn begin_run(&self, run: &RunRecord) -> Result<Begun, StoreError> {
        let RunReport { policy, id, .. } = &run.report;
        let address = run_address(policy, id);
        let map = self.fresh(&address, run)?;
        if let Err(error) = self.maps().create(&post(), &map).await {
            if !is(&error, kube::core::Status::is_already_exists) {
                return Err(self.failed("creating", &address, error));
            }
            let known: Option<(RunRecord, ConfigMap)> = self.read(&address).await?;
            let (known, _) = known.ok_or_else(|| self.missing(&address))?;
            // The same pod, started again by the kubelet, goes on with what it began.
            if known.pod != run.pod || known.report.finished_at.is_some() {
                return Ok(Begun::Theirs(Box::new(known)));
            }
        }
        self.change_points(policy, |record| record.run_goes_on(&run.report)).await?;
        Ok(Begun::Ours)
    }

    /// One run.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn run(&self, policy: &PolicyName, id: &RestorePointId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.read(&run_address(policy, id)).await?.map(|(record, _)| record))
    }

    /// The runs of a policy that are known, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn runs(&self, policy: &PolicyName) -> Result<Vec<RunRecord>, StoreError> {
        let selector = format!("{},{}={}", labels::managed(), labels::KIND, Kind::Run.text());
        let selector = format!("{selector},{}={}", labels::POLICY, names::object(policy));
        let all = Address { name: format!("of the runs of {policy}"), kind: Kind::Run, policy: Some(policy) };
        let list = self.maps().list(&ListParams::default().labels(&selector)).await;
        let list = list.map_err(|error| self.failed("listing", &all, error))?;
        let mut runs = Vec::new();
        for map in &list.items {
            let name = map.metadata.name.clone().unwrap_or_default();
            runs.push(codec::read::<RunRecord>(map).map_err(|source| self.content(&name, source))?);
        }
        runs.sort_by(|one, other| one.report.id.cmp(&other.report.id));
        Ok(runs)
    }

    /// Changes the record of a run that was begun.
    ///
    /// # Errors
    /// It is not there, or cannot be read or written.
    pub async fn change_run<T>(
        &self,
        policy: &PolicyName,
        id: &RestorePointId,
        change: impl FnMut(&mut RunRecord) -> T + Send,
    ) -> Result<T, StoreError> {
        self.change(&run_address(policy, id), || None, change).await
    }

    /// Ends a run: its report, what is shown of its policy, and the history. Older runs than the newest ten go, except
    /// those that left a workload stopped.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub async fn end_run(&self, report: &RunReport, now: Timestamp) -> Result<(), StoreError> {
        self.change_run(&report.policy, &report.id, |run| {
            if run.report.finished_at.is_none() {
                run.report = report.clone();
            }
        })
        .await?;
        self.change_points(&report.policy, |record| record.run_ended(report, now)).await?;
        let runs = self.runs(&report.policy).await?;
        let ended = runs.iter().filter(|run| run.report.finished_at.is_some() && run.stopped.is_empty());
        for run in ended.rev().skip(MOST_RUNS) {
            self.delete(&run_address(&report.policy, &run.report.id)).await?;
        }
        Ok(())
    }

    /// Adds something to the history of a policy. The daemon gives it its number.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn add_event(&self, policy: &PolicyName, kind: &EventKind, at: Timestamp) -> Result<(), StoreError> {
        self.change_points(policy, |record| record.add_event(at, kind.clone())).await
    }

    /// The history that is not in git yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn history(&self) -> Result<History, StoreError> {
        Ok(self.read(&history_address()).await?.map(|(record, _)| record).unwrap_or_default())
    }

    /// Changes the history. Only the daemon at work may.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub async fn change_history<T>(&self, change: impl FnMut(&mut History) -> T + Send) -> Result<T, StoreError> {
        self.change(&history_address(), || Some(History::default()), change).await
    }

    /// What the settings say to runs; none: no daemon ever said it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn limits(&self) -> Result<Option<Limits>, StoreError> {
        Ok(self.read(&limits_address()).await?.map(|(record, _)| record))
    }

    /// Says what the settings say to runs.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn set_limits(&self, limits: &Limits) -> Result<(), StoreError> {
        self.change(&limits_address(), || Some(Limits::default()), |record| limits.clone_into(record)).await
    }

    /// What the last turn left, as text.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn memory(&self) -> Result<Option<String>, StoreError> {
        Ok(self.read(&memory_address()).await?.map(|(record, _)| record))
    }

    /// Keeps what this turn left.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn set_memory(&self, memory: &str) -> Result<(), StoreError> {
        self.change(&memory_address(), || Some(String::new()), |record| memory.clone_into(record)).await
    }

    /// Removes what is known of a policy's restore points; only where there are none.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn delete_points(&self, policy: &PolicyName) -> Result<(), StoreError> {
        self.delete(&points_address(policy)).await
    }

    async fn change<R, T>(
        &self,
        address: &Address<'_>,
        fresh: impl Fn() -> Option<R> + Send,
        mut change: impl FnMut(&mut R) -> T + Send,
    ) -> Result<T, StoreError>
    where
        R: Serialize + DeserializeOwned + Send,
    {
        let mut pause = FIRST_PAUSE;
        for _ in 0..MOST_TRIES {
            let (written, result) = match self.read::<R>(address).await? {
                Some((mut record, mut map)) => {
                    let result = change(&mut record);
                    let (data, binary) = (map.data.clone(), map.binary_data.clone());
                    codec::write(&mut map, &record).map_err(|source| self.content(&address.name, source))?;
                    if map.data == data && map.binary_data == binary {
                        return Ok(result);
                    }
                    (self.maps().replace(&address.name, &post(), &map).await, result)
                }
                None => {
                    let mut record = fresh().ok_or_else(|| self.missing(address))?;
                    let result = change(&mut record);
                    (self.maps().create(&post(), &self.fresh(address, &record)?).await, result)
                }
            };
            match written {
                Ok(_) => return Ok(result),
                // Another process was quicker: the change is made again, to what is there now.
                Err(error) if is(&error, |s| s.is_conflict() || s.is_already_exists() || s.is_not_found()) => {
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(self.failed("writing", address, error)),
            }
        }
        Err(StoreError::Busy { namespace: self.namespace.clone(), name: address.name.clone() })
    }

    async fn read<R: DeserializeOwned>(&self, address: &Address<'_>) -> Result<Option<(R, ConfigMap)>, StoreError> {
        let map = self.maps().get_opt(&address.name).await;
        let Some(map) = map.map_err(|error| self.failed("reading", address, error))? else { return Ok(None) };
        let record = codec::read(&map).map_err(|source| self.content(&address.name, source))?;
        Ok(Some((record, map)))
    }

    async fn delete(&self, address: &Address<'_>) -> Result<(), StoreError> {
        match self.maps().delete(&address.name, &DeleteParams::default()).await {
            Err(error) if !is(&error, kube::core::Status::is_not_found) => Err(self.failed("deleting", address, error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn fresh<R: Serialize>(&self, address: &Address<'_>, record: &R) -> Result<ConfigMap, StoreError> {
        let metadata = ObjectMeta {
            name: Some(address.name.clone()),
            labels: Some(labels::labels(address.kind, address.policy)),
            annotations: Some(labels::annotations(address.policy)),
            ..ObjectMeta::default()
        };
        let mut map = ConfigMap { metadata, ..ConfigMap::default() };
        codec::write(&mut map, record).map_err(|source| self.content(&address.name, source))?;
        Ok(map)
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn failed(&self, operation: &'static str, address: &Address<'_>, source: kube::Error) -> StoreError {
        StoreError::Api {
            operation,
            namespace: self.namespace.clone(),
            name: address.name.clone(),
            source: Box::new(source),
        }
    }

    fn content(&self, name: &str, source: CodecError) -> StoreError {
        StoreError::Content { namespace: self.namespace.clone(), name: name.to_owned(), source }
    }

    fn missing(&self, address: &Address<'_>) -> StoreError {
        StoreError::Missing { namespace: self.namespace.clone(), name: address.name.clone() }
    }
}

fn points_address(policy: &PolicyName) -> Address<'_> {
    Address { name: names::points_map(policy), kind: Kind::Points, policy: Some(policy) }
}

fn run_address<'a>(policy: &'a PolicyName, id: &RestorePointId) -> Address<'a> {
    Address { name: names::run_map(policy, id), kind: Kind::Run, policy: Some(policy) }
}

fn history_address() -> Address<'static> {
    Address { name: names::HISTORY.to_owned(), kind: Kind::History, policy: None }
}

fn limits_address() -> Address<'static> {
    Address { name: names::LIMITS.to_owned(), kind: Kind::Limits, policy: None }
}

fn memory_address() -> Address<'static> {
    Address { name: names::MEMORY.to_owned(), kind: Kind::Memory, policy: None }
}

/// As our field manager.
pub(super) fn post() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) }
}

/// Whether the API server answered with an error of this sort.
pub(super) fn is(error: &kube::Error, sort: impl FnOnce(&kube::core::Status) -> bool) -> bool {
    matches!(error, kube::Error::Api(status) if sort(status))
}
