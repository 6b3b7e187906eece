//! All files together: names that are taken twice, references that lead nowhere, tenants; and the desired state.
//!
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CheckedDocument, CheckedFile, CheckedPolicy, CheckedRepository, CheckedRestore, CheckedSettings, Place};
use crate::{
    desired::DesiredState,
    policy::{
        PolicyName, RepositoryName,
        diagnostic::{Diagnostic, Rule, Severity, did_you_mean},
        document::SettingsSpec,
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
pub fn together(files: &BTreeMap<PathBuf, Arc<CheckedFile>>) -> (DesiredState, Vec<Diagnostic>) {
    let everything = sort_out(files);
    let mut findings = Vec::new();
    let mut frozen_files: BTreeSet<PathBuf> = BTreeSet::new();
    duplicates(&everything, &mut findings, &mut frozen_files);
    let known = KnownRepositories::of(files, &everything);
    let (resolvable, mut frozen_policies) = references(&everything, &known, &mut findings);
    restores(&everything, &known, &mut findings);
    tenant::check(&everything, &mut findings);

    let errors = |diagnostics: &[Diagnostic]| diagnostics.iter().any(|finding| finding.severity == Severity::Error);
    frozen_files.extend(files.iter().filter(|(_, file)| errors(&file.diagnostics)).map(|(path, _)| path.clone()));
    let wrong = findings.iter().filter(|finding| finding.severity == Severity::Error);
    frozen_files.extend(wrong.map(|finding| finding.location.file.clone()));
    for file in &frozen_files {
        frozen_policies.extend(files.get(file).into_iter().flat_map(|file| file.policies.iter().cloned()));
    }

    let mut desired = DesiredState { frozen_policies, frozen_files, ..DesiredState::default() };
    let mut policies = Vec::with_capacity(resolvable.len());
    for checked in resolvable {
        if !desired.is_frozen(&checked.policy.name, &checked.policy.location.file) {
            let mut policy = checked.policy.clone();
            let documents = policy.document.spec.repositories.iter().filter_map(|name| known.usable.get(name.as_str()));
            // Not `collect`: it makes room for four of these large documents where there is one.
            policy.repositories = Vec::with_capacity(policy.document.spec.repositories.len());
            policy.repositories.extend(documents.map(|repository| repository.document.clone()));
            policies.push((policy.name.clone(), policy));
        }
    }
    // Through a list: a map that is filled in order one by one has room for nearly twice as many.
    desired.policies = policies.into_iter().collect();
    desired.repositories = known
        .usable
        .values()
        .map(|repository| (RepositoryName(repository.document.metadata.name.clone()), repository.document.clone()))
        .collect();
    for checked in &everything.restores {
        if !desired.frozen_files.contains(&checked.restore.location.file) {
            desired.restores.insert(checked.restore.name.clone(), checked.restore.clone());
        }
    }
    desired.settings = settings(&everything.settings);
    desired.deletion_blocked = deletion_blocked(files, &everything);
    (desired, findings)
}

fn sort_out(files: &BTreeMap<PathBuf, Arc<CheckedFile>>) -> Everything<'_> {
    let mut everything = Everything::default();
    for document in files.values().flat_map(|file| &file.documents) {
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
    let mut twice = |what: &str, rule: Rule, hint: &str, names: Vec<(String, &Place)>| {
        let mut first: BTreeMap<String, &Place> = BTreeMap::new();
        for (name, place) in names {
            if let Some(other) = first.get(&name) {
                let message = format!("{what} `{name}` is defined twice, here and at {}", other.location);
                let mut finding = place.diagnostic(rule, message).hint(hint);
                finding.related = Some(other.related("it is defined here first"));
                findings.push(finding);
                frozen.insert(other.location.file.clone());
            } else {
                first.insert(name, place);
            }
        }
    };
    let rename = "rename one of them, or remove it";
    let policies = everything.policies.iter().map(|one| (one.policy.name.to_string(), &one.name)).collect();
    twice("policy", Rule::DuplicateName, rename, policies);
    let repositories =
        everything.repositories.iter().map(|one| (one.document.metadata.name.clone(), &one.name)).collect();
    twice(
        "repository",
        Rule::DuplicateName,
        "rename one of them: the names of repositories hold for all namespaces",
        repositories,
    );
    let restores = everything.restores.iter().map(|one| (one.restore.name.to_string(), &one.name)).collect();
    twice("restore", Rule::DuplicateName, rename, restores);
    let settings = everything.settings.iter().map(|one| ("Settings".to_owned(), &one.name)).collect();
    twice("document", Rule::DuplicateSettings, "keep one Settings document", settings);
}

/// Which names of repositories lead where.
struct KnownRepositories<'a> {
    /// Right, and defined once.
    usable: BTreeMap<&'a str, &'a CheckedRepository>,
    /// There is a document, but it is wrong or not the only one.
    unusable: BTreeSet<&'a str>,
}

impl<'a> KnownRepositories<'a> {
    fn of(files: &'a BTreeMap<PathBuf, Arc<CheckedFile>>, everything: &Everything<'a>) -> Self {
        let mut known = Self { usable: BTreeMap::new(), unusable: BTreeSet::new() };
        for repository in &everything.repositories {
            let name = repository.document.metadata.name.as_str();
            if known.usable.insert(name, repository).is_some() {
                known.unusable.insert(name);
            }
        }
        for name in files.values().flat_map(|file| &file.repositories) {
            if !known.usable.contains_key(name.0.as_str()) {
                known.unusable.insert(&name.0);
            }
        }
        let Self { usable, unusable } = &mut known;
        usable.retain(|name, _| !unusable.contains(name));
        known
    }

    fn finding(&self, name: &str, place: &Place) -> Option<Diagnostic> {
        if self.usable.contains_key(name) || self.unusable.contains(name) {
            return None;
        }
        let hint = match did_you_mean(name, self.usable.keys().chain(&self.unusable).copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add a document `kind: Repository` with the name `{name}`"),
        };
        let message = format!("there is no repository `{}`", super::structure::shorten(name));
        Some(place.diagnostic(Rule::UnknownRepository, message).hint(hint))
    }
}

/// Looks up the repositories of each policy. A policy whose repository has a finding of its own is frozen without a
/// further one.
fn references<'a>(
    everything: &Everything<'a>,
    known: &KnownRepositories<'_>,
    findings: &mut Vec<Diagnostic>,
) -> (Vec<&'a CheckedPolicy>, BTreeSet<PolicyName>) {
    let (mut resolvable, mut frozen) = (Vec::new(), BTreeSet::new());
    for checked in &everything.policies {
        let names = &checked.policy.document.spec.repositories;
        for (name, place) in names.iter().zip(&checked.repositories) {
            findings.extend(known.finding(name, place));
        }
        if names.iter().all(|name| known.usable.contains_key(name.as_str())) {
            resolvable.push(*checked);
        } else {
            frozen.insert(checked.policy.name.clone());
        }
    }
    (resolvable, frozen)
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
            findings.extend(known.finding(name, place));
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

fn deletion_blocked(files: &BTreeMap<PathBuf, Arc<CheckedFile>>, everything: &Everything<'_>) -> Option<String> {
    if everything.settings.len() > 1 {
        return Some("there is more than one Settings document".to_owned());
    }
    let unread = |(path, file): (&PathBuf, &Arc<CheckedFile>)| {
        let read = everything.settings.iter().any(|settings| in_file(&settings.name, path));
        (file.has_settings && !read).then(|| format!("the settings in {} cannot be read", path.display()))
    };
    if let Some(reason) = files.iter().find_map(unread) {
        return Some(reason);
    }
    let empty = files.values().all(|file| file.documents.is_empty() && file.diagnostics.is_empty());
    empty.then(|| "there is no document at all".to_owned())
}

fn in_file(place: &Place, file: &Path) -> bool {
    place.location.file == file
}
