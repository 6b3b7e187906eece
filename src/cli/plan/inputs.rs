//! What a plan is made from: documents, what is there, what was approved. Shared by `plan`, `apply`, `approve` and
//! `points`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use jiff::Timestamp;

use super::revisions::Watched;
use crate::{
    actual::{ActualPolicy, ActualState, RestoreReport, inventory},
    cli::{
        Failure, StateArguments,
        engine::{EngineArguments, EngineName, cluster, failure, last_turn, store},
        run::asynchronous,
    },
    daemon::memory::Memory,
    desired::DesiredState,
    engine::{Engine as _, local::LocalEngine},
    forge::memory::ForgeMemory,
    git::{Revision, history},
    plan::{Approvals, Plan, diff, wording::View},
    policy::{
        Policy,
        diagnostic::{self, Diagnostic, Severity},
        document::SettingsSpec,
        load::{self, FileContent, Loaded, ParseCache},
    },
    restore_point::Inventory,
    run::Phase,
};

/// What a plan is made from.
#[derive(Debug, Clone, Args)]
pub struct InputArguments {
    /// Directory of the documents
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub path: PathBuf,
    /// Compare with the documents of this git revision, as if they were applied
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// Read the documents from this git revision instead of the directory
    #[arg(long, value_name = "REV")]
    pub head: Option<String>,
    /// Take what is there from this file, which `mainstay status -o json --inventory` wrote
    #[arg(long, value_name = "INVENTORY.json")]
    pub offline: Option<PathBuf>,
    /// Plan as if it were this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub now: Option<Timestamp>,
    #[command(flatten)]
    pub state: StateArguments,
}

/// A plan with what is known around it.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// How to show it.
    pub view: View,
    /// What the documents ask for.
    pub documents: Documents,
    /// What was approved.
    pub approvals: Approvals,
    /// The newest commit that was listened to; none: there is no commit.
    pub consented_by: Option<Revision>,
}

impl Planned {
    /// Prints the findings in the documents, if there are any, to standard error.
    pub fn report_findings(&self) {
        self.documents.report_findings();
    }
}

/// Whether a freeze in the documents refuses changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// It does.
    Holds,
    /// Not this time.
    Overridden,
}

/// Reads everything and plans.
///
/// # Errors
/// The documents, the revisions or the inventory cannot be read. Documents that are wrong are no error here.
pub fn plan(arguments: &InputArguments) -> Result<Planned, Failure> {
    plan_under(arguments, Freeze::Holds)
}

/// The same, and a freeze holds or not.
///
/// # Errors
/// As [`plan`].
pub fn plan_under(arguments: &InputArguments, freeze: Freeze) -> Result<Planned, Failure> {
    let now = arguments.now.unwrap_or_else(Timestamp::now);
    let mut documents = documents(arguments)?;
    let mut actual = actual(arguments, now)?;
    let cache = std::mem::take(&mut documents.cache);
    let memory = memory(arguments)?;
    let (compared_with, losses_in_force) = match &arguments.base {
        Some(base) => {
            let (compared_with, settings) = assume_applied(arguments, base, cache, &mut actual)?;
            (Some(compared_with), Some(settings.safety.losses))
        }
        None => {
            drop(cache);
            (unknown_rules(&actual), memory.losses_in_force())
        }
    };
    documents.desired.losses_in_force = losses_in_force;
    let (approvals, consented_by) = approvals(arguments, &memory, documents.desired.revision.as_ref())?;
    let is_frozen = documents.desired.settings.freeze;
    documents.desired.settings.freeze &= freeze == Freeze::Holds;
    let plan = diff::plan(&documents.desired, &actual, &approvals, now);
    documents.desired.settings.freeze = is_frozen;
    let approve_arguments = approve_arguments(arguments);
    let view = View { compared_with, approve_arguments, errored: documents.is_wrong() };
    Ok(Planned { plan, view, documents, approvals, consented_by })
}

/// Documents as they were read.
pub struct Documents {
    /// What they ask for.
    pub desired: DesiredState,
    /// What is wrong with them.
    pub findings: Vec<Diagnostic>,
    /// The files that something is wrong with. The others are not needed any more, and with many the memory is.
    wrong_files: Files,
    /// What was parsed: most files of the base are those of the head.
    cache: ParseCache,
}

