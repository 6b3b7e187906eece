//! Which engine a command works with, and the cluster where that is Kubernetes.

use clap::{Args, ValueEnum};

use super::{Failure, StateArguments};
use crate::{
    daemon::memory::Memory,
    engine::{
        EngineError,
        kubernetes::{KubernetesEngine, manifests::policy::Installation, run_now, store::Store},
    },
    policy::EngineKind,
};

/// Where the service account's namespace stands in a pod.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Mainstay's own namespace where nothing names another.
const NAMESPACE: &str = "mainstay-system";

/// Under which `--help` shows what only a cluster needs.
const HEADING: &str = "With --engine kubernetes";

/// Where runs happen.
#[derive(Debug, Clone, Args)]
pub struct EngineArguments {
    /// Where runs happen: on this host, or in a Kubernetes cluster
    #[arg(long, value_enum, default_value_t = EngineName::Local, env = "MAINSTAY_ENGINE")]
    pub engine: EngineName,
    /// Mainstay's own namespace in the cluster [default: that of the service account, else mainstay-system]
    #[arg(long, value_name = "NAMESPACE", env = "MAINSTAY_NAMESPACE", help_heading = HEADING)]
    pub namespace: Option<String>,
    /// Image of the pods that carry out runs in the cluster; needed to apply
    #[arg(long, value_name = "IMAGE", env = "MAINSTAY_IMAGE", help_heading = HEADING)]
    pub image: Option<String>,
    /// Service account of these pods
    #[arg(
        long,
        value_name = "NAME",
        default_value = "mainstay-run",
        env = "MAINSTAY_RUN_SERVICE_ACCOUNT",
        help_heading = HEADING
    )]
    pub run_service_account: String,
}

/// The name of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// This host
    Local,
    /// A cluster
    Kubernetes,
}

impl EngineName {
    /// As the documents are checked for it.
    pub fn kind(self) -> EngineKind {
        match self {
            Self::Local => EngineKind::Local,
            Self::Kubernetes => EngineKind::Kubernetes,
        }
    }
}

impl EngineArguments {
    /// What every manifest of the installation has in common.
    pub fn installation(&self) -> Installation {
        let in_pod = || std::fs::read_to_string(NAMESPACE_FILE).ok().map(|text| text.trim().to_owned());
        let namespace = self.namespace.clone().or_else(in_pod).filter(|name| !name.is_empty());
        Installation {
            namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
            image: self.image.clone().filter(|image| !image.is_empty()),
            run_service_account: self.run_service_account.clone(),
            frozen: false,
        }
    }
}

impl StateArguments {
    /// Refuses what only one host can do yet.
    ///
    /// # Errors
    /// The engine is another.
    pub fn local_only(&self, what: &str) -> Result<(), Failure> {
        match self.engine.engine {
            EngineName::Local => Ok(()),
            EngineName::Kubernetes => Err(Failure::new(format!("{what} is not available on Kubernetes yet"))),
        }
    }
}

/// The engine of a cluster, with its watches at work.
///
/// # Errors
/// There is no cluster that this process knows of.
pub async fn cluster(arguments: &EngineArguments) -> Result<KubernetesEngine, Failure> {
    let client = run_now::client().await.map_err(failure)?;
    Ok(KubernetesEngine::start(client, arguments.installation()))
}

/// The records of a cluster, without watches.
///
/// # Errors
/// There is no cluster that this process knows of.
pub async fn store(arguments: &EngineArguments) -> Result<Store, Failure> {
    let client = run_now::client().await.map_err(failure)?;
    Ok(Store::new(client, arguments.installation().namespace))
}

/// What the last turn left in a cluster, whichever daemon made it; of a new installation, nothing.
///
/// # Errors
/// It cannot be read.
pub async fn last_turn(store: &Store) -> Result<Memory, Failure> {
    let unreadable = || Failure::new("what the last turn left in the cluster cannot be read");
    match store.memory().await.map_err(|error| unreadable().caused_by(error))? {
        Some(memory) => serde_json::from_str(&memory).map_err(|error| {
            unreadable().caused_by(error).hint("a newer Mainstay may have written it; use that one here, too")
        }),
        None => Ok(Memory::default()),
    }
}

/// What the engine could not do, for a person.
pub fn failure(error: EngineError) -> Failure {
    Failure::new("the cluster did not do it").caused_by(error)
}
