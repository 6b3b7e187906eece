//! The engine for a Kubernetes cluster. A policy becomes a ConfigMap and CronJobs in Mainstay's own namespace; the pods
//! of these carry out the runs, with or without a daemon.
//!
//! What there is comes from watches: an observation asks nobody. Every write is a server-side apply under one field
//! manager, or a compare-and-swap, and none is made that would change nothing.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;

use crate::{
    actual::ActualState,
    daemon::memory::Memory,
    engine::{Engine, EngineError, ScheduleTurn},
    git::Revision,
    policy::{CompiledPolicy, PolicyName, Restore, document::SettingsSpec},
    restore_point::RestorePointId,
    status::{
        coverage::Sight,
        ledger::{Event, EventKind},
    },
};

pub mod access;
mod announced;
pub mod cleanup;
pub mod guard;
pub mod index;
pub mod inventory;
pub mod labels;
pub mod leader;
pub mod lease;
pub mod manifests;
pub mod movers;
pub mod names;
pub mod objects;
pub mod outbox;
pub mod restoring;
pub mod run_now;
pub mod runner;
pub mod sight;
pub mod site;
pub mod store;
pub mod upkeep;
pub mod verifying;
pub mod watch;

use index::Index;
use leader::Fence;
use manifests::policy::{self, Installation, Manifest, Sort};
use objects::Objects;
use outbox::Outbox;
use site::Site;
use store::{Limits, RestoreRecord, Store};
use watch::{Shared, Watches};

/// How long an observation waits for the watches to have told everything once.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How many policies are applied at once. The API server's own limits for one client are of this size.
const APPLIED_AT_ONCE: usize = 16;

/// The engine of one installation in one cluster.
pub struct KubernetesEngine {
    store: Store,
    objects: Objects,
    shared: Shared,
    outbox: Mutex<Outbox>,
    /// What the last turn left, as it was written last.
    kept_memory: Mutex<String>,
    /// What the settings said to runs last.
    told_limits: Mutex<Option<Limits>>,
    /// The right to write; none: this process may always, because a person started it.
    fence: Option<Fence>,
    /// Whether this process has looked after workloads everywhere.
    looked_everywhere: std::sync::atomic::AtomicBool,
    /// What there is to protect, as it was seen last.
    seen: tokio::sync::Mutex<Option<sight::Seen>>,
    _watches: Watches,
}

impl KubernetesEngine {
    /// Starts to watch. Nothing is asked for or written before the first call.
    pub fn start(client: Client, installation: Installation) -> Self {
        let namespace = installation.namespace.clone();
        let shared = Shared::new(Index::new(installation));
        let watches = watch::start(&client, &namespace, &shared);
        Self {
            store: Store::new(client.clone(), &namespace),
            objects: Objects::new(client, &namespace),
            shared,
            outbox: Mutex::default(),
            kept_memory: Mutex::default(),
            told_limits: Mutex::default(),
            fence: None,
            looked_everywhere: std::sync::atomic::AtomicBool::new(false),
            seen: tokio::sync::Mutex::default(),
            _watches: watches,
        }
    }

