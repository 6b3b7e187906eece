//! `mainstay run`: one run of a policy, now. The policy is read from the engine's state; git is not needed.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

mod in_pod;

use super::{
    CommandResult, Exit, Failure, StateArguments,
    display::files,
    engine::{self, EngineName},
    frozen,
    progress::Progress,
};
use crate::{
    engine::kubernetes::{
        lease::PodIdentity,
        run_now::{self, Asked},
    },
    engine::local::{
        cleanup::{self, Extent},
        context::{Context, WorkError},
        movers::Bounds,
        process::Stop,
        runner::{self, Notice, RunEnd, RunRequest},
        state::State,
        verifying,
    },
    policy::PolicyName,
    run::{Phase, RunReport, Trigger},
};

/// How long work besides runs may take.
const MAINTENANCE: std::time::Duration = std::time::Duration::from_secs(48 * 3600);

/// Run a policy now.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    #[command(flatten)]
    state: StateArguments,
    /// The scheduled time that this run is for; the same time is run once only
    #[arg(long, value_name = "TIME")]
    scheduled: Option<Timestamp>,
    /// Why it is started
    #[arg(long, value_enum, default_value_t = TriggerName::Manual)]
    trigger: TriggerName,
    /// If a run of the policy is under way already: wait for its end, and end as it does
    #[arg(long)]
    follow: bool,
    /// Run although everything is frozen (`Settings.freeze`)
    #[arg(long)]
    despite_freeze: bool,
    /// Other work of the policy instead of a run: cleanup, verify, `prune REPOSITORY` or `check REPOSITORY`
    #[arg(long, value_name = "WORK", hide = true)]
    only: Option<String>,
}

/// Why a run is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TriggerName {
    /// Its schedule.
    Schedule,
    /// One run for missed ones.
    CatchUp,
    /// A person.
    Manual,
}

impl From<TriggerName> for Trigger {
    fn from(name: TriggerName) -> Self {
        match name {
            TriggerName::Schedule => Self::Schedule,
            TriggerName::CatchUp => Self::CatchUp,
            TriggerName::Manual => Self::Manual,
        }
    }
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    if arguments.state.engine.engine == EngineName::Kubernetes {
        return asynchronous(in_cluster(&arguments));
    }
    let directory = arguments.state.directory()?;
    let state = State::open(&directory).map_err(|error| Failure::new("the run did not begin").caused_by(error))?;
    asynchronous(async move {
        let context = Context::new(Arc::new(state), Some(stop_on_signals()?));
        if let Some(work) = &arguments.only {
            return other_work(&context, &arguments.policy, work).await.map_err(failure);
        }
        // What the scheduler starts, it started before the freeze.
        if matches!(arguments.trigger, TriggerName::Manual) && !arguments.despite_freeze {
            frozen::check_run(&context.state)?;
        }
        run(&context, &arguments).await
    })
}

/// Asks for a run in the cluster, and, with `--follow`, prints its log until it ends.
async fn in_cluster(arguments: &Arguments) -> CommandResult {
    if PodIdentity::own().is_pod() {
        // It must never ask for another run: each of these would ask for the next.
        return in_pod::execute(arguments).await;
    }
    let Arguments { policy, state, scheduled, follow, despite_freeze, .. } = arguments;
    let store = engine::store(&state.engine).await?;
    if !despite_freeze {
        run_now::check_freeze(&store).await.map_err(engine::failure)?;
    }
    let at = scheduled.unwrap_or_else(Timestamp::now);
    let asked = run_now::ask(&store, policy, at).await.map_err(engine::failure)?;
    let Asked { id, job, is_new } = &asked;
    match is_new {
        true => println!("run {id} of {policy} was asked for: Job {job} in namespace {}", store.namespace()),
        false => println!("run {id} of {policy} was asked for already: Job {job} in namespace {}", store.namespace()),
    }
    if !follow {
        println!("`mainstay status {policy}` shows how it goes; --follow waits for its end");
        return Ok(Exit::Success);
    }
    run_now::follow(&store, job, |line| println!("{line}")).await.map_err(engine::failure)?;
    ended(&run_now::ending(&store, policy, id).await.map_err(engine::failure)?)
}

async fn run(context: &Context, arguments: &Arguments) -> CommandResult {
    let request = RunRequest {
        policy: arguments.policy.clone(),
        scheduled_at: arguments.scheduled,
        trigger: arguments.trigger.into(),
    };
    let mut progress = Progress::new();
    let end = runner::run(context, &request, &mut |notice| match notice {
        Notice::Step(step) => progress.step(&step),
        Notice::Word(subject, word) => progress.word(&subject, &word),
    })
    .await
    .map_err(failure)?;
    progress.finish();
    match end {
        RunEnd::Ended(report) => ended(&report),
        RunEnd::Past(id) => {
            println!("run {id} of {} was carried out already, long ago; nothing was started", arguments.policy);
            Ok(Exit::Success)
        }
        RunEnd::Adopted(report) if arguments.follow => {
            println!("run {} of {} is under way already; waiting for its end", report.id, report.policy);
            ended(&follow(context, &report).await?)
        }
        RunEnd::Adopted(report) => {
            let how = match report.phase {
                Phase::Pending | Phase::Running => "is under way already",
                Phase::Succeeded => "was carried out already, and succeeded",
                Phase::Failed => "was carried out already, and failed",
            };
            println!("run {} of {} {how}; nothing was started", report.id, report.policy);
            Ok(Exit::Success)
        }
    }
}

