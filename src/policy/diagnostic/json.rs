//! Findings for programs.

use serde_json::{Value, json};

use super::{Diagnostic, Severity};
use crate::policy::Location;

/// Renders findings as `{formatVersion, errors, warnings, diagnostics[]}`.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| diagnostics.iter().filter(|one| one.severity == severity).count();
    let document = json!({
        "formatVersion": 1,
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "diagnostics": diagnostics.iter().map(one).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn one(diagnostic: &Diagnostic) -> Value {
    let related = diagnostic.related.as_ref().map(|related| {
        let mut place = place(&related.location);
        place["message"] = json!(related.message);
        place
    });
    let mut value = place(&diagnostic.location);
    value["endLine"] = json!(diagnostic.end.0);
    value["endColumn"] = json!(diagnostic.end.1);
    value["severity"] = json!(diagnostic.severity.as_str());
    value["rule"] = json!(diagnostic.rule.id());
    value["message"] = json!(diagnostic.message);
    value["label"] = json!(diagnostic.label);
    value["hint"] = json!(diagnostic.hint);
    value["related"] = json!(related);
    value
}

fn place(location: &Location) -> Value {
    json!({"file": location.file.to_string_lossy(), "line": location.line, "column": location.column})
}
