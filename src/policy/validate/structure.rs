//! The shape of a document: its kind, and the schema of that kind.

use std::sync::LazyLock;

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CheckedDocument, Findings, backup_policy, is_mapping, repository, restore, settings};
use crate::policy::{
    diagnostic::{Rule, did_you_mean},
    document::{API_VERSION, DurationText, KeepWithinText},
    parse::NodeValue,
    parse::node::escape,
    schema::{Field, Kind, schema_of},
};

/// Checks one document; gives it back if everything about it is right.
pub fn check(findings: &mut Findings<'_>) -> Option<CheckedDocument> {
    let kind = kind(findings)?;
    let mut value = findings.root.to_json();
    let validator = validator(kind);
    if !validator.is_valid(&value) {
        let mut unknown = Vec::new();
        for error in validator.iter_errors(&value) {
            report(findings, kind, &error, &mut unknown);
        }
        // Without the fields that do not exist the rest can often be checked as well: all findings at once.
        for (pointer, key) in unknown {
            if let Some(object) = value.pointer_mut(&pointer).and_then(Value::as_object_mut) {
                object.shift_remove(&key);
            }
        }
        if !validator.is_valid(&value) {
            return None;
        }
    }
    match kind {
        Kind::BackupPolicy => {
            let document = typed(findings, kind, value)?;
            backup_policy::check(findings, document)
        }
        Kind::Repository => {
            let document = typed(findings, kind, value)?;
            repository::check(findings, document)
        }
        Kind::Restore => {
            let document = typed(findings, kind, value)?;
            restore::check(findings, document)
        }
        Kind::Settings => {
            let document = typed(findings, kind, value)?;
            settings::check(findings, document)
        }
    }
}

fn kind(findings: &mut Findings<'_>) -> Option<Kind> {
    let root = findings.root;
    if !is_mapping(root) {
        findings
            .error(Rule::DocumentShape, "", "a document is a mapping with `apiVersion`, `kind`, `metadata` and `spec`")
            .hint = Some("`mainstay init` writes one to start from".to_owned());
        return None;
    }
    match root.text("/apiVersion") {
        Some(API_VERSION) => {}
        Some(other) => {
            let message = format!("`{other}` is not an API version that is known here");
            findings.error(Rule::DocumentApiVersion, "/apiVersion", message).hint =
                Some(format!("write `{API_VERSION}`"));
        }
        None => {
            let finding =
                findings.error(Rule::DocumentApiVersion, "/apiVersion", "`apiVersion` is missing or not text");
            finding.hint = Some(format!("write `apiVersion: {API_VERSION}`"));
        }
    }
    let known = Kind::ALL.map(Kind::as_str);
    let list = format!("the kinds are {}", known.map(|kind| format!("`{kind}`")).join(", "));
    let kind = match root.text("/kind") {
        Some(name) => Kind::from_name(name).or_else(|| {
            let hint = did_you_mean(name, known).map_or(list.clone(), |name| format!("did you mean `{name}`?"));
            findings.error(Rule::DocumentKind, "/kind", format!("there is no kind `{name}`")).hint = Some(hint);
            None
        }),
        None => {
            findings.error(Rule::DocumentKind, "/kind", "`kind` is missing or not text").hint = Some(list);
            None
        }
    }?;
    Some(kind)
}

fn validator(kind: Kind) -> &'static Validator {
    fn compile(kind: Kind) -> Validator {
        jsonschema::draft7::new(&schema_of(kind)).expect("the generated schema is a schema; a test compiles all kinds")
    }
    static POLICY: LazyLock<Validator> = LazyLock::new(|| compile(Kind::BackupPolicy));
    static REPOSITORY: LazyLock<Validator> = LazyLock::new(|| compile(Kind::Repository));
    static RESTORE: LazyLock<Validator> = LazyLock::new(|| compile(Kind::Restore));
    static SETTINGS: LazyLock<Validator> = LazyLock::new(|| compile(Kind::Settings));
    match kind {
        Kind::BackupPolicy => &POLICY,
        Kind::Repository => &REPOSITORY,
        Kind::Restore => &RESTORE,
        Kind::Settings => &SETTINGS,
    }
}

/// One error of the schema, in our words.
fn report(findings: &mut Findings<'_>, kind: Kind, error: &ValidationError<'_>, unknown: &mut Vec<(String, String)>) {
    let pointer = error.instance_path().as_str().to_owned();
    // The envelope has findings of its own.
    if matches!(pointer.as_str(), "/apiVersion" | "/kind") {
        return;
    }
    let field = Field::at(kind, &pointer);
    if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
        for key in unexpected {
            unknown_field(findings, kind, &pointer, key, field);
            unknown.push((pointer.clone(), key.clone()));
        }
        return;
    }
    if let ValidationErrorKind::Required { property } = error.kind() {
        let name = property.as_str().unwrap_or_default();
        if pointer.is_empty() && matches!(name, "apiVersion" | "kind") {
            return;
        }
        let child = field.and_then(|field| field.child(name));
        let whole = if pointer.is_empty() { "the document".to_owned() } else { format!("`{}`", dotted(&pointer)) };
        let finding = findings.error_at_key(Rule::MissingField, &pointer, format!("`{name}` is missing in {whole}"));
        finding.label = Some(format!("`{name}` is needed here"));
        finding.hint = child.and_then(|child| child.description()).map(|text| format!("{name}: {text}"));
        return;
    }
    let name = dotted(&pointer);
    let expected = field.map(|field| field.type_in_words()).filter(|words| !words.is_empty());
    let instance = error.instance();
    if is_secret(field) && (instance.is_string() || instance.is_number() || instance.is_boolean()) {
        let finding = findings.error(
            Rule::SecretLiteral,
            &pointer,
            format!("`{name}` holds a literal; a secret must not stand in git"),
        );
        finding.secret = true;
        finding.label = Some("a reference is expected".to_owned());
        let hint = "write `{file: /path}` or `{env: NAME}`; change the value, for git keeps what was pushed";
        finding.hint = Some(hint.to_owned());
        return;
    }
    let is_wrong_type = matches!(error.kind(), ValidationErrorKind::Type { .. })
        || matches!(error.kind(), ValidationErrorKind::AnyOf { .. }) && !same_type(field, instance);
    let rule = if is_wrong_type { Rule::WrongType } else { Rule::WrongValue };
    let message = format!("`{name}` cannot be {}", describe(instance));
    let near = field.and_then(|field| field.options()).and_then(|options| did_you_mean(instance.as_str()?, options));
    let finding = findings.error(rule, &pointer, message);
    finding.label = expected.map(|words| format!("expected {words}"));
    finding.hint = near.map(|near| format!("did you mean `{near}`?")).or_else(|| limits(error.kind()));
}

