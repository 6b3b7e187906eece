//! Restoring: from a restore point to files and databases.
//!
//! Everything that can be refused is refused before anything is written: the point, the sources, the programs. A restore
//! in place takes the policy's lease, so that no run captures what is half written, and stops the workload of a `Cold`
//! policy for its time.

use std::{path::PathBuf, process::Stdio, time::Duration};

use jiff::Timestamp;

use super::{
    context::{Context, WorkError},
    movers::{Bounds, Word},
    process::{self, ProcessIdentity},
    recovery, runner, sources,
    state::{places::PlaceRecord, points::StoredPoint, restores::StoredRestore, runs::StoppedWorkload},
};
use crate::{
    actual::RestoreReport,
    mover::job::{Outcome, Program, Task},
    policy::{
        CompiledPolicy, PolicyName, Restore,
        document::{
            Source,
            backup_policy::Consistency,
            restore::{Existing, PointChoice, RestoreSpec},
        },
    },
    restore_point::RestorePointId,
    run::{Phase, SourceReport},
};

/// How long a restore may take.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Where everything came from.
    InPlace,
    /// Below a directory; dumps arrive as files.
    Directory(PathBuf),
    /// Another database on the same server.
    Database(String),
}

/// What to restore.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Whose restore point.
    pub policy: PolicyName,
    /// Which.
    pub point: PointChoice,
    /// From this repository; none: the first that has it whole.
    pub repository: Option<String>,
    /// These sources; empty: all.
    pub sources: Vec<String>,
    /// Where to.
    pub target: Target,
    /// What to do where something exists.
    pub existing: Existing,
    /// Only say what would be written.
    pub dry_run: bool,
}

impl RestoreRequest {
    /// From a Restore document.
    ///
    /// # Errors
    /// It needs another engine.
    pub fn from_document(policy: PolicyName, spec: &RestoreSpec) -> Result<Self, WorkError> {
        let target = match &spec.into {
            None => Target::InPlace,
            Some(into) => match (&into.path, &into.database) {
                (Some(path), None) => Target::Directory(PathBuf::from(path)),
                (None, Some(database)) => Target::Database(database.clone()),
                (Some(_), Some(_)) | (None, None) => {
                    return Err(WorkError::Refused(
                        "`into` must name a `path` or a `database`; other destinations need the kubernetes engine"
                            .into(),
                    ));
                }
            },
        };
        Ok(Self {
            policy,
            point: spec.restore_point.clone(),
            repository: spec.repository.clone(),
            sources: spec.sources.clone(),
            target,
            existing: spec.existing,
            dry_run: false,
        })
    }
}

/// A restore that was looked through: nothing about it is left to choose.
#[derive(Debug)]
pub struct PreparedRestore {
    /// The restore point.
    pub point: RestorePointId,
    /// When it was captured.
    pub time: Timestamp,
    /// Bytes that are written.
    pub size_bytes: u64,
    policy: CompiledPolicy,
    place: PlaceRecord,
    parts: Vec<(SourceReport, Vec<Task>)>,
    /// The workload to stop meanwhile.
    quiesce: Option<StoppedWorkload>,
    in_place: bool,
    dry_run: bool,
}

