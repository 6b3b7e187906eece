//! The task of the daemon that looks at the forge: after each turn, on a webhook, and every so often. A forge that does
//! not answer holds up nothing but itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Forge as _, ForgeError,
    done::TurnReport,
    gitea::Gitea,
    github::GitHub,
    gitlab::GitLab,
    look::{Eye, LookError, Looked},
    memory::ForgeMemory,
    usage::Usage,
};
use crate::{
    daemon::{Wake, memory::Memory},
    engine::{Engine, local::repositories::resolve},
    git::{Retry, checkout::CheckoutOptions},
    policy::{
        EngineKind,
        document::{
            SecretReference,
            settings::{Forge, ForgeKind, GitHubApp},
        },
    },
    secret::Secret,
    web::{Doorbell, Window},
};

/// After something that may have changed in the second in which it was read, the next look comes this soon.
const SETTLING: Duration = Duration::from_secs(4);
/// The longest time between two tries after something was refused on one change request.
const LONGEST_PAUSE_OF_ONE: Duration = Duration::from_secs(60);
/// The longest time between two tries after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// What the token is called in messages.
const TOKEN: &str = "the access token of the forge";
/// Directory of our mirror, in that of the mirrors of turns.
const MIRROR: &str = "requests";

/// What the reviewer is told by the loop.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// The forge, as the settings in force name it.
    pub forge: Option<Forge>,
    /// What the last turn came to.
    pub report: TurnReport,
    /// How many webhooks there were.
    pub webhooks: u64,
}

/// The loop's end of the task.
#[derive(Debug)]
pub struct Reviewer(watch::Sender<Assignment>);

/// What the task works with.
pub struct Place<E> {
    /// Where restore points are.
    pub engine: Arc<E>,
    /// The watched repository.
    pub checkout: CheckoutOptions,
    /// Where memories are kept.
    pub state_directory: std::path::PathBuf,
    /// Which engine the documents are for.
    pub engine_kind: EngineKind,
    /// How often the forge is asked.
    pub poll: Duration,
    /// Where webhooks come in.
    pub window: Window,
    /// Wakes the loop when there is consent.
    pub wake: mpsc::Sender<Wake>,
}

impl Reviewer {
    /// Starts the task. It ends with this handle.
    pub fn start<E: Engine + 'static>(place: Place<E>) -> Self {
        let (sender, assignments) = watch::channel(Assignment::default());
        tokio::spawn(work(place, assignments));
        Self(sender)
    }

    /// Tells what the last turn came to, and which forge its settings name.
    pub fn turn_ended(&self, forge: Option<&Forge>, report: &TurnReport) {
        self.0.send_if_modified(|assignment| {
            let before = TurnReport { number: report.number, ..assignment.report.clone() };
            let is_news = assignment.forge.as_ref() != forge || before != *report;
            (assignment.forge, assignment.report) = (forge.cloned(), report.clone());
            // That there was another turn is no reason to ask the forge.
            is_news
        });
    }

    /// Asks for a look now.
    pub fn look_now(&self) {
        self.0.send_modify(|assignment| assignment.webhooks += 1);
    }
}

/// Looks until the loop goes away.
async fn work<E: Engine>(place: Place<E>, mut assignments: watch::Receiver<Assignment>) {
    let mut known: Option<(Forge, AnyEye)> = None;
    let mut failures: u32 = 0;
    loop {
        let assignment = assignments.borrow_and_update().clone();
        let pause = match &assignment.forge {
            None => {
                known = None;
                let mut shown = place.window.look();
                shown.doorbell = None;
                shown.metrics.forge_left_alone();
                Duration::MAX
            }
            Some(forge) => {
                let result = look(&place, forge, &assignment.report, &mut known).await;
                let is_good = result.as_ref().is_ok_and(|looked| looked.problem.is_none());
                match &known {
                    Some((_, eye)) => eye.show(&place.window, is_good),
                    // It could not even be opened.
                    None => place.window.look().metrics.forge_looked(&place_of(forge), false, 0, &Usage::default()),
                }
                failures = if is_good { 0 } else { failures.saturating_add(1) };
                match result {
                    Ok(looked) => {
                        if looked.has_consent {
                            // A full queue means that the loop is about to look anyway.
                            let _ = place.wake.try_send(Wake::Reviewed);
                        }
                        usual(&looked, failures, place.poll)
                    }
                    Err(error) => {
                        tracing::warn!(
                            reason = crate::engine::chain(&error),
                            "the forge was not looked at to the end; backups and turns go on, and it is tried again"
                        );
                        if error.retry() == Retry::AfterRepair {
                            known = None;
                        }
                        note_problem(&place, &error);
                        after(&error, failures, place.poll)
                    }
                }
            }
        };
        let next = Instant::now().checked_add(pause);
        tokio::select! {
            changed = assignments.changed() => if changed.is_err() { return },
            () = async { match next { Some(next) => sleep_until(next).await, None => std::future::pending().await } } => {}
        }
    }
}

