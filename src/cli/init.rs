//! `mainstay init`.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::PathBuf,
};

use clap::Args;

use super::{CommandResult, Exit, Failure};
use crate::policy::schema::schema_text;

/// Write a first backup.yaml.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory to write it into; it is created if need be
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
}

/// The first policy. It is valid as it stands, and harmless until the daemon watches it.
const FIRST: &str = include_str!("init/backup.yaml");

/// Carries the command out: `backup.yaml`, and beside it the schema that the editor checks it with.
pub fn execute(Arguments { path }: Arguments) -> CommandResult {
    fs::create_dir_all(&path)
        .map_err(|error| Failure::new(format!("cannot create the directory {}", path.display())).caused_by(error))?;
    let policy = path.join("backup.yaml");
    create(&policy, FIRST)?;
    let schema = path.join(".mainstay/backup.schema.json");
    if !schema.exists() {
        fs::create_dir_all(path.join(".mainstay"))
            .map_err(|error| Failure::new(format!("cannot create {}", schema.display())).caused_by(error))?;
        create(&schema, &schema_text())?;
    }
    println!("Wrote {} and, for your editor, {}.", policy.display(), schema.display());
    println!("Next: edit it, then `mainstay validate {}`, then commit both to a git repository.", path.display());
    Ok(Exit::Success)
}

fn create(path: &std::path::Path, content: &str) -> Result<(), Failure> {
    let written = fs::File::create_new(path).and_then(|mut file| file.write_all(content.as_bytes()));
    written.map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            Failure::new(format!("{} exists already; it stays as it is", path.display()))
                .hint("name another directory with --path")
        } else {
            Failure::new(format!("cannot write {}", path.display())).caused_by(error)
        }
    })
}
