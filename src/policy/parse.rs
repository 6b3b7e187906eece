//! YAML text to documents: values in which every key and every value knows its place.
//!
//! Pure. It reads the events of the YAML parser itself, so that duplicate keys are seen, aliases cannot blow up, and
//! nesting is bounded. What a text means is decided in [`crate::policy::validate`].

use std::ops::Range;

use saphyr_parser::Parser;

use super::diagnostic::Rule;

mod builder;
pub mod node;
mod positions;

use builder::Builder;
pub use node::{Entry, Node, NodeValue};

/// Nesting beyond this is refused; our deepest field is at 9.
pub const MOST_NESTING: usize = 64;
/// Values in one file, aliases expanded; the bound that keeps a few lines of aliases from filling the memory.
pub const MOST_VALUES: usize = 500_000;
/// Keys in one mapping.
pub const MOST_KEYS: usize = 1000;
/// Documents in one file.
pub const MOST_DOCUMENTS: usize = 20_000;

/// The documents of one text, and what is wrong with it as YAML.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The documents that could be read, in their order; empty ones are left out.
    pub documents: Vec<Node>,
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
}

/// One thing that is wrong with a text as YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which rule is broken.
    pub rule: Rule,
    /// Bytes of the text.
    pub span: Range<usize>,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Another place that matters, and why.
    pub related: Option<(Range<usize>, String)>,
}

/// Reads all documents of a text. After a syntax error the documents behind the next `---` are still read.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if read(text, 0, &mut parsed) {
        return parsed;
    }
    // The parser cannot go on after a syntax error. A line that begins with `---` always ends a document, so each of
    // the pieces can be read by itself.
    parsed = Parsed::default();
    for piece in pieces(text).take(MOST_DOCUMENTS) {
        read(&text[piece.clone()], piece.start, &mut parsed);
    }
    parsed
}

/// The byte ranges between lines that begin with `---`.
pub fn pieces(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut starts = vec![0];
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > 0 {
            starts.push(offset);
        }
        offset += line.len();
    }
    starts.push(text.len());
    starts.windows(2).map(|pair| pair[0]..pair[1]).collect::<Vec<_>>().into_iter()
}

/// Reads one text that begins at byte `base` of its file. False: there was a syntax error.
fn read(text: &str, base: usize, parsed: &mut Parsed) -> bool {
    let mut builder = Builder::new(text, base);
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let at = builder.positions.byte(error.marker().index());
                let hint = "look for a bracket, a quote or an indentation at this place or shortly before".to_owned();
                builder.mistake(Rule::YamlSyntax, at..at, format!("this is not YAML: {}", error.info()), Some(hint));
                parsed.documents.append(&mut builder.documents);
                parsed.mistakes.append(&mut builder.mistakes);
                return false;
            }
        };
        if step.is_none() {
            break;
        }
    }
    parsed.documents.append(&mut builder.documents);
    parsed.mistakes.append(&mut builder.mistakes);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_bytes_also_behind_other_scripts() {
        let text = "# ünïcödé ☃\nname: grün\nlist: [a, 'ß', 3]\n";
        let parsed = parse(text);
        assert_eq!(parsed.mistakes, []);
        let document = &parsed.documents[0];
        let at = |pointer: &str| &text[document.find(pointer).unwrap().span.clone()];
        assert_eq!((at("/name"), at("/list/1"), at("/list/2"), at("/list")), ("grün", "'ß'", "3", "[a, 'ß', 3]"));
        assert_eq!(&text[document.key_span("/list").unwrap()], "list");
        assert_eq!(document.to_json(), serde_json::json!({"name": "grün", "list": ["a", "ß", 3]}));
    }

    #[test]
    fn documents_behind_a_syntax_error_are_still_read() {
        let parsed = parse("a: 1\n---\nb: [1\n---\nc: 3\n");
        assert_eq!(parsed.documents.len(), 2);
        assert_eq!(parsed.mistakes.len(), 1);
        assert_eq!(parsed.mistakes[0].rule, Rule::YamlSyntax);
        assert_eq!(parsed.documents[1].find("/c").unwrap().span, 22..23);
    }

    #[test]
    fn what_is_not_plain_data_is_a_mistake() {
        for (text, rule) in [
            ("a: 1\nb: 2\na: 3\n", Rule::YamlDuplicateKey),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", Rule::YamlMergeKey),
            ("a: &x [*x]\n", Rule::YamlAlias),
            ("a: !secret b\n", Rule::YamlTag),
            ("a: !!int b\n", Rule::YamlTag),
            ("1: b\n", Rule::YamlKey),
            ("[a]: b\n", Rule::YamlKey),
            ("a: [b\n", Rule::YamlSyntax),
            ("a: *b\n", Rule::YamlSyntax),
        ] {
            let rules: Vec<Rule> = parse(text).mistakes.into_iter().map(|mistake| mistake.rule).collect();
            assert_eq!(rules, [rule], "{text}");
        }
        assert_eq!(parse("a: &x 1\nb: *x\n").documents[0].to_json(), serde_json::json!({"a": 1, "b": 1}));
    }

    #[test]
    fn bombs_stop_early() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", ")));
        }
        assert_eq!(parse(&text).mistakes[0].rule, Rule::YamlLimit);
        let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(parse(&deep).mistakes[0].rule, Rule::YamlLimit);
        let deeper = "[".repeat(100_000);
        assert!(!parse(&deeper).mistakes.is_empty());
    }
}