async fn look<E: Engine>(
    place: &Place<E>,
    forge: &Forge,
    report: &TurnReport,
    known: &mut Option<(Forge, AnyEye)>,
) -> Result<Looked, LookError> {
    ring(place, forge)?;
    let eye = match known {
        Some((settings, eye)) if settings == forge => eye,
        other => &mut other.insert((forge.clone(), AnyEye::open(place, forge)?)).1,
    };
    if let Some(token) = &forge.token {
        // One that was replaced counts at once.
        eye.set_token(read(TOKEN, token)?);
    }
    eye.look(place.engine.as_ref(), report, Timestamp::now()).await
}

/// Keeps why there was no look where the next turn finds it, for the dashboard.
fn note_problem<E>(place: &Place<E>, error: &LookError) {
    let note = || -> std::io::Result<()> {
        let mut memory = ForgeMemory::load(&place.state_directory)?;
        let problem = Some(LookError::problem(error));
        if memory.problem != problem {
            memory.problem = problem;
            memory.save(&place.state_directory)?;
        }
        Ok(())
    };
    if let Err(error) = note() {
        tracing::warn!(reason = %error, "the problem with the forge cannot be shown on the dashboard");
    }
}

/// Lets webhooks in, if they are wanted.
fn ring<E>(place: &Place<E>, forge: &Forge) -> Result<(), LookError> {
    let secret = forge.webhook_secret.as_ref().map(|reference| read("the secret of webhooks", reference)).transpose();
    let secret = secret?;
    let mut shown = place.window.look();
    match secret {
        None => shown.doorbell = None,
        Some(secret) => match &mut shown.doorbell {
            Some(doorbell) if doorbell.secret == secret => {}
            other => *other = Some(Doorbell::new(secret, place.wake.clone())),
        },
    }
    Ok(())
}

/// How long to wait after a look that came to its end. Where something was refused it is tried ever later, but not so
/// late that a change request on which all is well would wait for long.
fn usual(looked: &Looked, failures: u32, poll: Duration) -> Duration {
    let pause = if looked.is_settling { SETTLING.min(poll) } else { poll };
    match &looked.problem {
        Some(_) => pause.max(growing(failures).min(LONGEST_PAUSE_OF_ONE)),
        None => pause,
    }
}

/// 2 seconds, 4, 8 …
fn growing(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(8))
}

/// How long to wait after a look that failed: as long as the forge asks for, else ever longer.
fn after(error: &LookError, failures: u32, poll: Duration) -> Duration {
    if let LookError::Forge(ForgeError::Limited { until, .. }) = error {
        let wait = until.duration_since(Timestamp::now());
        return Duration::try_from(wait).unwrap_or_default() + Duration::from_secs(1);
    }
    growing(failures).clamp(poll.min(LONGEST_PAUSE), LONGEST_PAUSE)
}

fn read(what: &str, reference: &SecretReference) -> Result<Secret, ForgeError> {
    resolve(what, reference)
        .map_err(|error| ForgeError::Credential { what: what.to_owned(), why: crate::engine::chain(&error) })
}

/// A forge of any kind.
enum AnyEye {
    Gitea(Box<Eye<Gitea>>),
    GitHub(Box<Eye<GitHub>>),
    GitLab(Box<Eye<GitLab>>),
}

