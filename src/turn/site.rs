//! The site: the watched repository and what is remembered of it from turn to turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::TurnError;
use crate::{
    actual::ActualState,
    apply::Applied,
    daemon::{
        Wake,
        memory::{MOST_WAITING, Memory, Waiting},
        turns::GitClock,
    },
    desired::DesiredState,
    forge::{self, memory::ForgeMemory},
    git::{
        GitError, Revision,
        checkout::{Checkout, CheckoutOptions, Files, files_at},
        history,
        signature::{self, SignatureError},
        watch::{Notice, Watcher},
        writeback::{PublishOptions, Published, STATUS_BRANCH, WritebackError, publish_status},
    },
    plan::{
        Approvals, Plan,
        used_up::{Outcome, UsedUp},
    },
    policy::{
        PolicyName,
        document::SettingsSpec,
        load::{Loaded, ParseCache, load},
        validate::EngineKind,
    },
    run::RunReport,
    schedule,
    status::{StatusInput, conditions, coverage::Sight, ledger, memo::Memo},
};

/// What is watched, and where the memory is.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    /// The watched repository, branch and path.
    pub checkout: CheckoutOptions,
    /// Where the memory of the last turn is.
    pub state_directory: PathBuf,
    /// Whether the status is written back.
    pub write_back: bool,
    /// Which engine the documents are for.
    pub engine: EngineKind,
}

/// The watched repository, and what is remembered of it from turn to turn.
pub struct Site {
    options: SiteOptions,
    clock: GitClock,
    checkout: Option<Checkout>,
    cache: ParseCache,
    /// Whether the cache shares its documents with what is in force.
    is_shared: bool,
    memory: Memory,
    /// What hinders the work with the forge, as the last look at it said.
    forge_problem: Option<String>,
    /// What is kept of the memory of the forge.
    forge_kept: Option<ForgeMemory>,
    status_memo: Memo,
    ended_runs: Vec<RunReport>,
    /// The sequence up to which ended runs were counted by this process.
    counted_sequence: Option<u64>,
}

/// What git says in one turn.
pub struct Fetched {
    /// The commit that counts: the head of the watched branch, or what was applied last; none: nothing counts.
    pub revision: Option<Revision>,
    /// Its documents.
    pub files: std::sync::Arc<Files>,
    /// What was consented to in its history and on change requests.
    pub approvals: Approvals,
    /// What commits say whose authors no look at a forge has judged; it counts where no forge is named.
    pub unjudged: Approvals,
    /// Why nothing may be deleted; the documents count all the same.
    pub deletion_blocked: Option<String>,
}

/// What the documents ask for, and what is wrong with them.
pub struct Asked {
    /// What they ask for.
    pub desired: DesiredState,
    /// What is wrong with them, one a line.
    pub findings: Vec<String>,
    /// What hinders the turn as a whole.
    pub problems: Vec<String>,
}

/// What a turn learned, for the status.
#[derive(Debug, Clone, Copy)]
pub struct Learned<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// What was carried out.
    pub applied: &'a Applied,
    /// What the engine has after it.
    pub actual: &'a ActualState,
    /// What there is to protect; none: nobody knows.
    pub sight: Option<&'a Sight>,
    /// What happened since the last publication, with the newest event of that.
    pub events: &'a [ledger::Event],
}

impl Site {
    /// Reads the memory of the last turn. The repository is opened by the first fetch, so that one which is not there
    /// yet is a condition and not an end. Ended runs up to `counted_sequence` were counted before.
    ///
    /// # Errors
    /// The memory is damaged.
    pub fn new(options: SiteOptions, clock: GitClock, counted_sequence: Option<u64>) -> Result<Self, TurnError> {
        let memory = Memory::load(&options.state_directory)?;
        Ok(Self {
            options,
            clock,
            checkout: None,
            cache: ParseCache::default(),
            is_shared: false,
            memory,
            forge_problem: None,
            forge_kept: None,
            status_memo: Memo::default(),
            ended_runs: Vec::new(),
            counted_sequence,
        })
    }

    /// The settings in force: those of the last turn that went through.
    pub fn settings(&self) -> &SettingsSpec {
        &self.memory.settings
    }

    /// Number of the newest event that the ledger has.
    pub fn published_sequence(&self) -> u64 {
        self.memory.published_sequence
    }

    /// Number of the newest event that a turn of this process has seen.
    pub fn seen_sequence(&self) -> u64 {
        self.counted_sequence.unwrap_or_default().max(self.memory.published_sequence)
    }

    /// The runs that ended since the last call.
    pub fn ended_runs(&mut self) -> Vec<RunReport> {
        std::mem::take(&mut self.ended_runs)
    }

