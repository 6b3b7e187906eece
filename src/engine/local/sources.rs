//! Sources: from a policy's document to what a mover reads, and to the programs that take dumps back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{context::WorkError, repositories::resolve};
use crate::{
    mover::{
        dump::{self, Server},
        job::{Input, Program},
    },
    policy::document::{
        Source,
        source::{Command, Database},
    },
    secret::Secret,
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
        let environment = environment(&source.name, command)?;
        return Ok(Input::Streams(vec![dump::command_stream(&source.name, command, environment)]));
    }
    let Some((server, database)) = database(source) else {
        return Err(WorkError::Refused(format!(
            "source {} names nothing that this engine can read; give it paths, postgres, mysql, mariadb or command",
            source.name
        )));
    };
    let password = password(&source.name, database)?;
    Ok(Input::Streams(dump::streams(server, database, password.as_ref(), &Path::exists)))
}

/// The programs that take the streams of a source back, each with the name of its file in the snapshot.
/// `into`: this database instead of the one that it came from. `tables`: only these.
///
/// # Errors
/// The source has no such program, or several databases would go into one.
pub fn restore_programs(
    source: &Source,
    into: Option<&str>,
    tables: &[String],
) -> Result<Vec<(String, Program)>, WorkError> {
    let name = &source.name;
    let arguments = table_arguments(source, tables).map_err(WorkError::Refused)?;
    if let Some(command) = &source.command {
        if into.is_some() {
            return Err(WorkError::Refused(format!("source {name} is a command and knows no other database")));
        }
        let program = dump::command_restore_program(command, environment(name, command)?).ok_or_else(|| {
            WorkError::Refused(format!(
                "source {name} has no `command.restore`, so it cannot be put back; restore it --into a directory"
            ))
        })?;
        return Ok(vec![(dump::command_file_name(name, command), program)]);
    }
    let Some((server, database)) = database(source) else {
        return Err(WorkError::Refused(format!("source {name} cannot be put back in place")));
    };
    if into.is_some() && database.databases.len() > 1 {
        return Err(WorkError::Refused(format!(
            "source {name} holds several databases, which cannot all go into one; restore it --into a directory"
        )));
    }
    let password = password(name, database)?;
    let program = |from: &String| {
        let into = into.unwrap_or(from);
        let program = dump::restore_program(server, database, password.as_ref(), into, &arguments, &Path::exists);
        (dump::file_name(server, from), program)
    };
    Ok(database.databases.iter().map(program).collect())
}

/// The arguments by which a restore program takes only these tables.
///
/// # Errors
/// In words: that program takes nothing but whole databases.
pub fn table_arguments(source: &Source, tables: &[String]) -> Result<Vec<String>, String> {
    if !tables.is_empty() && source.postgres.is_none() {
        return Err(format!(
            "source {} is no PostgreSQL dump, and only of these single tables can be restored; leave `tables` out, or \
             choose other sources",
            source.name
        ));
    }
    Ok(tables.iter().map(|table| format!("--table={table}")).collect())
}

/// The program that tells how much is in a database on the server of a source; none: the source is no database.
///
/// # Errors
/// The password is not there.
pub fn count_program(source: &Source, of: &str) -> Result<Option<Program>, WorkError> {
    let Some((server, database)) = database(source) else { return Ok(None) };
    let password = password(&source.name, database)?;
    Ok(Some(dump::count_program(server, database, password.as_ref(), of, &Path::exists)))
}

/// The files that a source's dumps have in a snapshot; empty: it is files and directories.
pub fn file_names(source: &Source) -> Vec<String> {
    if let Some(command) = &source.command {
        return vec![dump::command_file_name(&source.name, command)];
    }
    let names = |(server, database): (Server, &Database)| {
        database.databases.iter().map(|name| dump::file_name(server, name)).collect()
    };
    database(source).map(names).unwrap_or_default()
}

fn database(source: &Source) -> Option<(Server, &Database)> {
    let postgres = source.postgres.as_deref().map(|database| (Server::Postgres, database));
    let mysql = source.mysql.as_deref().map(|database| (Server::MySql, database));
    let mariadb = source.mariadb.as_deref().map(|database| (Server::MariaDb, database));
    postgres.or(mysql).or(mariadb)
}

fn password(name: &str, database: &Database) -> Result<Option<Secret>, WorkError> {
    let what = format!("the password of source {name}");
    Ok(database.password.as_ref().map(|reference| resolve(&what, reference)).transpose()?)
}

fn environment(name: &str, command: &Command) -> Result<BTreeMap<String, Secret>, WorkError> {
    let mut environment = BTreeMap::new();
    for (variable, reference) in &command.environment {
        let what = format!("the environment variable {variable} of source {name}");
        environment.insert(variable.clone(), resolve(&what, reference)?);
    }
    Ok(environment)
}
