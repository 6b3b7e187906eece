//! Schedules: when a policy is due. Cron expressions, time zones, clock changes, jitter, catch-up.
//!
//! Pure.

use croner::Cron;
use jiff::tz::TimeZone;

/// A cron expression in a time zone, checked to have a next time.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As it was written.
    pub expression: String,
    /// The zone in which it is read.
    pub time_zone: TimeZone,
    /// The parsed expression.
    cron: Cron,
}
