//! The scheduler: starts what is due as child processes of this very program. It holds nothing in memory that a restart
//! would lose: what is due is worked out from the state, anew for each policy that something changed of or whose time
//! has come.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::{
    cleanup::FREEZE_NOTE,
    context::{Context, WorkError},
    process::ProcessIdentity,
    runner,
};
use crate::{
    policy::{CompiledPolicy, PolicyName, document::SettingsSpec},
    restore_point::RestorePointId,
    run::{Phase, RunReport, Trigger},
    schedule::{CLOCK_SLACK, Due, due},
};

mod awake;
mod timetable;

use awake::{Awake, Stored};
use timetable::Timetable;

/// How soon to look again while a run is under way that is not our own child, so that nobody tells us of its end.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// How soon to look again when the start of a process failed.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// A clock that is behind the last scheduled time by more than this was set: small steps back are waited for.
const SET_BACK: SignedDuration = SignedDuration::from_hours(1);

/// What one turn of the scheduler did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleTurn {
    /// Runs that were started.
    pub started: Vec<(PolicyName, RestorePointId)>,
    /// Work besides runs that was started: `cleanup`, `verify`, `prune NAME`, `check NAME`.
    pub maintenance: Vec<(PolicyName, String)>,
    /// Scheduled times that were given up because their deadline had passed.
    pub skipped: Vec<(PolicyName, Timestamp)>,
    /// Policies whose last scheduled time lies in the future, because the clock went back, and that time: none of them
    /// starts before it, so that no scheduled time runs twice.
    pub ahead: Vec<(PolicyName, Timestamp)>,
    /// Runs that are due but wait for the concurrency budget.
    pub waiting: usize,
    /// Work besides runs that is due but waits for its own budget.
    pub maintenance_waiting: usize,
    /// When to look again; none: nothing is scheduled.
    pub next_due: Option<Timestamp>,
}

/// What a look at one policy found.
#[derive(Debug, Default)]
struct Look {
    /// When to look again at the latest; none: not before something changes.
    again: Option<Timestamp>,
    /// Whether something was due, so that the next look may find something else.
    has_work: bool,
    due: Option<DueRun>,
    ahead: Option<Timestamp>,
    skipped: Option<Timestamp>,
    /// Work besides runs that is due: since when, and what.
    maintenance: Vec<(Timestamp, String)>,
}

/// A run that is due.
#[derive(Debug)]
struct DueRun {
    scheduled: Timestamp,
    catch_up: bool,
    last_scheduled: Timestamp,
}

/// The scheduler's memory: a cache, the children, and whom to tell when one ends.
#[derive(Debug, Default)]
pub struct Scheduler {
    awake: Mutex<Awake>,
    maintenance_under_way: Arc<Mutex<BTreeMap<(PolicyName, String), ProcessIdentity>>>,
    ended: Mutex<Option<mpsc::Sender<PolicyName>>>,
}

