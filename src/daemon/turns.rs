//! Turns beside the loop: one at a time, in a task of its own, so that a git server which does not answer holds up
//! neither schedules nor a signal. An exchange with git that takes too long is given up.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, block_in_place},
    time::Instant,
};

use super::wake::Wake;
use crate::{
    engine::Engine,
    forge::done::TurnReport,
    policy::document::SettingsSpec,
    run::Phase,
    turn::{Site, SiteOptions, Turn, TurnError, turn},
    web::Window,
};

/// Exchanges that were given up and still hold a thread each; with more, the daemon waits instead.
const MOST_GIVEN_UP: usize = 8;

/// How long the exchange with git has been going on that a turn is in, and whether it was given up. Shared between a
/// turn and the loop.
#[derive(Debug, Clone, Default)]
pub struct GitClock(Arc<Mutex<Exchange>>);

#[derive(Debug, Default)]
struct Exchange {
    since: Option<Instant>,
    given_up: bool,
}

impl GitClock {
    /// Carries an exchange out. None: it was given up meanwhile, and another turn took over; nothing of this one counts.
    pub fn time<T>(&self, exchange: impl FnOnce() -> T) -> Option<T> {
        self.look().since = Some(Instant::now());
        let result = exchange();
        let mut clock = self.look();
        clock.since = None;
        (!clock.given_up).then_some(result)
    }

    /// Whether another turn took over.
    pub fn is_given_up(&self) -> bool {
        self.look().given_up
    }

    /// Gives the exchange up if it takes longer than `limit`.
    fn give_up_after(&self, limit: Duration) -> bool {
        let mut clock = self.look();
        clock.given_up = clock.since.is_some_and(|since| since.elapsed() >= limit);
        clock.given_up
    }

    fn look(&self) -> MutexGuard<'_, Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turns of one daemon.
pub struct Turns<E> {
    engine: Arc<E>,
    window: Window,
    options: SiteOptions,
    limit: Duration,
    wake: mpsc::Sender<Wake>,
    /// None while a turn has it.
    site: Option<Site>,
    clock: GitClock,
    under_way: Option<UnderWay>,
    given_up: Vec<JoinHandle<()>>,
    settings: SettingsSpec,
    /// What the last turn that went through came to.
    report: TurnReport,
    /// The newest event that a turn has seen.
    seen_sequence: u64,
    /// The newest event that is in the metrics; none: none of this process.
    counted_sequence: Option<u64>,
}

/// A turn that has begun.
struct UnderWay {
    task: JoinHandle<()>,
    ended: oneshot::Receiver<Ended>,
    /// The newest event when it began. One that fails has seen no more, and comes again soon by itself.
    newest_sequence: u64,
}

/// What a turn gives back.
struct Ended {
    site: Site,
    newest_sequence: Option<u64>,
    report: Option<TurnReport>,
    outcome: Outcome,
}

/// How a turn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went through.
    Good,
    /// Something of it did not go through and is tried again soon.
    Incomplete,
    /// Git could not be read; what is watched must be opened anew.
    NoGit,
}

