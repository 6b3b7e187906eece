//! Findings: what is wrong in which place, and what to do. All of them at once, in a fixed order.
//!
//! Pure. `rule` names the rules, `text`, `json`, `github` and `sarif` render.

use std::{ops::Range, path::PathBuf};

use super::Location;

pub mod github;
pub mod json;
pub mod lines;
pub mod rule;
pub mod sarif;
pub mod text;

pub use rule::Rule;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The document does not count: its policies are frozen until it is mended.
    Error,
    /// Probably not what was meant; nothing is frozen.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which rule is broken; its id never changes.
    pub rule: Rule,
    /// Where. Line and column are 1 for a finding about a whole file.
    pub location: Location,
    /// The bytes of the file that it is about; none: the whole file.
    pub span: Option<Range<usize>>,
    /// Where these bytes end; the column is that behind the last character.
    pub end: (usize, usize),
    /// What is wrong, in a sentence that names the object.
    pub message: String,
    /// What is said below the place.
    pub label: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Another place that matters.
    pub related: Option<Related>,
    /// The place holds a secret: no renderer shows it.
    pub secret: bool,
}

/// Another place that matters for a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Where.
    pub location: Location,
    /// The bytes of that file.
    pub span: Range<usize>,
    /// Why it matters.
    pub message: String,
}

impl Diagnostic {
    /// An error about a whole file.
    pub fn whole_file(rule: Rule, file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule,
            location: Location { file: file.into(), line: 1, column: 1 },
            span: None,
            end: (1, 1),
            message: message.into(),
            label: None,
            hint: None,
            related: None,
            secret: false,
        }
    }

    /// With what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With words below the place.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Only a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// What the order of findings goes by: first the place, then the rule and the words.
    fn sort_key(&self) -> (&Location, Rule, &str) {
        (&self.location, self.rule, &self.message)
    }
}

/// Brings findings into their order and drops repetitions.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    diagnostics.dedup();
}

/// The nearest of some names, if it is near enough to be what was meant.
pub fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(written.chars().count()) / 3).max(1))
        .min()
        .map(|(_, name)| name)
}
