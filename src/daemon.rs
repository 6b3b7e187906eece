//! The daemon: a loop over a closed set of wakes. Events only wake it; the work is done in a turn, at its own pace.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    engine::{Engine, EngineError, kubernetes::manifests::policy::Installation, local::LocalEngine},
    forge::{self, reviewer::Reviewer},
    git::checkout::CheckoutOptions,
    notify::watcher::Watcher,
    policy::{EngineKind, PolicyName, document::SettingsSpec},
    turn::{SiteOptions, TurnError},
    web::{self, Window},
};

mod cluster;
pub mod memory;
pub mod turns;
pub mod wake;

use turns::{Outcome, Turns};
pub use wake::Wake;
use wake::{StateWatcher, WAKE_QUEUE};

/// The longest time without a look at the clock and at the runs that are under way: a clock that was set, a process that
/// vanished and an event that the system dropped are noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long the first turn may take before runs that are due are started without it: a commit that was made while no
/// daemon was there, above all a freeze, counts first.
const FIRST_TURN: Duration = Duration::from_secs(10);
/// How long a turn that is under way may go on after a signal asked for the end.
const LAST_TURN: Duration = Duration::from_secs(10);
/// Why a daemon that has just started is not ready.
const FIRST_TURN_TO_COME: &str = "the first turn is still to come";
/// The name of the lease that a daemon holds.
pub const LEASE: &str = "daemon";

/// Where runs happen.
#[derive(Debug, Clone)]
pub enum Place {
    /// On this host.
    Host,
    /// In the cluster that the service account or the kubeconfig names.
    Cluster(Installation),
}