    /// Writes only while this daemon is the one at work.
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// The records.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the watches have told.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Keeps what the last turn left where the next daemon finds it.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn keep_memory(&self, state_directory: &Path) -> Result<(), EngineError> {
        let Ok(memory) = std::fs::read_to_string(Memory::file(state_directory)) else { return Ok(()) };
        if *self.kept_memory() == memory {
            return Ok(());
        }
        self.may_write(|| "keeping what the turn left".to_owned())?;
        self.store.set_memory(&memory).await?;
        *self.kept_memory() = memory;
        Ok(())
    }

    /// Puts what the last turn left, whichever daemon made it, where this one looks for it.
    ///
    /// # Errors
    /// It cannot be read, or not be written to the state directory.
    pub async fn fetch_memory(&self, state_directory: &Path) -> Result<(), EngineError> {
        let failed = |error: std::io::Error| EngineError::Permanent {
            operation: format!("writing the memory of the last turn to {}", state_directory.display()),
            hint: "name a directory that can be written with --state".to_owned(),
            source: Some(error.into()),
        };
        match self.store.memory().await? {
            Some(memory) => {
                std::fs::write(Memory::file(state_directory), &memory).map_err(failed)?;
                *self.kept_memory() = memory;
                Ok(())
            }
            // A new installation: what some other one left here is not its own.
            None => match std::fs::remove_file(Memory::file(state_directory)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }

    /// Protects a restore point from expiry, or takes that protection away. False: there is no such point.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub async fn set_held(
        &self,
        policy: &PolicyName,
        point: &RestorePointId,
        held: bool,
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        let known = self.store.points(policy).await?;
        if known.point(point).is_none() {
            return Ok(false);
        }
        Ok(self.store.change_points(policy, |record| record.set_held(point, held, now)).await?)
    }

    /// Waits until the watches have told everything once.
    ///
    /// # Errors
    /// They did not in time.
    pub async fn ready(&self) -> Result<(), EngineError> {
        let mut changes = self.shared.changes();
        let ready = async {
            while !self.shared.look().is_ready() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        // A refusal does not pass by waiting: it is told at once, by whoever looks at a person's terminal.
        tokio::time::timeout(READY_WITHIN, ready).await.map_err(|_| {
            let reason = self.shared.look().failure().unwrap_or("the API server did not answer").to_owned();
            EngineError::Transient {
                operation: format!("watching namespace {}", self.store.namespace()),
                source: reason.into(),
            }
        })
    }

    fn kept_memory(&self) -> MutexGuard<'_, String> {
        self.kept_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_write(&self, operation: impl FnOnce() -> String) -> Result<(), EngineError> {
        match &self.fence {
            Some(fence) => fence.check(&operation()),
            None => Ok(()),
        }
    }

    /// Makes one object as it should be, unless it is.
    async fn apply(&self, manifest: &Manifest, policy: &PolicyName) -> Result<(), EngineError> {
        {
            let index = self.shared.look();
            if index.is_as(manifest) {
                return Ok(());
            }
            objects::check_foreign(&index, manifest, policy)?;
        }
        self.may_write(|| format!("applying {} {}", manifest.sort.text(), manifest.name))?;
        match self.objects.apply(manifest).await? {
            objects::Written::Map(name, version, map) => {
                self.shared.change(|index| index.maps.apply(&name, version.as_deref(), map));
            }
            objects::Written::Job(name, version, job) => {
                self.shared.change(|index| index.jobs.apply(&name, version.as_deref(), job));
            }
        }
        Ok(())
    }

    async fn delete(&self, sort: Sort, name: &str) -> Result<(), EngineError> {
        self.may_write(|| format!("deleting {} {name}", sort.text()))?;
        self.objects.delete(sort, name).await?;
        self.shared.change(|index| match sort {
            Sort::ConfigMap => index.maps.remove(name),
            Sort::CronJob => index.jobs.remove(name),
        });
        Ok(())
    }
}

impl Engine for KubernetesEngine {
    fn applies_at_once(&self) -> usize {
        APPLIED_AT_ONCE
    }

    async fn observe(&self, now: Timestamp) -> Result<ActualState, EngineError> {
        self.ready().await?;
        Ok(self.shared.look().observe(now))
    }

    async fn put(&self, policy: &CompiledPolicy) -> Result<(), EngineError> {
        let installation = self.shared.look().installation().clone();
        if installation.image.is_none() {
            return Err(EngineError::Permanent {
                operation: format!("applying policy {}", policy.name),
                hint: "name the image of run pods with --image or MAINSTAY_IMAGE".to_owned(),
                source: None,
            });
        }
        let manifests = policy::of(policy, &installation);
        for manifest in &manifests {
            self.apply(manifest, &policy.name).await?;
        }
        // Create before delete: what the policy no longer has goes when the rest is there.
        let wanted: BTreeSet<(Sort, &str)> =
            manifests.iter().map(|manifest| (manifest.sort, manifest.name.as_str())).collect();
        let there = self.shared.look().objects_of(&policy.name);
        for (sort, name) in there.iter().filter(|(sort, name)| !wanted.contains(&(*sort, name.as_str()))) {
            self.delete(*sort, name).await?;
        }
        let is_marked = self.shared.look().points(&policy.name).is_some_and(|record| {
            record.withdrawn.is_some() || record.points.iter().any(|stored| stored.point.expired_since.is_some())
        });
        if is_marked {
            self.may_write(|| format!("taking back marks of {}", policy.name))?;
            let now = Timestamp::now();
            self.store.change_points(&policy.name, |record| record.take_back(policy, now)).await?;
        }
        Ok(())
    }

    async fn withdraw(&self, policy: &PolicyName) -> Result<(), EngineError> {
        let (compiled, has_points, there) = {
            let index = self.shared.look();
            (index.compiled(policy), index.points(policy).is_some(), index.objects_of(policy))
        };
        if let Some(compiled) = compiled.filter(|_| has_points) {
            self.may_write(|| format!("withdrawing policy {policy}"))?;
            // Its rules stay with its points: later cleanups go by them.
            self.store.change_points(policy, |record| record.withdraw(&compiled)).await?;
        }
        // The CronJobs first: a crash leaves a policy that is still known, and is withdrawn again.
        for (sort, name) in there {
            self.delete(sort, &name).await?;
        }
        Ok(())
    }

    async fn expire(&self, policy: &PolicyName, points: &[RestorePointId], now: Timestamp) -> Result<(), EngineError> {
        self.may_write(|| format!("marking restore points of {policy}"))?;
        self.store.change_points(policy, |record| record.mark(points, now)).await?;
        Ok(())
    }

    async fn restore(&self, restore: &Restore, now: Timestamp) -> Result<(), EngineError> {
        self.may_write(|| format!("the restore {}", restore.name))?;
        let content = restore.content_hash();
        let (name, spec) = (&restore.name, &restore.document.spec);
        // The record first: a crash before its Job leaves what `recover` takes up.
        let record = restoring::ask::record(name, &content, &restore.policy, spec, now);
        self.store.announce_restore(&record).await?;
        match self.store.restore(name, &content).await? {
            Some(record) if record.is_pending() => self.start_restore(&record).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn record(&self, policy: &PolicyName, kind: EventKind, now: Timestamp) -> Result<(), EngineError> {
        self.may_write(|| format!("recording what happened to {policy}"))?;
        if outbox::must_last(&kind) {
            self.store.add_event(policy, &kind, now).await?;
            return Ok(());
        }
        self.outbox().add(policy, kind, now);
        Ok(())
    }

    async fn sight(&self, now: Timestamp) -> Option<Arc<Sight>> {
        let namespaces = self.shared.look().namespaces();
        let mut seen = self.seen.lock().await;
        if !seen.as_ref().is_some_and(|seen| seen.holds(&namespaces, now)) {
            // What cannot be looked at now stays as it was seen last.
            *seen = sight::look(self.store.client(), namespaces, now).await.or(seen.take());
        }
        seen.as_ref().map(|seen| Arc::clone(&seen.sight))
    }

    async fn history(&self, after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        self.collect().await?;
        let stored = self.shared.look().history();
        Ok(self.outbox().newest(stored.as_deref()).after(after_sequence))
    }

    fn newest_sequence(&self) -> Result<u64, EngineError> {
        let index = self.shared.look();
        let outbox = self.outbox();
        let history = index.history();
        let newest = outbox.newest(history.as_deref());
        Ok(newest.newest_sequence + outbox.waiting(index.all_points(), newest) as u64)
    }

    async fn schedule_turn(&self, now: Timestamp, settings: &SettingsSpec) -> Result<ScheduleTurn, EngineError> {
        self.freeze(settings.freeze).await?;
        self.tell_limits(settings).await?;
        self.clean_withdrawn(now, settings).await
    }

    async fn recover(&self, now: Timestamp) -> Result<(), EngineError> {
        self.ready().await?;
        let (running, restores, known, image) = {
            let index = self.shared.look();
            let running = index.all_points().filter(|record| record.running.is_some());
            let mut running: Vec<PolicyName> = running.map(|record| record.policy.clone()).collect();
            let restores: Vec<Arc<RestoreRecord>> = index.restores_under_way().cloned().collect();
            running
                .extend(restores.iter().filter(|restore| !restore.is_pending()).map(|restore| restore.policy.clone()));
            (running, restores, index.namespaces(), index.installation().image.clone().unwrap_or_default())
        };
        for restore in restores.iter().filter(|restore| restore.is_pending()) {
            self.look_after_pending(restore, now).await?;
        }
        // Workloads whose run left no record are looked for once; a run that is under way has one.
        let everywhere = !self.looked_everywhere.swap(true, std::sync::atomic::Ordering::Relaxed);
        let namespaces = if everywhere { known } else { BTreeSet::new() };
        if running.is_empty() && namespaces.is_empty() {
            return Ok(());
        }
        self.may_write(|| "looking after runs".to_owned())?;
        let site = Site::new(self.store.client().clone(), self.store.namespace(), &image, None);
        let recovered = guard::recover(&site, running, &namespaces, now).await;
        let recovered = recovered.map_err(|error| EngineError::Transient {
            operation: "looking after runs that are gone".to_owned(),
            source: error.into(),
        })?;
        self.take_back(&recovered.left, now).await
    }

    async fn run_now(&self, policy: &PolicyName, now: Timestamp) -> Result<(), EngineError> {
        run_now::check_freeze(&self.store).await?;
        run_now::ask(&self.store, policy, now).await.map(|_| ())
    }

    async fn turn_ended(&self, state_directory: &Path) -> Result<(), EngineError> {
        // A commit that changed nothing is no reason to write: a successor that starts from an older one judges what
        // follows as this daemon did, and finds nothing to do in it either.
        let Ok(memory) = std::fs::read_to_string(Memory::file(state_directory)) else { return Ok(()) };
        let is_same = without_revisions(&self.kept_memory()) == without_revisions(&memory);
        if is_same { Ok(()) } else { self.keep_memory(state_directory).await }
    }
}

/// What a turn left, without the commits that it was at.
fn without_revisions(memory: &str) -> Option<Memory> {
    let memory: Memory = serde_json::from_str(memory).ok()?;
    Some(Memory { applied: memory.applied.map(|_| Revision(String::new())), consented: None, ..memory })
}