impl Documents {
    /// Whether some of them do not count until they are mended.
    pub fn is_wrong(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Prints what is wrong with them, if anything, to standard error.
    pub fn report_findings(&self) {
        if !self.findings.is_empty() {
            let is_allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let color = is_allowed && std::io::stderr().is_terminal();
            eprint!("{}", diagnostic::text::render(&self.findings, &self.wrong_files, color));
        }
    }
}

/// Reads the documents: from the directory, or from the revision of `--head`.
///
/// # Errors
/// They cannot be read.
pub fn documents(arguments: &InputArguments) -> Result<Documents, Failure> {
    let (mut files, revision) = match &arguments.head {
        Some(head) => {
            let watched = Watched::holding(&arguments.path)?;
            let revision = watched.resolve(head)?;
            (watched.files(&revision)?, Some(revision))
        }
        None => (read_directory(&arguments.path)?, None),
    };
    let mut cache = ParseCache::default();
    let (mut desired, findings) = desired(&files, arguments.state.engine.engine, &mut cache);
    desired.revision = revision;
    if files.is_empty() {
        let place = arguments.path.display();
        let what = format!("there is no `backup.yaml` or `*.backup.yaml` below {place}");
        desired.deletion_blocked.get_or_insert(what);
    }
    let related = findings.iter().filter_map(|finding| finding.related.as_ref()).map(|related| &related.location);
    let wrong: BTreeSet<&Path> =
        findings.iter().map(|finding| &finding.location).chain(related).map(|place| place.file.as_path()).collect();
    files.retain(|path, _| wrong.contains(path.as_path()));
    Ok(Documents { desired, findings, wrong_files: files, cache })
}

/// What is there: the offline inventory, or what the local engine's state says.
///
/// # Errors
/// It cannot be read.
pub fn actual(arguments: &InputArguments, now: Timestamp) -> Result<ActualState, Failure> {
    let Some(file) = &arguments.offline else {
        return match arguments.state.engine.engine {
            EngineName::Local => observe(&arguments.state.directory()?, now),
            EngineName::Kubernetes => observe_cluster(&arguments.state.engine, now),
        };
    };
    let cannot = || format!("cannot read the inventory {}", file.display());
    let content =
        read_bounded(file, inventory::INVENTORY_BYTES).map_err(|error| Failure::new(cannot()).caused_by(error))?;
    inventory::read(&content).map_err(|error| Failure::new(cannot()).caused_by(error))
}

/// What the watches of a cluster tell.
///
/// # Errors
/// The cluster does not answer.
fn observe_cluster(arguments: &EngineArguments, now: Timestamp) -> Result<ActualState, Failure> {
    asynchronous(async {
        let engine = cluster(arguments).await?;
        engine.observe(now).await.map_err(failure)
    })
}

/// What the local engine's state says; a state that is not there yet is that of an engine which has nothing.
///
/// # Errors
/// The state is there and cannot be read.
pub fn observe(state: &Path, now: Timestamp) -> Result<ActualState, Failure> {
    if !state.exists() {
        return Ok(ActualState {
            observed_at: now,
            complete: true,
            policies: Default::default(),
            restores: Default::default(),
            foreign: Default::default(),
        });
    }
    let cannot = || format!("cannot read the state in {}", state.display());
    let engine = LocalEngine::open_read_only(state).map_err(|error| Failure::new(cannot()).caused_by(error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| Failure::new(cannot()).caused_by(error))?;
    runtime.block_on(engine.observe(now)).map_err(|error| Failure::new(cannot()).caused_by(error))
}

/// Puts the documents of the base in the place of what was applied; says what is compared, and which settings were in
/// force.
fn assume_applied(
    arguments: &InputArguments,
    base: &str,
    mut cache: ParseCache,
    actual: &mut ActualState,
) -> Result<(String, SettingsSpec), Failure> {
    let watched = Watched::holding(&arguments.path)?;
    let revision = watched.resolve(base)?;
    let (before, _) = desired(&watched.files(&revision)?, arguments.state.engine.engine, &mut cache);
    // With many policies the memory is needed for what comes next.
    drop(cache);
    for (name, there) in &mut actual.policies {
        // A policy with findings at the base keeps what is known of it.
        if !before.policies.contains_key(name) && !before.frozen_policies.contains(name) {
            let there = Arc::make_mut(there);
            there.compiled = None;
            there.schedule = None;
        }
    }
    let policies: Vec<&Policy> = before.policies.values().collect();
    let compiled = load::on_all_processors(&policies, |policy| policy.compile(&before.settings, Some(&revision.0)));
    for compiled in compiled {
        let name = compiled.name.clone();
        match actual.policies.get_mut(&name) {
            Some(there) => Arc::make_mut(there).compiled = Some(compiled),
            None => {
                let inventory = match actual.complete {
                    true => Inventory::empty(actual.observed_at),
                    false => Inventory::unknown(),
                };
                let there = ActualPolicy {
                    compiled: Some(compiled),
                    schedule: None,
                    inventory,
                    last_run: None,
                    last_success: None,
                    running: None,
                    drift: None,
                    failed_checks: Vec::new(),
                };
                actual.policies.insert(name, Arc::new(there));
            }
        }
    }
    for restore in before.restores.values() {
        let report = RestoreReport {
            restore_point: None,
            phase: Phase::Succeeded,
            started_at: actual.observed_at,
            finished_at: Some(actual.observed_at),
            message: format!("asked for by {base} already"),
            sources: Vec::new(),
        };
        actual.restores.entry((restore.name.clone(), restore.content_hash())).or_insert(report);
    }
    let head = arguments.head.as_deref().map_or_else(|| "the directory".to_owned(), |head| format!("`{head}`"));
    let compared = format!(
        "Compared: the documents of {head} with those of `{base}` ({}), as if these were applied.",
        revision.short()
    );
    Ok((compared, before.settings))
}

/// Says so where nobody knows the rules that are in force.
fn unknown_rules(actual: &ActualState) -> Option<String> {
    let unknown = actual.policies.values().filter(|there| there.compiled.is_none() && there.schedule.is_some()).count();
    (unknown > 0).then(|| {
        "The inventory does not say which rules are in force, so every restore point that the documents do not keep \
         counts as lost. Name the revision that is applied with --base to compare rules."
            .to_owned()
    })
}

/// What a daemon on this state has left: what it has carried out is used up. An offline plan knows of none.
fn memory(arguments: &InputArguments) -> Result<Memory, Failure> {
    if arguments.offline.is_some() {
        return Ok(Memory::default());
    }
    match arguments.state.engine.engine {
        EngineName::Local => {
            let unknown = "cannot tell which approvals are used up";
            let directory = arguments.state.directory()?;
            let memory = Memory::load(&directory).map_err(|error| Failure::new(unknown).caused_by(error))?;
            let forge = ForgeMemory::load_or(&directory, memory.forge.as_ref());
            let forge = forge.map_err(|error| Failure::new(unknown).caused_by(error))?;
            Ok(Memory { forge: Some(forge), ..memory })
        }
        EngineName::Kubernetes => asynchronous(async { last_turn(&store(&arguments.state.engine).await?).await }),
    }
}

/// What was approved in the commits up to the revision that is planned, or up to HEAD for a directory; and that commit.
fn approvals(
    arguments: &InputArguments,
    memory: &Memory,
    revision: Option<&Revision>,
) -> Result<(Approvals, Option<Revision>), Failure> {
    let Memory { consented, used_up, settings, forge, .. } = memory;
    let approvals = |watched: Watched, head: &Revision| {
        // What a look has judged, and not believed, counts here no more than in a turn.
        let judged = forge.as_ref().filter(|_| settings.forge.is_some());
        let repository = watched.repository();
        let is_judged = |judge: &ForgeMemory, commit: &Revision| {
            let head = judge.judged.as_ref();
            head.is_some_and(|head| history::is_within(repository, head, commit).unwrap_or(true))
        };
        let counts =
            |commit: &Revision| judged.is_none_or(|judge| judge.trusted.contains(commit) || !is_judged(judge, commit));
        watched.approvals(head, consented.as_ref(), used_up, counts)
    };
    // A directory outside of git has no commits, and so no approvals.
    let Ok(watched) = Watched::holding(&arguments.path) else { return Ok(Default::default()) };
    match revision.cloned().or_else(|| watched.tip()) {
        Some(head) => Ok((approvals(watched, &head)?, Some(head))),
        None => Ok(Default::default()),
    }
}

/// Documents by path, relative to the watched directory.
pub type Files = BTreeMap<PathBuf, FileContent>;

fn desired(files: &Files, engine: EngineName, cache: &mut ParseCache) -> (DesiredState, Vec<Diagnostic>) {
    let Loaded { desired, diagnostics, .. } = load::load(files, engine.kind(), cache);
    (desired, diagnostics)
}

/// The arguments with which `mainstay approve DIGEST` sees the plan that was shown.
fn approve_arguments(arguments: &InputArguments) -> String {
    let InputArguments { path, base, head, offline, now, state } = arguments;
    let mut words = Vec::new();
    let mut add = |name: &str, value: &str| words.push(format!(" {name} {}", quoted(value)));
    if path != Path::new(".") {
        add("--path", &path.display().to_string());
    }
    for (name, value) in [("--base", base), ("--head", head)] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, value) in [("--offline", offline), ("--state", &state.directory)] {
        if let Some(value) = value {
            add(name, &value.display().to_string());
        }
    }
    if state.engine.engine == EngineName::Kubernetes {
        add("--engine", "kubernetes");
        if let Some(namespace) = &state.engine.namespace {
            add("--namespace", namespace);
        }
    }
    if let Some(now) = now {
        add("--now", &now.to_string());
    }
    words.concat()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:=+,~^".contains(c);
    if !word.is_empty() && !word.starts_with('~') && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn read_directory(directory: &Path) -> Result<Files, Failure> {
    load::read_directory(directory).map_err(|error| {
        Failure::new(format!("cannot read the documents below {}", directory.display()))
            .caused_by(error)
            .hint("name their directory with --path")
    })
}

pub fn read_bounded(file: &Path, most_bytes: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut content = Vec::new();
    std::fs::File::open(file)?.take(most_bytes + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most_bytes {
        return Err(std::io::Error::other(format!("it has more than {most_bytes} bytes")));
    }
    Ok(content)
}
