//! Writes a snapshot back: as files, or piped into a program.
//!
//! Everything that could be in the way is looked for before anything is written. A file appears under its name only
//! when it is whole, so existing data is never half overwritten.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use super::{
    job::{EmptyGuard, Failure, FailureKind, Outcome, Program},
    repository::{Entry, EntryKind, OpenSnapshot},
    stream::Running,
};

mod compare;
mod space;
mod survey;
mod write;

use survey::{Existing, Missing, Survey, is_same, obstacle, survey};
use write::{Drafts, Writer, refused};

/// Files are written by this many threads: small ones wait for the disk, not for us.
const WRITERS: usize = 4;
/// Files that a writer gets at once. Those of one directory lie together in the repository, too, and two writers in
/// one directory only wait for each other: so a smaller batch than this ends with its directory.
const BATCH_FILES: usize = 256;
/// Bytes after which a batch is not made longer.
const BATCH_BYTES: u64 = 8 << 20;
/// Batches that wait for a writer.
const WAITING_BATCHES: usize = 8;

/// A number is shorter than this.
const LONGEST_COUNT_BYTES: u64 = 64;

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// None: where the files came from. Else below this directory.
    pub into: Option<PathBuf>,
    /// Only these; empty: all.
    pub paths: Vec<PathBuf>,
    /// Overwrite what differs.
    pub overwrite: bool,
    /// Only count.
    pub dry_run: bool,
}

/// Writes files back.
///
/// # Errors
/// Something is in the way (nothing was written then), or the destination or the repository refuses.
pub fn files(snapshot: &OpenSnapshot, request: &Request) -> Result<Outcome, Failure> {
    if request.into.is_none() && snapshot.has_streams() {
        return Err(Failure::new(
            FailureKind::DestinationRefused,
            "this part of the restore point is a dump, not files",
        )
        .hint("restore it into its database, or name a directory to write it into"));
    }
    let selection = Selection::new(snapshot, request)?;
    let survey = survey(snapshot, request, &selection)?;
    for warning in survey.needs.check(space::room)? {
        snapshot.reporter().warn(warning);
    }
    if request.dry_run {
        return Ok(Outcome::Restored { files: survey.files, bytes: survey.bytes });
    }
    write_all(snapshot, request, &selection, &survey)
}

/// Pipes a captured stream into a program.
///
/// # Errors
/// There is no such stream, or the program failed or did not read all of it.
pub fn stream(snapshot: &OpenSnapshot, file_name: &str, program: &Program) -> Result<Outcome, Failure> {
    let entry = snapshot.file(file_name)?;
    let EntryKind::File { size_bytes, content } = &entry.kind else {
        return Err(Failure::new(FailureKind::Other, format!("`{file_name}` is no file")));
    };
    let at_destination = |failure: Failure| {
        if failure.kind == FailureKind::SourceFailed {
            return Failure::new(FailureKind::DestinationRefused, failure.message)
                .hint("see what the program said; what it had written by then may be there");
        }
        failure
    };
    let (mut running, mut stdin) = Running::feeding(program)?;
    let mut done = 0;
    let mut refused = None;
    let read = snapshot.read_ahead(content, |piece| {
        if let Err(error) = stdin.write_all(piece) {
            let what = format!("ended before it had read the whole stream `{file_name}` ({error})");
            refused = Some(what.clone());
            return Err(Failure::new(FailureKind::DestinationRefused, what));
        }
        done += piece.len() as u64;
        snapshot.reporter().progress("writing", done, Some(*size_bytes));
        Ok(())
    });
    if let Some(what) = refused {
        drop(stdin);
        return Err(at_destination(running.wait().err().unwrap_or_else(|| running.failed(&what))));
    }
    if let Err(mut failure) = read {
        // Before its input ends, which it would take for the end of the stream.
        running.kill();
        let text =
            format!("; the program that was to take `{file_name}` was ended, and what it wrote may be there in part");
        failure.message.push_str(&text);
        return Err(failure);
    }
    drop(stdin);
    running.wait().map_err(at_destination)?;
    Ok(Outcome::Restored { files: 1, bytes: done })
}

