//! The scheduler: starts what is due as child processes of this very program. It holds nothing in memory that a restart
//! would lose: what is due is worked out anew from the state each time.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
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
    schedule::{CLOCK_SLACK, Due, Schedule, due},
};

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
    /// When to look again; none: nothing is scheduled.
    pub next_due: Option<Timestamp>,
}

/// What the scheduler needs to know of a policy, read once for each content.
#[derive(Debug)]
struct Timetable {
    text: String,
    suspend: bool,
    schedules: Vec<Schedule>,
    jitter: SignedDuration,
    deadline: Option<SignedDuration>,
    /// Work besides runs, with its schedule and the arguments of its process.
    maintenance: Vec<(String, Schedule)>,
    compiled: CompiledPolicy,
}

/// The scheduler's memory: a cache, the children, and whom to tell when one ends.
#[derive(Debug, Default)]
pub struct Scheduler {
    timetables: Mutex<BTreeMap<PolicyName, Arc<Timetable>>>,
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
        let mut due_now: Vec<(Timestamp, RunReport, Timestamp)> = Vec::new();
        let withdrawn_marks = self.expired_of_withdrawn(context)?;
        for (name, text, withdrawn, last_scheduled) in context.state.policy_texts()? {
            if withdrawn {
                if let Some(at) = withdrawn_marks.get(&name) {
                    self.maintain(context, &name, "cleanup", *at, now, &mut turn)?;
                }
                continue;
            }
            let Some(timetable) = self.timetable(&name, text) else { continue };
            if !timetable.suspend && last_scheduled > now + CLOCK_SLACK {
                turn.ahead.push((name.clone(), last_scheduled));
            }
            let last_scheduled = if is_ahead(last_scheduled, now) {
                context.state.set_last_scheduled(&name, now)?;
                now
            } else {
                last_scheduled
            };
            if !timetable.suspend {
                let (jitter, deadline) = (timetable.jitter, timetable.deadline);
                match due(&timetable.schedules, jitter, deadline, &name, last_scheduled, now) {
                    Due::NotYet { next } => turn.look_again(next),
                    Due::Now { scheduled, missed: _, catch_up } => {
                        // One run for each policy: a time that comes while one is under way waits for its end.
                        // A restore in place ends by itself, too; its policy is looked at again after it.
                        if context.state.lease_holder(&runner::policy_lease(&name))?.is_some() {
                            turn.look_again(now + LOOK_AGAIN);
                        } else if !under_way.iter().any(|run| run.report.policy == name) {
                            let report = announcement(&timetable.compiled, scheduled, catch_up, now);
                            due_now.push((scheduled, report, last_scheduled));
                        }
                    }
                    Due::Skipped { scheduled, missed: _, next } => {
                        context.state.set_last_scheduled(&name, scheduled)?;
                        tracing::warn!(policy = %name, %scheduled, "skipped: its deadline has passed");
                        turn.skipped.push((name.clone(), scheduled));
                        turn.look_again(next);
                    }
                }
            }
            self.maintenance(context, &name, &timetable, now, &mut turn)?;
        }
        // Those that wait longest come first.
        due_now.sort_by(|one, other| (one.0, &one.1.policy).cmp(&(other.0, &other.1.policy)));
        for (_, report, last_scheduled) in due_now {
            if running >= budget {
                turn.waiting += 1;
                continue;
            }
            if self.start_run(context, &report, last_scheduled)? {
                running += 1;
                turn.started.push((report.policy, report.id));
            } else {
                turn.look_again(now + TRY_AGAIN);
            }
        }
        Ok(turn)
    }

    /// Starts a run that a person asked for, whatever the schedule says.
    ///
    /// # Errors
    /// The policy is not applied, or no process can be started.
    pub fn run_now(&self, context: &Context, policy: &PolicyName) -> Result<(), WorkError> {
        let stored = context.state.policy(policy)?.filter(|stored| !stored.withdrawn);
        stored.ok_or_else(|| runner::no_such_policy(policy))?;
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
        turn: &mut ScheduleTurn,
    ) -> Result<(), WorkError> {
        for (work, schedule) in &timetable.maintenance {
            let Some(last) = context.state.last_turn(name, work)? else {
                // Seen for the first time: what it "missed" before nobody asked for.
                context.state.set_turn(name, work, now)?;
                if let Some(next) = schedule.next_after(now) {
                    turn.look_again(next);
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
                Due::NotYet { next } => turn.look_again(next),
                Due::Now { scheduled, .. } | Due::Skipped { scheduled, .. } => {
                    self.maintain(context, name, work, scheduled, now, turn)?;
                }
            }
        }
        Ok(())
    }

    /// Starts work besides runs, once at a time.
    fn maintain(
        &self,
        context: &Context,
        name: &PolicyName,
        work: &str,
        scheduled: Timestamp,
        now: Timestamp,
        turn: &mut ScheduleTurn,
    ) -> Result<(), WorkError> {
        if scheduled > now {
            turn.look_again(scheduled);
            return Ok(());
        }
        let key = (name.clone(), work.to_owned());
        let under_way = self.maintenance_under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key);
        if under_way {
            return Ok(());
        }
        context.state.set_turn(name, work, scheduled.max(now))?;
        let arguments = ["run".to_owned(), name.to_string(), "--only".to_owned(), work.to_owned()];
        match self.spawn(context, &arguments, name, Some(work)) {
            Ok(_) => turn.maintenance.push(key),
            Err(error) => tracing::error!(policy = %name, work, "could not be started: {error}"),
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
            let _ = child.wait();
            if let Some(key) = key {
                under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            }
            tell(policy);
        });
        Ok(identity)
    }

    /// The timetable of a policy, read anew only when its content changed.
    fn timetable(&self, name: &PolicyName, text: String) -> Option<Arc<Timetable>> {
        let mut timetables = self.timetables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = timetables.get(name).filter(|known| known.text == text) {
            return Some(Arc::clone(known));
        }
        match read_timetable(text) {
            Ok(timetable) => {
                let timetable = Arc::new(timetable);
                timetables.insert(name.clone(), Arc::clone(&timetable));
                Some(timetable)
            }
            Err(reason) => {
                tracing::error!(policy = %name, "its stored schedule cannot be read, so it does not run: {reason}");
                None
            }
        }
    }

    /// When the marked points of withdrawn policies are to be forgotten.
    fn expired_of_withdrawn(&self, context: &Context) -> Result<BTreeMap<PolicyName, Timestamp>, WorkError> {
        let mut due = BTreeMap::new();
        for (name, since, grace_seconds) in context.state.marked_of_withdrawn()? {
            let at = since + SignedDuration::from_secs(grace_seconds);
            // A cleanup that was held up is tried again an hour later.
            let last = context.state.last_turn(&name, "cleanup")?;
            let at = last.map_or(at, |last| at.max(last + SignedDuration::from_hours(1)));
            due.entry(name).and_modify(|known: &mut Timestamp| *known = (*known).min(at)).or_insert(at);
        }
        Ok(due)
    }
}

impl ScheduleTurn {
    fn look_again(&mut self, at: Timestamp) {
        if at < Timestamp::MAX {
            self.next_due = Some(self.next_due.map_or(at, |known| known.min(at)));
        }
    }
}

fn read_timetable(text: String) -> Result<Timetable, String> {
    let compiled: CompiledPolicy = serde_json::from_str(&text).map_err(|error| error.to_string())?;
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
        text,
        compiled,
    })
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
        message: "about to start".to_owned(),
        ..runner::first_report(policy, &request, now)
    }
}
