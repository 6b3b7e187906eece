//! A Repository by itself.

use jiff::tz::TimeZone;

use super::{CheckedDocument, CheckedRepository, Findings, backup_policy, normalise, reference};
use crate::policy::{
    diagnostic::Rule,
    document::{
        RepositoryDocument,
        repository::{Maintenance, Password, RepositorySpec, S3},
    },
};

/// Checks a repository.
pub fn check(findings: &mut Findings<'_>, mut document: RepositoryDocument) -> Option<CheckedDocument> {
    backup_policy::names(findings, &document.metadata);
    let RepositorySpec { directory, nfs, s3, rest, layout: _, password, escrow, maintenance } = &document.spec;
    let places =
        [("directory", directory.is_some()), ("nfs", nfs.is_some()), ("s3", s3.is_some()), ("rest", rest.is_some())];
    reference::exactly_one(findings, "/spec", "a repository", &places);
    if let Some(directory) = directory {
        reference::needs_local(findings, "/spec/directory", "directory", "name an `nfs` export or a bucket in `s3`");
        reference::absolute(findings, "/spec/directory", directory);
    }
    if nfs.is_some() {
        let hint = "mount it and name the `directory`";
        reference::needs_kubernetes(findings, "/spec/nfs", "nfs", hint);
    }
    if let Some(s3) = s3 {
        check_s3(findings, s3);
    }
    if rest.is_some() {
        reference::not_available(findings, "/spec/rest", "rest", "use `directory` or `s3`");
    }
    check_password(findings, password);
    if escrow.is_some() {
        reference::not_available(
            findings,
            "/spec/escrow",
            "escrow",
            "leave it out, and keep a copy of the password elsewhere",
        );
    }
    if let Some(maintenance) = maintenance {
        let Maintenance { prune, check, read_data } = maintenance.as_ref();
        for (field, expression) in [("prune", prune), ("check", check)] {
            if let Some(expression) = expression {
                backup_policy::schedule(findings, &format!("/spec/maintenance/{field}"), expression, &TimeZone::UTC);
            }
        }
        backup_policy::percentage(findings, "/spec/maintenance/readData", read_data.as_deref());
        if read_data.is_some() && check.is_none() {
            let message = "`readData` has no effect without `check`";
            findings.error_at_key(Rule::Misplaced, "/spec/maintenance/readData", message).hint =
                Some("say when: `check: \"0 6 * * 0\"`".to_owned());
        }
    }
    if !findings.is_empty() {
        return None;
    }
    normalise::repository(&mut document);
    Some(CheckedDocument::Repository(Box::new(CheckedRepository {
        document: std::sync::Arc::new(document),
        name: findings.place("/metadata/name"),
    })))
}

fn check_s3(findings: &mut Findings<'_>, s3: &S3) {
    let S3 { endpoint, bucket, prefix, region: _, access_key_id, secret_access_key, certificate_authority } = s3;
    if !is_http(endpoint) {
        let message = format!("`{}` is not the address of an S3 endpoint", super::structure::shorten(endpoint));
        let finding = findings.error(Rule::WrongValue, "/spec/s3/endpoint", message);
        finding.hint = Some("write `https://HOST` or `https://HOST:PORT`, without the bucket".to_owned());
    }
    if bucket.is_empty() || bucket.contains(['/', ' ']) {
        let message = format!("`{}` is not the name of a bucket", super::structure::shorten(bucket));
        findings.error(Rule::WrongValue, "/spec/s3/bucket", message).hint =
            Some("a path inside the bucket goes into `prefix`".to_owned());
    }
    if prefix.as_deref().is_some_and(|prefix| prefix.split('/').any(|part| part == ".." || part == ".")) {
        findings.error(Rule::WrongValue, "/spec/s3/prefix", "a prefix has no `.` or `..` in it");
    }
    reference::secret(findings, "/spec/s3/accessKeyId", access_key_id);
    reference::secret(findings, "/spec/s3/secretAccessKey", secret_access_key);
    if let Some(path) = certificate_authority {
        reference::absolute(findings, "/spec/s3/certificateAuthority", path);
    }
}

fn check_password(findings: &mut Findings<'_>, password: &Password) {
    let Password { secret, key, file, env, generate } = password;
    let pointer = "/spec/password";
    reference::places(findings, pointer, [secret.as_deref(), key.as_deref(), file.as_deref(), env.as_deref()]);
    let fields = [("secret", secret.is_some()), ("file", file.is_some()), ("env", env.is_some())];
    if !*generate || fields.iter().any(|(_, written)| *written) {
        reference::exactly_one(findings, pointer, "a password without `generate: true` alone", &fields);
    }
    if *generate && env.is_some() {
        let message = "a password cannot be generated into an environment variable";
        findings.error_at_key(Rule::SecretReference, "/spec/password/generate", message).hint =
            Some("name a `file`, or write `generate: true` alone".to_owned());
    }
}

/// Whether a text is an address that http can reach, without user and password in it.
pub fn is_http(address: &str) -> bool {
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty() && !host.contains(['@', ' ']) && !rest.contains([' ', '?', '#'])
    })
}
