//! A Restore by itself.

use super::{
    CheckedDocument, CheckedRestore, Findings,
    backup_policy::{self, namespace_place},
    document_location, normalise, reference,
};
use crate::policy::{
    PolicyName, Restore,
    diagnostic::Rule,
    document::{
        RestoreDocument,
        restore::{Into, PointChoice},
    },
    is_name,
};

/// Checks a restore.
pub fn check(findings: &mut Findings<'_>, mut document: RestoreDocument) -> Option<CheckedDocument> {
    backup_policy::names(findings, &document.metadata);
    let namespace = document.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let spec = &document.spec;
    let policy = policy_name(&namespace, &spec.policy);
    if policy.is_none() {
        let message = format!("`{}` is not the name of a policy", super::structure::shorten(&spec.policy));
        findings.error(Rule::Name, "/spec/policy", message).hint = Some("write `NAME` or `NAMESPACE/NAME`".to_owned());
    }
    if let PointChoice::Name(name) = &spec.restore_point
        && name.trim().is_empty()
    {
        findings.error(Rule::Empty, "/spec/restorePoint", "the restore point is empty").hint =
            Some("write `latest`, an id from `mainstay points`, or `{before: TIME}`".to_owned());
    }
    for (index, name) in spec.sources.iter().enumerate() {
        let at = format!("/spec/sources/{index}");
        if let Some(first) = spec.sources[..index].iter().position(|other| other == name) {
            let related = findings.place(&format!("/spec/sources/{first}")).related("it stands here first");
            findings.error(Rule::DuplicateName, &at, format!("source `{name}` is in the list twice")).related =
                Some(related);
        }
    }
    for (index, table) in spec.tables.iter().enumerate() {
        if table.is_empty() || table.starts_with('-') {
            let at = format!("/spec/tables/{index}");
            findings.error(Rule::WrongValue, &at, "this cannot be the name of a table");
        }
    }
    if let Some(into) = &spec.into {
        check_into(findings, into);
    }
    let policy = policy?;
    if !findings.is_empty() {
        return None;
    }
    normalise::restore(&mut document, &policy);
    let name = PolicyName::new(&namespace, &document.metadata.name);
    let sources =
        (0..document.spec.sources.len()).map(|index| findings.place(&format!("/spec/sources/{index}"))).collect();
    Some(CheckedDocument::Restore(Box::new(CheckedRestore {
        name: findings.place("/metadata/name"),
        namespace: namespace_place(findings),
        policy: findings.place("/spec/policy"),
        repository: document.spec.repository.as_ref().map(|_| findings.place("/spec/repository")),
        sources,
        into: if document.spec.into.is_some() {
            findings.key_place("/spec/into")
        } else {
            findings.place("/metadata/name")
        },
        restore: Restore { name, policy, location: document_location(findings), document },
    })))
}

fn policy_name(namespace: &str, text: &str) -> Option<PolicyName> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    (is_name(namespace) && is_name(name)).then(|| PolicyName::new(namespace, name))
}

fn check_into(findings: &mut Findings<'_>, into: &Into) {
    let Into { path, database, namespace, claims } = into;
    if path.is_none() && database.is_none() && namespace.is_none() && claims.is_empty() {
        let message = "`into` says no place";
        findings.error_at_key(Rule::ExactlyOne, "/spec/into", message).hint =
            Some("write `path` or `database`; leave `into` out to restore in place".to_owned());
    }
    if path.is_some() && database.is_some() {
        let fields = [("path", true), ("database", true)];
        reference::exactly_one(findings, "/spec/into", "`into`", &fields);
    }
    if let Some(path) = path {
        reference::needs_local(findings, "/spec/into/path", "path", "name other `claims`");
        reference::absolute(findings, "/spec/into/path", path);
    }
    if database.as_deref().is_some_and(|name| name.is_empty() || name.starts_with('-')) {
        findings.error(Rule::WrongValue, "/spec/into/database", "this cannot be the name of a database");
    }
    if namespace.is_some() {
        reference::needs_kubernetes(findings, "/spec/into/namespace", "into.namespace", "write `path` or `database`");
    }
    if !claims.is_empty() {
        reference::needs_kubernetes(findings, "/spec/into/claims", "into.claims", "write `path`");
    }
}
