//! Where runs happen. One trait; `local` is one host, `kubernetes` a cluster, and the simulator in `tests/it` a world.
//!
//! An engine stores compiled policies, observes, and starts work. It decides nothing: every call carries out exactly
//! what an approved plan says.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;

use crate::{
    actual::ActualState,
    policy::{CompiledPolicy, PolicyName, Restore, document::SettingsSpec},
    restore_point::RestorePointId,
    status::{
        coverage::Sight,
        ledger::{Event, EventKind},
    },
};

pub mod download;
pub mod kubernetes;
pub mod local;
pub mod movers;
pub mod process;

pub use local::scheduler::ScheduleTurn;

/// Why an engine could not do something. The variants are the retry policy.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Something outside did not answer; the same call may go through later.
    #[error("{operation} did not go through")]
    Transient {
        /// What was tried, with its object.
        operation: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It will not go through until a person mends something.
    #[error("{operation} failed: {hint}")]
    Permanent {
        /// What was tried, with its object.
        operation: String,
        /// What to do.
        hint: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// An error with its causes, in one line. What a cause repeats of those before it is said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Where runs happen. Every call can be repeated: a second one with the same argument changes nothing.
pub trait Engine: Send + Sync {
    /// How many policies may be applied at once: more than one where each call waits for a network.
    fn applies_at_once(&self) -> usize {
        1
    }

    /// How many calls of [`Engine::recover`] may go on at once: more than one where a program that hangs holds one up.
    fn recovers_at_once(&self) -> usize {
        1
    }

    /// Looks at everything that is managed.
    fn observe(&self, now: Timestamp) -> impl Future<Output = Result<ActualState, EngineError>> + Send;

    /// What there is to protect beside what is protected. None: this engine cannot know.
    fn sight(&self, now: Timestamp) -> impl Future<Output = Option<Arc<Sight>>> + Send {
        let _ = now;
        std::future::ready(None)
    }

    /// Creates or replaces a policy's schedule. Restore points that are marked as expired and that its rules keep lose
    /// their marks at once: after a revert nothing waits for the next cleanup.
    fn put(&self, policy: &CompiledPolicy) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Stops a policy; its restore points stay.
    fn withdraw(&self, policy: &PolicyName) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Marks restore points as expired since `now`; those that are marked already keep their mark.
    fn expire(
        &self,
        policy: &PolicyName,
        points: &[RestorePointId],
        now: Timestamp,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Carries out a restore once; a second start with the same content adopts the first.
    fn restore(&self, restore: &Restore, now: Timestamp) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Adds something to the history that only the turn knows: which commit and approval a change came from.
    fn record(
        &self,
        policy: &PolicyName,
        kind: EventKind,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// What happened after the event with this number, oldest first.
    fn history(&self, after_sequence: u64) -> impl Future<Output = Result<Vec<Event>, EngineError>> + Send;

    /// The number of the newest event of the history, whichever process wrote it; 0: there is none. Asks nobody, so that
    /// it can be called at each wake.
    fn newest_sequence(&self) -> Result<u64, EngineError>;

    /// Starts what is due and what nobody else starts. With nothing to do it writes nothing.
    fn schedule_turn(
        &self,
        now: Timestamp,
        settings: &SettingsSpec,
    ) -> impl Future<Output = Result<ScheduleTurn, EngineError>> + Send;

    /// Brings runs whose process or pod is gone to their end, and starts the workloads that they stopped. With nothing to
    /// do it writes nothing.
    fn recover(&self, now: Timestamp) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Starts a run that a person asked for, as the policy is applied. One that is under way already is enough.
    fn run_now(&self, policy: &PolicyName, _now: Timestamp) -> impl Future<Output = Result<(), EngineError>> + Send {
        let operation = format!("running policy {policy}");
        async move {
            let hint = "this engine starts runs by their schedules only".to_owned();
            Err(EngineError::Permanent { operation, hint, source: None })
        }
    }

    /// Keeps what a turn left in the state directory where the next daemon finds it, if that may be elsewhere.
    fn turn_ended(&self, _state_directory: &Path) -> impl Future<Output = Result<(), EngineError>> + Send {
        async { Ok(()) }
    }
}