/// Looks whether a database is empty.
///
/// # Errors
/// It is not, or nobody can tell.
pub fn check_empty(guard: &EmptyGuard) -> Result<(), Failure> {
    let EmptyGuard { database, program } = guard;
    let refused = |message: String| {
        Failure::new(FailureKind::DestinationRefused, message)
            .hint("name an empty database, or allow what is in it to be overwritten (`existing: Update`)")
    };
    let (mut running, stdout) = Running::reading(program)?;
    let mut text = String::new();
    let read = stdout.take(LONGEST_COUNT_BYTES).read_to_string(&mut text);
    running.wait().map_err(|failure| {
        refused(format!("nobody can tell whether database {database} is empty: {}", failure.message))
    })?;
    match (read, text.trim().parse::<u64>()) {
        (Ok(_), Ok(0)) => Ok(()),
        (Ok(_), Ok(found)) => Err(refused(format!(
            "database {database} is not empty ({found} tables, views and sequences); nothing was written"
        ))),
        (Ok(_), Err(_)) => Err(refused(format!("nobody can tell whether database {database} is empty"))),
        (Err(error), _) => Err(refused(format!("nobody can tell whether database {database} is empty: {error}"))),
    }
}

/// Which entries are wanted, and where they go.
#[derive(Debug)]
struct Selection {
    base: PathBuf,
    in_place: bool,
    /// Without leading slash; empty: all.
    wanted: Vec<PathBuf>,
    /// Paths that were captured, without leading slash.
    roots: Vec<PathBuf>,
}

impl Selection {
    fn new(snapshot: &OpenSnapshot, request: &Request) -> Result<Self, Failure> {
        let relative = |path: &PathBuf| path.strip_prefix("/").unwrap_or(path).to_owned();
        let base = match &request.into {
            None => PathBuf::from("/"),
            Some(into) if into.is_absolute() => into.clone(),
            Some(into) => {
                return Err(Failure::new(
                    FailureKind::DestinationRefused,
                    format!("the destination {} is not an absolute path", into.display()),
                )
                .hint("write it from the root"));
            }
        };
        Ok(Self {
            base,
            in_place: request.into.is_none(),
            wanted: request.paths.iter().map(relative).collect(),
            roots: snapshot.roots().iter().map(relative).collect(),
        })
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|path| entry.path.starts_with(path)) || self.is_frame(entry)
    }

    /// A directory that only leads to what is wanted: made where it is missing, else left alone.
    fn is_frame(&self, entry: &Entry) -> bool {
        let above = |paths: &[PathBuf]| paths.iter().any(|path| path.starts_with(&entry.path) && *path != entry.path);
        let inside = self.roots.iter().any(|root| entry.path.starts_with(root));
        let wanted = self.wanted.is_empty() || self.wanted.iter().any(|path| entry.path.starts_with(path));
        matches!(entry.kind, EntryKind::Directory)
            && ((above(&self.roots) && !inside) || (above(&self.wanted) && !wanted))
    }

    fn destination(&self, entry: &Entry) -> PathBuf {
        self.base.join(&entry.path)
    }
}

