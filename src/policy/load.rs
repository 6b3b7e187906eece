//! All files to the desired state: each file by itself, in parallel and only if it changed; then all together.
//!
//! Pure, but for [`read_directory`], which reads a plain directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CompiledPolicy, PolicyName,
    diagnostic::{self, Diagnostic, Rule},
    document::RepositoryDocument,
    validate::{self, CheckedDocument, CheckedFile, EngineKind, together::together},
};
use crate::desired::DesiredState;

mod directory;
mod processors;

pub use directory::{DirectoryError, is_document_file, read_directory, read_file};
pub use processors::on_all_processors;

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

/// The files of the last load, each checked by itself. Those that did not change since are not looked at again.
#[derive(Debug, Default)]
pub struct ParseCache {
    /// Where runs happen: another engine finds other things.
    engine: Option<EngineKind>,
    files: BTreeMap<PathBuf, CachedFile>,
}

#[derive(Debug)]
struct CachedFile {
    /// None: it is checked each time.
    blob: Option<String>,
    checked: CheckedFile,
}

impl CachedFile {
    fn is_of(&self, content: &FileContent) -> bool {
        self.blob.is_some() && self.blob == content.blob
    }
}

impl ParseCache {
    /// Makes it hold exactly these files, and checks those that it did not know.
    fn update(&mut self, files: &BTreeMap<PathBuf, FileContent>, engine: EngineKind) {
        if self.engine != Some(engine) {
            *self = Self { engine: Some(engine), files: BTreeMap::new() };
        }
        let (gone, changed) = self.differences(files);
        for path in gone {
            self.files.remove(&path);
        }
        let checked = on_all_processors(&changed, |(path, content)| check_file(path, content, engine));
        let checked = changed
            .into_iter()
            .zip(checked)
            .map(|((path, content), checked)| (path.clone(), CachedFile { blob: content.blob.clone(), checked }));
        match self.files.is_empty() {
            // At once: a map that is filled in order one by one has room for nearly twice as many.
            true => self.files = checked.collect(),
            false => self.files.extend(checked),
        }
    }

    /// Lets what was parsed share its documents with what is in force, where both say the same. It is then kept once, and
    /// the next plan sees without reading them that they are the same.
    pub fn share<'a>(&mut self, in_force: impl Fn(&PolicyName) -> Option<&'a CompiledPolicy>) {
        let mut repositories: BTreeMap<String, Arc<RepositoryDocument>> = BTreeMap::new();
        for document in self.documents() {
            let CheckedDocument::Policy(checked) = document else { continue };
            let Some(compiled) = in_force(&checked.policy.name) else { continue };
            let own = &checked.policy.document;
            if !Arc::ptr_eq(own, &compiled.document) && *own == compiled.document {
                Arc::make_mut(&mut checked.policy).document = Arc::clone(&compiled.document);
            }
            for repository in &compiled.repositories {
                if !repositories.contains_key(&repository.metadata.name) {
                    repositories.insert(repository.metadata.name.clone(), Arc::clone(repository));
                }
            }
        }
        for document in self.documents() {
            let CheckedDocument::Repository(checked) = document else { continue };
            let same = repositories.get(&checked.document.metadata.name).filter(|there| **there == checked.document);
            if let Some(there) = same {
                checked.document = Arc::clone(there);
            }
        }
    }

    fn documents(&mut self) -> impl Iterator<Item = &mut CheckedDocument> {
        self.files.values_mut().flat_map(|file| &mut file.checked.documents)
    }

    /// The files that are gone, and those that are new or have another content. One pass over both: they are sorted
    /// alike, and ten thousand searches would take longer than all the rest of a turn.
    fn differences<'a>(
        &self,
        files: &'a BTreeMap<PathBuf, FileContent>,
    ) -> (Vec<PathBuf>, Vec<(&'a PathBuf, &'a FileContent)>) {
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        let mut known = self.files.iter().peekable();
        for (path, content) in files {
            gone.extend(std::iter::from_fn(|| known.next_if(|(other, _)| *other < path)).map(|(path, _)| path.clone()));
            match known.next_if(|(other, _)| *other == path) {
                Some((_, cached)) if cached.is_of(content) => {}
                Some(_) | None => changed.push((path, content)),
            }
        }
        gone.extend(known.map(|(path, _)| path.clone()));
        (gone, changed)
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
    cache.update(files, engine);
    let checked: Vec<(&Path, &CheckedFile)> =
        cache.files.iter().map(|(path, file)| (path.as_path(), &file.checked)).collect();
    let (desired, mut diagnostics) = together(&checked);
    diagnostics.extend(checked.iter().flat_map(|(_, file)| file.diagnostics.iter().cloned()));
    diagnostic::sort(&mut diagnostics);
    Loaded { desired, diagnostics }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn what_is_in_force_shares_its_documents_with_what_was_parsed() {
        let text = "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: disk}\n\
                    spec: {directory: /disk, password: {generate: true}}\n---\n\
                    apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {name: nightly, namespace: shop}\n\
                    spec: {schedule: '0 2 * * *', repositories: [disk], sources: [{name: files, paths: [/data]}]}\n";
        let content = FileContent { bytes: text.into(), blob: Some("1".to_owned()) };
        let files = BTreeMap::from([(PathBuf::from("backup.yaml"), content)]);
        let mut cache = ParseCache::default();
        let policy = |cache: &mut ParseCache| -> Policy {
            let Loaded { desired, diagnostics } = load(&files, EngineKind::Local, cache);
            assert!(diagnostics.is_empty(), "{diagnostics:?}");
            desired.policies.into_values().next().unwrap()
        };
        let compiled = policy(&mut cache).compile(&Default::default(), None);
        let read_back: CompiledPolicy = serde_json::from_value(serde_json::to_value(&compiled).unwrap()).unwrap();
        cache.share(|_| Some(&read_back));
        let shared = policy(&mut cache);
        assert!(Arc::ptr_eq(&shared.document, &read_back.document));
        assert!(Arc::ptr_eq(&shared.repositories[0], &read_back.repositories[0]));
        // What says something else is left alone.
        let mut other = read_back.clone();
        Arc::make_mut(&mut other.document).spec.suspend = true;
        cache.share(|_| Some(&other));
        assert!(!policy(&mut cache).document.spec.suspend);
    }
}
