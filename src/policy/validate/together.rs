//! All files together: names that are taken twice, references that lead nowhere, tenants; and the desired state.
//!
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CheckedDocument, CheckedFile, CheckedPolicy, CheckedRepository, CheckedRestore, CheckedSettings, Place};
use crate::{
    desired::DesiredState,
    policy::{
        Policy, PolicyContent, PolicyName, RepositoryName,
        diagnostic::{Diagnostic, Rule, Severity, did_you_mean},
        document::{RepositoryDocument, SettingsSpec},
    },
};

mod conflict;
mod tenant;

/// All documents that are right by themselves, by what they are.
#[derive(Default)]
struct Everything<'a> {
    policies: Vec<&'a CheckedPolicy>,
    repositories: Vec<&'a CheckedRepository>,
    restores: Vec<&'a CheckedRestore>,
    settings: Vec<&'a CheckedSettings>,
}

/// What all files together ask for, and what is wrong between them; the findings of the files themselves come on top.
///
/// All of it is worked out anew each time, also if only one of ten thousand files changed: each policy costs a few
/// look-ups and shares what its own file said, which is some milliseconds, and nothing can be out of date.
pub fn together(files: &[(&Path, &CheckedFile)]) -> (DesiredState, Vec<Diagnostic>) {
    let everything = sort_out(files);
    let mut findings = Vec::new();
    let mut frozen_files: BTreeSet<PathBuf> = BTreeSet::new();
    duplicates(&everything, &mut findings, &mut frozen_files);
    let known = KnownRepositories::of(files, &everything);
    let (resolved, mut frozen_policies) = references(&everything, &known, &mut findings);
    for (name, place) in files.iter().flat_map(|(_, file)| &file.references) {
        findings.extend(known.find(name, place).err().flatten().map(|finding| *finding));
    }
    restores(&everything, &known, &mut findings);
    tenant::check(&everything, &mut findings);

    let errors = |diagnostics: &[Diagnostic]| diagnostics.iter().any(|finding| finding.severity == Severity::Error);
    frozen_files.extend(files.iter().filter(|(_, file)| errors(&file.diagnostics)).map(|(path, _)| (*path).to_owned()));
    let wrong = findings.iter().filter(|finding| finding.severity == Severity::Error);
    frozen_files.extend(wrong.map(|finding| finding.location.file.clone()));
    if !frozen_files.is_empty() {
        let frozen = files.iter().filter(|(path, _)| frozen_files.contains(*path));
        frozen_policies.extend(frozen.flat_map(|(_, file)| file.policies.iter().cloned()));
    }

    let hidden = files.iter().filter(|(path, file)| file.hides_names && frozen_files.contains(*path));
    let unknown_files = hidden.map(|(path, _)| (*path).to_owned()).collect();
    let mut desired = DesiredState { frozen_policies, frozen_files, unknown_files, ..DesiredState::default() };
    let mut policies = Vec::with_capacity(resolved.len());
    for (content, repositories) in resolved {
        if !desired.is_frozen(&content.name, &content.location.file) {
            policies.push((content.name.clone(), Policy { content: Arc::clone(content), repositories }));
        }
    }
    // Through a list: a map that is filled in order one by one has room for nearly twice as many.
    desired.policies = policies.into_iter().collect();
    desired.repositories = known
        .usable
        .values()
        .map(|repository| {
            (RepositoryName(repository.document.metadata.name.clone()), repository.document.as_ref().clone())
        })
        .collect();
    for checked in &everything.restores {
        if !desired.frozen_files.contains(&checked.restore.location.file) {
            desired.restores.insert(checked.restore.name.clone(), checked.restore.clone());
        }
    }
    desired.settings = settings(&everything.settings);
    let freezes = everything.settings.iter().find(|settings| settings.document.spec.freeze);
    desired.frozen_by = freezes.map(|settings| settings.name.location.clone());
    desired.deletion_blocked = deletion_blocked(files, &everything);
    (desired, findings)
}

fn sort_out<'a>(files: &[(&'a Path, &'a CheckedFile)]) -> Everything<'a> {
    let mut everything = Everything::default();
    for document in files.iter().flat_map(|(_, file)| &file.documents) {
        match document {
            CheckedDocument::Policy(policy) => everything.policies.push(policy),
            CheckedDocument::Repository(repository) => everything.repositories.push(repository),
            CheckedDocument::Restore(restore) => everything.restores.push(restore),
            CheckedDocument::Settings(settings) => everything.settings.push(settings),
        }
    }
    everything
}

