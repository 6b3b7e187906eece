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
        Frame::new(text, location, span?.clone(), secrets.get(&location.file).map_or(&[], Vec::as_slice))
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
    fn new(text: &str, location: &Location, span: Range<usize>, secrets: &[Range<usize>]) -> Option<Self> {
        let _ = location;
        let bounds = line_around(text, span.start);
        if bounds.len() > LONGEST_LINE_BYTES {
            return None;
        }
        let mut line = String::new();
        let mut place = None;
        for (at, character) in text[bounds.clone()].char_indices().map(|(at, character)| (bounds.start + at, character))
        {
            if at == span.start {
                place = Some(line.len());
            }
            if secrets.iter().any(|secret| secret.contains(&at)) {
                line.push('*');
            } else if character.is_control() && character != '\t' {
                line.push('\u{fffd}');
            } else {
                line.push(character);
            }
            if at + character.len_utf8() == span.end {
                return Some(Self { span: place?..line.len(), line });
            }
        }
        // A place at or behind the end of the line.
        let start = place.unwrap_or(line.len());
        Some(Self { span: start..line.len().max(start), line })
    }
}
