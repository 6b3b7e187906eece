//! Findings for people: a frame of the document with a caret below the place.

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use super::{Diagnostic, Severity, lines::line_around};
use crate::policy::{Location, load::FileContent};

/// A longer line gets no frame: its place is named only.
const LONGEST_LINE_BYTES: usize = 2000;

/// Renders findings, and a last line that counts them. Empty, if there are none.
pub fn render(diagnostics: &[Diagnostic], files: &BTreeMap<PathBuf, FileContent>, color: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let secrets = secrets(diagnostics);
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&one(diagnostic, files, &secrets, &renderer));
        text.push_str("\n\n");
    }
    let count = |severity| diagnostics.iter().filter(|one| one.severity == severity).count();
    text.push_str(&summary(count(Severity::Error), count(Severity::Warning)));
    text.push('\n');
    text
}

fn summary(errors: usize, warnings: usize) -> String {
    let say = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (errors, warnings) {
        (errors, 0) => say(errors, "error"),
        (0, warnings) => say(warnings, "warning"),
        (errors, warnings) => format!("{} and {}", say(errors, "error"), say(warnings, "warning")),
    }
}

/// All places that hold secrets, by file: no frame shows them, whatever it is about.
fn secrets(diagnostics: &[Diagnostic]) -> BTreeMap<&PathBuf, Vec<Range<usize>>> {
    let mut secrets: BTreeMap<&PathBuf, Vec<Range<usize>>> = BTreeMap::new();
    for diagnostic in diagnostics.iter().filter(|diagnostic| diagnostic.secret) {
        secrets.entry(&diagnostic.location.file).or_default().extend(diagnostic.span.clone());
    }
    secrets
}

fn one(
    diagnostic: &Diagnostic,
    files: &BTreeMap<PathBuf, FileContent>,
    secrets: &BTreeMap<&PathBuf, Vec<Range<usize>>>,
    renderer: &Renderer,
) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let frame = |location: &Location, span: Option<&Range<usize>>| {
        let text = files.get(&location.file)?.text()?;
        Frame::new(text, span?.clone(), secrets.get(&location.file).map_or(&[], Vec::as_slice))
    };
    let mut group = level
        .primary_title(normalize_untrusted_str(&diagnostic.message))
        .id(diagnostic.rule.id())
        .elements(Vec::<Origin<'_>>::new());
    let own = frame(&diagnostic.location, diagnostic.span.as_ref());
    let label = diagnostic.label.as_deref().map(normalize_untrusted_str);
    group = add(group, own.as_ref(), &diagnostic.location, AnnotationKind::Primary, label.as_deref());
    let other;
    let related_message;
    if let Some(related) = &diagnostic.related {
        other = frame(&related.location, Some(&related.span));
        related_message = normalize_untrusted_str(&related.message);
        group = group.element(Level::NOTE.message(&related_message));
        group = add(group, other.as_ref(), &related.location, AnnotationKind::Primary, None);
    }
    let hint;
    if let Some(text) = &diagnostic.hint {
        hint = normalize_untrusted_str(text);
        group = group.element(Level::HELP.message(&hint));
    }
    renderer.render(&[group])
}

fn add<'a>(
    group: Group<'a>,
    frame: Option<&'a Frame>,
    location: &'a Location,
    kind: AnnotationKind,
    label: Option<&'a str>,
) -> Group<'a> {
    match frame {
        Some(frame) => {
            let annotation = kind.span(frame.span.clone()).label(label);
            let path = location.file.to_string_lossy();
            let snippet =
                Snippet::source(frame.line.as_str()).line_start(location.line).path(path).annotation(annotation);
            group.element(snippet)
        }
        None => group
            .element(Origin::path(location.file.to_string_lossy()).line(location.line).char_column(location.column)),
    }
}

/// The line of a place, with secrets made unreadable.
struct Frame {
    line: String,
    span: Range<usize>,
}

impl Frame {
    fn new(text: &str, span: Range<usize>, secrets: &[Range<usize>]) -> Option<Self> {
        let bounds = line_around(text, span.start);
        if bounds.len() > LONGEST_LINE_BYTES {
            return None;
        }
        let mut line = String::new();
        let (mut start, mut end) = (None, None);
        for (at, character) in text.get(bounds.clone())?.char_indices() {
            let at = bounds.start + at;
            if at == span.start {
                start = Some(line.len());
            }
            if at == span.end {
                end = Some(line.len());
            }
            line.push(if secrets.iter().any(|secret| secret.contains(&at)) {
                '*'
            } else if character.is_control() && character != '\t' {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            });
        }
        // What is not met within the line is at its end.
        let end = end.unwrap_or(line.len());
        Some(Self { span: start.unwrap_or(end).min(end)..end, line })
    }
}