/// Names that are taken twice. Both files are frozen: which of them is meant cannot be known.
fn duplicates(everything: &Everything<'_>, findings: &mut Vec<Diagnostic>, frozen: &mut BTreeSet<PathBuf>) {
    let Everything { policies, repositories, restores, settings } = everything;
    let rename = "rename one of them, or remove it";
    let names = policies.iter().map(|one| (&one.policy.name, &one.name));
    twice(names, findings, frozen, ("policy", Rule::DuplicateName, rename));
    let names = repositories.iter().map(|one| (&one.document.metadata.name, &one.name));
    let rename_anywhere = "rename one of them: the names of repositories hold for all namespaces";
    twice(names, findings, frozen, ("repository", Rule::DuplicateName, rename_anywhere));
    let names = restores.iter().map(|one| (&one.restore.name, &one.name));
    twice(names, findings, frozen, ("restore", Rule::DuplicateName, rename));
    let names = settings.iter().map(|one| ("Settings", &one.name));
    twice(names, findings, frozen, ("document", Rule::DuplicateSettings, "keep one Settings document"));
}

/// Finds the second and each further use of a name. `words`: what is named, the rule, and what to do.
fn twice<'a, N: Display + Ord>(
    names: impl Iterator<Item = (N, &'a Place)>,
    findings: &mut Vec<Diagnostic>,
    frozen: &mut BTreeSet<PathBuf>,
    words: (&str, Rule, &str),
) {
    let (what, rule, hint) = words;
    // The order of equal names stays that of the files. Most are in order already, which makes this one pass.
    let mut names: Vec<(N, &Place)> = names.collect();
    names.sort_by(|(one, _), (other, _)| one.cmp(other));
    for same in names.chunk_by(|(one, _), (other, _)| one == other) {
        let Some(((_, first), others)) = same.split_first() else { continue };
        for (name, place) in others {
            let message = format!("{what} `{name}` is defined twice, here and at {}", first.location);
            let mut finding = place.diagnostic(rule, message).hint(hint);
            finding.related = Some(first.related("it is defined here first"));
            findings.push(finding);
            frozen.insert(first.location.file.clone());
        }
    }
}

/// Which names of repositories lead where.
struct KnownRepositories<'a> {
    /// Right, and defined once.
    usable: BTreeMap<&'a str, &'a CheckedRepository>,
    /// There is a document, but it is wrong or not the only one.
    unusable: BTreeSet<&'a str>,
}

impl<'a> KnownRepositories<'a> {
    fn of(files: &[(&'a Path, &'a CheckedFile)], everything: &Everything<'a>) -> Self {
        let mut known = Self { usable: BTreeMap::new(), unusable: BTreeSet::new() };
        for repository in &everything.repositories {
            let name = repository.document.metadata.name.as_str();
            if known.usable.insert(name, repository).is_some() {
                known.unusable.insert(name);
            }
        }
        for name in files.iter().flat_map(|(_, file)| &file.repositories) {
            if !known.usable.contains_key(name.0.as_str()) {
                known.unusable.insert(&name.0);
            }
        }
        let Self { usable, unusable } = &mut known;
        usable.retain(|name, _| !unusable.contains(name));
        known
    }

    /// The document of a repository; else what is wrong with the name, unless that is said elsewhere.
    fn find(&self, name: &str, place: &Place) -> Result<&'a CheckedRepository, Option<Box<Diagnostic>>> {
        if let Some(repository) = self.usable.get(name) {
            return Ok(repository);
        }
        if self.unusable.contains(name) {
            return Err(None);
        }
        let hint = match did_you_mean(name, self.usable.keys().chain(&self.unusable).copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add a document `kind: Repository` with the name `{name}`"),
        };
        let message = format!("there is no repository `{}`", super::structure::shorten(name));
        Err(Some(Box::new(place.diagnostic(Rule::UnknownRepository, message).hint(hint))))
    }
}

/// What a policy's own document says, and the documents of its repositories.
type Resolved<'a> = (&'a Arc<PolicyContent>, Vec<Arc<RepositoryDocument>>);

