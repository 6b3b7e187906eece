//! The daemon: a loop over a closed set of wakes. Events only wake it; the work is done in a turn, at its own pace.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    apply::chain,
    engine::{EngineError, local::LocalEngine},
    git::checkout::CheckoutOptions,
    policy::PolicyName,
    run::Phase,
    turn::{Site, SiteOptions, Turn, TurnError, turn},
    web::{self, Window},
};

pub mod memory;

/// The longest time without a look at the wall clock, so that a clock that was set is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Wakes that may queue up before the loop takes them; more of the same kind change nothing.
const WAKE_QUEUE: usize = 64;

/// Why the loop goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The watched repository changed on this host.
    GitChanged,
    /// It is time to ask the remote repository.
    Poll,
    /// The forge said that something was pushed.
    Webhook,
    /// A policy is due.
    Due,
    /// A run, a restore or a cleanup ended.
    RunEnded,
    /// A signal asked for the end.
    Shutdown,
}

impl Wake {
    /// Whether the documents or the status may have changed.
    fn wants_turn(self) -> bool {
        match self {
            Self::GitChanged | Self::Poll | Self::Webhook | Self::RunEnded => true,
            Self::Due | Self::Shutdown => false,
        }
    }
}

/// What the daemon is told at its start.
#[derive(Debug)]
pub struct DaemonOptions {
    /// The watched repository, branch and path.
    pub checkout: CheckoutOptions,
    /// Where the local engine keeps its state.
    pub state_directory: PathBuf,
    /// Whether the status is written back.
    pub write_back: bool,
    /// How often a remote repository is asked.
    pub poll: Duration,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; none: nowhere.
    pub listen: Option<SocketAddr>,
}

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state cannot be used.
    #[error("cannot use the state in {directory}")]
    State {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The site cannot be set up.
    #[error("cannot set up the watched repository")]
    Site(#[source] TurnError),
}

/// Watches, plans, applies and starts runs until a signal asks for the end. Runs that are under way go on without it.
///
/// # Errors
/// Something that a person must mend before the daemon can start.
pub async fn daemon(options: DaemonOptions) -> Result<(), DaemonError> {
    let DaemonOptions { checkout, state_directory, write_back, poll, listen } = options;
    let (wake_sender, mut wakes) = mpsc::channel(WAKE_QUEUE);
    signals(&wake_sender).map_err(DaemonError::Signals)?;

    let engine = LocalEngine::open(&state_directory)
        .map_err(|source| DaemonError::State { directory: state_directory.clone(), source })?;
    let window = Window::default();
    window.look().not_ready = Some("the first turn is still to come".to_owned());
    let (stop, stopped) = watch::channel(false);
    if let Some(address) = listen {
        let listener = web::listen(address).await.map_err(|source| DaemonError::Listen { address, source })?;
        tracing::info!(%address, "serving /healthz, /readyz and /metrics");
        tokio::spawn(web::serve(listener, window.clone(), stopped));
    }

    let mut site = Site::new(SiteOptions { checkout, state_directory, write_back }).map_err(DaemonError::Site)?;
    tell_ended(&engine, wake_sender.clone());
    let mut watcher = None;
    let mut wake = Wake::Poll;
    let mut next_poll = Instant::now();
    let mut failures: u32 = 0;
    let mut ahead = BTreeSet::new();
    loop {
        if wake == Wake::Shutdown {
            break;
        }
        let now = Timestamp::now();
        if watcher.is_none() {
            watcher = site.watch(wake_sender.clone());
        }
        if wake.wants_turn() {
            recover(&engine, now).await;
            failures = match one_turn(&mut site, &engine, &window, now).await {
                true => 0,
                false => failures.saturating_add(1),
            };
            next_poll = Instant::now() + pause(poll, failures, watcher.is_some());
        }
        let next_due = start_due(&engine, &site, &mut ahead, now);
        wake = next_wake(&mut wakes, next_poll, next_due).await;
    }
    tracing::info!("asked to end; runs that are under way go on by themselves");
    let _ = stop.send(true);
    Ok(())
}

/// One turn, told to the log and the metrics. Whether it went well.
async fn one_turn(site: &mut Site, engine: &LocalEngine, window: &Window, now: Timestamp) -> bool {
    let began = Instant::now();
    let result = turn(site, engine, now).await;
    let mut shown = window.look();
    shown.metrics.turn_ended(result.is_ok(), began.elapsed().as_secs_f64());
    match result {
        Ok(Turn { plan, actual, findings, applied, published }) => {
            shown.not_ready = None;
            shown.metrics.planned(&plan, findings);
            shown.metrics.observed(&actual);
            for run in site.ended_runs() {
                shown.metrics.run_ended(&run.policy.to_string(), run.phase == Phase::Succeeded);
            }
            if let Err(reason) = &published {
                shown.metrics.git_failed();
                tracing::warn!(%reason, "the status could not be written back; the next turn tries again");
            }
            tracing::debug!(
                changes = applied.done.len(),
                refused = plan.refusals.len(),
                milliseconds = began.elapsed().as_millis() as u64,
                "turn"
            );
            published.is_ok() && applied.failed.is_empty()
        }
        Err(error) => {
            if matches!(error, TurnError::Git(_)) {
                shown.metrics.git_failed();
            }
            let reason = chain(&error);
            tracing::error!(%reason, "this turn changed nothing; schedules go on as they are");
            shown.not_ready = Some(reason);
            false
        }
    }
}

/// Fails what has no process any more, and wakes what it left still.
async fn recover(engine: &LocalEngine, now: Timestamp) {
    if let Err(error) = engine.recover(now).await {
        tracing::error!(reason = chain(&error), "could not look after runs that vanished");
    }
}

/// A child process that ended becomes a wake.
fn tell_ended(engine: &LocalEngine, wake: mpsc::Sender<Wake>) {
    let (sender, mut ended) = mpsc::channel(WAKE_QUEUE);
    engine.tell_ended(sender);
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            if wake.send(Wake::RunEnded).await.is_err() {
                break;
            }
        }
    });
}