    /// Watches a repository on this host; none: it is remote, or cannot be watched now.
    pub fn watch(&self, wake: mpsc::Sender<Wake>) -> Option<Watcher> {
        let checkout = self.checkout.as_ref()?;
        let directory = checkout.watch_directory()?;
        let notice = move |notice| {
            let why = match notice {
                Notice::Changed => Wake::GitChanged,
                Notice::Lost(reason) => {
                    tracing::warn!(%reason, "watching the repository was interrupted");
                    Wake::WatchLost
                }
            };
            // A full queue holds a wake already, and one is enough.
            let _ = wake.try_send(why);
        };
        match Watcher::start(directory, checkout.branch(), notice) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(reason = crate::engine::chain(&error), "not watched");
                None
            }
        }
    }

    /// Whether a watcher still watches the directory that the repository is in now.
    pub fn is_watched_by(&self, watcher: &Watcher) -> bool {
        let directory = self.checkout.as_ref().and_then(Checkout::watch_directory);
        directory.is_none_or(|directory| watcher.watches(directory))
    }

    /// Asks git: where the branch is, what its documents say, what was approved.
    ///
    /// # Errors
    /// The documents cannot be known. A branch or directory that vanished, one without documents, a rewritten history
    /// and a commit that is not believed are no errors here: they block deletion.
    pub fn fetch(&mut self) -> Result<Fetched, TurnError> {
        let Self { options, clock, checkout, memory, forge_problem, forge_kept, .. } = self;
        let forge = ForgeMemory::load_or(&options.state_directory, memory.forge.as_ref()).map_err(|error| {
            format!(
                "consent given on change requests is not known: {} cannot be read: {error}",
                forge::memory::FILE_NAME
            )
        });
        *forge_problem = match &forge {
            Ok(forge) => forge.problem.clone(),
            Err(problem) => Some(problem.clone()),
        };
        let forge = forge.unwrap_or_default();
        let kept = match options.engine {
            // The state directory of a host stays.
            EngineKind::Local => None,
            EngineKind::Kubernetes => forge.kept(),
        };
        let left_out = kept.as_ref().and_then(|(_, left_out)| left_out.clone());
        *forge_problem = forge_problem.take().or(left_out);
        *forge_kept = kept.map(|(kept, _)| kept);
        let fetched = clock.time(|| {
            let checkout = match checkout {
                Some(checkout) => checkout,
                none => none.insert(Checkout::open(options.checkout.clone())?),
            };
            fetch(checkout, memory, &forge)
        });
        let fetched = fetched.unwrap_or(Err(TurnError::GivenUp));
        if fetched.is_err() {
            // A repository that was replaced under us is opened anew by the next turn.
            self.checkout = None;
        }
        fetched
    }

    /// Turns the documents into what is asked for. A commit that is not signed as the settings in force ask, or as its
    /// own settings ask, counts for nothing: what was applied last stays asked for, and the dashboard says why.
    ///
    /// # Errors
    /// The documents that were applied last cannot be read.
    pub fn load(&mut self, mut fetched: Fetched) -> Result<(Asked, Approvals), TurnError> {
        let mut asked = self.asked(&fetched);
        if let Err(error) = self.check_signature(&fetched, &asked.desired.settings) {
            let Some(checkout) = &self.checkout else { return Err(TurnError::GivenUp) };
            fetched = applied_last(checkout, &self.memory, &error)?;
            asked = self.asked(&fetched);
        }
        let Fetched { mut approvals, unjudged, .. } = fetched;
        if self.memory.settings.forge.is_none() && asked.desired.settings.forge.is_none() {
            approvals.extend(unjudged);
        }
        Ok((asked, approvals))
    }

    fn asked(&mut self, fetched: &Fetched) -> Asked {
        let Loaded { mut desired, diagnostics } = load(&fetched.files.content, self.options.engine, &mut self.cache);
        let mut findings: Vec<String> = diagnostics
            .iter()
            .map(|finding| format!("{}: {} [{}]", finding.location, finding.message, finding.rule.id()))
            .collect();
        findings.extend(fetched.files.freeze(&mut desired));
        desired.revision = fetched.revision.clone();
        desired.losses_in_force = self.memory.losses_in_force();
        // Settings that cannot be read now stay in force, above all a freeze and whose commits are believed. Any file that
        // cannot be read may be the one that holds them.
        let are_settings_unknown =
            fetched.files.content.is_empty() || desired.deletion_blocked.is_some() || !desired.frozen_files.is_empty();
        if are_settings_unknown
            && desired.settings == SettingsSpec::default()
            && self.memory.settings != SettingsSpec::default()
        {
            desired.settings = self.memory.settings.clone();
            desired.deletion_blocked.get_or_insert_with(|| {
                "there were Settings, and now there are none but files that cannot be read; nothing is deleted until \
                 these are mended, and the former settings stay in force"
                    .to_owned()
            });
        }
        let forge_problem = desired.settings.forge.as_ref().and(self.forge_problem.as_ref());
        let problems = [fetched.deletion_blocked.as_ref(), desired.deletion_blocked.as_ref(), forge_problem];
        let problems = problems.into_iter().flatten().cloned().collect();
        if let Some(reason) = &fetched.deletion_blocked {
            desired.deletion_blocked = Some(reason.clone());
        }
        Asked { desired, findings, problems }
    }

    /// Publishes what the turn learned; nothing new, no commit. The inner error: the status branch cannot be written.
    ///
    /// # Errors
    /// The exchange was given up.
    pub fn publish(
        &mut self,
        asked: &Asked,
        learned: &Learned<'_>,
        now: Timestamp,
    ) -> Result<Result<(), WritebackError>, TurnError> {
        let (true, Some(checkout)) = (self.options.write_back, &self.checkout) else { return Ok(Ok(())) };
        let Asked { desired, findings, problems } = asked;
        let Learned { plan, applied, actual, sight, events } = *learned;
        let (before, events) =
            events.split_at(events.partition_point(|event| event.sequence <= self.memory.published_sequence));
        let approve_arguments = self.approve_arguments();
        let input = StatusInput {
            desired,
            plan: Some(plan),
            applied,
            actual,
            sight,
            findings,
            problems,
            events,
            approve_arguments: &approve_arguments,
            next_run: &|policy| schedule::next_runs(&policy.schedules, now, 1).first().copied(),
            last_published: before.last(),
            now,
        };
        let options = PublishOptions {
            checkout,
            branch: STATUS_BRANCH,
            author_name: "Mainstay",
            author_email: "mainstay@localhost",
            now,
            is_wanted: &|| !self.clock.is_given_up(),
        };
        let published = self.clock.time(|| publish_status(&options, &input, &message(&input), &mut self.status_memo));
        let published = published.ok_or(TurnError::GivenUp)?;
        if let Err(WritebackError::SetBack(_)) = &published {
            // Those that are there are passed over.
            self.memory.published_sequence = 0;
        }
        Ok(published.map(|published| match published {
            Published::Unchanged => {}
            Published::Committed(revision) => tracing::info!(revision = revision.short(), "status written back"),
        }))
    }

    /// What `mainstay approve` takes besides the digest.
    fn approve_arguments(&self) -> String {
        let path = &self.options.checkout.path;
        match path.components().any(|part| matches!(part, std::path::Component::Normal(_))) {
            true => format!(" --path {}", path.display()),
            false => String::new(),
        }
    }

    /// Keeps what the next turn needs to know. Writes only what changed.
    ///
    /// # Errors
    /// The memory cannot be written.
    pub fn remember(
        &mut self,
        outcome: Outcome<'_>,
        approvals: &Approvals,
        events: &[ledger::Event],
        published: bool,
    ) -> Result<(), TurnError> {
        let desired = outcome.desired;
        let counted = self.counted_sequence.unwrap_or(self.memory.published_sequence);
        for event in events.iter().filter(|event| event.sequence > counted) {
            self.ended_runs.extend(event.kind.ended_run().cloned());
        }
        let newest = events.iter().map(|event| event.sequence).max();
        self.counted_sequence = Some(newest.unwrap_or(counted).max(counted));

        let mut memory = self.memory.clone();
        memory.settings = desired.settings.clone();
        memory.settings.safety.losses = outcome.losses_in_force();
        // Settings that cannot be read stay in force, and so does where they stood.
        if desired.frozen_by.is_some() || !desired.settings.freeze {
            memory.frozen_by.clone_from(&desired.frozen_by);
        }
        memory.forge = self.forge_kept.clone();
        memory.waiting = waiting(outcome.plan, &self.approve_arguments());
        if desired.deletion_blocked.is_none() {
            memory.applied = desired.revision.clone();
            let head = desired.revision.as_ref();
            match head.and_then(|head| memory.used_up.after(approvals, outcome, head)) {
                Some(used_up) => memory.used_up = used_up,
                None => (memory.consented, memory.used_up) = (head.cloned(), UsedUp::default()),
            }
        }
        if published {
            memory.published_sequence = newest.unwrap_or(memory.published_sequence).max(memory.published_sequence);
        }
        if self.memory.settings.forge.is_some() && memory.settings.forge.is_none() {
            // From now on nobody judges whose messages count: those up to here count no more.
            (memory.consented, memory.used_up) = (memory.applied.clone(), UsedUp::default());
        }
        if memory != self.memory {
            memory.save(&self.options.state_directory)?;
            self.memory = memory;
        }
        Ok(())
    }

    /// Keeps the documents once that the engine has just as they were parsed. `is_changed`: what it has is not what it was.
    pub fn share(&mut self, actual: &ActualState, is_changed: bool) {
        if is_changed || !self.is_shared {
            self.cache.share(|policy| actual.policies.get(policy)?.compiled.as_ref());
            self.is_shared = true;
        }
    }

    /// The newest commit must be signed as the settings in force ask, and as its own settings ask: a commit cannot
    /// free itself.
    fn check_signature(&self, fetched: &Fetched, own: &SettingsSpec) -> Result<(), SignatureError> {
        let (Some(checkout), Some(revision)) = (&self.checkout, &fetched.revision) else { return Ok(()) };
        if self.memory.applied.as_ref() == Some(revision) {
            // It was believed when it was applied; a key that was revoked since does not undo that.
            return Ok(());
        }
        for wanted in [&self.memory.settings.signatures, &own.signatures].into_iter().flatten() {
            signature::verify(checkout, revision, wanted)?;
        }
        Ok(())
    }
}

