//! Retention: which restore points the rules keep, and why; which may be forgotten.
//!
//! Pure. The semantics are those of `restic forget`: all rules are cumulative.

use crate::policy::document::KeepWithinText;

/// The keep rules of a policy. A count of `-1` keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepRules {
    /// The newest N.
    pub last: i64,
    /// The newest of each of the last N hours that have one.
    pub hourly: i64,
    /// The newest of each of the last N days that have one.
    pub daily: i64,
    /// The newest of each of the last N weeks that have one.
    pub weekly: i64,
    /// The newest of each of the last N months that have one.
    pub monthly: i64,
    /// The newest of each of the last N years that have one.
    pub yearly: i64,
    /// Everything within this long before the newest.
    pub within: KeepWithinText,
}
