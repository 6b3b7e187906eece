//! The engine for one host: state in SQLite, runs as child processes of the same program.
//!
//! The daemon may be killed at any time: runs are processes of their own and go on, and a new daemon finds them in the
//! state. A run may be killed at any time: [`LocalEngine::recover`] brings it to its end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::{sync::mpsc, task::block_in_place};

use crate::{
    actual::ActualState,
    engine::{Engine, EngineError},
    policy::{CompiledPolicy, PolicyName, Restore, document::SettingsSpec},
    restore_point::RestorePointId,
    status::ledger::{Event, EventKind},
};

pub mod cleanup;
pub mod context;
pub mod inventory;
pub mod push;
pub mod recovery;
pub mod repositories;
pub mod restoring;
pub mod runner;
pub mod scheduler;
pub mod sources;
pub mod state;
pub(crate) mod test_pause;
pub mod verifying;

pub use super::{movers, process};
use context::Context;
pub use recovery::Recovered;
pub use scheduler::ScheduleTurn;
use scheduler::Scheduler;
use state::State;

/// Start commands that hang hold up one recovery each, if they began at different times; leases keep those that go on at
/// the same time from doing anything twice.
const RECOVERIES_AT_ONCE: usize = 16;

/// The engine of one host.
#[derive(Debug)]
pub struct LocalEngine {
    context: Context,
    scheduler: Scheduler,
}

impl LocalEngine {
    /// Opens the engine with its state in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or read, or a newer version wrote it.
    pub fn open(state_directory: &Path) -> Result<Self, EngineError> {
        let state = State::open(state_directory)?;
        Ok(Self { context: Context::new(Arc::new(state), None), scheduler: Scheduler::default() })
    }

    /// Opens the engine for looking only. A missing directory is an engine that has nothing, and knows that.
    ///
    /// # Errors
    /// The state is there but cannot be read.
    pub fn open_read_only(state_directory: &Path) -> Result<Self, EngineError> {
        let state = State::open_read_only(state_directory)?;
        Ok(Self { context: Context::new(Arc::new(state), None), scheduler: Scheduler::default() })
    }

    /// With another program to start runs and movers; for tests that are not the program themselves.
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.context.program = program;
        self
    }

    /// What commands and runs work with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Whom to tell when a run, or other work that this engine started, ends.
    pub fn tell_ended(&self, sender: mpsc::Sender<PolicyName>) {
        self.scheduler.tell(sender);
    }

    /// Starts what is due: runs, cleanups and maintenance. A turn in which nothing is due writes nothing.
    ///
    /// # Errors
    /// The state cannot be used.
    pub fn schedule_turn(&self, now: Timestamp, settings: &SettingsSpec) -> Result<ScheduleTurn, EngineError> {
        Ok(self.scheduler.turn(&self.context, now, settings)?)
    }

    /// Brings runs and restores whose process is gone to their end, and starts the workloads that they stopped. To be
    /// called when a daemon starts and in each of its turns; with nothing to do it writes nothing. A process that is
    /// gone is noticed at the next call, so that no run without one looks alive for 15 minutes.
    ///
    /// # Errors
    /// The state cannot be used.
    pub async fn recover(&self, now: Timestamp) -> Result<Recovered, EngineError> {
        let recovered = recovery::recover(&self.context, now).await?;
        restoring::take_up(&self.context, now, || self.scheduler.teller())?;
        Ok(recovered)
    }

    /// The number of the newest event of the history, whichever process wrote it; 0: there is none.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn newest_sequence(&self) -> Result<u64, EngineError> {
        Ok(self.context.state.newest_sequence()?)
    }

    /// Protects a restore point from expiry, or takes that protection away. False: there is no such point.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_held(
        &self,
        policy: &PolicyName,
        point: &RestorePointId,
        held: bool,
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        Ok(self.context.state.set_held(policy, point, held, now)?)
    }
}

impl Engine for LocalEngine {
    fn recovers_at_once(&self) -> usize {
        RECOVERIES_AT_ONCE
    }

    async fn observe(&self, now: Timestamp) -> Result<ActualState, EngineError> {
        Ok(self.context.state.observe(now)?)
    }

    async fn put(&self, policy: &CompiledPolicy) -> Result<(), EngineError> {
        let now = Timestamp::now();
        self.context.state.put_policy(policy, now)?;
        Ok(cleanup::take_back(&self.context.state, policy, now)?)
    }

    async fn withdraw(&self, policy: &PolicyName) -> Result<(), EngineError> {
        Ok(self.context.state.withdraw_policy(policy)?)
    }

    async fn expire(&self, policy: &PolicyName, points: &[RestorePointId], now: Timestamp) -> Result<(), EngineError> {
        self.context.state.mark(policy, points, now)?;
        Ok(())
    }

    async fn restore(&self, restore: &Restore, now: Timestamp) -> Result<(), EngineError> {
        Ok(restoring::start_document(&self.context, restore, now, self.scheduler.teller())?)
    }

    async fn record(&self, policy: &PolicyName, kind: EventKind, now: Timestamp) -> Result<(), EngineError> {
        Ok(self.context.state.add_event(now, policy, &kind)?)
    }

    async fn history(&self, after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        Ok(self.context.state.events(after_sequence)?)
    }

    fn newest_sequence(&self) -> Result<u64, EngineError> {
        Self::newest_sequence(self)
    }

    async fn schedule_turn(&self, now: Timestamp, settings: &SettingsSpec) -> Result<ScheduleTurn, EngineError> {
        block_in_place(|| Self::schedule_turn(self, now, settings))
    }

    async fn recover(&self, now: Timestamp) -> Result<(), EngineError> {
        Self::recover(self, now).await.map(|_| ())
    }

    async fn run_now(&self, policy: &PolicyName, _now: Timestamp) -> Result<(), EngineError> {
        Ok(block_in_place(|| self.scheduler.run_now(&self.context, policy))?)
    }
}
