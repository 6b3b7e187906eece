//! A run: one execution of a policy. `machine` decides the next step from the journal and is pure; the engine carries
//! the steps out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    policy::PolicyName,
    restore_point::{Part, RestorePointId},
};

pub mod machine;

/// How far a run, a restore or one source of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for its turn.
    Pending,
    /// Under way.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly; the message says why.
    Failed,
}

/// Why a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// Its schedule.
    Schedule,
    /// One run for any number of missed ones.
    CatchUp,
    /// A person.
    Manual,
}

/// A time without what is below a millisecond: what is stored and shown is no finer.
pub fn to_millisecond(time: Timestamp) -> Timestamp {
    // Cut off and not rounded: a mark must never lie in the future.
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// What is known of a run: its result, source by source. A boundary format (JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Whose run it is.
    pub policy: PolicyName,
    /// The run's id; also that of the restore point that it makes.
    pub id: RestorePointId,
    /// Why it was started.
    pub trigger: Trigger,
    /// When it was due, or asked for.
    pub scheduled_at: Timestamp,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How far it is.
    pub phase: Phase,
    /// It failed, but its restore point had been recorded before: its snapshots are no leftovers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed_after_record: bool,
    /// Its process went away before it could say how it ended: what it captured is a restore point if it is whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// What happened, in a sentence; for a failure also what to do.
    pub message: String,
    /// Each source and repository: how it went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceReport>,
}

impl RunReport {
    /// Of a run that begins now.
    pub fn begun(policy: PolicyName, trigger: Trigger, scheduled_at: Timestamp, now: Timestamp) -> Self {
        Self {
            policy,
            id: RestorePointId::from_time(scheduled_at),
            trigger,
            scheduled_at,
            started_at: now,
            finished_at: None,
            phase: Phase::Running,
            failed_after_record: false,
            interrupted: false,
            message: "under way".to_owned(),
            sources: Vec::new(),
        }
    }
}

impl SourceReport {
    /// Fails those that are under way, because what worked on them is gone. `why` goes into each, if it says more than the
    /// report itself.
    pub fn fail_running(sources: &mut [Self], why: Option<&str>) {
        for source in sources.iter_mut().filter(|source| source.phase == Phase::Running) {
            source.phase = Phase::Failed;
            if let Some(why) = why {
                source.message = Some(why.to_owned());
            }
        }
    }

    /// Of one that waits for its turn.
    pub fn pending(source: String, repository: String) -> Self {
        Self {
            source,
            repository,
            phase: Phase::Pending,
            size_bytes: 0,
            added_bytes: 0,
            files: 0,
            unreadable: 0,
            duration_milliseconds: 0,
            snapshot: None,
            message: None,
        }
    }

    /// Says what was captured.
    pub fn tell_captured(&mut self, part: Part) {
        let Part {
            source: _,
            repository: _,
            location: _,
            snapshot,
            size_bytes,
            added_bytes,
            files,
            unreadable,
            duration_milliseconds,
        } = part;
        self.size_bytes = size_bytes;
        self.added_bytes = added_bytes;
        self.files = files;
        self.unreadable = unreadable;
        self.snapshot = Some(snapshot);
        self.duration_milliseconds = duration_milliseconds;
    }
}

/// How one source of a run or restore went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// Name of the source.
    pub source: String,
    /// Name of the repository.
    pub repository: String,
    /// How far it is.
    pub phase: Phase,
    /// Bytes that a restore writes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Bytes that were new to the repository.
    #[serde(default)]
    pub added_bytes: u64,
    /// Number of files.
    #[serde(default)]
    pub files: u64,
    /// Files that could not be read and are not in it.
    #[serde(default)]
    pub unreadable: u64,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub duration_milliseconds: u64,
    /// Id of the snapshot in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What went wrong, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
