//! Downloads: one source of a restore point as a file.

use std::path::PathBuf;

use super::{LIMIT, choose};
use crate::{
    engine::{
        download::{Destination, Downloaded},
        local::{
            context::{Context, WorkError},
            movers::{Bounds, Word},
            runner,
        },
    },
    mover::job::Task,
    policy::{PolicyName, document::restore::PointChoice},
};

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
    let stem = format!("{}-{}", policy.name(), point.point.id);
    let Destination { file_name, output, hint } =
        Destination::of(&name, source, file, output, &stem).map_err(WorkError::Refused)?;
    if output.symlink_metadata().is_ok() {
        return Err(WorkError::Refused(format!("{} exists; name another file with --output", output.display())));
    }
    let task = Task::Download { snapshot: part.part.snapshot.clone(), file_name, output: output.clone() };
    let bounds = Bounds::within(LIMIT, context.stop.clone());
    context.job(place, task, None, &bounds, |word| hear(&name, word)).await?;
    let size_bytes = std::fs::metadata(&output)
        .map_err(|error| WorkError::Refused(format!("{} cannot be read: {error}", output.display())))?
        .len();
    Ok(Downloaded { file: output, size_bytes, hint })
}
