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
        SecretReference, Source,
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
    let (database, password) = credentials(&source.name, database)?;
    Ok(Input::Streams(dump::streams(server, &database, password.as_ref(), &Path::exists)))
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
    let (database, password) = credentials(name, database)?;
    let program = |from: &String| {
        let into = into.unwrap_or(from);
        let program = dump::restore_program(server, &database, password.as_ref(), into, &arguments, &Path::exists);
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
    let (database, password) = credentials(&source.name, database)?;
    Ok(Some(dump::count_program(server, &database, password.as_ref(), of, &Path::exists)))
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

/// The same database with the name of its user, and the password.
fn credentials(name: &str, database: &Database) -> Result<(Database, Option<Secret>), WorkError> {
    let read = |what: &str, reference: &Option<SecretReference>| {
        reference.as_ref().map(|reference| resolve(&format!("{what} of source {name}"), reference)).transpose()
    };
    let user = read("the user name", &database.user_from)?.map(|user| user.expose().to_owned());
    let password = read("the password", &database.password)?;
    Ok((Database { user: database.user.clone().or(user), ..database.clone() }, password))
}

fn environment(name: &str, command: &Command) -> Result<BTreeMap<String, Secret>, WorkError> {
    let mut environment = BTreeMap::new();
    for (variable, reference) in &command.environment {
        let what = format!("the environment variable {variable} of source {name}");
        environment.insert(variable.clone(), resolve(&what, reference)?);
    }
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_user_is_read_where_its_password_is() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str, value: &str| {
            let file = directory.path().join(name);
            std::fs::write(&file, value).unwrap();
            serde_json::json!({"file": file})
        };
        let database: Database = serde_json::from_value(serde_json::json!({
            "databases": ["shop"], "userFrom": place("user", "backup\n"), "password": place("password", "geheim\n"),
        }))
        .unwrap();
        let (database, password) = credentials("db", &database).unwrap();
        assert_eq!((database.user.as_deref(), password.unwrap().expose()), (Some("backup"), "geheim"));
        let missing: Database =
            serde_json::from_value(serde_json::json!({"databases": ["shop"], "userFrom": {"file": "/none/user"}}))
                .unwrap();
        let error = credentials("db", &missing).unwrap_err().to_string();
        assert!(error.starts_with("the user name of source db cannot be read from /none/user"), "{error}");
    }
}
