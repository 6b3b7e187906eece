//! The task of the daemon that tells: after each turn, and every minute, because silence makes no event.

use std::{path::PathBuf, sync::Arc, time::Duration};

use globset::Glob;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    judge::{self, News},
    memory::{NotifyMemory, Told},
    message,
    send::{self, SendError},
};
use crate::{
    actual::ActualState,
    engine::Engine,
    policy::{PolicyName, document::settings::Receiver},
    restore_point::RestorePointId,
    run::Phase,
    secret::Secret,
    status::ledger::{Event, EventKind},
};

/// How often it is looked at what has become silent.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a receiver did not answer, the next try comes this soon.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// A policy is silent after its time, not at it.
const A_MOMENT: Duration = Duration::from_millis(100);
/// Things that one receiver is told in one look; the rest follows in the next.
const TOLD_AT_ONCE: usize = 50;

/// The loop's end of the task.
#[derive(Debug)]
pub struct Watcher(watch::Sender<Assignment>);

/// What the task is told by the loop.
#[derive(Debug, Clone, Default, PartialEq)]
struct Assignment {
    receivers: Vec<Receiver>,
    turns: u64,
}

impl Watcher {
    /// Starts the task. It ends with this handle.
    pub fn start<E: Engine + 'static>(engine: Arc<E>, state_directory: PathBuf) -> Self {
        let (sender, assignments) = watch::channel(Assignment::default());
        tokio::spawn(work(engine, state_directory, assignments));
        Self(sender)
    }

    /// A turn ended, and these are to be told by the settings in force.
    pub fn turn_ended(&self, receivers: &[Receiver]) {
        self.0.send_if_modified(|assignment| {
            let is_wanted = !receivers.is_empty() || !assignment.receivers.is_empty();
            assignment.receivers = receivers.to_vec();
            assignment.turns += 1;
            is_wanted
        });
    }
}

async fn work<E: Engine>(engine: Arc<E>, state_directory: PathBuf, mut assignments: watch::Receiver<Assignment>) {
    let mut memory = NotifyMemory::load(&state_directory).unwrap_or_else(|error| {
        tracing::warn!(reason = %error, "what was told before is not known; what is wrong is told once more");
        NotifyMemory::default()
    });
    loop {
        let receivers = assignments.borrow_and_update().receivers.clone();
        let mut pause = if receivers.is_empty() { Duration::MAX } else { LOOK_EVERY };
        if !receivers.is_empty() {
            let before = memory.clone();
            let now = Timestamp::now();
            let looked = look(engine.as_ref(), &receivers, &mut memory, now).await;
            if let Some(at) = looked.silent_after {
                pause = pause.min(Duration::try_from(at.duration_since(now)).unwrap_or_default() + A_MOMENT);
            }
            if !looked.is_good {
                pause = pause.min(TRY_AGAIN);
            }
            if memory != before
                && let Err(error) = memory.save(&state_directory)
            {
                tracing::warn!(reason = %error, "what was told could not be kept; a restart tells it once more");
            }
        }
        let sleep = async {
            match pause {
                Duration::MAX => std::future::pending().await,
                pause => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            changed = assignments.changed() => if changed.is_err() { return },
            () = sleep => {}
        }
    }
}

/// What a look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Looked {
    /// False: something could not be told, and is tried again.
    is_good: bool,
    /// The next time after which some policy is silent.
    silent_after: Option<Timestamp>,
}

/// Tells each receiver what it does not know.
async fn look<E: Engine>(engine: &E, receivers: &[Receiver], memory: &mut NotifyMemory, now: Timestamp) -> Looked {
    let observed = async {
        let actual = engine.observe(now).await?;
        let newest = tokio::task::block_in_place(|| engine.newest_sequence())?;
        let oldest = receivers.iter().filter_map(|receiver| memory.receivers.get(&receiver.name)?.sequence).min();
        let events = engine.history(oldest.unwrap_or(newest)).await?;
        Ok::<_, crate::engine::EngineError>((actual, newest, events))
    };
    let (actual, newest, events) = match observed.await {
        Ok(observed) => observed,
        Err(error) => {
            tracing::warn!(reason = crate::engine::chain(&error), "nobody is told: the engine cannot be observed");
            return Looked::default();
        }
    };
    memory.seen_since.retain(|name, _| actual.policies.contains_key(name));
    for name in actual.policies.keys() {
        memory.seen_since.entry(name.clone()).or_insert(now);
    }
    memory.receivers.retain(|name, _| receivers.iter().any(|receiver| receiver.name == *name));
    let silent_after = actual.policies.iter().filter_map(|(name, there)| {
        judge::silent_after(there, memory.seen_since.get(name).copied().unwrap_or(now)).filter(|at| *at >= now)
    });
    let silent_after = silent_after.min();
    let mut is_good = true;
    for receiver in receivers {
        let mut told = memory.receivers.remove(&receiver.name).unwrap_or_default();
        let result = match receiver.healthchecks.is_some() {
            true => ping(receiver, &mut told, &actual, &events, newest).await,
            false => tell(receiver, &mut told, &actual, memory, now).await,
        };
        if let Err(error) = result {
            is_good = false;
            tracing::warn!(
                receiver = receiver.name,
                reason = crate::engine::chain(&error),
                "could not be told; it is tried again"
            );
        }
        memory.receivers.insert(receiver.name.clone(), told);
    }
    Looked { is_good, silent_after }
}

