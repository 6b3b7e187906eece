//! Restore points, and the inventory of one policy: what one observation found. A boundary format (JSON).
//!
//! Pure. A restore point is what one run of one policy captured, all its parts together; it exists only if all of
//! them do.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// What stands for a repository where a volume snapshot is a part of a restore point. No Repository document can have
/// this name, for it begins with a capital letter.
pub const VOLUME_SNAPSHOT: &str = "VolumeSnapshot";

/// So much of a [`MakerId`] tells the restore points of two makers apart.
const MAKER_DIGITS: usize = 6;

/// Id of a restore point and of the run that made it, unique in its policy: the scheduled time in UTC, `20261121-020000`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RestorePointId(pub String);

impl RestorePointId {
    /// The id for a scheduled time (or, for a run asked for by hand, the time when it was asked for).
    /// The same time gives the same id, so a second start of a run adopts the first.
    pub fn from_time(time: Timestamp) -> Self {
        Self(time.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string())
    }
}

impl fmt::Display for RestorePointId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which installation made a snapshot: one state of one host, or the record of one policy in a cluster. Random, made once
/// and never again, so that two installations with the same names on one repository tell their work apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MakerId(pub String);

impl RestorePointId {
    /// What the restore point of a run is called here: that of another maker also by its maker, because two
    /// installations give their runs for the same scheduled time the same id.
    pub fn of_run(run: &Self, maker: Option<&MakerId>, own: Option<&MakerId>) -> Self {
        match maker.filter(|maker| own != Some(maker)) {
            Some(MakerId(maker)) => {
                let digits: String = maker.chars().take(MAKER_DIGITS).collect();
                Self(format!("{run}-{digits}"))
            }
            // What older versions made does not say who made it.
            None => run.clone(),
        }
    }
}

/// What one can restore from: one run of one policy, all its parts together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePoint {
    /// Unique in its policy.
    pub id: RestorePointId,
    /// When it was captured; retention counts by this time.
    pub time: Timestamp,
    /// Bytes that a restore of all parts writes.
    pub size_bytes: u64,
    /// When a check or drill last proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// Protected from expiry by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// It was found in a repository, and nothing that is known here made it: another installation did, or a state that
    /// was lost. No rule expires it until a person releases it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
    /// Since when no listing shows it, though nothing here forgot it. It keeps its place, its hold and its marks until
    /// it comes back, or is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// Since when the rules no longer keep it. Cleanup forgets it after the grace time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_since: Option<Timestamp>,
    /// Its parts: one for each source and repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// What one source gave to one repository in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Name of the source.
    pub source: String,
    /// Name of the repository.
    pub repository: String,
    /// Where that repository is, see [`crate::retention::reach::location`]; none: where the one of that name is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Id of the snapshot in that repository (64 hex digits).
    pub snapshot: String,
    /// Bytes that a restore writes.
    pub size_bytes: u64,
    /// Bytes that were new to the repository, before compression.
    #[serde(default)]
    pub added_bytes: u64,
    /// Number of files.
    #[serde(default)]
    pub files: u64,
    /// Files that could not be read and are not in it.
    #[serde(default)]
    pub unreadable: u64,
    /// How long the capture took, in milliseconds.
    #[serde(default)]
    pub duration_milliseconds: u64,
}

/// One observation of the restore points of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// When the repositories were looked at.
    pub observed_at: Timestamp,
    /// Whether everything could be seen. An incomplete inventory allows no deletion.
    pub complete: bool,
    /// Sorted by time, oldest first.
    pub points: Vec<RestorePoint>,
}

impl Inventory {
    /// Nothing known, and nothing may be concluded from it.
    pub fn unknown() -> Self {
        Self { observed_at: Timestamp::UNIX_EPOCH, complete: false, points: Vec::new() }
    }

    /// A complete observation that found nothing: that of a policy which never ran.
    pub fn empty(observed_at: Timestamp) -> Self {
        Self { observed_at, complete: true, points: Vec::new() }
    }
}
