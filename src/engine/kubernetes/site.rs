//! What every piece of work in a run's pod needs: the store, leases, this program, and who it is.

use std::path::PathBuf;

use kube::Client;

use super::{
    access::{self, AccessError},
    lease::{LeaseError, Leases, PodIdentity},
    manifests::snapshot,
    movers::{self, MoverJobError},
    runner::{claims::ClaimError, hooks::HookError, quiesce::WorkloadError, snapshots::SnapshotError},
    store::{Store, StoreError},
};
use crate::{
    engine::{
        local::{context::own_program, state::places::PlaceRecord},
        movers::{Bounds, MoverError, Word},
        process::Stop,
    },
    mover::job::{FailureKind, Job, Outcome, Task},
};

/// How long a listing or a forgetting may take.
const SMALL_WORK: std::time::Duration = std::time::Duration::from_secs(3600);

/// What every piece of work needs.
#[derive(Clone)]
pub struct Site {
    /// The records.
    pub store: Store,
    /// The leases.
    pub leases: Leases,
    /// Who holds them.
    pub pod: PodIdentity,
    /// The image that holds only this program.
    pub image: String,
    /// This program, to be started as a mover for work on a repository alone.
    pub program: PathBuf,
    /// Asked to stop; none: never.
    pub stop: Option<Stop>,
}

/// Why a piece of work failed. Display is a sentence for a person, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A secret.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A mover in this pod.
    #[error(transparent)]
    Mover(#[from] MoverError),
    /// A mover that is a Job.
    #[error(transparent)]
    MoverJob(#[from] MoverJobError),
    /// A claim.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A volume snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A workload.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Something that is asked for is not there, or not possible; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

impl SiteError {
    /// For a request to the cluster that failed.
    pub fn cluster(operation: String, source: kube::Error) -> Self {
        WorkloadError::api(operation, source).into()
    }

    /// Whether a mover said that it failed in this way.
    pub fn is(&self, kind: FailureKind) -> bool {
        match self {
            Self::Mover(error) => error.is(kind),
            Self::MoverJob(MoverJobError::Failed(failure)) => failure.kind == kind,
            Self::MoverJob(_)
            | Self::Store(_)
            | Self::Lease(_)
            | Self::Access(_)
            | Self::Claim(_)
            | Self::Snapshot(_)
            | Self::Workload(_)
            | Self::Hook(_)
            | Self::Refused(_) => false,
        }
    }

    /// Whether it was the cluster that did not answer: the same work may go through later.
    pub fn may_pass(&self) -> bool {
        let is_refusal = |error: &kube::Error| {
            matches!(error, kube::Error::Api(status)
                if (400..500).contains(&status.code) && ![409, 429].contains(&status.code))
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let boxed = || error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
            if let Some(error) = error.downcast_ref::<kube::Error>().or_else(boxed) {
                return !is_refusal(error);
            }
            cause = error.source();
        }
        false
    }

    /// The whole chain of causes in one sentence, for a report.
    pub fn chain(&self) -> String {
        crate::engine::chain(self)
    }
}

impl Site {
    /// Of this process.
    pub fn new(client: Client, namespace: &str, image: &str, stop: Option<Stop>) -> Self {
        Self {
            store: Store::new(client.clone(), namespace),
            leases: Leases::new(client, namespace),
            pod: PodIdentity::own(),
            image: image.to_owned(),
            program: own_program(),
            stop,
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        self.store.client()
    }

    /// Limits for listing and forgetting.
    pub fn small_work(&self) -> Bounds {
        Bounds::within(SMALL_WORK, self.stop.clone())
    }

    /// Carries out work on a repository alone: as a child process, or, for a share that this pod does not mount, as a
    /// Job in Mainstay's namespace.
    ///
    /// # Errors
    /// The repository cannot be opened, or the work fails.
    pub async fn job(
        &self,
        place: &PlaceRecord,
        task: Task,
        bounds: &Bounds,
        hear: impl FnMut(Word),
    ) -> Result<Outcome, SiteError> {
        let repository = access::repository(self.client(), self.store.namespace(), place).await?;
        let job = Job { repository, cache_directory: None, bandwidth_bytes_per_second: None, task };
        let Some(nfs) = access::nfs(place) else {
            return Ok(crate::engine::movers::carry_out(
                &self.program,
                &job,
                bounds,
                &crate::secret::Confidential::default(),
                hear,
            )
            .await?);
        };
        let identity = snapshot::Identity {
            name: format!("repository-{:016x}", rand::random::<u64>()),
            namespace: self.store.namespace().to_owned(),
            labels: super::labels::labels(super::labels::Kind::Mover, None),
            annotations: std::collections::BTreeMap::new(),
        };
        let mut mover = movers::plain(identity, &self.image, bounds);
        mover.nfs = Some(nfs);
        Ok(movers::carry_out(self.client(), &mover, &job, bounds, hear).await?)
    }
}