/// Tells transitions. Each counts as told as soon as it was taken.
async fn tell(
    receiver: &Receiver,
    told: &mut Told,
    actual: &ActualState,
    memory: &NotifyMemory,
    now: Timestamp,
) -> Result<(), SendError> {
    told.troubles.retain(|name, _| actual.policies.contains_key(name));
    let mut count = 0;
    for (name, there) in actual.policies.iter().filter(|(name, _)| wants(receiver, name)) {
        let seen_since = memory.seen_since.get(name).copied().unwrap_or(now);
        let troubles = judge::troubles(there, seen_since, now);
        let known = told.troubles.get(name).cloned().unwrap_or_default();
        for news in judge::news(&known, &troubles, judge::is_under_way(there)) {
            if count == TOLD_AT_ONCE {
                return Ok(());
            }
            count += 1;
            say(receiver, name, &news, now).await?;
            let known = told.troubles.entry(name.clone()).or_default();
            match news.why {
                Some(_) => known.insert(news.trouble),
                None => known.remove(&news.trouble),
            };
        }
    }
    told.troubles.retain(|_, troubles| !troubles.is_empty());
    Ok(())
}

async fn say(receiver: &Receiver, policy: &PolicyName, news: &News, now: Timestamp) -> Result<(), SendError> {
    const ADDRESS: &str = "the address of a receiver";
    if let Some(hook) = &receiver.webhook {
        let address = send::secret(ADDRESS, &hook.url)?;
        return send::post(&send::client()?, &address, &message::document(policy, news, now)).await;
    }
    if let Some(hook) = &receiver.slack {
        let address = send::secret(ADDRESS, &hook.url)?;
        return send::post(&send::client()?, &address, &message::slack(policy, news)).await;
    }
    if let Some(email) = &receiver.email {
        let line = message::line(policy, news);
        let subject: String = format!("[mainstay] {line}").chars().take(200).collect();
        return send::email(email, &subject, format!("{line}\r\n\r\nObserved at {now}.\r\n")).await;
    }
    Ok(())
}

/// Pings the start and the end of each run.
async fn ping(
    receiver: &Receiver,
    told: &mut Told,
    actual: &ActualState,
    events: &[Event],
    newest: u64,
) -> Result<(), SendError> {
    let Some(hook) = &receiver.healthchecks else { return Ok(()) };
    let (client, address) = (send::client()?, send::secret("the address of a receiver", &hook.url)?);
    let known = *told.sequence.get_or_insert(newest);
    let mut count = 0;
    for event in events.iter().filter(|event| event.sequence > known) {
        if let EventKind::RunEnded(run) = &event.kind
            && wants(receiver, &run.policy)
        {
            if count == TOLD_AT_ONCE {
                return Ok(());
            }
            count += 1;
            // One that began and ended between two looks.
            start(&client, &address, told, &run.policy, &run.id).await?;
            let ending = if run.phase == Phase::Succeeded { "" } else { "/fail" };
            let message = crate::plan::wording::plain_long(&run.message);
            send::ping(&client, &address, ending, format!("{} {}: {message}", run.policy, run.id)).await?;
        }
        told.sequence = Some(event.sequence);
    }
    // After the ends: what is under way now began after what has ended.
    for (name, there) in actual.policies.iter().filter(|(name, _)| wants(receiver, name)) {
        if let Some(run) = &there.running {
            start(&client, &address, told, name, run).await?;
        }
    }
    told.started.retain(|name, _| actual.policies.contains_key(name));
    Ok(())
}

/// Pings the start of a run, once.
async fn start(
    client: &reqwest::Client,
    address: &Secret,
    told: &mut Told,
    policy: &PolicyName,
    run: &RestorePointId,
) -> Result<(), SendError> {
    if told.started.get(policy) == Some(run) {
        return Ok(());
    }
    send::ping(client, address, "/start", format!("{policy} {run}")).await?;
    told.started.insert(policy.clone(), run.clone());
    Ok(())
}

/// Whether a receiver is for a policy.
fn wants(receiver: &Receiver, policy: &PolicyName) -> bool {
    let matches = |glob: &String| Glob::new(glob).is_ok_and(|glob| glob.compile_matcher().is_match(policy.to_string()));
    receiver.policies.is_empty() || receiver.policies.iter().any(matches)
}
