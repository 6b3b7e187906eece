//! Findings as SARIF 2.1.0, the format of code scanning.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Diagnostic, Rule};
use crate::policy::Location;

/// Renders findings as one run.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let rules: BTreeSet<Rule> = diagnostics.iter().map(|diagnostic| diagnostic.rule).collect();
    let rules: Vec<Value> =
        rules.into_iter().map(|rule| json!({"id": rule.id(), "shortDescription": {"text": rule.summary()}})).collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "mainstay", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": diagnostics.iter().map(result).collect::<Vec<_>>(),
        }],
    });
    format!("{document:#}\n")
}

fn result(diagnostic: &Diagnostic) -> Value {
    let message = match &diagnostic.hint {
        Some(hint) => format!("{}\n{hint}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let mut result = json!({
        "ruleId": diagnostic.rule.id(),
        "level": diagnostic.severity.as_str(),
        "message": {"text": message},
        "locations": [place(&diagnostic.location, Some(diagnostic.end))],
    });
    if let Some(related) = &diagnostic.related {
        let mut place = place(&related.location, None);
        place["message"] = json!({"text": related.message});
        result["relatedLocations"] = json!([place]);
    }
    result
}

fn place(location: &Location, end: Option<(usize, usize)>) -> Value {
    let mut region = json!({"startLine": location.line, "startColumn": location.column});
    if let Some((line, column)) = end {
        region["endLine"] = json!(line);
        region["endColumn"] = json!(column);
    }
    json!({"physicalLocation": {"artifactLocation": {"uri": uri(location)}, "region": region}})
}

/// The relative path as a URI reference.
fn uri(location: &Location) -> String {
    let mut uri = String::new();
    for byte in location.file.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
