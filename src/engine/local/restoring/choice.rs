//! What a restore uses: the restore point, the place that holds it, and what a mover has to do.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{RestoreRequest, Target};
use crate::{
    engine::local::{
        context::WorkError,
        sources,
        state::{places::PlaceRecord, points::StoredPoint},
    },
    mover::job::{Program, Task},
    policy::{
        PolicyName,
        document::{
            Source,
            restore::{Existing, PointChoice},
        },
    },
};

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
    // What was made here comes first; on a new host there is nothing but what others made.
    let newest = |is_meant: &dyn Fn(&StoredPoint) -> bool| {
        let there = || good().rev().filter(|point| point.point.missing_since.is_none() && is_meant(point));
        there().find(|point| !point.point.found).or_else(|| there().next())
    };
    let found = match choice {
        PointChoice::Name(name) if name == "latest" => newest(&|_| true),
        PointChoice::Name(id) => good().find(|point| point.point.id.0 == *id).or_else(|| of_other_maker(good(), id)),
        PointChoice::Before { before } => newest(&|point| point.point.time < *before),
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

/// The only point that another maker made under this id: that is how a lost state called it.
fn of_other_maker<'a>(points: impl Iterator<Item = &'a StoredPoint>, id: &str) -> Option<&'a StoredPoint> {
    let mut named = points.filter(|point| point.point.id.0.strip_prefix(id).is_some_and(|rest| rest.starts_with('-')));
    let first = named.next()?;
    (!id.is_empty() && named.next().is_none()).then_some(first)
}

/// The place to restore from: the first that holds all sources that are asked for.
///
/// # Errors
/// None of them holds all.
pub(super) fn place_of<'a>(
    places: &'a [PlaceRecord],
    point: &StoredPoint,
    request: &RestoreRequest,
) -> Result<&'a PlaceRecord, WorkError> {
    let all: BTreeSet<&str> = match request.sources.is_empty() {
        true => point.parts.iter().map(|part| part.part.source.as_str()).collect(),
        false => request.sources.iter().map(String::as_str).collect(),
    };
    let known: BTreeSet<&str> = point.parts.iter().map(|part| part.part.source.as_str()).collect();
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

/// What a mover does to restore one source.
///
/// # Errors
/// It cannot go where it should.
pub(super) fn tasks(
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
    if !request.tables.is_empty() && (is_files || matches!(request.target, Target::Directory(_))) {
        return Err(WorkError::Refused(format!(
            "tables can be chosen only of a PostgreSQL dump that goes into a database, and source {name} does not; \
             choose other sources with --source"
        )));
    }
    let database = match &request.target {
        Target::Directory(directory) if !has_names(directory) => {
            return Err(WorkError::Refused(format!(
                "restoring below {} is restoring in place; say so with --in-place, or name another directory",
                directory.display()
            )));
        }
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
    if let Some(database) = database
        && !overwrite
        && is_own_database(source, database)
    {
        return Err(WorkError::Refused(format!(
            "database {database} is the one that source {name} protects, and what is in it would be overwritten; \
             name another database, or restore in place with --in-place --existing update"
        )));
    }
    if request.dry_run {
        return Ok(Vec::new());
    }
    let stream = |(file_name, program): (String, Program)| Task::RestoreStream {
        snapshot: snapshot.to_owned(),
        file_name,
        program,
        // Looked after before anything is written: here the programs are at hand.
        guard: None,
    };
    Ok(sources::restore_programs(source, database, &request.tables)?.into_iter().map(stream).collect())
}

/// Whether a source captures this database.
fn is_own_database(source: &Source, database: &str) -> bool {
    let servers = [&source.postgres, &source.mysql, &source.mariadb];
    servers.into_iter().flatten().any(|server| server.databases.iter().any(|own| own == database))
}

/// Whether a path is more than the root.
fn has_names(path: &Path) -> bool {
    path.components().any(|part| matches!(part, std::path::Component::Normal(_)))
}