/// Starts what is due; tells when the next thing is. `ahead`: what the last look found to lie ahead of the clock, so
/// that each is told once.
fn start_due(
    engine: &LocalEngine,
    site: &Site,
    ahead: &mut BTreeSet<(PolicyName, Timestamp)>,
    now: Timestamp,
) -> Option<Timestamp> {
    match tokio::task::block_in_place(|| engine.schedule_turn(now, site.settings())) {
        Ok(turn) => {
            for (policy, run) in &turn.started {
                tracing::info!(%policy, %run, "run started");
            }
            for (policy, work) in &turn.maintenance {
                tracing::info!(%policy, %work, "started");
            }
            for (policy, scheduled) in &turn.skipped {
                tracing::warn!(%policy, %scheduled, "skipped: its deadline had passed");
            }
            let found: BTreeSet<(PolicyName, Timestamp)> = turn.ahead.into_iter().collect();
            for (policy, last_scheduled) in found.difference(ahead) {
                tracing::warn!(%policy, %last_scheduled, "the clock went back: nothing starts before this time comes again");
            }
            *ahead = found;
            turn.next_due
        }
        Err(error) => {
            tracing::error!(reason = chain(&error), "could not start what is due");
            None
        }
    }
}

/// Waits for the next wake: an event, the poll or the next due time, whichever comes first.
async fn next_wake(wakes: &mut mpsc::Receiver<Wake>, next_poll: Instant, next_due: Option<Timestamp>) -> Wake {
    let until_due = next_due
        .map(|due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default())
        .unwrap_or(LONGEST_WAIT)
        .min(LONGEST_WAIT);
    tokio::select! {
        biased;
        wake = wakes.recv() => wake.unwrap_or(Wake::Shutdown),
        () = sleep_until(next_poll) => Wake::Poll,
        () = sleep_until(Instant::now() + until_due) => Wake::Due,
    }
}

/// How long until the repository is asked again: after failures soon at first, then ever later up to the usual time.
fn pause(poll: Duration, failures: u32, watched: bool) -> Duration {
    if failures > 0 {
        return Duration::from_secs(1 << failures.min(8)).min(poll.max(Duration::from_secs(5)));
    }
    // A watched repository wakes the loop by itself; asking is only for what a watcher can miss.
    if watched { poll.max(Duration::from_secs(300)) } else { poll.mul_f64(0.9 + 0.2 * rand::random::<f64>()) }
}

/// SIGTERM and SIGINT become a wake.
fn signals(wake: &mpsc::Sender<Wake>) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind)?;
        let wake = wake.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if wake.send(Wake::Shutdown).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}
