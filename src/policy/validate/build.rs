//! The policy that a checked document stands for.

use std::sync::Arc;

use jiff::{SignedDuration, tz::TimeZone};

use crate::{
    policy::{
        CompiledPolicy, Location, Policy, PolicyContent, PolicyName,
        document::{BackupPolicyDocument, DurationText},
    },
    retention::KeepRules,
    schedule::{Schedule, ScheduleError},
};

/// Why a stored policy cannot be read back. Validation let it through once, so this host or version differs.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The zone is not known on this host.
    #[error("policy {policy}: this host does not know the time zone `{time_zone}`; install its time zone data")]
    TimeZone {
        /// Whose.
        policy: PolicyName,
        /// Which.
        time_zone: String,
        /// Why.
        #[source]
        source: jiff::Error,
    },
    /// The expression cannot be read by this version.
    #[error("policy {policy}: the schedule `{expression}` cannot be read; apply the policy again")]
    Schedule {
        /// Whose.
        policy: PolicyName,
        /// Which.
        expression: String,
        /// Why.
        #[source]
        source: Box<ScheduleError>,
    },
}

/// Reads a stored policy back.
///
/// # Errors
/// The time zone or a schedule cannot be read on this host.
pub fn policy_of(compiled: &CompiledPolicy) -> Result<Policy, PolicyError> {
    let mut document = compiled.document.as_ref().clone();
    super::normalise::policy(&mut document);
    let content = content(compiled.name.clone(), compiled.source.clone(), document)?;
    Ok(Policy { content: Arc::new(content), repositories: compiled.repositories.clone() })
}

/// The content of a normalised document.
pub fn content(
    name: PolicyName,
    location: Location,
    document: BackupPolicyDocument,
) -> Result<PolicyContent, PolicyError> {
    let spec = &document.spec;
    let time_zone = TimeZone::get(&spec.time_zone).map_err(|source| PolicyError::TimeZone {
        policy: name.clone(),
        time_zone: spec.time_zone.clone(),
        source,
    })?;
    let read = |expression: &String| {
        Schedule::parse(expression, &time_zone).map_err(|source| PolicyError::Schedule {
            policy: name.clone(),
            expression: expression.clone(),
            source: Box::new(source),
        })
    };
    let schedules = spec.schedule.as_slice().iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let cleanup = spec.cleanup.as_ref().map(|cleanup| read(&cleanup.schedule)).transpose()?;
    let retention = &spec.retention;
    let rules = KeepRules { verified: spec.verify.is_some(), ..KeepRules::from(retention) };
    Ok(PolicyContent {
        schedules,
        cleanup,
        rules,
        jitter: spec.jitter.map_or(SignedDuration::ZERO, DurationText::duration),
        deadline: spec.deadline.map(DurationText::duration),
        suspend: spec.suspend,
        grace: retention.grace.map_or(SignedDuration::from_hours(24), DurationText::duration),
        name,
        location,
        time_zone,
        document: Arc::new(document),
    })
}
