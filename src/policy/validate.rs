//! Documents to policies, or to findings.
//!
//! Pure. First each file by itself ([`check`], which may be cached by the content of the file), then all of them
//! together ([`together`]): names, references, tenants.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{
    Location, PolicyContent, PolicyName, RepositoryName, Restore,
    diagnostic::{self, Diagnostic, Related, Rule, lines::Lines},
    document::{RepositoryDocument, SettingsDocument},
    parse::{self, Node, NodeValue},
};

mod backup_policy;
mod build;
mod finding;
mod normalise;
mod reference;
mod repository;
mod restore;
mod salvage;
mod settings;
mod source;
mod structure;
pub mod together;

pub use build::{PolicyError, policy_of};
use finding::Findings;
pub use finding::Place;

/// Where runs happen, as far as documents depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// One host.
    Local,
    /// Kubernetes.
    Kubernetes,
}

/// Findings in one file beyond this many are counted, not listed.
pub const MOST_FINDINGS: usize = 200;

/// One file, checked by itself.
#[derive(Debug, Clone, Default)]
pub struct CheckedFile {
    /// The documents that are right by themselves.
    pub documents: Vec<CheckedDocument>,
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
    /// Every policy whose name can be read, right or wrong.
    pub policies: BTreeSet<PolicyName>,
    /// Every repository whose name can be read, right or wrong.
    pub repositories: BTreeSet<RepositoryName>,
    /// The names of repositories that wrong policies refer to, and where they stand: a name that leads nowhere is told
    /// together with what else is wrong.
    pub references: Vec<(String, Place)>,
    /// Whether a document says, or seems to say, that it holds the settings.
    pub has_settings: bool,
    /// Whether it may hold a policy whose name cannot be read.
    pub hides_names: bool,
}

/// One document that is right by itself.
#[derive(Debug, Clone)]
pub enum CheckedDocument {
    /// A policy. Its repositories are not looked up yet.
    Policy(Box<CheckedPolicy>),
    /// A repository.
    Repository(Box<CheckedRepository>),
    /// A restore.
    Restore(Box<CheckedRestore>),
    /// The settings.
    Settings(Box<CheckedSettings>),
}

/// A policy that is right by itself.
#[derive(Debug, Clone)]
pub struct CheckedPolicy {
    /// What its document says. Its repositories are not looked up yet.
    pub policy: Arc<PolicyContent>,
    /// Where its name stands.
    pub name: Place,
    /// Where its namespace stands; else the name.
    pub namespace: Place,
    /// Where each name of a repository stands.
    pub repositories: Vec<Place>,
}

/// A repository that is right by itself.
#[derive(Debug, Clone)]
pub struct CheckedRepository {
    /// The document.
    pub document: Arc<RepositoryDocument>,
    /// Where its name stands.
    pub name: Place,
}

/// A restore that is right by itself.
#[derive(Debug, Clone)]
pub struct CheckedRestore {
    /// The restore.
    pub restore: Restore,
    /// Where its name stands.
    pub name: Place,
    /// Where its namespace stands; else the name.
    pub namespace: Place,
    /// Where the name of the policy stands.
    pub policy: Place,
    /// Where the name of the repository stands.
    pub repository: Option<Place>,
    /// Where each name of a source stands.
    pub sources: Vec<Place>,
    /// Where `into` stands; else the name.
    pub into: Place,
}

/// Settings that are right by themselves.
#[derive(Debug, Clone)]
pub struct CheckedSettings {
    /// The document.
    pub document: SettingsDocument,
    /// Where its name stands.
    pub name: Place,
}

/// Checks the text of one file.
pub fn check(file: &Path, text: &str, engine: EngineKind) -> CheckedFile {
    let lines = Lines::new(text);
    let mut checked = CheckedFile::default();
    let parsed = parse::parse(text);
    for mistake in parsed.mistakes {
        let place = |span: std::ops::Range<usize>| Place::new(file, text, &lines, span);
        let at = place(mistake.span);
        let mut diagnostic = at.diagnostic(mistake.rule, mistake.message);
        diagnostic.hint = mistake.hint;
        diagnostic.related = mistake.related.map(|(span, message)| {
            let place = place(span);
            Related { location: place.location, span: place.span, message }
        });
        checked.diagnostics.push(diagnostic);
    }
    if !checked.diagnostics.is_empty() {
        // Some documents may be missing from the list, so names are also looked for in the text.
        salvage::names(text, &mut checked);
    }
    for root in &parsed.documents {
        let mut findings = Findings::new(file, text, &lines, root, engine);
        let document = structure::check(&mut findings);
        readable_names(root, &mut checked);
        if !findings.is_empty() {
            checked.references.extend(references(root, &findings));
        }
        let found = findings.finish();
        if let Some(document) = document.filter(|_| found.is_empty()) {
            checked.documents.push(document);
        }
        checked.diagnostics.extend(found);
    }
    diagnostic::sort(&mut checked.diagnostics);
    if checked.diagnostics.len() > MOST_FINDINGS {
        let more = checked.diagnostics.len() - MOST_FINDINGS;
        checked.diagnostics.truncate(MOST_FINDINGS);
        let message = format!("{more} more findings in this file are not listed");
        let hint = "mend the first ones and look again";
        checked.diagnostics.push(Diagnostic::whole_file(Rule::FileTooManyFindings, file, message).hint(hint));
    }
    checked
}

/// Notes who the document is, also if it is wrong.
fn readable_names(root: &Node, checked: &mut CheckedFile) {
    let name = root.text("/metadata/name").filter(|name| super::is_name(name));
    let namespace = root.text("/metadata/namespace").filter(|name| super::is_name(name)).unwrap_or("default");
    match root.text("/kind") {
        Some("Repository") => checked.repositories.extend(name.map(|name| RepositoryName(name.to_owned()))),
        Some("Settings") => checked.has_settings = true,
        Some("Restore") => {}
        // A kind with a typing error may well be that of a policy.
        Some(_) | None => checked.note_policy(namespace, name),
    }
}

impl CheckedFile {
    /// Notes a document that is a policy, or may be one; none: its name cannot be read.
    fn note_policy(&mut self, namespace: &str, name: Option<&str>) {
        match name {
            Some(name) => {
                self.policies.insert(PolicyName::new(namespace, name));
            }
            None => self.hides_names = true,
        }
    }
}

/// The names of repositories in a wrong policy.
fn references(root: &Node, findings: &Findings<'_>) -> Vec<(String, Place)> {
    if root.text("/kind") != Some("BackupPolicy") {
        return Vec::new();
    }
    let pointers = (0..).map(|index| format!("/spec/repositories/{index}"));
    let names = pointers.map_while(|pointer| Some((root.text(&pointer)?.to_owned(), pointer)));
    names.map(|(name, pointer)| (name, findings.place(&pointer))).collect()
}

/// Whether a value is a mapping.
fn is_mapping(node: &Node) -> bool {
    match node.value {
        NodeValue::Mapping(_) => true,
        NodeValue::Scalar(_) | NodeValue::Sequence(_) => false,
    }
}

/// The location of the beginning of a document.
fn document_location(findings: &Findings<'_>) -> Location {
    findings.place("").location
}

/// A file that could not be read as text at all: nothing but its path is known.
pub fn unreadable(diagnostic: Diagnostic) -> CheckedFile {
    CheckedFile { diagnostics: vec![diagnostic], hides_names: true, ..CheckedFile::default() }
}
