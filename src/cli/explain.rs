//! `mainstay explain FIELD`.

use std::io::Write as _;

use clap::Args;

use super::{CommandResult, Exit, Failure};
use crate::policy::{
    diagnostic::did_you_mean,
    schema::{Field, Kind},
};

/// Explain a field of the documents.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A kind, or a field such as `BackupPolicy.spec.retention.keepDaily`; without the kind a policy's
    #[arg(value_name = "FIELD")]
    field: Option<String>,
}

/// Carries the command out.
pub fn execute(Arguments { field }: Arguments) -> CommandResult {
    let text = match field {
        Some(field) => explain(&field)?,
        None => kinds(),
    };
    // A reader that left early, such as `head`, is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Exit::Success)
}

fn kinds() -> String {
    let mut text = "KINDS\n".to_owned();
    for kind in Kind::ALL {
        text.push_str(&format!("  {:<14}{}\n", kind.as_str(), Field::root(kind).description().unwrap_or_default()));
    }
    text.push_str("\n`mainstay explain BackupPolicy.spec` goes on.\n");
    text
}

fn explain(path: &str) -> Result<String, Failure> {
    let mut tokens: Vec<&str> = path.split('.').map(|token| token.trim_end_matches("[]")).collect();
    let named = tokens.first().copied().unwrap_or_default();
    let kind = match Kind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(named)) {
        Some(kind) => {
            tokens.remove(0);
            kind
        }
        // `spec.retention` is most likely asked about a policy.
        None if matches!(named, "spec" | "metadata" | "apiVersion" | "kind") => Kind::BackupPolicy,
        None => {
            let near = did_you_mean(named, Kind::ALL.map(Kind::as_str));
            let hint =
                near.map_or("`mainstay explain` lists the kinds".to_owned(), |near| format!("did you mean `{near}`?"));
            return Err(Failure::new(format!("there is no kind `{named}`")).hint(hint));
        }
    };
    let mut shown = kind.as_str().to_owned();
    let (mut field, mut parent) = (Field::root(kind), None);
    for token in tokens {
        let here = field.items().unwrap_or(field);
        let Some(child) = here.child(token) else {
            let children = here.children();
            let hint = match did_you_mean(token, children.iter().copied()) {
                Some(near) => format!("did you mean `{shown}.{near}`?"),
                None if children.is_empty() => format!("`{shown}` has no fields"),
                None => format!("the fields are {}", children.join(", ")),
            };
            return Err(Failure::new(format!("there is no field `{token}` in {shown}")).hint(hint));
        };
        parent = Some((here, token.to_owned()));
        shown = format!("{shown}.{token}");
        field = child;
    }
    Ok(render(&shown, field, parent))
}

fn render(path: &str, field: Field, parent: Option<(Field, String)>) -> String {
    let mut text = format!("FIELD\n  {path}\n\n");
    let words = field.type_in_words();
    if !words.is_empty() {
        text.push_str(&format!("TYPE\n  {words}\n\n"));
    }
    if parent.is_some_and(|(parent, name)| field.is_required(&parent, &name)) {
        text.push_str("REQUIRED\n\n");
    }
    if let Some(default) = field.outer.get("default") {
        text.push_str(&format!("DEFAULT\n  {default}\n\n"));
    }
    if let Some(description) = field.description() {
        text.push_str(&format!("DESCRIPTION\n{}\n", wrapped(description, 2)));
    }
    let here = field.items().unwrap_or(field);
    let children = here.children();
    if !children.is_empty() {
        let width = children.iter().map(|child| child.len()).max().unwrap_or(0) + 2;
        text.push_str("\nFIELDS\n");
        for name in children {
            let child = here.child(name);
            let description = child.and_then(|child| child.description()).unwrap_or_default();
            let required = if child.is_some_and(|child| child.is_required(&here, name)) { "(required) " } else { "" };
            let wrapped = wrapped(&format!("{required}{description}"), width + 2);
            text.push_str(&format!("  {name:<width$}{}\n", wrapped.trim_start()));
        }
    }
    text
}

/// Lines of at most 100 characters, indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![" ".repeat(indent)];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.len() > indent && line.chars().count() + word.chars().count() + 1 > 100 {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        } else {
            if line.len() > indent {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