impl AnyEye {
    fn open<E>(place: &Place<E>, settings: &Forge) -> Result<Self, LookError> {
        let Forge { kind, url, repository, token, app, webhook_secret: _, approval: _ } = settings;
        let token = || match token {
            Some(token) => read(TOKEN, token),
            None => Err(ForgeError::Credential { what: TOKEN.to_owned(), why: "the settings name none".to_owned() }),
        };
        Ok(match kind {
            ForgeKind::Gitea => Self::Gitea(Box::new(eye(place, settings, Gitea::new(url, repository, token()?)?)?)),
            ForgeKind::GitLab => Self::GitLab(Box::new(eye(place, settings, GitLab::new(url, repository, token()?)?)?)),
            ForgeKind::GitHub => {
                let forge = match app {
                    Some(GitHubApp { id, installation, private_key }) => {
                        let key = read("the private key of the GitHub App", private_key)?;
                        GitHub::with_app(url, repository, id, *installation, &key)?
                    }
                    None => GitHub::with_token(url, repository, token()?)?,
                };
                Self::GitHub(Box::new(eye(place, settings, forge)?))
            }
        })
    }

    fn set_token(&self, token: Secret) {
        match self {
            Self::Gitea(eye) => eye.forge.set_token(token),
            Self::GitHub(eye) => eye.forge.set_token(token),
            Self::GitLab(eye) => eye.forge.set_token(token),
        }
    }

    /// Puts what the look cost, and what it found, into the metrics.
    fn show(&self, window: &Window, is_good: bool) {
        let (place, open, usage) = match self {
            Self::Gitea(eye) => (&eye.place, eye.open.len(), eye.forge.take_usage()),
            Self::GitHub(eye) => (&eye.place, eye.open.len(), eye.forge.take_usage()),
            Self::GitLab(eye) => (&eye.place, eye.open.len(), eye.forge.take_usage()),
        };
        window.look().metrics.forge_looked(place, is_good, open, &usage);
    }

    async fn look<E: Engine>(&mut self, engine: &E, report: &TurnReport, now: Timestamp) -> Result<Looked, LookError> {
        match self {
            Self::Gitea(eye) => eye.look(engine, report, now).await,
            Self::GitHub(eye) => eye.look(engine, report, now).await,
            Self::GitLab(eye) => eye.look(engine, report, now).await,
        }
    }
}

/// A forge and repository as an address.
fn place_of(settings: &Forge) -> String {
    format!("{}/{}", settings.url.trim_end_matches('/'), settings.repository)
}

fn eye<E, F>(place: &Place<E>, settings: &Forge, forge: F) -> Result<Eye<F>, LookError> {
    let Place { checkout, state_directory, engine_kind, .. } = place;
    let kept = Memory::load(state_directory)?.forge;
    let memory = ForgeMemory::load_or(state_directory, kept.as_ref())
        .map_err(|source| LookError::Memory { path: state_directory.join(super::memory::FILE_NAME), source })?;
    let cache_directory = checkout.cache_directory.join(MIRROR);
    Ok(Eye {
        forge,
        place: place_of(settings),
        own: None,
        rules: settings.approval,
        checkout: CheckoutOptions { cache_directory, ..checkout.clone() },
        state_directory: state_directory.clone(),
        foreign_bytes: crate::git::remote::FOREIGN_BYTES,
        engine_kind: *engine_kind,
        cache: Default::default(),
        open: Vec::new(),
        memory,
        seen: None,
        permissions: Default::default(),
        unsettled: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_failures_the_forge_is_asked_ever_later_and_never_before_it_wants_to_be() {
        let error = LookError::Forge(ForgeError::Refused {
            operation: String::new(),
            place: String::new(),
            status: 403,
            answer: String::new(),
            hint: "",
        });
        let poll = Duration::from_secs(10);
        let pauses = [1, 4, 6, 9, 99].map(|failures| after(&error, failures, poll).as_secs());
        assert_eq!(pauses, [10, 16, 64, 256, 256]);
        let until = Timestamp::now() + jiff::SignedDuration::from_secs(600);
        let limited = LookError::Forge(ForgeError::Limited { operation: String::new(), place: String::new(), until });
        assert!((599..=602).contains(&after(&limited, 1, poll).as_secs()));
    }

    #[test]
    fn what_is_refused_on_one_change_request_is_tried_ever_later() {
        let poll = Duration::from_secs(5);
        let refused = Looked { problem: Some("403".to_owned()), ..Looked::default() };
        let pauses = |looked: &Looked| [1, 2, 3, 4, 5, 6, 99].map(|failures| usual(looked, failures, poll).as_secs());
        assert_eq!(pauses(&refused), [5, 5, 8, 16, 32, 60, 60]);
        assert_eq!(pauses(&Looked::default()), [5; 7]);
        assert_eq!(pauses(&Looked { is_settling: true, ..refused }), [4, 4, 8, 16, 32, 60, 60]);
    }
}