/// Looks a restore through: which point, from where, with which programs.
///
/// # Errors
/// There is no such policy, point or source, or it cannot go where it should.
pub fn prepare(context: &Context, request: &RestoreRequest) -> Result<PreparedRestore, WorkError> {
    let stored = context.state.policy(&request.policy)?.ok_or_else(|| runner::no_such_policy(&request.policy))?;
    let points = context.state.points(&request.policy)?;
    let point = choose(&request.policy, &points, &request.point)?;
    let places = context.state.places(&request.policy)?;
    let place = place_of(&places, point, request)?;
    let here: Vec<_> = point.parts.iter().filter(|part| part.place == place.id).collect();
    for wanted in &request.sources {
        if !here.iter().any(|part| part.part.source == *wanted) {
            let names: Vec<&str> = here.iter().map(|part| part.part.source.as_str()).collect();
            return Err(WorkError::Refused(format!(
                "restore point {} has no source {wanted}; it has {}",
                point.point.id,
                names.join(", ")
            )));
        }
    }
    let mut parts = Vec::new();
    for part in here.iter().filter(|part| request.sources.is_empty() || request.sources.contains(&part.part.source)) {
        let source = stored.compiled.document.spec.sources.iter().find(|source| source.name == part.part.source);
        let tasks = tasks(request, source, &part.part.source, &part.part.snapshot)?;
        let report = SourceReport {
            source: part.part.source.clone(),
            repository: place.repository.clone(),
            phase: Phase::Pending,
            size_bytes: part.part.size_bytes,
            added_bytes: 0,
            files: part.part.files,
            unreadable: part.part.unreadable,
            duration_milliseconds: 0,
            snapshot: Some(part.part.snapshot.clone()),
            message: None,
        };
        parts.push((report, tasks));
    }
    let in_place = request.target == Target::InPlace;
    let spec = &stored.compiled.document.spec;
    let quiesce =
        spec.quiesce.clone().filter(|_| in_place && spec.consistency == Consistency::Cold && !request.dry_run);
    Ok(PreparedRestore {
        point: point.point.id.clone(),
        time: point.point.time,
        size_bytes: parts.iter().map(|(report, _)| report.size_bytes).sum(),
        place: place.clone(),
        parts,
        quiesce: quiesce.map(|quiesce| StoppedWorkload {
            policy: request.policy.clone(),
            owner: format!("the restore of {}", point.point.id),
            process: ProcessIdentity::own(),
            quiesce,
            attempted_at: None,
        }),
        in_place,
        dry_run: request.dry_run,
        policy: stored.compiled,
    })
}

/// Carries a prepared restore out. The report says how each source went.
///
/// # Errors
/// The state cannot be used, or a run of the policy is under way. A restore that fails is a report.
pub async fn carry_out(
    context: &Context,
    prepared: PreparedRestore,
    hear: &mut dyn FnMut(&str, Word),
) -> Result<RestoreReport, WorkError> {
    let now = Timestamp::now();
    let PreparedRestore { point, time: _, size_bytes: _, policy, place, parts, quiesce, in_place, dry_run } = prepared;
    let _lease = match in_place && !dry_run {
        true => Some(context.state.lease(&runner::policy_lease(&policy.name), now)?.map_err(|holder| {
            WorkError::Refused(format!(
                "a run or another restore of {} is under way (process {}); try again when it is done",
                policy.name, holder.pid
            ))
        })?),
        false => None,
    };
    if in_place && !dry_run {
        recovery::recover_policy(context, Some(&policy.name), now).await?;
    }
    let mut report = RestoreReport {
        restore_point: Some(point.clone()),
        phase: Phase::Running,
        started_at: now,
        finished_at: None,
        message: String::new(),
        sources: parts.iter().map(|(report, _)| report.clone()).collect(),
    };
    let mut failure = None;
    if let Some(workload) = &quiesce {
        context.state.add_stopped(workload, now)?;
        let limit = workload.quiesce.timeout.map_or(Duration::from_secs(300), |timeout| timeout.std());
        let stopped = process::execute(&workload.quiesce.stop, limit, context.stop.as_ref(), |_| ()).await;
        failure =
            stopped.err().map(|error| runner::chain("stopping the workload failed, so nothing was written", &error));
    }
    let mut written = false;
    for (index, (_, tasks)) in parts.into_iter().enumerate() {
        if failure.is_some() {
            break;
        }
        let Some(source) = report.sources.get_mut(index) else { break };
        source.phase = Phase::Running;
        let name = source.source.clone();
        let began = std::time::Instant::now();
        let mut result = Ok((0, 0));
        for task in tasks {
            let bounds = Bounds::within(LIMIT, context.stop.clone());
            match context.job(&place, task, None, &bounds, |word| hear(&name, word)).await {
                Ok(Outcome::Restored { files, bytes }) => {
                    result = result.map(|(all_files, all_bytes)| (all_files + files, all_bytes + bytes));
                }
                Ok(_) => {}
                Err(error) => {
                    result = Err(error.chain());
                    break;
                }
            }
        }
        source.duration_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok((files, bytes)) => {
                written = true;
                source.phase = Phase::Succeeded;
                if files > 0 {
                    (source.files, source.size_bytes) = (files, bytes);
                }
            }
            Err(reason) => {
                source.phase = Phase::Failed;
                source.message = Some(reason.clone());
                let before = if written { "; the sources before it were written" } else { "" };
                failure = Some(format!("source {name} was not restored: {reason}{before}"));
            }
        }
    }
    if let Some(workload) = &quiesce {
        match runner::start(workload).await {
            Ok(()) => context.state.remove_stopped(&workload.policy)?,
            Err(reason) => failure = Some(failure.map_or(reason.clone(), |failure| format!("{failure}; {reason}"))),
        }
    }
    report.finished_at = Some(Timestamp::now());
    (report.phase, report.message) = match failure {
        Some(reason) => (Phase::Failed, reason),
        None if dry_run => (Phase::Succeeded, format!("restore point {point} can be restored; nothing was written")),
        None => (Phase::Succeeded, format!("restore point {point} was restored")),
    };
    Ok(report)
}

