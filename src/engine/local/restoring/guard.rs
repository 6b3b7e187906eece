//! Looks into the database that a restore goes into: where nothing may be overwritten, it has to be empty.

use std::{process::Stdio, time::Duration};

use crate::{
    engine::local::{context::WorkError, process},
    mover::job::Program,
    secret::Confidential,
};

/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(60);
/// So much of what the program said goes into a message.
const MOST_CHARACTERS: usize = 500;

/// A database to look into.
#[derive(Debug)]
pub struct Guard {
    /// Its name.
    pub database: String,
    /// Prints how many tables, views and sequences it has.
    pub program: Program,
}

impl Guard {
    /// Looks.
    ///
    /// # Errors
    /// It is not empty, or nobody can tell.
    pub async fn check(&self, confidential: &Confidential) -> Result<(), WorkError> {
        let database = &self.database;
        let unknown = |why: String| {
            WorkError::Refused(format!(
                "nobody can tell whether database {database} is empty: {why}; make it, or say --existing update (in a \
                 document `existing: Update`) to write into it as it is"
            ))
        };
        let Some((name, arguments)) = self.program.arguments.split_first() else { return Ok(()) };
        let mut command = tokio::process::Command::new(name);
        for variable in confidential.variables() {
            command.env_remove(variable);
        }
        let child = command
            .args(arguments)
            .envs(self.program.environment.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| unknown(format!("`{name}` could not be started: {error}")))?;
        let output = match tokio::time::timeout(LIMIT, child.wait_with_output()).await {
            Ok(output) => output.map_err(|error| unknown(format!("`{name}` could not be waited for: {error}")))?,
            Err(_) => return Err(unknown(format!("`{name}` took longer than {} s", LIMIT.as_secs()))),
        };
        if !output.status.success() {
            let said = confidential.redact(String::from_utf8_lossy(&output.stderr).trim());
            let said: String = said.chars().take(MOST_CHARACTERS).collect();
            let status = process::describe(output.status);
            return Err(unknown(format!("`{name}` ended with {status}: {said}")));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        match text.trim().parse::<u64>() {
            Ok(0) => Ok(()),
            Ok(found) => Err(WorkError::Refused(format!(
                "database {database} is not empty ({found} tables, views and sequences), and what is in it could be \
                 overwritten; name an empty one, or allow it with --existing update (in a document `existing: Update`)"
            ))),
            Err(_) => Err(unknown(format!("`{name}` did not print a number"))),
        }
    }
}