/// What a plan refuses, for whoever asks how a policy is doing.
fn waiting(plan: &Plan, approve_arguments: &str) -> BTreeMap<PolicyName, Waiting> {
    let refused = plan.refusals.iter().filter(|refusal| refusal.change.restore.is_none());
    let waiting = refused.map(|refusal| {
        let in_force = refusal.change.before.as_ref().map(|before| before.spec_hash.clone());
        let message = conditions::refusal_message(refusal, approve_arguments);
        (refusal.change.policy.clone(), Waiting { in_force, message })
    });
    waiting.take(MOST_WAITING).collect()
}

fn fetch(checkout: &mut Checkout, memory: &Memory, forge: &ForgeMemory) -> Result<Fetched, TurnError> {
    let revision = match checkout.fetch() {
        Ok(revision) => revision,
        // The repository answers, so the dashboard can say what is wrong with it.
        Err(error @ (GitError::BranchMissing { .. } | GitError::Empty { .. })) if memory.applied.is_some() => {
            return applied_last(checkout, memory, &error);
        }
        Err(error) => return Err(error.into()),
    };
    let mut deletion_blocked = None;
    let files = match checkout.files(&revision) {
        Ok(files) => files,
        Err(error @ (GitError::PathVanished { .. } | GitError::NoDocuments { .. })) => {
            deletion_blocked = Some(error.to_string());
            std::sync::Arc::default()
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(applied) = &memory.applied {
        match checkout.check_descendant(applied, &revision) {
            Ok(()) => {}
            Err(error @ GitError::HistoryRewritten { .. }) => deletion_blocked = Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let Memory { consented, used_up, .. } = memory;
    let (repository, consented) = (checkout.repository(), consented.as_ref());
    let of_commits = |is_trusted: bool| {
        let counts = |commit: &Revision| forge.trusted.contains(commit) == is_trusted;
        history::approvals(repository, &revision, consented, used_up, counts)
    };
    let (mut approvals, unjudged) = (of_commits(true)?, of_commits(false)?);
    approvals.extend(forge.approvals(repository, &revision, consented, used_up)?);
    Ok(Fetched { revision: Some(revision), files, approvals, unjudged, deletion_blocked })
}

/// What was applied last, where the head of the branch cannot count; nothing of it may be deleted.
fn applied_last(checkout: &Checkout, memory: &Memory, why: &dyn std::error::Error) -> Result<Fetched, TurnError> {
    let files = match &memory.applied {
        Some(applied) => files_at(checkout.repository(), applied, checkout.path())?,
        None => Files::default(),
    };
    Ok(Fetched {
        revision: memory.applied.clone(),
        files: std::sync::Arc::new(files),
        approvals: Approvals::default(),
        unjudged: Approvals::default(),
        deletion_blocked: Some(crate::engine::chain(why)),
    })
}

/// The message of a status commit: what is new in it.
fn message(input: &StatusInput<'_>) -> String {
    let run = |event: &ledger::Event| event.kind.ended_run().map(|run| run.policy.to_string());
    let runs: BTreeSet<String> = input.events.iter().filter_map(run).collect();
    match (runs.len(), &input.desired.revision) {
        (0, Some(revision)) => format!("status: as of {}", revision.short()),
        (0, None) => "status: update".to_owned(),
        (1, _) => format!("status: a run of {} ended", runs.first().map_or("", String::as_str)),
        (count, _) => format!("status: runs of {count} policies ended"),
    }
}
