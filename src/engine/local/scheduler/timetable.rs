//! What the scheduler needs to know of a policy: when what of it is due.

use jiff::{SignedDuration, tz::TimeZone};

use crate::{policy::CompiledPolicy, schedule::Schedule};

/// When what of a policy is due.
#[derive(Debug)]
pub(super) struct Timetable {
    pub(super) suspend: bool,
    pub(super) schedules: Vec<Schedule>,
    pub(super) jitter: SignedDuration,
    pub(super) deadline: Option<SignedDuration>,
    /// Work besides runs, as the arguments of its process name it, with its schedule.
    pub(super) maintenance: Vec<(String, Schedule)>,
}

/// Reads the timetable of a policy, which was checked when it was applied. The error says what cannot be read.
pub(super) fn read(compiled: &CompiledPolicy) -> Result<Timetable, String> {
    let spec = &compiled.document.spec;
    let zone = TimeZone::get(&spec.time_zone).map_err(|error| error.to_string())?;
    let read = |expression: &str, zone: &TimeZone| Schedule::parse(expression, zone).map_err(|error| error.to_string());
    let schedules = spec.schedule.as_slice().iter().map(|expression| read(expression, &zone));
    let schedules = schedules.collect::<Result<Vec<_>, _>>()?;
    let mut maintenance = Vec::new();
    if let Some(cleanup) = &spec.cleanup {
        maintenance.push(("cleanup".to_owned(), read(&cleanup.schedule, &zone)?));
    }
    if let Some(expression) = spec.verify.as_ref().and_then(|verify| verify.schedule.as_ref()) {
        maintenance.push(("verify".to_owned(), read(expression, &zone)?));
    }
    for repository in &compiled.repositories {
        let Some(plan) = &repository.spec.maintenance else { continue };
        for (work, expression) in [("prune", &plan.prune), ("check", &plan.check)] {
            if let Some(expression) = expression {
                let name = &repository.metadata.name;
                maintenance.push((format!("{work} {name}"), read(expression, &TimeZone::UTC)?));
            }
        }
    }
    Ok(Timetable {
        suspend: spec.suspend,
        schedules,
        jitter: spec.jitter.map_or(SignedDuration::ZERO, |jitter| jitter.duration()),
        deadline: spec.deadline.map(|deadline| deadline.duration()),
        maintenance,
    })
}