fn write_all(
    snapshot: &OpenSnapshot,
    request: &Request,
    selection: &Selection,
    survey: &Survey,
) -> Result<Outcome, Failure> {
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let fail = |new: Failure| {
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(new);
        stop.store(true, Ordering::SeqCst);
    };
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let drafts = Drafts::own();
    // Directories get their metadata last: writing into them changes their times, and may need more permission.
    let mut directories: Vec<Entry> = Vec::new();
    let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut further_links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let made = fs::create_dir_all(&selection.base).map_err(|error| refused("make", &selection.base, &error));

    // Each entry with whether a file with its size and time is there.
    let (sender, receiver) = mpsc::sync_channel::<Vec<(Entry, bool)>>(WAITING_BATCHES);
    let receiver = Mutex::new(receiver);

    std::thread::scope(|scope| -> Result<(), Failure> {
        // Dropped at the end of this scope at the latest: that is what ends the writers.
        let sender = sender;
        made?;
        let (receiver, drafts, files, bytes, stop, fail) = (&receiver, &drafts, &files, &bytes, &stop, &fail);
        let mut writers = (0..WRITERS).map(|_| Writer::new(snapshot, drafts)).collect::<Result<Vec<_>, _>>()?;
        let handles: Vec<_> = writers
            .drain(..)
            .map(|mut writer| {
                scope.spawn(move || {
                    loop {
                        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(batch) = next else { return };
                        for (entry, looks_same) in batch {
                            if stop.load(Ordering::SeqCst) {
                                break;
                            }
                            match write_one(snapshot, &mut writer, &entry, &selection.destination(&entry), looks_same) {
                                Ok(false) => {}
                                Ok(true) => {
                                    files.fetch_add(1, Ordering::Relaxed);
                                    let size = entry.size_bytes();
                                    let done = bytes.fetch_add(size, Ordering::Relaxed) + size;
                                    snapshot.reporter().progress("writing", done, Some(survey.bytes));
                                }
                                Err(failure) => fail(failure),
                            }
                        }
                    }
                })
            })
            .collect();
        let mut send = || -> Result<(), Failure> {
            let mut batch = Vec::new();
            let mut batch_bytes = 0;
            let mut missing = Missing::default();
            for entry in snapshot.entries()? {
                let entry = entry?;
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                if !selection.holds(&entry) {
                    continue;
                }
                let path = selection.destination(&entry);
                if matches!(entry.kind, EntryKind::Directory) {
                    if !batch.is_empty() {
                        batch_bytes = 0;
                        if sender.send(std::mem::take(&mut batch)).is_err() {
                            return Ok(());
                        }
                    }
                    let is_new = write::make_directory(&path)?;
                    if is_new {
                        missing.look(&entry, || Ok(Existing::Nothing))?;
                    } else {
                        drafts.sweep(&path);
                    }
                    if is_new || !selection.is_frame(&entry) {
                        directories.push(entry);
                    }
                    continue;
                }
                if let Some(key) = entry.link_key {
                    if let Some(first) = links.get(&key) {
                        further_links.push((first.clone(), path));
                        continue;
                    }
                    links.insert(key, path.clone());
                }
                if matches!(entry.kind, EntryKind::Socket) {
                    continue;
                }
                let looks_same = match missing.look(&entry, || obstacle(&entry, selection, request.overwrite))? {
                    Existing::Same => continue,
                    Existing::LooksSame { .. } => true,
                    Existing::Nothing | Existing::Replaceable { .. } | Existing::Obstacle(_) => false,
                };
                batch_bytes += entry.size_bytes();
                batch.push((entry, looks_same));
                if batch.len() >= BATCH_FILES || batch_bytes >= BATCH_BYTES {
                    batch_bytes = 0;
                    if sender.send(std::mem::take(&mut batch)).is_err() {
                        return Ok(());
                    }
                }
            }
            // Without a writer there was a failure, and that is told.
            let _ = sender.send(batch);
            Ok(())
        };
        let sent = send();
        if sent.is_err() {
            stop.store(true, Ordering::SeqCst);
        }
        drop(sender);
        for handle in handles {
            if handle.join().is_err() {
                fail(Failure::new(FailureKind::Other, "a writer met a condition that it does not know"));
            }
        }
        sent
    })
    .unwrap_or_else(fail);

    let writer = Writer::new(snapshot, &drafts)?;
    if !stop.load(Ordering::SeqCst) {
        for (first, path) in &further_links {
            match writer.link(first, path) {
                Ok(()) => {
                    files.fetch_add(1, Ordering::Relaxed);
                }
                Err(failure) => {
                    fail(failure);
                    break;
                }
            }
        }
    }
    for entry in directories.iter().rev() {
        writer.set_metadata(entry, &selection.destination(entry));
    }
    let (files, bytes) = (files.into_inner(), bytes.into_inner());
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(Outcome::Restored { files, bytes }),
        Some(mut failure) => {
            failure
                .message
                .push_str(&format!("; {files} of {} files had been written, each whole", survey.files.max(files)));
            Err(failure)
        }
    }
}

/// Writes one entry. False: what is there has its content already, and only its metadata was set.
fn write_one(
    snapshot: &OpenSnapshot,
    writer: &mut Writer<'_>,
    entry: &Entry,
    path: &Path,
    looks_same: bool,
) -> Result<bool, Failure> {
    if looks_same && is_same(snapshot, entry, path)? {
        writer.set_metadata(entry, path);
        return Ok(false);
    }
    if looks_same {
        let text = format!("{} had the size and the time of the restore point, but other content", path.display());
        snapshot.reporter().warn(text);
    }
    writer.write(entry, path)?;
    Ok(true)
}

/// The directory of a path; its own for `/`.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
