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

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron expression.
    #[error("`{expression}` is not a cron expression: {reason}")]
    Malformed {
        /// As written.
        expression: String,
        /// Why not.
        reason: String,
    },
    /// No date fits.
    #[error("`{0}` never comes")]
    Never(String),
}

impl Schedule {
    /// Reads an expression.
    ///
    /// # Errors
    /// It cannot be read, or never comes.
    pub fn parse(expression: &str, time_zone: &TimeZone) -> Result<Self, ScheduleError> {
        let cron = croner::parser::CronParser::builder()
            .seconds(croner::parser::Seconds::Disallowed)
            .year(croner::parser::Year::Disallowed)
            .build()
            .parse(expression)
            .map_err(|error| ScheduleError::Malformed {
                expression: expression.to_owned(),
                reason: error.to_string(),
            })?;
        let start = jiff::Timestamp::UNIX_EPOCH.to_zoned(time_zone.clone());
        cron.find_next_occurrence(&start, false).map_err(|_| ScheduleError::Never(expression.to_owned()))?;
        Ok(Self { expression: expression.to_owned(), time_zone: time_zone.clone(), cron })
    }
}