/// Announces a Restore document and starts a process that carries it out; once for each document and content.
///
/// # Errors
/// The state cannot be written, or the process cannot be started.
pub fn start_document(context: &Context, restore: &Restore, now: Timestamp) -> Result<(), WorkError> {
    use std::os::unix::process::CommandExt as _;
    let content = restore.content_hash();
    let report = RestoreReport {
        restore_point: None,
        phase: Phase::Pending,
        started_at: now,
        finished_at: None,
        message: "about to start".to_owned(),
        sources: Vec::new(),
    };
    let mut document = restore.document.clone();
    document.spec.policy = restore.policy.to_string();
    if !context.state.announce_restore(&restore.name, &content, &document, &report)? {
        return Ok(());
    }
    let child = std::process::Command::new(&context.program)
        .args(["restore", "--document", &restore.name.to_string(), "--content", &content, "--state"])
        .arg(context.state.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let failed = RestoreReport {
                phase: Phase::Failed,
                finished_at: Some(now),
                message: format!("the restore's process could not be started: {error}"),
                ..report
            };
            let own = ProcessIdentity::own();
            return Ok(context.state.update_restore(&restore.name, &content, &failed, &own, now)?);
        }
    };
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Carries an announced Restore document out, in its own process.
///
/// # Errors
/// It was not announced, or the state cannot be used.
pub async fn carry_out_document(
    context: &Context,
    name: &PolicyName,
    content: &str,
) -> Result<RestoreReport, WorkError> {
    let stored = context.state.restore(name, content)?.ok_or_else(|| {
        WorkError::Refused(format!("there is no restore {name} with this content in the state; apply its document"))
    })?;
    if stored.report.phase != Phase::Pending {
        return Ok(stored.report);
    }
    let own = ProcessIdentity::own();
    let now = Timestamp::now();
    let running = RestoreReport { phase: Phase::Running, message: "under way".to_owned(), ..stored.report.clone() };
    context.state.update_restore(name, content, &running, &own, now)?;
    let report = match of_document(context, &stored).await {
        Ok(report) => report,
        Err(error) => RestoreReport {
            phase: Phase::Failed,
            finished_at: Some(Timestamp::now()),
            message: error.chain(),
            ..running
        },
    };
    context.state.update_restore(name, content, &report, &own, Timestamp::now())?;
    Ok(report)
}

