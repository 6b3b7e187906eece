//! Settings by themselves.

use super::{CheckedDocument, CheckedSettings, Findings, backup_policy, reference, repository};
use crate::policy::{
    diagnostic::Rule,
    document::{
        SettingsDocument,
        settings::{SettingsSpec, Signatures, Tenant},
    },
    is_name,
};

/// Checks the settings.
pub fn check(findings: &mut Findings<'_>, mut document: SettingsDocument) -> Option<CheckedDocument> {
    backup_policy::names(findings, &document.metadata);
    let SettingsSpec { cluster, freeze: _, safety: _, concurrency, signatures, tenants, pushgateway, forge } =
        &document.spec;
    if let Some(cluster) = cluster.as_deref().filter(|cluster| !is_name(cluster)) {
        let message = format!("`{}` cannot be the name of a host or cluster", super::structure::shorten(cluster));
        findings.error(Rule::Name, "/spec/cluster", message).hint =
            Some("use lower-case letters, digits and inner `-`: it becomes part of a path".to_owned());
    }
    if concurrency.runs == 0 {
        let message = "with no run at a time nothing would ever run";
        findings.error(Rule::WrongValue, "/spec/concurrency/runs", message).hint =
            Some("write at least 1; `freeze: true` stops scheduled runs".to_owned());
    }
    if let Some(Signatures { ssh_allowed_signers, gpg_home }) = signatures {
        if ssh_allowed_signers.is_none() && gpg_home.is_none() {
            let message = "`signatures` believes nobody: `sshAllowedSigners` or `gpgHome` is needed";
            findings.error_at_key(Rule::Empty, "/spec/signatures", message);
        }
        for (field, path) in [("sshAllowedSigners", ssh_allowed_signers), ("gpgHome", gpg_home)] {
            if let Some(path) = path {
                reference::absolute(findings, &format!("/spec/signatures/{field}"), path);
            }
        }
    }
    check_tenants(findings, tenants);
    if let Some(address) = pushgateway.as_deref().filter(|address| !repository::is_http(address)) {
        let message = format!("`{}` is not the address of a Pushgateway", super::structure::shorten(address));
        findings.error(Rule::WrongValue, "/spec/pushgateway", message).hint =
            Some("write `http://HOST:PORT`".to_owned());
    }
    if let Some(forge) = forge {
        reference::not_available(findings, "/spec/forge", "forge", "leave it out");
        reference::secret(findings, "/spec/forge/token", &forge.token);
    }
    if !findings.is_empty() {
        return None;
    }
    document.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    Some(CheckedDocument::Settings(Box::new(CheckedSettings { document, name: findings.place("/metadata/name") })))
}

fn check_tenants(findings: &mut Findings<'_>, tenants: &[Tenant]) {
    for (index, tenant) in tenants.iter().enumerate() {
        let pointer = format!("/spec/tenants/{index}");
        let at = format!("{pointer}/directory");
        let Tenant { directory, namespaces, repositories } = tenant;
        if directory.is_empty() || directory.starts_with('/') || directory.split('/').any(|part| part == "..") {
            let message =
                format!("`{}` is not a directory below the watched path", super::structure::shorten(directory));
            findings.error(Rule::WrongValue, &at, message).hint =
                Some("write it relative to the watched path, such as `teams/shop`; `.` is all the rest".to_owned());
        }
        let trimmed = |text: &str| text.trim_start_matches("./").trim_end_matches('/').to_owned();
        if let Some(first) = tenants[..index].iter().position(|other| trimmed(&other.directory) == trimmed(directory)) {
            let related = findings.place(&format!("/spec/tenants/{first}/directory")).related("it stands here first");
            findings.error(Rule::DuplicateName, &at, format!("directory `{directory}` is in the list twice")).related =
                Some(related);
        }
        for (field, globs) in [("namespaces", namespaces), ("repositories", repositories)] {
            for (index, glob) in globs.iter().enumerate() {
                reference::glob(findings, &format!("{pointer}/{field}/{index}"), glob);
            }
        }
    }
}
