//! What a download is: which file of a source, where it goes, and what to do with it. Both engines.

use std::path::PathBuf;

use crate::{engine::local::sources, policy::document::Source};

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

/// Where something of a source goes.
#[derive(Debug)]
pub struct Destination {
    /// The dump that is wanted; none: the files of the source as tar.gz.
    pub file_name: Option<String>,
    /// Absolute path of the file to write.
    pub output: PathBuf,
    /// What to do with it, where that is not plain.
    pub hint: Option<String>,
}

impl Destination {
    /// Of what is wanted of a source. `name`: what it is called in the restore point; `source`: as the policy has it now;
    /// none: it is gone from it, or it has no dumps. `stem`: what the file is named after where `output` says nothing.
    ///
    /// # Errors
    /// In words: it has several dumps, or the path has no directory.
    pub fn of(
        name: &str,
        source: Option<&Source>,
        file: Option<String>,
        output: Option<PathBuf>,
        stem: &str,
    ) -> Result<Self, String> {
        let files = source.map(sources::file_names).unwrap_or_default();
        let file_name = match (file, files.as_slice()) {
            (Some(file), _) => Some(file),
            (None, []) => None,
            (None, [only]) => Some(only.clone()),
            (None, several) => {
                return Err(format!(
                    "source {name} holds several dumps; choose one with --file: {}",
                    several.join(", ")
                ));
            }
        };
        let ending = file_name.clone().unwrap_or_else(|| format!("{}.tar.gz", name.replace('/', "-")));
        let output = output.unwrap_or_else(|| PathBuf::from(format!("{stem}-{ending}")));
        let output =
            std::path::absolute(&output).map_err(|error| format!("cannot write to {}: {error}", output.display()))?;
        let is_custom = file_name.is_some() && source.is_some_and(|source| source.postgres.is_some());
        let hint = is_custom
            .then(|| format!("it is in PostgreSQL's custom format; as SQL: pg_restore --file=- {}", output.display()));
        Ok(Self { file_name, output, hint })
    }
}