async fn of_document(context: &Context, stored: &StoredRestore) -> Result<RestoreReport, WorkError> {
    let spec = &stored.document.spec;
    let policy = spec.policy.parse().map_err(|error: crate::policy::PolicyNameError| {
        WorkError::Refused(format!("the Restore document names no policy: {error}"))
    })?;
    let request = RestoreRequest::from_document(policy, spec)?;
    let prepared = prepare(context, &request)?;
    carry_out(context, prepared, &mut |_, _| ()).await
}

/// The restore point that is meant.
///
/// # Errors
/// There is none.
pub fn choose<'a>(
    policy: &PolicyName,
    points: &'a [StoredPoint],
    choice: &PointChoice,
) -> Result<&'a StoredPoint, WorkError> {
    let good = || points.iter().filter(|point| !point.forgetting);
    let found = match choice {
        PointChoice::Name(name) if name == "latest" => good().next_back(),
        PointChoice::Name(id) => good().find(|point| point.point.id.0 == *id),
        PointChoice::Before { before } => good().rev().find(|point| point.point.time < *before),
    };
    found.ok_or_else(|| {
        let asked = match choice {
            PointChoice::Name(name) if name == "latest" => format!("{policy} has no restore point yet"),
            PointChoice::Name(id) => format!("{policy} has no restore point {id}"),
            PointChoice::Before { before } => format!("{policy} has no restore point before {before}"),
        };
        WorkError::Refused(format!("{asked}; `mainstay points {policy}` lists what there is"))
    })
}

/// The place to restore from: the first that holds all sources that are asked for.
fn place_of<'a>(
    places: &'a [PlaceRecord],
    point: &StoredPoint,
    request: &RestoreRequest,
) -> Result<&'a PlaceRecord, WorkError> {
    let all: std::collections::BTreeSet<&str> = match request.sources.is_empty() {
        true => point.parts.iter().map(|part| part.part.source.as_str()).collect(),
        false => request.sources.iter().map(String::as_str).collect(),
    };
    let known: std::collections::BTreeSet<&str> = point.parts.iter().map(|part| part.part.source.as_str()).collect();
    if let Some(unknown) = all.iter().find(|source| !known.contains(*source)) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err(WorkError::Refused(format!(
            "restore point {} has no source {unknown}; it has {}",
            point.point.id,
            known.join(", ")
        )));
    }
    let holds = |place: &PlaceRecord| {
        all.iter().all(|source| point.parts.iter().any(|part| part.place == place.id && part.part.source == *source))
    };
    let named = |place: &&PlaceRecord| request.repository.as_ref().is_none_or(|name| *name == place.repository);
    places.iter().filter(named).find(|place| holds(place)).ok_or_else(|| {
        let whole: Vec<&str> =
            places.iter().filter(|place| holds(place)).map(|place| place.repository.as_str()).collect();
        let sources: Vec<&str> = all.iter().copied().collect();
        WorkError::Refused(format!(
            "no repository that is asked for holds {} of restore point {}; these do: {}",
            sources.join(", "),
            point.point.id,
            if whole.is_empty() { "none".to_owned() } else { whole.join(", ") }
        ))
    })
}

fn tasks(
    request: &RestoreRequest,
    source: Option<&Source>,
    name: &str,
    snapshot: &str,
) -> Result<Vec<Task>, WorkError> {
    let overwrite = request.existing == Existing::Update;
    let files = |into: Option<PathBuf>| Task::RestoreFiles {
        snapshot: snapshot.to_owned(),
        into,
        paths: Vec::new(),
        overwrite,
        dry_run: request.dry_run,
    };
    let is_files = source.is_some_and(|source| source.paths.is_some());
    let database = match &request.target {
        Target::Directory(directory) => return Ok(vec![files(Some(directory.clone()))]),
        Target::InPlace if is_files => return Ok(vec![files(None)]),
        Target::Database(_) if is_files => {
            return Err(WorkError::Refused(format!(
                "source {name} is files and cannot go into a database; choose other sources with --source"
            )));
        }
        Target::InPlace => None,
        Target::Database(database) => Some(database.as_str()),
    };
    let Some(source) = source else {
        return Err(WorkError::Refused(format!(
            "source {name} is no longer in the policy, so where it came from is not known; restore it --into a directory"
        )));
    };
    if request.target == Target::InPlace && !overwrite {
        return Err(WorkError::Refused(format!(
            "source {name} would be written over what is there; allow it with --existing update (in a document \
             `existing: Update`), or restore it elsewhere"
        )));
    }
    if request.dry_run {
        return Ok(Vec::new());
    }
    let stream = |(file_name, program): (String, Program)| Task::RestoreStream {
        snapshot: snapshot.to_owned(),
        file_name,
        program,
    };
    Ok(sources::restore_programs(source, database)?.into_iter().map(stream).collect())
}