impl Scheduler {
    /// Whom to tell when a child ends.
    pub fn tell(&self, sender: mpsc::Sender<PolicyName>) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Tells that a child ended, from whatever thread waited for it.
    pub fn teller(&self) -> impl FnOnce(PolicyName) + Send + 'static {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        move |policy| {
            if let Some(ended) = ended {
                // A full channel means that the loop is about to look anyway.
                let _ = ended.try_send(policy);
            }
        }
    }

    /// Starts what is due.
    ///
    /// # Errors
    /// The state cannot be used.
    pub fn turn(&self, context: &Context, now: Timestamp, settings: &SettingsSpec) -> Result<ScheduleTurn, WorkError> {
        let mut turn = ScheduleTurn::default();
        context.state.set_note(FREEZE_NOTE, if settings.freeze { "true" } else { "false" })?;
        let under_way = context.state.runs_under_way()?;
        if !under_way.is_empty() {
            turn.look_again(now + LOOK_AGAIN);
        }
        if settings.freeze {
            return Ok(turn);
        }
        let mut running = under_way.len();
        let budget = usize::try_from(settings.concurrency.runs.max(1)).unwrap_or(usize::MAX);
        let (mut due_now, mut maintenance_due) = (Vec::new(), Vec::new());
        let mut awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, stored) in awake.policies(&context.state, now)? {
            let mut look = Look::default();
            match &*stored {
                Stored::Withdrawn { forget_at } => {
                    if let Some(at) = forget_at {
                        self.maintain(&name, "cleanup", *at, now, &mut look);
                    }
                }
                Stored::Scheduled { last_scheduled, timetable } => {
                    let is_running = under_way.iter().any(|run| run.report.policy == name);
                    self.run_due(context, &name, timetable, (*last_scheduled, now), is_running, &mut look)?;
                    self.maintenance(context, &name, timetable, now, &mut look)?;
                }
                // Nothing is known of it that could be due, until it is written anew.
                Stored::Unreadable => {}
            }
            due_now.extend(look.due.take().map(|due| (due, name.clone())));
            maintenance_due.extend(look.maintenance.drain(..).map(|(since, work)| (since, name.clone(), work)));
            turn.take(&name, &look);
            if let Some(until) = look.quiet_until(now) {
                awake.rest(name, until);
            }
        }
        if let Some(next) = awake.next() {
            turn.look_again(next);
        }
        drop(awake);
        // Those that wait longest come first.
        due_now.sort_by(|(one, its), (other, others)| (one.scheduled, its).cmp(&(other.scheduled, others)));
        for (due, name) in due_now {
            if running >= budget {
                turn.waiting += 1;
                continue;
            }
            let Some(stored) = context.state.policy(&name)?.filter(|stored| !stored.withdrawn) else { continue };
            let report = announcement(&stored.compiled, due.scheduled, due.catch_up, now);
            if self.start_run(context, &report, due.last_scheduled)? {
                running += 1;
                turn.started.push((report.policy, report.id));
            } else {
                turn.look_again(now + TRY_AGAIN);
            }
        }
        self.start_maintenance(context, maintenance_due, (budget, now), &mut turn)?;
        if turn.maintenance_waiting > 0 {
            tracing::debug!(
                waiting = turn.maintenance_waiting,
                "cleanups and checks wait for others to end (concurrency.runs)"
            );
        }
        Ok(turn)
    }

    /// Whether a run of a policy is due. `times`: the scheduled time that was dealt with last, and now.
    fn run_due(
        &self,
        context: &Context,
        name: &PolicyName,
        timetable: &Timetable,
        times: (Timestamp, Timestamp),
        is_running: bool,
        look: &mut Look,
    ) -> Result<(), WorkError> {
        let (last_scheduled, now) = times;
        if !timetable.suspend && last_scheduled > now + CLOCK_SLACK {
            look.ahead = Some(last_scheduled);
        }
        let last_scheduled = if is_ahead(last_scheduled, now) {
            context.state.set_last_scheduled(name, now)?;
            now
        } else {
            last_scheduled
        };
        if timetable.suspend {
            return Ok(());
        }
        match due(&timetable.schedules, timetable.jitter, timetable.deadline, name, last_scheduled, now) {
            Due::NotYet { next } => look.again(next),
            Due::Now { scheduled, missed: _, catch_up } => {
                look.has_work = true;
                // One run for each policy: a time that comes while one is under way waits for its end.
                // A restore in place ends by itself, too; its policy is looked at again after it. One that waits comes
                // first.
                let leases = [runner::policy_lease(name), runner::waiting_lease(name)];
                let mut holders = leases.iter().map(|lease| context.state.lease_holder(lease));
                if holders.any(|holder| !matches!(holder, Ok(None))) {
                    look.again(now + LOOK_AGAIN);
                } else if !is_running {
                    look.due = Some(DueRun { scheduled, catch_up, last_scheduled });
                }
            }
            Due::Skipped { scheduled, missed, next } => {
                look.has_work = true;
                context.state.skip_run(name, scheduled, missed, now)?;
                tracing::warn!(policy = %name, %scheduled, missed, "skipped: its deadline has passed");
                look.skipped = Some(scheduled);
                look.again(next);
            }
        }
        Ok(())
    }

    /// Starts a run that a person asked for, whatever the schedule says.
    ///
    /// # Errors
    /// The policy is not applied, everything is frozen, or no process can be started.
    pub fn run_now(&self, context: &Context, policy: &PolicyName) -> Result<(), WorkError> {
        let stored = context.state.policy(policy)?.filter(|stored| !stored.withdrawn);
        stored.ok_or_else(|| runner::no_such_policy(policy))?;
        if context.state.note(FREEZE_NOTE)?.as_deref() == Some("true") {
            let frozen = "everything is frozen by `freeze: true` in the Settings; take it out and commit";
            return Err(WorkError::Refused(frozen.to_owned()));
        }
        let arguments = ["run".to_owned(), policy.to_string(), "--trigger".to_owned(), "manual".to_owned()];
        self.spawn(context, &arguments, policy, None).map(|_| ()).map_err(|error| {
            WorkError::Refused(format!("no process can be started for a run of {policy} ({error}); look at the host"))
        })
    }

    /// Starts an announced run: the intent is on disk before the process exists. False: it did not start.
    fn start_run(&self, context: &Context, report: &RunReport, last_scheduled: Timestamp) -> Result<bool, WorkError> {
        if !context.state.announce_run(report)? {
            // It is known: a daemon before us started it.
            return Ok(false);
        }
        let arguments = [
            "run".to_owned(),
            report.policy.to_string(),
            "--scheduled".to_owned(),
            report.scheduled_at.to_string(),
            "--trigger".to_owned(),
            match report.trigger {
                Trigger::Schedule => "schedule".to_owned(),
                Trigger::CatchUp => "catch-up".to_owned(),
                Trigger::Manual => "manual".to_owned(),
            },
        ];
        match self.spawn(context, &arguments, &report.policy, None) {
            Ok(identity) => {
                context.state.set_run_process(&report.policy, &report.id, &identity)?;
                Ok(true)
            }
            Err(error) => {
                tracing::error!(policy = %report.policy, "a run could not be started: {error}");
                context.state.withdraw_announcement(report, last_scheduled)?;
                Ok(false)
            }
        }
    }

    fn maintenance(
        &self,
        context: &Context,
        name: &PolicyName,
        timetable: &Timetable,
        now: Timestamp,
        look: &mut Look,
    ) -> Result<(), WorkError> {
        for (work, schedule) in &timetable.maintenance {
            let Some(last) = context.state.last_turn(name, work)? else {
                // Seen for the first time: what it "missed" before nobody asked for.
                context.state.set_turn(name, work, now)?;
                if let Some(next) = schedule.next_after(now) {
                    look.again(next);
                }
                continue;
            };
            let last = if is_ahead(last, now) {
                context.state.set_turn(name, work, now)?;
                now
            } else {
                last
            };
            match due(std::slice::from_ref(schedule), SignedDuration::ZERO, None, name, last, now) {
                Due::NotYet { next } => look.again(next),
                Due::Now { scheduled, .. } | Due::Skipped { scheduled, .. } => {
                    self.maintain(name, work, scheduled, now, look);
                }
            }
        }
        Ok(())
    }

    /// Whether work besides runs is due that is not under way.
    fn maintain(&self, name: &PolicyName, work: &str, scheduled: Timestamp, now: Timestamp, look: &mut Look) {
        if scheduled > now {
            look.again(scheduled);
            return;
        }
        look.has_work = true;
        let key = (name.clone(), work.to_owned());
        let under_way = self.maintenance_under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key);
        if !under_way {
            look.maintenance.push((scheduled, key.1));
        }
    }

    /// Starts work besides runs that is due, as far as the budget goes: at four at night a thousand policies may ask for
    /// a cleanup. What waits stays due, and the end of each child wakes the loop. `limits`: the budget, and now.
    fn start_maintenance(
        &self,
        context: &Context,
        mut due: Vec<(Timestamp, PolicyName, String)>,
        limits: (usize, Timestamp),
        turn: &mut ScheduleTurn,
    ) -> Result<(), WorkError> {
        let (budget, now) = limits;
        due.sort();
        let mut running = self.maintenance_under_way.lock().unwrap_or_else(PoisonError::into_inner).len();
        for (_, name, work) in due {
            if running >= budget {
                turn.maintenance_waiting += 1;
                continue;
            }
            let arguments = ["run".to_owned(), name.to_string(), "--only".to_owned(), work.clone()];
            // First: where nothing can be written, nothing may be started, again and again.
            let before = context.state.last_turn(&name, &work)?;
            context.state.set_turn(&name, &work, now)?;
            match self.spawn(context, &arguments, &name, Some(&work)) {
                Ok(_) => {
                    running += 1;
                    turn.maintenance.push((name, work));
                }
                Err(error) => {
                    tracing::error!(policy = %name, work, "could not be started: {error}");
                    // It is still due.
                    if let Some(before) = before {
                        context.state.set_turn(&name, &work, before)?;
                    }
                    turn.look_again(now + TRY_AGAIN);
                }
            }
        }
        Ok(())
    }

    /// Starts this program as a child in a process group of its own, so that a signal to the daemon does not end it, and
    /// a thread that waits for its end.
    fn spawn(
        &self,
        context: &Context,
        arguments: &[String],
        policy: &PolicyName,
        work: Option<&str>,
    ) -> std::io::Result<ProcessIdentity> {
        use std::os::unix::process::CommandExt as _;
        let mut child = Command::new(&context.program)
            .args(arguments)
            .arg("--state")
            .arg(context.state.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let identity = ProcessIdentity::of_child(child.id());
        let key = work.map(|work| (policy.clone(), work.to_owned()));
        if let Some(key) = &key {
            let mut under_way = self.maintenance_under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.insert(key.clone(), identity.clone());
        }
        let (policy, under_way) = (policy.clone(), Arc::clone(&self.maintenance_under_way));
        let tell = self.teller();
        std::thread::spawn(move || {
            let ended = child.wait();
            if let Some(key) = key {
                // A run says how it ended in the state; what a check found is there, too.
                if let Ok(status) = &ended
                    && !status.success()
                {
                    tracing::warn!(policy = %key.0, work = key.1, "did not end well: {status}");
                }
                under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            }
            tell(policy);
        });
        Ok(identity)
    }
}