/// What the daemon is told at its start.
#[derive(Debug)]
pub struct DaemonOptions {
    /// Where runs happen.
    pub place: Place,
    /// The watched repository, branch and path.
    pub checkout: CheckoutOptions,
    /// Where the local engine keeps its state.
    pub state_directory: PathBuf,
    /// Whether the status is written back.
    pub write_back: bool,
    /// How often a remote repository is asked.
    pub poll: Duration,
    /// How long one exchange with the repository may take.
    pub git_timeout: Duration,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; none: nowhere.
    pub listen: Option<SocketAddr>,
}

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state cannot be used.
    #[error("cannot use the state in {}", directory.display())]
    State {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// Another daemon works on the same state.
    #[error(
        "another daemon ({holder}) works on the state in {}; end it first, or name another directory with --state",
        directory.display()
    )]
    AlreadyRunning {
        /// Its process.
        holder: String,
        /// The state.
        directory: PathBuf,
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
    /// The cluster cannot be used.
    #[error("cannot use the cluster")]
    Cluster(#[source] EngineError),
    /// Another daemon may be at work.
    #[error("this daemon lost its lease, and another may be at work; start it again, and it waits for its turn")]
    LostLease,
    /// The site cannot be set up.
    #[error("cannot set up the watched repository")]
    Site(#[source] TurnError),
}

/// Watches, plans, applies and starts runs until a signal asks for the end. Runs that are under way go on without it.
///
/// # Errors
/// Something that a person must mend before the daemon can start.
pub async fn daemon(options: DaemonOptions) -> Result<(), DaemonError> {
    let DaemonOptions { place, checkout, state_directory, write_back, poll, git_timeout, listen } = options;
    let (wake_sender, wakes) = mpsc::channel(WAKE_QUEUE);
    wake::signals(&wake_sender).map_err(DaemonError::Signals)?;
    let window = Window::default();
    let (stop, stopped) = watch::channel(false);
    let kind = match &place {
        Place::Host => EngineKind::Local,
        Place::Cluster(_) => EngineKind::Kubernetes,
    };
    let site = SiteOptions { checkout, state_directory, write_back, engine: kind };
    let work = Work { window, site, poll, git_timeout, listen, stopped, wake_sender, wakes };
    let result = match place {
        Place::Host => on_host(work).await,
        Place::Cluster(installation) => cluster::work(work, installation).await,
    };
    let _ = stop.send(true);
    result
}

/// What every daemon works with, wherever its runs happen.
struct Work {
    window: Window,
    site: SiteOptions,
    poll: Duration,
    git_timeout: Duration,
    listen: Option<SocketAddr>,
    stopped: watch::Receiver<bool>,
    wake_sender: mpsc::Sender<Wake>,
    wakes: mpsc::Receiver<Wake>,
}

impl Work {
    /// Serves what can be asked over HTTP, if that is wanted.
    async fn listen(&self) -> Result<(), DaemonError> {
        let Some(address) = self.listen else { return Ok(()) };
        let listener = web::listen(address).await.map_err(|source| DaemonError::Listen { address, source })?;
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!(%address, "serving /healthz, /readyz and /metrics");
        tokio::spawn(web::serve(listener, self.window.clone(), self.stopped.clone()));
        Ok(())
    }

    /// Turns until a signal asks for the end.
    async fn turn<E: Engine + 'static>(self, engine: Arc<E>) -> Result<(), DaemonError> {
        let Self { window, site, poll, git_timeout, wake_sender, wakes, .. } = self;
        let reviewer = Reviewer::start(forge::reviewer::Place {
            engine: Arc::clone(&engine),
            checkout: site.checkout.clone(),
            state_directory: site.state_directory.clone(),
            engine_kind: site.engine,
            poll,
            window: window.clone(),
            wake: wake_sender.clone(),
        });
        let watcher = Watcher::start(Arc::clone(&engine), site.state_directory.clone());
        let turns = Turns::new(Arc::clone(&engine), window, site, git_timeout, wake_sender.clone());
        let mut turns = turns.map_err(DaemonError::Site)?;
        let beside = Beside { reviewer, watcher };
        watch_and_turn(&engine, &mut turns, &beside, poll, wake_sender, wakes).await;
        tracing::info!("asked to end; runs that are under way go on by themselves");
        turns.finish(LAST_TURN).await;
        Ok(())
    }
}

/// The daemon of one host.
async fn on_host(work: Work) -> Result<(), DaemonError> {
    let state_directory = work.site.state_directory.clone();
    let failed = |source| DaemonError::State { directory: state_directory.clone(), source };
    let engine = Arc::new(LocalEngine::open(&state_directory).map_err(failed)?);
    let state = Arc::clone(&engine.context().state);
    let lease = state.lease(LEASE, Timestamp::now()).map_err(|error| failed(error.into()))?;
    let _lease = lease.map_err(|holder| DaemonError::AlreadyRunning {
        holder: holder.to_string(),
        directory: state_directory.clone(),
    })?;
    tracing::info!(state = %state_directory.display(), "the daemon is at work");
    work.window.look().not_ready = Some(FIRST_TURN_TO_COME.to_owned());
    work.listen().await?;
    wake::ended_children(&engine, work.wake_sender.clone());
    let _state_watcher = StateWatcher::start(&state_directory, work.wake_sender.clone()).inspect_err(|error| {
        tracing::warn!(reason = crate::engine::chain(error), "the state is not watched; it is looked at instead")
    });
    work.turn(Arc::clone(&engine)).await
}

/// What goes on beside the loop, in tasks of their own.
struct Beside {
    reviewer: Reviewer,
    watcher: Watcher,
}

/// The loop.
async fn watch_and_turn<E: Engine + 'static>(
    engine: &Arc<E>,
    turns: &mut Turns<E>,
    beside: &Beside,
    poll: Duration,
    wake_sender: mpsc::Sender<Wake>,
    mut wakes: mpsc::Receiver<Wake>,
) {
    let longest = LONGEST_WAIT.min(poll);
    let mut recoveries: Vec<JoinHandle<()>> = Vec::new();
    let mut git_watcher = None;
    let mut failures: u32 = 0;
    let mut wanted = true;
    let mut wake = Wake::Poll;
    let mut next_poll = Instant::now() + poll;
    let mut next_due = None;
    let mut ahead = BTreeSet::new();
    let mut runs_wait_until = Some(Instant::now() + FIRST_TURN);
    while wake != Wake::Shutdown {
        let outcome = turns.ended();
        if let Some(outcome) = outcome {
            runs_wait_until = None;
            let settings = turns.settings();
            beside.reviewer.turn_ended(settings.forge.as_ref(), turns.report());
            beside.watcher.turn_ended(&settings.notifications);
            failures = if outcome == Outcome::Good { 0 } else { failures.saturating_add(1) };
            if outcome == Outcome::NoGit {
                // What was watched may be gone, or another repository may stand in its place.
                git_watcher = None;
            } else if git_watcher.is_none() {
                git_watcher = turns.site().and_then(|site| site.watch(wake_sender.clone()));
                // What was committed before it was watched.
                wanted |= git_watcher.is_some();
            }
            next_poll = Instant::now() + pause(poll, failures, git_watcher.is_some());
        }
        if wake == Wake::Webhook {
            beside.reviewer.look_now();
        }
        if wake == Wake::WatchLost {
            git_watcher = None;
        }
        if let (Some(watched), Some(site)) = (&git_watcher, turns.site())
            && wake.wants_look()
            && !site.is_watched_by(watched)
        {
            // It was moved away, which a watcher inside it does not see.
            git_watcher = None;
            wanted = true;
        }
        if wake == Wake::Poll {
            next_poll = Instant::now() + pause(poll, failures, git_watcher.is_some());
        }
        recoveries.retain(|recovery| !recovery.is_finished());
        if wake.wants_look() && recoveries.len() < engine.recovers_at_once() {
            recoveries.push(tokio::spawn(recover(Arc::clone(engine))));
        }
        wanted |= wake.wants_turn();
        let has_started = (wanted || turns.has_news()) && turns.start();
        wanted &= !has_started;
        // The turn that a commit started changes what is due, and is looked at when it ends; a time that comes before
        // is a wake of its own.
        let looks_later = has_started && wake.wants_turn();
        let wants_look = wake.wants_look() && !looks_later || outcome.is_some();
        if wants_look && runs_wait_until.is_none_or(|until| until <= Instant::now()) {
            next_due = start_due(engine.as_ref(), turns.settings(), &mut ahead, Timestamp::now()).await;
        }
        wake = next_wake(&mut wakes, next_poll, next_due, longest.min(turns.patience())).await;
    }
}

