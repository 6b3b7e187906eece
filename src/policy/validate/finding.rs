//! Findings of one document, placed by JSON pointer.

use std::{ops::Range, path::Path};

use super::EngineKind;
use crate::policy::{
    Location,
    diagnostic::{Diagnostic, Related, Rule, Severity, lines::Lines},
    parse::Node,
};

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File, line and column.
    pub location: Location,
    /// Bytes of the file.
    pub span: Range<usize>,
    /// Line and column of the end.
    pub end: (usize, usize),
}

impl Place {
    /// The place of some bytes.
    pub fn new(file: &Path, text: &str, lines: &Lines, span: Range<usize>) -> Self {
        let (line, column) = lines.position(text, span.start);
        let end = lines.position(text, span.end);
        Self { location: Location { file: file.to_owned(), line, column }, span, end }
    }

    /// An error at this place.
    pub fn diagnostic(&self, rule: Rule, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            rule,
            location: self.location.clone(),
            span: Some(self.span.clone()),
            end: self.end,
            message: message.into(),
            label: None,
            hint: None,
            related: None,
            secret: false,
        }
    }

    /// This place as another one that matters.
    pub fn related(&self, message: impl Into<String>) -> Related {
        Related { location: self.location.clone(), span: self.span.clone(), message: message.into() }
    }
}

/// What is found in one document.
pub struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    lines: &'a Lines,
    /// The document.
    pub root: &'a Node,
    /// Where its runs will happen.
    pub engine: EngineKind,
    found: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    /// No findings yet.
    pub fn new(file: &'a Path, text: &'a str, lines: &'a Lines, root: &'a Node, engine: EngineKind) -> Self {
        Self { file, text, lines, root, engine, found: Vec::new() }
    }

    /// The place of the value at a pointer; of the nearest value above, if there is none.
    pub fn place(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(node) = self.root.find(pointer) {
                // A mapping or a list is shown by where it begins: by its key, if it has one.
                let span = if self.spans_lines(&node.span) || node.span.is_empty() {
                    self.root.key_span(pointer).filter(|_| !pointer.is_empty()).unwrap_or(node.span.clone())
                } else {
                    node.span.clone()
                };
                return self.place_of(self.first_line(span));
            }
            match pointer.rfind('/') {
                Some(slash) => pointer = &pointer[..slash],
                None => return self.place_of(0..0),
            }
        }
    }

    /// The place of the key at a pointer.
    pub fn key_place(&self, pointer: &str) -> Place {
        match self.root.key_span(pointer) {
            Some(span) => self.place_of(self.first_line(span)),
            None => self.place(pointer),
        }
    }

    /// An error at a value.
    pub fn error(&mut self, rule: Rule, pointer: &str, message: impl Into<String>) -> &mut Diagnostic {
        let diagnostic = self.place(pointer).diagnostic(rule, message);
        self.add(diagnostic)
    }

    /// An error at a key.
    pub fn error_at_key(&mut self, rule: Rule, pointer: &str, message: impl Into<String>) -> &mut Diagnostic {
        let diagnostic = self.key_place(pointer).diagnostic(rule, message);
        self.add(diagnostic)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were found.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// All that was found.
    pub fn finish(self) -> Vec<Diagnostic> {
        self.found
    }

    fn add(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        self.found.push(diagnostic);
        self.found.last_mut().expect("one was pushed just now")
    }

    fn place_of(&self, span: Range<usize>) -> Place {
        Place::new(self.file, self.text, self.lines, span)
    }

    fn spans_lines(&self, span: &Range<usize>) -> bool {
        self.text.get(span.clone()).is_some_and(|text| text.contains('\n'))
    }

    fn first_line(&self, span: Range<usize>) -> Range<usize> {
        let end = self.text.get(span.clone()).and_then(|text| text.find(['\n', '\r']));
        end.map_or(span.clone(), |end| span.start..span.start + end)
    }
}