/// What a download wrote.
#[derive(Debug)]
pub struct Downloaded {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// What to do with it, where that is not plain.
    pub hint: Option<String>,
}

/// Writes one source of a restore point into a new file: files as tar.gz, a dump as it is.
///
/// # Errors
/// There is no such point or source, the file exists, or the mover fails.
pub async fn download(
    context: &Context,
    policy: &PolicyName,
    choice: &PointChoice,
    source: Option<String>,
    file: Option<String>,
    output: Option<PathBuf>,
    hear: &mut dyn FnMut(&str, Word),
) -> Result<Downloaded, WorkError> {
    let stored = context.state.policy(policy)?.ok_or_else(|| runner::no_such_policy(policy))?;
    let points = context.state.points(policy)?;
    let point = choose(policy, &points, choice)?;
    let mut names: Vec<&str> = point.parts.iter().map(|part| part.part.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let name = match (source, names.as_slice()) {
        (Some(source), names) if names.contains(&source.as_str()) => source,
        (None, [only]) => (*only).to_owned(),
        (_, names) => {
            return Err(WorkError::Refused(format!(
                "choose one source of restore point {} with --source: {}",
                point.point.id,
                names.join(", ")
            )));
        }
    };
    let places = context.state.places(policy)?;
    let found = places.iter().find_map(|place| {
        let part = point.parts.iter().find(|part| part.place == place.id && part.part.source == name)?;
        Some((place, part))
    });
    let Some((place, part)) = found else {
        return Err(WorkError::Refused(format!("no repository of {policy} holds source {name} any more")));
    };
    let source = stored.compiled.document.spec.sources.iter().find(|source| source.name == name);
    let files = source.map(sources::file_names).unwrap_or_default();
    let file_name = match (file, files.as_slice()) {
        (Some(file), _) => Some(file),
        (None, []) => None,
        (None, [only]) => Some(only.clone()),
        (None, several) => {
            return Err(WorkError::Refused(format!(
                "source {name} holds several dumps; choose one with --file: {}",
                several.join(", ")
            )));
        }
    };
    let ending = file_name.clone().unwrap_or_else(|| format!("{name}.tar.gz"));
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{}-{}-{ending}", policy.name(), point.point.id)));
    let refuse = |error: std::io::Error| WorkError::Refused(format!("cannot write to {}: {error}", output.display()));
    let output = std::path::absolute(&output).map_err(refuse)?;
    if output.symlink_metadata().is_ok() {
        return Err(WorkError::Refused(format!("{} exists; name another file with --output", output.display())));
    }
    let hint = file_name
        .as_ref()
        .filter(|_| source.is_some_and(|source| source.postgres.is_some()))
        .map(|_| format!("it is in PostgreSQL's custom format; as SQL: pg_restore --file=- {}", output.display()));
    let task = Task::Download { snapshot: part.part.snapshot.clone(), file_name, output: output.clone() };
    let bounds = Bounds::within(LIMIT, context.stop.clone());
    context.job(place, task, None, &bounds, |word| hear(&name, word)).await?;
    let size_bytes = std::fs::metadata(&output)
        .map_err(|error| WorkError::Refused(format!("{} cannot be read: {error}", output.display())))?
        .len();
    Ok(Downloaded { file: output, size_bytes, hint })
}