impl<E: Engine + 'static> Turns<E> {
    /// Reads what the last turn left.
    ///
    /// # Errors
    /// The memory of the last turn is damaged.
    pub fn new(
        engine: Arc<E>,
        window: Window,
        options: SiteOptions,
        limit: Duration,
        wake: mpsc::Sender<Wake>,
    ) -> Result<Self, TurnError> {
        let clock = GitClock::default();
        let site = Site::new(options.clone(), clock.clone(), None)?;
        let settings = site.settings().clone();
        Ok(Self {
            engine,
            window,
            options,
            limit,
            wake,
            site: Some(site),
            clock,
            under_way: None,
            given_up: Vec::new(),
            settings,
            report: TurnReport::default(),
            seen_sequence: 0,
            counted_sequence: None,
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> &SettingsSpec {
        &self.settings
    }

    /// What the last turn that went through came to.
    pub fn report(&self) -> &TurnReport {
        &self.report
    }

    /// The site; none: a turn has it.
    pub fn site(&self) -> Option<&Site> {
        self.site.as_ref()
    }

    /// Whether the history has something that no turn has seen.
    pub fn has_news(&self) -> bool {
        self.newest_sequence() > self.seen_sequence
    }

    /// Starts a turn. False: one is under way, and the wish must be kept.
    pub fn start(&mut self) -> bool {
        let Some(mut site) = self.site.take() else { return false };
        let (engine, window, wake) = (Arc::clone(&self.engine), self.window.clone(), self.wake.clone());
        let newest_sequence = self.newest_sequence();
        let state_directory = self.options.state_directory.clone();
        let (sender, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (outcome, newest_sequence, report) =
                one_turn(&mut site, engine.as_ref(), &window, Timestamp::now()).await;
            if let Err(error) = engine.turn_ended(&state_directory).await {
                tracing::warn!(
                    reason = crate::engine::chain(&error),
                    "what the turn left could not be kept; the next one tries again"
                );
            }
            // Nobody takes what was given up.
            let _ = sender.send(Ended { site, newest_sequence, report, outcome });
            // A full queue means that the loop is about to look anyway.
            let _ = wake.try_send(Wake::TurnEnded);
        });
        self.under_way = Some(UnderWay { task, ended, newest_sequence });
        true
    }

    /// How soon the turn that is under way must be looked at.
    pub fn patience(&self) -> Duration {
        self.under_way.as_ref().map_or(Duration::MAX, |_| self.limit)
    }

    /// The turn that has ended; none: none has. Gives up one whose exchange with git takes too long.
    pub fn ended(&mut self) -> Option<Outcome> {
        let mut turn = self.under_way.take()?;
        match turn.ended.try_recv() {
            Ok(Ended { site, newest_sequence, report, outcome }) => {
                let number = self.report.number + 1;
                self.report = TurnReport { number, ..report.unwrap_or_else(|| std::mem::take(&mut self.report)) };
                self.settings = site.settings().clone();
                self.seen_sequence = newest_sequence.unwrap_or(turn.newest_sequence).max(self.seen_sequence);
                self.counted_sequence = newest_sequence.or(self.counted_sequence);
                self.site = Some(site);
                Some(outcome)
            }
            Err(oneshot::error::TryRecvError::Empty) => {
                self.given_up.retain(|task| !task.is_finished());
                if self.given_up.len() < MOST_GIVEN_UP && self.clock.give_up_after(self.limit) {
                    return Some(self.give_up(turn));
                }
                self.under_way = Some(turn);
                None
            }
            Err(oneshot::error::TryRecvError::Closed) => {
                // A defect; the next turn starts from what is on disk.
                tracing::error!("a turn broke off");
                self.seen_sequence = turn.newest_sequence;
                Some(self.open_anew())
            }
        }
    }

    /// Waits a little for the turn that is under way, so that what it learned is written back.
    pub async fn finish(&mut self, limit: Duration) {
        if let Some(turn) = self.under_way.take()
            && tokio::time::timeout(limit, turn.task).await.is_err()
        {
            tracing::warn!("the turn that is under way did not end; the next daemon takes it up");
        }
    }

    fn newest_sequence(&self) -> u64 {
        block_in_place(|| self.engine.newest_sequence()).unwrap_or_else(|error| {
            tracing::error!(reason = crate::engine::chain(&error), "the history cannot be read");
            self.seen_sequence
        })
    }

    fn give_up(&mut self, turn: UnderWay) -> Outcome {
        let reason =
            format!("git did not answer within {} s; backups go on, and it is tried again", self.limit.as_secs());
        tracing::error!(%reason, "an exchange with git was given up");
        let mut shown = self.window.look();
        shown.metrics.git_failed();
        shown.metrics.turn_ended(false, self.limit.as_secs_f64());
        shown.not_ready = Some(reason);
        drop(shown);
        self.seen_sequence = turn.newest_sequence;
        self.given_up.push(turn.task);
        self.open_anew()
    }

    /// A new site from what the last turn left on disk.
    fn open_anew(&mut self) -> Outcome {
        self.clock = GitClock::default();
        match Site::new(self.options.clone(), self.clock.clone(), self.counted_sequence) {
            Ok(site) => self.site = Some(site),
            Err(error) => {
                tracing::error!(reason = crate::engine::chain(&error), "no turn is possible; restart the daemon")
            }
        }
        Outcome::NoGit
    }
}

/// One turn, told to the log and the metrics: how it went, and, if it went through, the newest event that it saw and
/// what it came to.
async fn one_turn<E: Engine>(
    site: &mut Site,
    engine: &E,
    window: &Window,
    now: Timestamp,
) -> (Outcome, Option<u64>, Option<TurnReport>) {
    let began = Instant::now();
    let result = turn(site, engine, now).await;
    if matches!(result, Err(TurnError::GivenUp)) {
        return (Outcome::NoGit, None, None);
    }
    let mut shown = window.look();
    shown.metrics.turn_ended(result.is_ok(), began.elapsed().as_secs_f64());
    match result {
        Ok(Turn { plan, actual, findings, applied, published, planning, newest_sequence }) => {
            shown.not_ready = None;
            shown.metrics.planned(&plan, findings, planning.as_secs_f64());
            shown.metrics.observed(actual);
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
                planning_milliseconds = planning.as_millis() as u64,
                milliseconds = began.elapsed().as_millis() as u64,
                "turn"
            );
            let is_good = published.is_ok() && applied.failed.is_empty();
            let refused = plan.refusals.iter().map(|refusal| (refusal.change.policy.clone(), refusal.reason.clone()));
            let report = TurnReport {
                number: 0,
                revision: plan.revision.clone(),
                refused: refused.collect(),
                failed: applied.failed,
                frozen: plan.frozen.clone(),
            };
            (if is_good { Outcome::Good } else { Outcome::Incomplete }, Some(newest_sequence), Some(report))
        }
        Err(error) => {
            let is_git = matches!(error, TurnError::Git(_));
            if is_git {
                shown.metrics.git_failed();
            }
            let reason = crate::engine::chain(&error);
            tracing::error!(%reason, "this turn changed nothing; schedules go on as they are");
            shown.not_ready = Some(reason);
            (if is_git { Outcome::NoGit } else { Outcome::Incomplete }, None, None)
        }
    }
}