/// Looks up the repositories of each policy. A policy whose repository has a finding of its own is frozen without a
/// further one.
fn references<'a>(
    everything: &Everything<'a>,
    known: &KnownRepositories<'_>,
    findings: &mut Vec<Diagnostic>,
) -> (Vec<Resolved<'a>>, BTreeSet<PolicyName>) {
    let (mut resolved, mut frozen) = (Vec::with_capacity(everything.policies.len()), BTreeSet::new());
    for checked in &everything.policies {
        let names = &checked.policy.document.spec.repositories;
        // Not `collect`: it makes room for four where there is one.
        let mut repositories = Vec::with_capacity(names.len());
        for (name, place) in names.iter().zip(&checked.repositories) {
            match known.find(name, place) {
                Ok(repository) => repositories.push(Arc::clone(&repository.document)),
                Err(finding) => findings.extend(finding.map(|finding| *finding)),
            }
        }
        if repositories.len() == names.len() {
            resolved.push((&checked.policy, repositories));
        } else {
            frozen.insert(checked.policy.name.clone());
        }
    }
    (resolved, frozen)
}

fn restores(everything: &Everything<'_>, known: &KnownRepositories<'_>, findings: &mut Vec<Diagnostic>) {
    if everything.restores.is_empty() {
        return;
    }
    let policies: BTreeMap<&PolicyName, &CheckedPolicy> =
        everything.policies.iter().map(|checked| (&checked.policy.name, *checked)).collect();
    for checked in &everything.restores {
        let spec = &checked.restore.document.spec;
        if let (Some(name), Some(place)) = (&spec.repository, &checked.repository) {
            findings.extend(known.find(name, place).err().flatten().map(|finding| *finding));
        }
        let Some(policy) = policies.get(&checked.restore.policy) else {
            // The restore points of a policy whose document is gone can still be restored: only a warning.
            let names: Vec<String> = policies.keys().map(ToString::to_string).collect();
            let written = checked.restore.policy.to_string();
            let hint = match did_you_mean(&written, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "it is looked for among the policies whose documents are gone".to_owned(),
            };
            let message = format!("no document defines the policy `{written}`");
            findings.push(checked.policy.diagnostic(Rule::RestorePolicy, message).hint(hint).warning());
            continue;
        };
        let sources: Vec<&str> =
            policy.policy.document.spec.sources.iter().map(|source| source.name.as_str()).collect();
        for (name, place) in spec.sources.iter().zip(&checked.sources) {
            if !sources.contains(&name.as_str()) {
                let hint = match did_you_mean(name, sources.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "it works only if the restore point still has such a source".to_owned(),
                };
                let message = format!("the policy `{}` has no source `{name}` now", checked.restore.policy);
                findings.push(place.diagnostic(Rule::RestoreSource, message).hint(hint).warning());
            }
        }
    }
    conflict::check(everything, &policies, findings);
}

/// The settings that count. With several, which is an error, the strictest.
fn settings(all: &[&CheckedSettings]) -> SettingsSpec {
    let Some((first, rest)) = all.split_first() else { return SettingsSpec::default() };
    let mut settings = first.document.spec.clone();
    for other in rest {
        settings.freeze |= other.document.spec.freeze;
        settings.safety.losses = settings.safety.losses.min(other.document.spec.safety.losses);
        settings.concurrency.runs = settings.concurrency.runs.min(other.document.spec.concurrency.runs);
    }
    settings
}

fn deletion_blocked(files: &[(&Path, &CheckedFile)], everything: &Everything<'_>) -> Option<String> {
    if everything.settings.len() > 1 {
        return Some("there is more than one Settings document".to_owned());
    }
    let unread = |(path, file): &(&Path, &CheckedFile)| {
        let read = everything.settings.iter().any(|settings| in_file(&settings.name, path));
        (file.has_settings && !read).then(|| format!("the settings in {} cannot be read", path.display()))
    };
    if let Some(reason) = files.iter().find_map(unread) {
        return Some(reason);
    }
    let empty = files.iter().all(|(_, file)| file.documents.is_empty() && file.diagnostics.is_empty());
    empty.then(|| "there is no document at all".to_owned())
}

fn in_file(place: &Place, file: &Path) -> bool {
    place.location.file == file
}