fn limits(kind: &ValidationErrorKind) -> Option<String> {
    if let ValidationErrorKind::Minimum { limit } = kind {
        return Some(format!("the least is {limit}"));
    }
    if let ValidationErrorKind::Maximum { limit } = kind {
        return Some(format!("the most is {limit}"));
    }
    None
}

fn unknown_field(findings: &mut Findings<'_>, kind: Kind, pointer: &str, key: &str, field: Option<Field>) {
    let children = field.map(|field| field.children()).unwrap_or_default();
    let whole = if pointer.is_empty() { "a document".to_owned() } else { format!("`{}`", dotted(pointer)) };
    let hint = match did_you_mean(key, children.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => match elsewhere(Field::root(kind), key, "", 0) {
            Some(place) => format!("`{key}` belongs in `{place}`"),
            None => format!(
                "the fields here are {}",
                children.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ),
        },
    };
    let at = format!("{pointer}/{}", escape(key));
    let finding = findings.error_at_key(Rule::UnknownField, &at, format!("there is no field `{key}` in {whole}"));
    finding.label = Some("unknown field".to_owned());
    finding.hint = Some(hint);
}

/// Where else in a kind a field of this name is.
fn elsewhere(field: Field, key: &str, path: &str, depth: usize) -> Option<String> {
    if depth > 5 {
        return None;
    }
    let children = field.children();
    if children.contains(&key) && !path.is_empty() {
        return Some(path.to_owned());
    }
    for child in children {
        let below = field.child(child)?;
        let below = below.items().unwrap_or(below);
        let path = if path.is_empty() { child.to_owned() } else { format!("{path}.{child}") };
        if let Some(found) = elsewhere(below, key, &path, depth + 1) {
            return Some(found);
        }
    }
    None
}

/// The typed document. What the schema lets through and the types do not is found value by value.
fn typed<T: DeserializeOwned>(findings: &mut Findings<'_>, kind: Kind, value: Value) -> Option<T> {
    let error = match serde_json::from_value(value) {
        Ok(typed) => return Some(typed),
        Err(error) => error,
    };
    let before = findings.count();
    for (pointer, node) in findings.root.scalars() {
        let NodeValue::Scalar(scalar) = &node.value else { continue };
        let Some(field) = Field::at(kind, &pointer) else { continue };
        let wrong = match (field.definition, scalar) {
            (Some("DurationText"), Value::String(text)) => {
                text.parse::<DurationText>().err().map(|error| error.to_string())
            }
            (Some("KeepWithinText"), Value::String(text)) => {
                text.parse::<KeepWithinText>().err().map(|error| error.to_string())
            }
            (_, Value::Number(number)) if number.is_f64() => (field.type_in_words() == "whole number")
                .then(|| format!("`{number}` is not a whole number; leave out the point")),
            (_, Value::String(text)) if pointer == "/spec/restorePoint/before" => text
                .parse::<jiff::Timestamp>()
                .err()
                .map(|_| format!("`{text}` is not a time; write one such as `2026-11-20T12:00:00Z`")),
            _ => None,
        };
        if let Some(message) = wrong {
            findings.error(Rule::WrongValue, &pointer, message);
        }
    }
    if findings.count() == before {
        findings.error(Rule::WrongValue, "/kind", format!("the document cannot be read: {error}"));
    }
    None
}

fn is_secret(field: Option<Field>) -> bool {
    field.is_some_and(|field| matches!(field.definition, Some("SecretReference" | "Password")))
}

/// Whether some alternative of a field takes values of this type.
fn same_type(field: Option<Field>, value: &Value) -> bool {
    let words = field.map(|field| field.type_in_words()).unwrap_or_default();
    match value {
        Value::String(_) => words.contains("text"),
        Value::Array(_) => words.contains("list"),
        Value::Object(_) => words.contains("mapping"),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(text) => format!("`{}`", shorten(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A text cut to what fits into a message.
pub fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start}…")
}

/// `/spec/sources/0/name` as `spec.sources[0].name`.
pub fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for token in pointer.split('/').skip(1) {
        if token.parse::<usize>().is_ok() {
            path.push_str(&format!("[{token}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&token.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_compile() {
        for kind in Kind::ALL {
            validator(kind);
        }
    }
}
