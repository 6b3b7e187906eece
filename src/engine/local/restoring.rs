//! Restoring: from a restore point to files and databases.
//!
//! Everything that can be refused is refused before anything is written: the point, the sources, the programs. A restore
//! in place takes the policy's lease, so that no run captures what is half written, and stops the workload of a `Cold`
//! policy for its time.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use super::{
    context::{Context, WorkError},
    inventory,
    movers::{Bounds, Word},
    process::{self, ProcessIdentity},
    recovery, runner, sources,
    state::{places::PlaceRecord, stopped::StoppedWorkload},
};
use crate::{
    actual::RestoreReport,
    mover::job::{Outcome, Task},
    policy::{
        CompiledPolicy, PolicyName,
        document::{
            backup_policy::Consistency,
            restore::{Existing, PointChoice, RestoreSpec},
        },
    },
    restore_point::RestorePointId,
    run::{Phase, SourceReport, to_millisecond},
};

mod choice;
mod document;
mod download;
mod dumps;
mod guard;
mod waiting;

pub use choice::choose;
use choice::{place_of, tasks};
pub use document::{carry_out_document, start_document, take_up};
pub use download::download;
use dumps::Dumps;
use guard::Guard;

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
    /// Only these tables of PostgreSQL dumps; empty: whole databases.
    pub tables: Vec<String>,
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
            tables: spec.tables.clone(),
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
    /// What must be empty before anything is written.
    guards: Vec<Guard>,
    /// The workload to stop meanwhile.
    quiesce: Option<StoppedWorkload>,
    in_place: bool,
    dry_run: bool,
}

/// Looks a restore through: which point, from where, with which programs.
///
/// # Errors
/// There is no such policy, point or source, or it cannot go where it should.
pub async fn prepare(context: &Context, request: &RestoreRequest) -> Result<PreparedRestore, WorkError> {
    let stored = context.state.policy(&request.policy)?.ok_or_else(|| runner::no_such_policy(&request.policy))?;
    let mut points = context.state.points(&request.policy)?;
    if points.is_empty() {
        // Nothing is known here, as on a new host. The repositories may know better.
        let found = inventory::refresh(context, &request.policy, Timestamp::now()).await?;
        if found.points.is_empty() && !found.complete {
            return Err(WorkError::Refused(format!(
                "no restore point of {} is known, and its repositories do not answer: {}",
                request.policy,
                found.problems.join("; ")
            )));
        }
        points = found.points;
    }
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
    let (mut parts, mut guards) = (Vec::new(), Vec::new());
    for part in here.iter().filter(|part| request.sources.is_empty() || request.sources.contains(&part.part.source)) {
        let source = stored.compiled.document.spec.sources.iter().find(|source| source.name == part.part.source);
        let tasks = tasks(request, source, &part.part.source, &part.part.snapshot)?;
        if let (Target::Database(database), Existing::Fail, Some(source)) = (&request.target, request.existing, source)
        {
            let program = sources::count_program(source, database)?;
            guards.extend(program.map(|program| Guard { database: database.clone(), program }));
        }
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
        guards,
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
    let PreparedRestore { point, time: _, size_bytes: _, policy, place, parts, guards, quiesce, in_place, dry_run } =
        prepared;
    let context = &context.knowing(&policy);
    for guard in &guards {
        guard.check(&context.confidential).await?;
    }
    // One elsewhere is in nobody's way; its lease only tells who writes for it.
    let name = match in_place && !dry_run {
        true => runner::policy_lease(&policy.name),
        false => {
            let ProcessIdentity { pid, namespace, .. } = ProcessIdentity::own();
            format!("restore:{}:{pid}-{namespace}", policy.name)
        }
    };
    let lease = match context.state.lease(&name, now)? {
        Ok(lease) => lease,
        Err(holder) => return Err(waiting::busy(context, &policy.name, holder)?),
    };
    if in_place && !dry_run {
        recovery::recover_policy(context, Some(&policy.name), now).await?;
    }
    let mut report = RestoreReport {
        restore_point: Some(point.clone()),
        phase: Phase::Running,
        started_at: to_millisecond(now),
        finished_at: None,
        message: String::new(),
        sources: parts.iter().map(|(report, _)| report.clone()).collect(),
    };
    let mut failure = None;
    if let Some(workload) = &quiesce {
        context.state.add_stopped(workload, now)?;
        let limit = workload.quiesce.timeout.map_or(Duration::from_secs(300), |timeout| timeout.std());
        let stopped =
            process::execute(&workload.quiesce.stop, limit, context.stop.as_ref(), &context.confidential, |_| ());
        let stopped = stopped.await;
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
        let mut dumps = Dumps::of(&tasks);
        for task in tasks {
            let bounds = Bounds::within(LIMIT, context.stop.clone());
            let heard = |word: Word| {
                if let Word::Started(mover) = &word
                    && let Err(error) = lease.set_child(Some(mover))
                {
                    tracing::warn!("{}", runner::chain("the state does not know the mover of this restore", &error));
                }
                hear(&name, word);
            };
            match context.job(&place, task, None, &bounds, heard).await {
                Ok(Outcome::Restored { files, bytes }) => {
                    dumps.wrote_one();
                    result = result.map(|(all_files, all_bytes)| (all_files + files, all_bytes + bytes));
                }
                Ok(_) => {}
                Err(error) => {
                    result = Err(dumps.told(&error));
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
                let how_far = if dumps.any_written() { "only partly" } else { "not" };
                failure = Some(format!("source {name} was {how_far} restored: {reason}{before}"));
            }
        }
    }
    if let Some(workload) = &quiesce {
        match runner::start(workload, &context.confidential).await {
            Ok(()) => context.state.remove_stopped(workload)?,
            Err(reason) => failure = Some(failure.map_or(reason.clone(), |failure| format!("{failure}; {reason}"))),
        }
    }
    report.finished_at = Some(to_millisecond(Timestamp::now()));
    (report.phase, report.message) = match failure {
        Some(reason) => (Phase::Failed, reason),
        None if dry_run => (Phase::Succeeded, format!("restore point {point} can be restored; nothing was written")),
        None => (Phase::Succeeded, format!("restore point {point} was restored")),
    };
    Ok(report)
}
