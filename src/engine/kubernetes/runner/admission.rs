//! When a run may begin: not while everything is frozen, not before its part of the jitter is over, and not while as many
//! runs as the settings allow are under way.
//!
//! The pod waits by itself, because it needs no daemon. What the settings say stands in a record that the daemon wrote
//! last; where no daemon ever ran, nothing is limited.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::{
    engine::{
        kubernetes::{
            lease::Held,
            names,
            site::{Site, SiteError},
            store::Limits,
        },
        local::runner::{Notice, RunRequest},
        process::stopped,
    },
    policy::CompiledPolicy,
    restore_point::RestorePointId,
    run::Trigger,
    schedule::{self, Schedule},
};

/// How long a run waits for others at most.
const WAIT_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How often it looks whether one has ended.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);

/// Whether a run may begin.
pub enum Admission {
    /// It may, and holds its part of the budget; none: there is no budget.
    Admitted(Option<Held>),
    /// It may not; here is why.
    Refused(String),
}

/// Waits until a run may begin.
///
/// # Errors
/// The cluster does not answer, the run was asked to stop, or others take too long.
pub async fn admit(site: &Site, request: &RunRequest, notice: &mut dyn FnMut(Notice)) -> Result<Admission, SiteError> {
    let name = &request.policy;
    if let Some(at) = request.scheduled_at
        && site.store.run(name, &RestorePointId::from_time(at)).await?.is_some()
    {
        // Another pod began it: what that one stopped must be started now, whatever the budget.
        return Ok(Admission::Admitted(None));
    }
    let limits = site.store.limits().await?;
    let is_frozen = limits.as_ref().is_some_and(|limits| limits.freeze);
    if is_frozen && request.trigger == Trigger::Schedule {
        return Ok(Admission::Refused(format!("everything is frozen (Settings.freeze), so {name} was not run")));
    }
    if request.trigger == Trigger::Schedule
        && let Some(policy) = site.store.policy(name).await?
        && let Some(scheduled) = request.scheduled_at
    {
        let start = start_of(&policy, scheduled);
        let now = Timestamp::now();
        if start > now {
            notice(Notice::Step(format!("wait for {start}, its part of the jitter")));
            let pause = Duration::try_from(start.duration_since(now)).unwrap_or_default();
            wait(site, pause.min(WAIT_LIMIT)).await?;
        }
    }
    match limits {
        Some(limits) => Ok(Admission::Admitted(Some(slot(site, &limits, notice).await?))),
        None => Ok(Admission::Admitted(None)),
    }
}

/// Takes one of the slots, each a lease of its own.
async fn slot(site: &Site, limits: &Limits, notice: &mut dyn FnMut(Notice)) -> Result<Held, SiteError> {
    let slots = limits.runs.max(1);
    let until = Instant::now() + WAIT_LIMIT;
    let mut told = false;
    loop {
        // Not all begin with the same one: most of them are free at the first look.
        let first = rand::rng().random_range(0..slots);
        for number in 0..slots {
            let name = names::slot_lease((first + number) % slots);
            if let Ok(held) = site.leases.take(&name, &site.pod, Timestamp::now()).await? {
                return Ok(held);
            }
        }
        if Instant::now() >= until {
            return Err(SiteError::Refused(format!(
                "{slots} other runs were under way for 24 hours; raise `concurrency.runs` in Settings, or look why they \
                 do not end"
            )));
        }
        if !told {
            told = true;
            notice(Notice::Step(format!("wait for one of the {slots} runs that are under way")));
        }
        wait(site, BETWEEN_LOOKS).await?;
    }
}

async fn wait(site: &Site, pause: Duration) -> Result<(), SiteError> {
    let stop_asked = async {
        match site.stop.clone() {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        () = stop_asked => Err(SiteError::Refused("the run was asked to stop before it began".to_owned())),
    }
}

/// When the run for a scheduled time starts.
fn start_of(policy: &CompiledPolicy, scheduled: Timestamp) -> Timestamp {
    let spec = &policy.document.spec;
    let Some(jitter) = spec.jitter else { return scheduled };
    let zone = TimeZone::get(&spec.time_zone).unwrap_or(TimeZone::UTC);
    let schedules: Vec<Schedule> = spec
        .schedule
        .as_slice()
        .iter()
        .filter_map(|expression| Schedule::parse(expression, &zone).ok())
        .map(Schedule::by_controller)
        .collect();
    let jitter: SignedDuration = jitter.duration();
    schedule::start_of(&schedules, jitter, &policy.name, scheduled)
}
