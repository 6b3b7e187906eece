//! What many documents have: secret references, argument vectors, paths, fields that exclude each other.

use super::{EngineKind, Findings};
use crate::policy::{diagnostic::Rule, document::SecretReference};

/// Exactly one of some fields must be written.
pub fn exactly_one(findings: &mut Findings<'_>, pointer: &str, what: &str, fields: &[(&str, bool)]) {
    let written: Vec<&str> = fields.iter().filter(|(_, written)| *written).map(|(name, _)| *name).collect();
    let all = list(&fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    match written.as_slice() {
        [_] => {}
        [] => {
            let finding = findings.error(Rule::ExactlyOne, pointer, format!("{what} needs exactly one of {all}"));
            finding.label = Some("none of them is written".to_owned());
        }
        [first, .., last] => {
            let related = findings.key_place(&format!("{pointer}/{first}")).related(format!("`{first}` stands here"));
            let message = format!("{what} has {}; exactly one of {all} is possible", list(&written));
            let finding = findings.error_at_key(Rule::ExactlyOne, &format!("{pointer}/{last}"), message);
            finding.related = Some(related);
            finding.hint = Some("keep one of them".to_owned());
        }
    }
}

/// A reference to a secret: one place, completely.
pub fn secret(findings: &mut Findings<'_>, pointer: &str, reference: &SecretReference) {
    let SecretReference { secret, key, file, env } = reference;
    places(findings, pointer, [secret.as_deref(), key.as_deref(), file.as_deref(), env.as_deref()]);
    let fields = [("secret", secret.is_some()), ("file", file.is_some()), ("env", env.is_some())];
    exactly_one(findings, pointer, "a reference to a secret", &fields);
}

/// A reference to a secret that the daemon itself reads, on either engine: it has no right to read Secrets.
pub fn daemon_secret(findings: &mut Findings<'_>, pointer: &str, reference: &SecretReference) {
    secret(findings, pointer, reference);
    if reference.secret.is_some() && findings.engine == EngineKind::Kubernetes {
        let message = "the daemon reads this one itself, and may not read Secrets";
        findings.error(Rule::SecretReference, &format!("{pointer}/secret"), message).hint =
            Some("mount the Secret into its pod, and write `{file: PATH}` or `{env: NAME}`".to_owned());
    }
}

/// The places of a secret: `secret`, `key`, `file`, `env`.
pub fn places(findings: &mut Findings<'_>, pointer: &str, [secret, key, file, env]: [Option<&str>; 4]) {
    if let Some(path) = file {
        absolute(findings, &format!("{pointer}/file"), path);
    }
    let is_variable = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.is_empty()
    };
    if env.is_some_and(|name| !is_variable(name)) {
        let message = "this is not the name of an environment variable";
        let finding = findings.error(Rule::SecretReference, &format!("{pointer}/env"), message);
        // Whoever misunderstood the field wrote the value itself here.
        finding.secret = true;
        finding.hint = Some("write the name, such as `RESTIC_PASSWORD`, never the value".to_owned());
    }
    match (secret, key) {
        (Some(_), Some(_)) => {
            needs_kubernetes(findings, &format!("{pointer}/secret"), "secret", "write `{file: PATH}` or `{env: NAME}`")
        }
        (Some(_), None) => {
            let finding = findings.error(
                Rule::SecretReference,
                &format!("{pointer}/secret"),
                "a Secret is named, but no `key` of it",
            );
            finding.hint = Some("add `key: NAME`".to_owned());
        }
        (None, Some(_)) => {
            let finding = findings.error_at_key(
                Rule::SecretReference,
                &format!("{pointer}/key"),
                "`key` means nothing without `secret`",
            );
            finding.hint = Some("add `secret: NAME`, or leave `key` out".to_owned());
        }
        (None, None) => {}
    }
}

/// An argument vector: a program, and its arguments.
pub fn arguments(findings: &mut Findings<'_>, pointer: &str, arguments: &[String]) {
    match arguments {
        [] => {
            let finding = findings.error_at_key(Rule::Empty, pointer, "the argument vector is empty");
            finding.hint = Some("write the program and its arguments, such as `[sh, -c, \"…\"]`".to_owned());
        }
        [program, ..] if program.trim().is_empty() => {
            findings.error(Rule::Empty, &format!("{pointer}/0"), "the name of the program is empty");
        }
        [program] if program.contains(' ') && !program.starts_with('/') => {
            let finding =
                findings.error(Rule::WrongValue, &format!("{pointer}/0"), "this is a command line, not a program");
            finding.hint = Some(
                "no shell is involved: write each argument as an item of the list, or `[sh, -c, \"…\"]`".to_owned(),
            );
        }
        _ => {}
    }
    if let Some(index) = arguments.iter().position(|argument| argument.contains('\0')) {
        findings.error(Rule::WrongValue, &format!("{pointer}/{index}"), "an argument cannot hold a NUL character");
    }
}

/// An absolute path on this host, without `..`.
pub fn absolute(findings: &mut Findings<'_>, pointer: &str, path: &str) {
    let message = if path.is_empty() {
        "the path is empty".to_owned()
    } else if !path.starts_with('/') {
        format!("`{}` is not an absolute path", super::structure::shorten(path))
    } else if path.split('/').any(|part| part == "..") || path.contains('\0') {
        format!("`{}` is not a plain path", super::structure::shorten(path))
    } else {
        return;
    };
    findings.error(Rule::AbsolutePath, pointer, message).hint =
        Some("write it from the root `/`, without `..`".to_owned());
}

/// A glob that can be read.
pub fn glob(findings: &mut Findings<'_>, pointer: &str, text: &str) {
    if let Err(error) = globset::Glob::new(text) {
        findings.error(Rule::Pattern, pointer, format!("`{text}` is not a glob: {}", error.kind()));
    }
}

/// A field that only the kubernetes engine can carry out.
pub fn needs_kubernetes(findings: &mut Findings<'_>, pointer: &str, name: &str, instead: &str) {
    match findings.engine {
        EngineKind::Local => {
            let finding = findings.error_at_key(Rule::Engine, pointer, format!("`{name}` needs the kubernetes engine"));
            finding.label = Some("not possible on one host".to_owned());
            finding.hint = Some(instead.to_owned());
        }
        EngineKind::Kubernetes => {}
    }
}

/// A field that only the local engine can carry out.
pub fn needs_local(findings: &mut Findings<'_>, pointer: &str, name: &str, instead: &str) {
    match findings.engine {
        EngineKind::Kubernetes => {
            let finding = findings.error_at_key(Rule::Engine, pointer, format!("`{name}` needs the local engine"));
            finding.hint = Some(instead.to_owned());
        }
        EngineKind::Local => {}
    }
}

/// A field that nothing carries out yet.
pub fn not_available(findings: &mut Findings<'_>, pointer: &str, name: &str, instead: &str) {
    let finding = findings.error_at_key(Rule::NotAvailable, pointer, format!("`{name}` is not available yet"));
    finding.hint = Some(instead.to_owned());
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
