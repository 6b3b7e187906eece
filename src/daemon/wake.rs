//! What wakes the daemon: a closed set, and where each of them comes from. Nothing here looks at what changed.

use std::{ffi::OsStr, path::Path, time::Duration};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::engine::{kubernetes::watch::Shared, local::LocalEngine};

/// Wakes that may queue up before the loop takes them; more of the same kind change nothing.
pub const WAKE_QUEUE: usize = 64;
/// Writes to the state this close together are one wake: a run writes several times in a row.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The files of the state begin with this.
const STATE_FILES: &str = "state.sqlite";

/// Why the loop goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The watched repository changed on this host.
    GitChanged,
    /// The watched repository is watched no longer: events were lost, or it was removed.
    WatchLost,
    /// It is time to ask the remote repository.
    Poll,
    /// The forge said that something was pushed.
    Webhook,
    /// The forge has consent that the last turn did not know.
    Reviewed,
    /// A policy is due, or it is time to look at the clock.
    Due,
    /// A child of this daemon ended: a run, a restore or a cleanup.
    RunEnded,
    /// Some process wrote to the state: a run by hand, a hold, or this daemon itself.
    StateChanged,
    /// Something that was applied is not as it was: a hand changed it, or something of others is in its way.
    Drifted,
    /// A turn ended.
    TurnEnded,
    /// A signal asked for the end.
    Shutdown,
}

impl Wake {
    /// Whether the documents may have changed.
    pub fn wants_turn(self) -> bool {
        match self {
            Self::GitChanged | Self::WatchLost | Self::Poll | Self::Webhook | Self::Reviewed | Self::Drifted => true,
            // A turn follows only if the history has something new.
            Self::Due | Self::RunEnded | Self::StateChanged | Self::TurnEnded | Self::Shutdown => false,
        }
    }

    /// Whether it is worth looking for runs that are due or vanished, even if the history has nothing new. A write to
    /// the state is not: the daemon writes there itself, and must not wake itself.
    pub fn wants_look(self) -> bool {
        match self {
            Self::GitChanged | Self::WatchLost | Self::Poll | Self::Webhook | Self::Due | Self::RunEnded => true,
            Self::StateChanged | Self::Reviewed | Self::Drifted | Self::TurnEnded | Self::Shutdown => false,
        }
    }
}

/// SIGTERM and SIGINT become a wake.
///
/// # Errors
/// Signals cannot be received.
pub fn signals(wake: &mpsc::Sender<Wake>) -> std::io::Result<()> {
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

/// A child process that ended becomes a wake.
pub fn ended_children(engine: &LocalEngine, wake: mpsc::Sender<Wake>) {
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

/// A change that the watches of a cluster tell becomes a wake: one that wants a turn only if something is not as it was
/// applied.
pub fn cluster_changes(shared: &Shared, wake: mpsc::Sender<Wake>) {
    let shared = shared.clone();
    let mut changes = shared.changes();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            tokio::time::sleep(DEBOUNCE).await;
            changes.mark_unchanged();
            let is_drift = {
                let mut index = shared.look();
                // Until everything was told once, nothing can be said to be gone.
                index.is_ready() && index.judge(jiff::Timestamp::now())
            };
            let wake_for = if is_drift { Wake::Drifted } else { Wake::StateChanged };
            if wake.send(wake_for).await.is_err() {
                break;
            }
        }
    });
}

/// Watches the state directory as long as it lives: runs that other processes end, holds and releases.
pub struct StateWatcher {
    _watcher: RecommendedWatcher,
}

impl StateWatcher {
    /// Watches. Without it the daemon still looks every now and then.
    ///
    /// # Errors
    /// The system has no watches left.
    pub fn start(directory: &Path, wake: mpsc::Sender<Wake>) -> Result<Self, notify::Error> {
        let (sender, mut written) = mpsc::channel(1);
        let handler = move |event: Result<Event, notify::Error>| {
            // Events that were lost may have been anything.
            if event.as_ref().map_or(true, is_write) {
                // Full: a wake is on its way already.
                let _ = sender.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler)?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        tokio::spawn(async move {
            while written.recv().await.is_some() {
                tokio::time::sleep(DEBOUNCE).await;
                // What was written until now is seen by this wake.
                let _ = written.try_recv();
                if wake.send(Wake::StateChanged).await.is_err() {
                    break;
                }
            }
        });
        Ok(Self { _watcher: watcher })
    }
}

/// Whether an event may mean new history. Reading is an event, too, and the daemon reads the state itself.
fn is_write(event: &Event) -> bool {
    let is_state =
        |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(STATE_FILES) && !name.ends_with("-shm"));
    !matches!(event.kind, EventKind::Access(_))
        && (event.need_rescan() || event.paths.iter().any(|path| path.file_name().is_some_and(is_state)))
}