impl Look {
    fn again(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }

    /// Until when nothing is due of the policy, unless something of it changes; none: it must be looked at each time.
    fn quiet_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.again.unwrap_or(Timestamp::MAX);
        (!self.has_work && self.ahead.is_none() && until > now).then_some(until)
    }
}

impl ScheduleTurn {
    fn take(&mut self, name: &PolicyName, look: &Look) {
        let Look { again, has_work: _, due: _, ahead, skipped, maintenance: _ } = look;
        self.skipped.extend(skipped.map(|scheduled| (name.clone(), scheduled)));
        self.ahead.extend(ahead.map(|last_scheduled| (name.clone(), last_scheduled)));
        if let Some(again) = again {
            self.look_again(*again);
        }
    }

    fn look_again(&mut self, at: Timestamp) {
        if at < Timestamp::MAX {
            self.next_due = Some(self.next_due.map_or(at, |known| known.min(at)));
        }
    }
}

/// Whether a clock that jumped forth and back left a time that lies too far ahead to wait for. That no run starts twice
/// does not hang on this: its id is its scheduled time.
fn is_ahead(last: Timestamp, now: Timestamp) -> bool {
    last.duration_since(now) > SET_BACK
}

fn announcement(policy: &CompiledPolicy, scheduled: Timestamp, catch_up: bool, now: Timestamp) -> RunReport {
    let request = runner::RunRequest {
        policy: policy.name.clone(),
        scheduled_at: Some(scheduled),
        trigger: if catch_up { Trigger::CatchUp } else { Trigger::Schedule },
    };
    RunReport {
        phase: Phase::Pending,
        failed_after_record: false,
        interrupted: false,
        message: "about to start".to_owned(),
        ..runner::first_report(policy, &request, now)
    }
}

#[cfg(test)]
mod tests;
