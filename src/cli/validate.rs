//! `mainstay validate`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{CommandResult, Exit, Failure, engine::EngineName};
use crate::{
    desired::DesiredState,
    policy::{
        diagnostic::{github, json, sarif, text},
        load::{DirectoryError, FileContent, ParseCache, load, read_directory, read_file},
    },
};

/// Check documents: all findings at once, each with its place and a hint.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directories with backup.yaml and *.backup.yaml files, or single files of any name [default: .]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A further directory
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Form of the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The engine that the documents are for
    #[arg(long, value_enum, default_value_t = EngineName::Local, env = "MAINSTAY_ENGINE")]
    engine: EngineName,
}

/// Form of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Frames with a caret below the place
    Text,
    /// One JSON document
    Json,
    /// Workflow commands of GitHub and Gitea
    Github,
    /// SARIF 2.1.0
    Sarif,
}

/// Carries the command out. Exit codes: 0 no error, 4 errors, 1 the files could not be read.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { mut paths, path, format, engine } = arguments;
    paths.extend(path);
    if paths.is_empty() {
        paths.push(PathBuf::from("."));
    }
    let files = read(&paths)?;
    if files.is_empty() {
        let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::new(format!("there is no backup.yaml or *.backup.yaml in {}", shown.join(", ")))
            .hint("`mainstay init` writes a first one"));
    }
    let loaded = load(&files, engine.kind(), &mut ParseCache::default());
    let report = match format {
        Format::Text if loaded.diagnostics.is_empty() => clean(&loaded.desired, files.len()),
        Format::Text => text::render(&loaded.diagnostics, &files, use_color()),
        Format::Json => json::render(&loaded.diagnostics),
        Format::Github => github::render(&loaded.diagnostics),
        Format::Sarif => sarif::render(&loaded.diagnostics),
    };
    // A reader that left early, such as `head`, is no failure of ours.
    let _ = std::io::stdout().write_all(report.as_bytes());
    Ok(if loaded.has_errors() { Exit::Documents } else { Exit::Success })
}

/// Reads what is named. With one directory the paths in findings are relative to it; else they are as named.
fn read(paths: &[PathBuf]) -> Result<BTreeMap<PathBuf, FileContent>, Failure> {
    let failed = |error: DirectoryError| Failure::new("the documents could not be read").caused_by(error);
    let mut files = BTreeMap::new();
    for path in paths {
        if path.is_file() {
            files.insert(path.clone(), read_file(path).map_err(failed)?);
            continue;
        }
        let prefix = if paths.len() == 1 { Path::new("") } else { path.as_path() };
        files.extend(
            read_directory(path).map_err(failed)?.into_iter().map(|(file, content)| (prefix.join(file), content)),
        );
    }
    Ok(files)
}

fn clean(desired: &DesiredState, files: usize) -> String {
    let counted = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    format!(
        "{}, {} and {} in {}: no findings\n",
        counted(desired.policies.len(), "policy", "policies"),
        counted(desired.repositories.len(), "repository", "repositories"),
        counted(desired.restores.len(), "restore", "restores"),
        counted(files, "file", "files"),
    )
}

fn use_color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
