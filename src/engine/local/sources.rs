//! Sources: from a policy's document to what a mover reads, and to the program that takes a dump back.

use std::path::PathBuf;

use super::{
    context::WorkError,
    repositories::resolve,
};
use crate::{
    mover::job::{Input, Program, Stream, StreamCheck},
    policy::document::{Source, source},
};

/// What a mover reads for a source. Secrets are read now.
///
/// # Errors
/// A secret is not there, or the source needs another engine.
pub fn input(source: &Source) -> Result<Input, WorkError> {
    if let Some(paths) = &source.paths {
        return Ok(Input::Paths {
            paths: paths.iter().map(PathBuf::from).collect(),
            exclude: source.exclude.clone(),
            one_file_system: source.one_file_system,
        });
    }
    if let Some(command) = &source.command {
        return Ok(Input::Streams(vec![command_stream(&source.name, command)?]));
    }
    Err(WorkError::Refused(format!(
        "source {} names nothing that this engine can read; give it paths, postgres, mysql, mariadb or command",
        source.name
    )))
}

fn command_stream(name: &str, command: &source::Command) -> Result<Stream, WorkError> {
    let check = command.trailer.clone().map_or(StreamCheck::NotEmpty, StreamCheck::EndsWith);
    Ok(Stream {
        file_name: command.file_name.clone().unwrap_or_else(|| name.to_owned()),
        program: Program { arguments: command.dump.clone(), environment: environment(name, command)? },
        check,
    })
}

fn environment(
    name: &str,
    command: &source::Command,
) -> Result<std::collections::BTreeMap<String, crate::secret::Secret>, WorkError> {
    let mut environment = std::collections::BTreeMap::new();
    for (variable, reference) in &command.environment {
        let what = format!("the environment variable {variable} of source {name}");
        environment.insert(variable.clone(), resolve(&what, reference)?);
    }
    Ok(environment)
}

/// The programs that take the streams of a source back, each with the name of its file in the snapshot.
/// `database`: into this one instead of the one that it came from.
///
/// # Errors
/// The source has no such program.
pub fn restore_programs(source: &Source, database: Option<&str>) -> Result<Vec<(String, Program)>, WorkError> {
    if let Some(command) = &source.command {
        let name = &source.name;
        if database.is_some() {
            return Err(WorkError::Refused(format!("source {name} is a command and knows no other database")));
        }
        let Some(arguments) = command.restore.clone() else {
            return Err(WorkError::Refused(format!(
                "source {name} has no `command.restore`, so it cannot be put back; restore it --into a directory"
            )));
        };
        let file_name = command.file_name.clone().unwrap_or_else(|| name.clone());
        return Ok(vec![(file_name, Program { arguments, environment: environment(name, command)? })]);
    }
    Err(WorkError::Refused(format!("source {} cannot be put back in place", source.name)))
}

/// The files that a source's dumps have in a snapshot; empty: it is files and directories.
pub fn file_names(source: &Source) -> Vec<String> {
    if let Some(command) = &source.command {
        return vec![command.file_name.clone().unwrap_or_else(|| source.name.clone())];
    }
    Vec::new()
}
