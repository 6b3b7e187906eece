//! A look at everything that a restore would write, before it writes anything.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    Request, Selection,
    compare::has_content,
    space::Needs,
    write::{self, refused},
};
use crate::mover::{
    job::{Failure, FailureKind},
    repository::{Entry, EntryKind, OpenSnapshot},
};

/// Files in the way that a failure names.
const NAMED: usize = 5;
/// What would be written.
#[derive(Debug, Default)]
pub struct Survey {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Room that they need.
    pub needs: Needs,
}

/// Looks at every destination. Nothing is written.
///
/// # Errors
/// Something is in the way, or what is asked for is not in the snapshot.
pub fn survey(snapshot: &OpenSnapshot, request: &Request, selection: &Selection) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    let mut in_the_way = Vec::new();
    let mut count = 0_u64;
    let mut found = vec![false; selection.wanted.len()];
    let mut missing = Missing::default();
    for entry in snapshot.entries()? {
        let entry = entry?;
        for (path, found) in selection.wanted.iter().zip(&mut found) {
            *found |= entry.path == *path;
        }
        if !selection.holds(&entry) {
            continue;
        }
        let replaced_bytes = match missing.look(&entry, || obstacle(&entry, selection, request.overwrite))? {
            Existing::Obstacle(what) => {
                count += 1;
                if in_the_way.len() < NAMED {
                    in_the_way.push(what);
                }
                continue;
            }
            Existing::Same => continue,
            // A restore compares when it comes to the file; here it is only to be told.
            Existing::LooksSame { .. } if !request.dry_run => continue,
            Existing::LooksSame { used_bytes } => {
                if is_same(snapshot, &entry, &selection.destination(&entry))? {
                    continue;
                }
                used_bytes
            }
            Existing::Nothing => 0,
            Existing::Replaceable { used_bytes } => used_bytes,
        };
        if !matches!(entry.kind, EntryKind::Directory | EntryKind::Socket) {
            survey.files += 1;
            survey.bytes += entry.size_bytes();
            survey.needs.add(&selection.destination(&entry), least_bytes(snapshot, &entry)?, replaced_bytes)?;
        }
    }
    if let Some((path, _)) = selection.wanted.iter().zip(&found).find(|(_, found)| !**found) {
        return Err(Failure::new(
            FailureKind::DestinationRefused,
            format!("/{} is not in the restore point; nothing was written", path.display()),
        )
        .hint("see `mainstay points show` for the paths that were captured"));
    }
    if count == 0 {
        return Ok(survey);
    }
    let more = count - in_the_way.len() as u64;
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let message = format!("in the way: {}{more}; nothing was written", in_the_way.join(", "));
    Err(Failure::new(FailureKind::DestinationRefused, message))
}

/// What is at a destination.
pub enum Existing {
    /// Nothing.
    Nothing,
    /// Nothing needs to be written there.
    Same,
    /// A file with the size and the time that the entry says; whether it has the content, too, is to be seen.
    LooksSame {
        /// What it takes up, if nothing else holds it.
        used_bytes: u64,
    },
    /// Something that the entry may replace, or a directory for it.
    Replaceable {
        /// See [`Existing::LooksSame`].
        used_bytes: u64,
    },
    /// In the way, in words.
    Obstacle(String),
}

/// The directory that was found missing last: nothing can be in the way below it.
#[derive(Debug, Default)]
pub struct Missing(Option<PathBuf>);

impl Missing {
    /// What is at the destination of an entry; `obstacle` looks there, and is asked only where something can be.
    ///
    /// # Errors
    /// Those of `obstacle`.
    pub fn look(
        &mut self,
        entry: &Entry,
        obstacle: impl FnOnce() -> Result<Existing, Failure>,
    ) -> Result<Existing, Failure> {
        if self.0.as_ref().is_some_and(|missing| entry.path.starts_with(missing)) {
            return Ok(Existing::Nothing);
        }
        let existing = obstacle()?;
        if matches!((&existing, &entry.kind), (Existing::Nothing, EntryKind::Directory)) {
            self.0 = Some(entry.path.clone());
        }
        Ok(existing)
    }
}

/// What is at the destination of an entry.
///
/// # Errors
/// It cannot be looked at.
pub fn obstacle(entry: &Entry, selection: &Selection, overwrite: bool) -> Result<Existing, Failure> {
    let path = selection.destination(entry);
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        // NotADirectory: its parent is in the way, and told.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Existing::Nothing);
        }
        Err(error) => return Err(refused("look at", &path, &error)),
    };
    if matches!(entry.kind, EntryKind::Directory) {
        // Above what was captured, the host's own links may be followed; below, a link could lead anywhere.
        let linked = selection.in_place && selection.is_frame(entry) && path.is_dir();
        return Ok(if metadata.is_dir() || linked {
            Existing::Replaceable { used_bytes: 0 }
        } else {
            Existing::Obstacle(format!("{} (no directory)", path.display()))
        });
    }
    if metadata.is_dir() {
        return Ok(Existing::Obstacle(format!("{} (a directory)", path.display())));
    }
    if matches!(entry.kind, EntryKind::Socket) {
        return Ok(Existing::Same);
    }
    if !overwrite {
        return Ok(Existing::Obstacle(path.display().to_string()));
    }
    let same = matches!(entry.kind, EntryKind::File { .. })
        && metadata.is_file()
        && metadata.len() == entry.size_bytes()
        && entry.modified.is_some()
        && write::modified(&metadata) == entry.modified;
    // 512: the unit of `st_blocks`, see stat(2).
    let used_bytes = if metadata.nlink() == 1 { metadata.blocks() * 512 } else { 0 };
    Ok(if same { Existing::LooksSame { used_bytes } } else { Existing::Replaceable { used_bytes } })
}

/// Whether a file has the content of an entry.
///
/// # Errors
/// The repository does not know the content.
pub fn is_same(snapshot: &OpenSnapshot, entry: &Entry, path: &Path) -> Result<bool, Failure> {
    match &entry.kind {
        EntryKind::File { content, .. } => has_content(snapshot, content, path),
        EntryKind::Directory
        | EntryKind::Link(_)
        | EntryKind::Pipe
        | EntryKind::CharacterDevice(_)
        | EntryKind::BlockDevice(_)
        | EntryKind::Socket => Ok(false),
    }
}

/// The least that a file takes up: equal parts of it may be zeros, which become holes.
fn least_bytes(snapshot: &OpenSnapshot, entry: &Entry) -> Result<u64, Failure> {
    let EntryKind::File { content, .. } = &entry.kind else { return Ok(0) };
    let distinct = snapshot.sums(content).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(distinct.into_iter().map(|(_, length_bytes)| length_bytes).sum())
}
