//! Settings by themselves.

use super::{CheckedDocument, CheckedSettings, Findings, backup_policy, reference, repository};
use crate::policy::{
    diagnostic::Rule,
    document::{
        SettingsDocument,
        settings::{Address, Email, Forge, ForgeKind, GitHubApp, Receiver, SettingsSpec, Signatures, Tenant},
    },
    is_name,
};

/// Checks the settings.
pub fn check(findings: &mut Findings<'_>, mut document: SettingsDocument) -> Option<CheckedDocument> {
    backup_policy::names(findings, &document.metadata);
    let SettingsSpec {
        cluster,
        freeze: _,
        safety: _,
        concurrency,
        signatures,
        tenants,
        pushgateway,
        forge,
        notifications,
    } = &document.spec;
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
        check_forge(findings, forge);
    }
    for (index, receiver) in notifications.iter().enumerate() {
        check_receiver(findings, &format!("/spec/notifications/{index}"), receiver, &notifications[..index]);
    }
    if !findings.is_empty() {
        return None;
    }
    document.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    Some(CheckedDocument::Settings(Box::new(CheckedSettings { document, name: findings.place("/metadata/name") })))
}

fn check_forge(findings: &mut Findings<'_>, forge: &Forge) {
    let Forge { kind, url, repository, token, app, webhook_secret, approval: _ } = forge;
    if !repository::is_http(url) {
        let message = format!("`{}` is not the address of a forge", super::structure::shorten(url));
        findings.error(Rule::WrongValue, "/spec/forge/url", message).hint =
            Some("write `https://HOST`, without user name and repository".to_owned());
    } else if let Some(host) = url.strip_prefix("http://")
        && !is_near(host)
    {
        let message = "the access token would cross the network unencrypted";
        findings.error(Rule::WrongValue, "/spec/forge/url", message).hint =
            Some("write `https://`; `http://` is only for this host and for services of the same cluster".to_owned());
    }
    let parts: Vec<&str> = repository.split('/').collect();
    let is_part = |part: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.chars().all(plain) && part.chars().any(|c| c != '.')
    };
    let is_long_enough = parts.len() == 2 || (*kind == ForgeKind::GitLab && parts.len() > 2);
    if !is_long_enough || !parts.iter().all(is_part) {
        let message = format!("`{}` is not a repository on a forge", super::structure::shorten(repository));
        findings.error(Rule::WrongValue, "/spec/forge/repository", message).hint =
            Some("write `OWNER/NAME`, without the host and `.git`".to_owned());
    }
    let fields = [("token", token.is_some()), ("app", app.is_some())];
    reference::exactly_one(findings, "/spec/forge", "a forge", &fields);
    if let (Some(_), ForgeKind::GitLab | ForgeKind::Gitea) = (app, kind) {
        findings.error_at_key(Rule::WrongValue, "/spec/forge/app", "only GitHub has Apps").hint =
            Some("write `token`".to_owned());
    }
    for (pointer, secret) in [
        ("/spec/forge/token", token.as_ref()),
        ("/spec/forge/app/privateKey", app.as_ref().map(|GitHubApp { private_key, .. }| private_key)),
        ("/spec/forge/webhookSecret", webhook_secret.as_ref()),
    ] {
        if let Some(secret) = secret {
            reference::daemon_secret(findings, pointer, secret);
        }
    }
}

fn check_receiver(findings: &mut Findings<'_>, pointer: &str, receiver: &Receiver, before: &[Receiver]) {
    let Receiver { name, policies, webhook, slack, healthchecks, email } = receiver;
    if before.iter().any(|other| other.name == *name) {
        let message = format!("`{}` is in the list twice", super::structure::shorten(name));
        findings.error(Rule::DuplicateName, &format!("{pointer}/name"), message);
    }
    let addresses = [("webhook", webhook), ("slack", slack), ("healthchecks", healthchecks)];
    let mut fields: Vec<(&str, bool)> = addresses.iter().map(|(name, address)| (*name, address.is_some())).collect();
    fields.push(("email", email.is_some()));
    reference::exactly_one(findings, pointer, "a receiver", &fields);
    for (field, address) in addresses {
        if let Some(Address { url }) = address {
            reference::daemon_secret(findings, &format!("{pointer}/{field}/url"), url);
        }
    }
    for (index, glob) in policies.iter().enumerate() {
        reference::glob(findings, &format!("{pointer}/policies/{index}"), glob);
    }
    let Some(Email { server, user, password, from, to }) = email else { return };
    if !server.starts_with("smtp://") && !server.starts_with("smtps://") || server.contains('@') {
        let message = format!("`{}` is not the address of a mail server", super::structure::shorten(server));
        findings.error(Rule::WrongValue, &format!("{pointer}/email/server"), message).hint =
            Some("write `smtps://HOST` or `smtp://HOST:587?tls=required`, without user and password".to_owned());
    }
    if user.is_some() != password.is_some() {
        let message = "`user` and `password` belong together";
        findings.error_at_key(Rule::WrongValue, &format!("{pointer}/email"), message);
    }
    if let Some(password) = password {
        reference::daemon_secret(findings, &format!("{pointer}/email/password"), password);
    }
    if to.is_empty() {
        findings.error_at_key(Rule::Empty, &format!("{pointer}/email/to"), "nobody would get the email");
    }
    let addresses = to.iter().enumerate().map(|(index, address)| (format!("to/{index}"), address));
    for (field, address) in addresses.chain([("from".to_owned(), from)]) {
        if !address.contains('@') || address.contains(['\n', '\r']) {
            let message = format!("`{}` is not an email address", super::structure::shorten(address));
            findings.error(Rule::WrongValue, &format!("{pointer}/email/{field}"), message);
        }
    }
}

/// Whether an address without its scheme stays on this host, or in the network of the cluster.
fn is_near(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_service = host.ends_with(".svc") || host.ends_with(".svc.cluster.local");
    let is_loopback = host.strip_prefix("127.").is_some_and(|rest| {
        rest.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    is_service || is_loopback || host == "localhost" || host == "::1"
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
