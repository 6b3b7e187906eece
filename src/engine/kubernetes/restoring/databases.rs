//! Databases: captured streams go back into the user's own client programs, in the user's image.

use std::collections::BTreeMap;

use crate::{
    engine::{
        kubernetes::{
            access,
            runner::capture::database,
            site::{Site, SiteError},
        },
        local::sources::table_arguments,
    },
    mover::{
        dump::{self, Server},
        job::{EmptyGuard, Input, Program},
    },
    policy::{
        PolicyName,
        document::{
            SecretReference, Source,
            restore::{Existing, RestoreSpec},
        },
    },
    secret::Secret,
};

/// A captured stream, and what takes it.
#[derive(Debug)]
pub struct Load {
    /// Name of the file in the snapshot.
    pub file_name: String,
    /// The program that reads it.
    pub program: Program,
    /// What must be empty before.
    pub guard: Option<EmptyGuard>,
    /// Where it goes, for a person.
    pub into: String,
}

/// What takes the streams of a source, and the image with its programs.
///
/// # Errors
/// The source is not in the policy any more, nothing takes it back, or it may not be overwritten.
pub async fn loads(
    site: &Site,
    policy: &PolicyName,
    spec: &RestoreSpec,
    source: Option<&Source>,
    name: &str,
) -> Result<(String, Vec<Load>), SiteError> {
    let refused = |reason: String| Err(SiteError::Refused(reason));
    let Some(source) = source else {
        return refused(format!(
            "source {name} is no longer in the policy, so where it came from is not known; download it with `mainstay \
             points download {policy}`"
        ));
    };
    let arguments = table_arguments(source, &spec.tables).map_err(SiteError::Refused)?;
    let into = spec.into.as_ref().and_then(|into| into.database.as_deref());
    let update = spec.existing == Existing::Update;
    if into.is_none() && !update {
        return refused(format!(
            "source {name} would be written over what is there; allow it with `existing: Update`, or name another \
             database (`into.database`)"
        ));
    }
    if let Some(command) = &source.command {
        if into.is_some() {
            return refused(format!("source {name} is a command and knows no other database; choose other `sources`"));
        }
        let environment = environment(site, policy, name, &command.environment).await?;
        let Some(program) = dump::command_restore_program(command, environment) else {
            return refused(format!("source {name} has no `command.restore`, so it cannot be put back; download it"));
        };
        let image = image(command.image.as_ref(), name)?;
        let load = Load {
            file_name: dump::command_file_name(name, command),
            program,
            guard: None,
            into: format!("the program of source {name}"),
        };
        return Ok((image, vec![load]));
    }
    let Some((server, database)) = database(source) else {
        return refused(format!("source {name} is of another kind now than when it was captured; download it"));
    };
    if let Some(into) = into {
        if database.databases.len() > 1 {
            return refused(format!(
                "source {name} holds several databases, which cannot all go into one; choose other `sources`, or \
                 download it"
            ));
        }
        if database.databases.iter().any(|own| own == into) && !update {
            return refused(format!(
                "database {into} is the one that source {name} protects, and what is in it would be overwritten; name \
                 another one, or allow it with `existing: Update`"
            ));
        }
    }
    let image = image(database.image.as_ref(), name)?;
    let (database, password) = access::credentials(site.client(), policy.namespace(), name, database).await?;
    let loads = database.databases.iter().map(|from| {
        let into = into.unwrap_or(from);
        // Whether a program is in that image cannot be seen from here: the usual name is taken.
        let program = dump::restore_program(server, &database, password.as_ref(), into, &arguments, &|_| true);
        let count = || dump::count_program(server, &database, password.as_ref(), into, &|_| true);
        let guard = (!update).then(|| EmptyGuard { database: into.to_owned(), program: count() });
        let into = format!("database {into}");
        Load { file_name: dump::file_name(server, from), program, guard, into }
    });
    Ok((image, loads.collect()))
}

/// What captures the databases of a source as they are now; none: the source is no database server's.
///
/// # Errors
/// The password is not there.
pub async fn safety(site: &Site, policy: &PolicyName, source: &Source) -> Result<Option<Input>, SiteError> {
    let Some((server, database)) = database(source) else { return Ok(None) };
    match server {
        Server::Postgres | Server::MySql | Server::MariaDb => {}
    }
    let (database, password) = access::credentials(site.client(), policy.namespace(), &source.name, database).await?;
    Ok(Some(Input::Streams(dump::streams(server, &database, password.as_ref(), &|_| true))))
}

fn image(image: Option<&String>, name: &str) -> Result<String, SiteError> {
    image.cloned().ok_or_else(|| {
        SiteError::Refused(format!(
            "source {name} names no `image`; on Kubernetes its programs are carried out in an image of your choice"
        ))
    })
}

async fn environment(
    site: &Site,
    policy: &PolicyName,
    name: &str,
    references: &BTreeMap<String, SecretReference>,
) -> Result<BTreeMap<String, Secret>, SiteError> {
    let mut environment = BTreeMap::new();
    for (variable, reference) in references {
        let what = format!("the environment variable {variable} of source {name}");
        environment.insert(variable.clone(), secret(site, policy, &what, reference).await?);
    }
    Ok(environment)
}

async fn secret(
    site: &Site,
    policy: &PolicyName,
    what: &str,
    reference: &SecretReference,
) -> Result<Secret, SiteError> {
    Ok(access::value(site.client(), policy.namespace(), what, reference).await?)
}