/// Fails what has no process any more, and wakes what it left still.
async fn recover<E: Engine>(engine: Arc<E>) {
    if let Err(error) = engine.recover(Timestamp::now()).await {
        tracing::error!(reason = crate::engine::chain(&error), "could not look after runs that vanished");
    }
}

/// Starts what is due; tells when the next thing is. `ahead`: what the last look found to lie ahead of the clock, so
/// that each is told once.
async fn start_due<E: Engine>(
    engine: &E,
    settings: &SettingsSpec,
    ahead: &mut BTreeSet<(PolicyName, Timestamp)>,
    now: Timestamp,
) -> Option<Timestamp> {
    match engine.schedule_turn(now, settings).await {
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
                tracing::warn!(%policy, %last_scheduled, "the clock went back behind the last run; the schedule goes on by the clock as it is");
            }
            *ahead = found;
            turn.next_due
        }
        Err(error) => {
            tracing::error!(reason = crate::engine::chain(&error), "could not start what is due");
            None
        }
    }
}

/// Waits for the next wake: an event, the poll or the next due time, whichever comes first.
async fn next_wake(
    wakes: &mut mpsc::Receiver<Wake>,
    next_poll: Instant,
    next_due: Option<Timestamp>,
    longest: Duration,
) -> Wake {
    let until_due = next_due
        .map(|due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default())
        .unwrap_or(longest)
        .min(longest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_git_is_asked_soon_and_then_ever_later() {
        let poll = Duration::from_secs(60);
        let seconds = |failures, watched| pause(poll, failures, watched).as_secs();
        for watched in [false, true] {
            assert_eq!([1, 2, 3, 5, 6, u32::MAX].map(|failures| seconds(failures, watched)), [2, 4, 8, 32, 60, 60]);
        }
        let pauses: BTreeSet<u128> = (0..50).map(|_| pause(poll, 0, false).as_millis()).collect();
        assert!(pauses.iter().all(|milliseconds| (54_000..=66_000).contains(milliseconds)));
        assert!(pauses.len() > 10, "many daemons must not ask at the same moment: {pauses:?}");
        assert_eq!(seconds(0, true), 300, "what is watched needs no asking");
        // Whoever asks each second does not wait less after a failure than without one.
        assert_eq!(pause(Duration::from_secs(1), 9, false).as_secs(), 5);
    }
}