/// Waits for the end of a run in another process.
async fn follow(context: &Context, report: &RunReport) -> Result<RunReport, Failure> {
    loop {
        let now = Timestamp::now();
        crate::engine::local::recovery::recover_policy(context, Some(&report.policy), now).await.map_err(failure)?;
        let runs = context.state.runs(&report.policy).map_err(|error| failure(error.into()))?;
        match runs.into_iter().map(|run| run.report).find(|run| run.id == report.id) {
            Some(run) if matches!(run.phase, Phase::Pending | Phase::Running) => {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            Some(run) => return Ok(run),
            None => return Err(Failure::new(format!("run {} of {} is no longer known", report.id, report.policy))),
        }
    }
}

fn ended(report: &RunReport) -> CommandResult {
    for source in &report.sources {
        // What made the run fail is said once, at the end.
        let message = source.message.as_ref().filter(|message| !report.message.contains(message.as_str()));
        let note = message.map_or(String::new(), |message| format!(" ({message})"));
        let phase = match source.phase {
            Phase::Pending => "not begun",
            Phase::Running => "running",
            Phase::Succeeded => "succeeded",
            Phase::Failed => "failed",
        };
        println!(
            "  {phase:<10} {} → {}: {}, {}, {} new, {:.1} s{note}",
            source.source,
            source.repository,
            files(source.files),
            runner::Size(source.size_bytes),
            runner::Size(source.added_bytes),
            source.duration_milliseconds as f64 / 1000.0,
        );
    }
    match report.phase {
        Phase::Succeeded => {
            println!("{}: {}", report.policy, report.message);
            Ok(Exit::Success)
        }
        Phase::Pending | Phase::Running | Phase::Failed => {
            Err(Failure::new(format!("run {} of {} failed: {}", report.id, report.policy, report.message))
                .hint("the restore points from before are as they were; `mainstay points` lists what there is"))
        }
    }
}

/// Work besides runs, started by the scheduler.
async fn other_work(context: &Context, policy: &PolicyName, work: &str) -> Result<Exit, WorkError> {
    let now = Timestamp::now();
    let bounds = Bounds::within(MAINTENANCE, context.stop.clone());
    let (kind, repository) = work.split_once(' ').unwrap_or((work, ""));
    let stored = context.state.policy(policy)?.ok_or_else(|| runner::no_such_policy(policy))?;
    match kind {
        "cleanup" => {
            let cleaned = cleanup::clean(context, policy, Extent::Whole, now, &bounds).await?;
            for reason in &cleaned.held_up {
                tracing::warn!(%policy, "{reason}");
            }
            println!(
                "{policy}: {} marked, {} taken back, {} forgotten, {} freed",
                cleaned.marked.len(),
                cleaned.taken_back.len(),
                cleaned.forgotten.len(),
                runner::Size(cleaned.freed_bytes)
            );
        }
        "prune" => {
            for place in context.state.places(policy)? {
                if place.repository == repository && place.initialised {
                    cleanup::prune(context, &place, now, &bounds).await?;
                }
            }
        }
        "verify" | "check" => {
            let only = (kind == "check").then_some(repository);
            let of_policy =
                stored.compiled.document.spec.verify.as_ref().and_then(|verify| verify.read_data.as_deref());
            let documents = &stored.compiled.repositories;
            let of_repository = documents.iter().find(|document| document.metadata.name == repository);
            let of_repository = of_repository
                .and_then(|document| document.spec.maintenance.as_ref())
                .and_then(|maintenance| maintenance.read_data.as_deref());
            let percent = verifying::percent(if kind == "check" { of_repository } else { of_policy });
            let results = verifying::verify(context, policy, only, percent, now, &bounds, |_, _| ()).await?;
            if let Some((repository, problem)) =
                results.into_iter().find_map(|result| Some((result.repository, result.problem?)))
            {
                return Err(WorkError::Refused(format!("repository {repository} did not pass: {problem}")));
            }
        }
        other => {
            return Err(WorkError::Refused(format!(
                "there is no work `{other}`; it is cleanup, verify, `prune REPOSITORY` or `check REPOSITORY`"
            )));
        }
    }
    Ok(Exit::Success)
}

/// A piece of work that failed, for a person.
pub(super) fn failure(error: WorkError) -> Failure {
    let message = error.to_string();
    match std::error::Error::source(&error).map(ToString::to_string) {
        Some(cause) => Failure::new(message).caused_by(cause),
        None => Failure::new(message),
    }
}

/// A runtime for one command.
pub(super) fn asynchronous<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("the program could not set itself up").caused_by(error))?
        .block_on(work)
}

/// Becomes true at SIGTERM, SIGINT or SIGHUP. The run then ends its mover, starts what it stopped, and says so.
pub(super) fn stop_on_signals() -> Result<Stop, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::new("signals cannot be listened for").caused_by(error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        // Keeps the channel open: a receiver that outlives its sender would never be told.
        let _ = sender.send(true);
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
