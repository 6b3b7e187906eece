//! All files to the desired state: each file by itself, in parallel and only if it changed; then all together.
//!
//! Pure, but for [`read_directory`], which reads a plain directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    diagnostic::{self, Diagnostic, Rule},
    validate::{self, CheckedFile, EngineKind, together::together},
};
use crate::desired::DesiredState;

mod directory;

pub use directory::{DirectoryError, is_document_file, read_directory, read_file};

/// A larger file is not read. Ten thousand policies fit.
pub const MOST_BYTES: usize = 4 << 20;

/// The content of one file of documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileContent {
    /// The bytes; for a file beyond [`MOST_BYTES`] at least one more than that.
    pub bytes: Vec<u8>,
    /// The id of the git blob, under which the result of parsing is kept; none: it is parsed each time.
    pub blob: Option<String>,
}

impl FileContent {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok().map(|text| text.strip_prefix('\u{feff}').unwrap_or(text))
    }
}

/// What is known of files that did not change since.
#[derive(Debug, Default)]
pub struct ParseCache {
    files: BTreeMap<PathBuf, CachedFile>,
}

#[derive(Debug)]
struct CachedFile {
    blob: String,
    engine: EngineKind,
    checked: Arc<CheckedFile>,
}

impl ParseCache {
    /// The result for a path with this blob, if it is known.
    fn get(&self, path: &Path, content: &FileContent, engine: EngineKind) -> Option<Arc<CheckedFile>> {
        let cached = self.files.get(path)?;
        let same = content.blob.as_deref() == Some(&cached.blob) && cached.engine == engine;
        same.then(|| cached.checked.clone())
    }
}

/// What the documents ask for, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What they ask for. What has findings is frozen in it.
    pub desired: DesiredState,
    /// All findings of all files, in their order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Whether some finding is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|finding| finding.severity == diagnostic::Severity::Error)
    }
}

/// Reads and checks documents. `cache` afterwards holds exactly these files.
pub fn load(files: &BTreeMap<PathBuf, FileContent>, engine: EngineKind, cache: &mut ParseCache) -> Loaded {
    let mut checked: BTreeMap<PathBuf, Arc<CheckedFile>> = BTreeMap::new();
    let mut changed: Vec<(&PathBuf, &FileContent)> = Vec::new();
    for (path, content) in files {
        match cache.get(path, content, engine) {
            Some(known) => {
                checked.insert(path.clone(), known);
            }
            None => changed.push((path, content)),
        }
    }
    for (index, file) in check_all(&changed, engine) {
        let (path, content) = changed[index];
        let file = Arc::new(file);
        if let Some(blob) = &content.blob {
            let cached = CachedFile { blob: blob.clone(), engine, checked: file.clone() };
            cache.files.insert(path.clone(), cached);
        }
        checked.insert(path.clone(), file);
    }
    cache.files.retain(|path, _| files.contains_key(path));

    let (desired, mut diagnostics) = together(&checked);
    diagnostics.extend(checked.values().flat_map(|file| file.diagnostics.iter().cloned()));
    diagnostic::sort(&mut diagnostics);
    Loaded { desired, diagnostics }
}

/// Checks files on all processors. The result does not depend on how many there are.
fn check_all(files: &[(&PathBuf, &FileContent)], engine: EngineKind) -> Vec<(usize, CheckedFile)> {
    /// Fewer files than this are not worth a thread.
    const FILES_A_THREAD: usize = 32;
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = processors.min(files.len() / FILES_A_THREAD).max(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let start = next.fetch_add(FILES_A_THREAD, Ordering::Relaxed);
            if start >= files.len() {
                return done;
            }
            for (index, (path, content)) in files.iter().enumerate().skip(start).take(FILES_A_THREAD) {
                done.push((index, check_file(path, content, engine)));
            }
        }
    };
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    })
}

/// Checks the content of one file.
fn check_file(path: &Path, content: &FileContent, engine: EngineKind) -> CheckedFile {
    let refuse = |rule: Rule, message: String, hint: &str| {
        validate::unreadable(Diagnostic::whole_file(rule, path, message).hint(hint))
    };
    let shown = path.display();
    if content.bytes.len() > MOST_BYTES {
        let message = format!("`{shown}` is larger than {} MiB", MOST_BYTES >> 20);
        return refuse(Rule::FileTooLarge, message, "split it into several `*.backup.yaml` files");
    }
    if content.bytes.starts_with(b"version https://git-lfs") {
        let message = format!("`{shown}` holds a pointer to Git LFS, not the documents");
        return refuse(
            Rule::FileLfsPointer,
            message,
            "leave it out of `filter=lfs` in .gitattributes, and commit it again",
        );
    }
    match content.text() {
        Some(text) if !text.contains('\0') => validate::check(path, text, engine),
        Some(_) | None => {
            let message = format!("`{shown}` is not UTF-8 text");
            refuse(Rule::FileEncoding, message, "save it as UTF-8, or rename it if it does not hold documents")
        }
    }
}
