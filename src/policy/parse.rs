//! YAML text to documents: values in which every key and every value knows its place.
//!
//! Pure. It reads the events of the YAML parser itself, so that duplicate keys are seen, aliases cannot blow up, and
//! nesting is bounded. What a text means is decided in [`crate::policy::validate`].

use std::{collections::BTreeMap, ops::Range};

use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use super::diagnostic::Rule;

pub mod node;

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

/// Turns the parser's positions, which count characters, into bytes.
struct Positions {
    /// For each character its byte; empty where all characters are ASCII.
    bytes: Vec<u32>,
    length: usize,
    base: usize,
}

impl Positions {
    fn new(text: &str, base: usize) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(byte, _)| u32::try_from(byte).unwrap_or(u32::MAX)).collect()
        };
        Self { bytes, length: text.len(), base }
    }

    fn byte(&self, character: usize) -> usize {
        let byte = if self.bytes.is_empty() {
            character.min(self.length)
        } else {
            self.bytes.get(character).map_or(self.length, |byte| *byte as usize)
        };
        self.base + byte
    }

    fn range(&self, span: Span) -> Range<usize> {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        start..end.max(start)
    }
}

/// A collection that is being read.
enum Open {
    Sequence { start: usize, anchor: usize, items: Vec<Node> },
    Mapping { start: usize, anchor: usize, entries: Vec<Entry>, key: Option<(Option<String>, Range<usize>)> },
}

struct Builder<'text> {
    text: &'text str,
    positions: Positions,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    values: usize,
    documents: Vec<Node>,
    mistakes: Vec<Mistake>,
}

impl<'text> Builder<'text> {
    fn new(text: &'text str, base: usize) -> Self {
        Self {
            text,
            positions: Positions::new(text, base),
            open: Vec::new(),
            anchors: BTreeMap::new(),
            values: 0,
            documents: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    fn mistake(&mut self, rule: Rule, span: Range<usize>, message: String, hint: Option<String>) {
        self.mistakes.push(Mistake { rule, span, message, hint, related: None });
    }

    /// Takes one event. None: a limit was passed and reading stops.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let range = self.positions.range(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => {
                self.anchors.clear();
                if self.documents.len() >= MOST_DOCUMENTS {
                    let message = format!("a file holds at most {MOST_DOCUMENTS} documents");
                    self.mistake(Rule::YamlLimit, range, message, Some("split it into several files".to_owned()));
                    return None;
                }
            }
            Event::DocumentEnd => {}
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    let message = "this alias stands inside the value that it names".to_owned();
                    self.mistake(Rule::YamlAlias, range, message, Some("write the value out".to_owned()));
                    return None;
                };
                self.count(node.values(), &range)?;
                self.put(node, 0)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, &range)?;
                let value = self.scalar(text, style, tag.as_deref(), &range);
                // An absent value has the place of whatever comes next; the renderer wants to point behind the key.
                self.put(Node { span: self.trim(range), value }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.enter(tag.as_deref(), &range)?;
                self.open.push(Open::Sequence { start: range.start, anchor, items: Vec::new() });
            }
            Event::MappingStart(anchor, tag) => {
                self.enter(tag.as_deref(), &range)?;
                self.open.push(Open::Mapping { start: range.start, anchor, entries: Vec::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(range.end)?,
        }
        Some(())
    }

    fn enter(&mut self, tag: Option<&Tag>, range: &Range<usize>) -> Option<()> {
        self.count(1, range)?;
        if let Some(tag) =
            tag.filter(|tag| !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq")))
        {
            self.unknown_tag(tag, range);
        }
        if self.open.len() >= MOST_NESTING {
            let message = format!("values are nested more than {MOST_NESTING} deep");
            self.mistake(Rule::YamlLimit, range.clone(), message, Some("no field of ours is that deep".to_owned()));
            return None;
        }
        Some(())
    }

    fn unknown_tag(&mut self, tag: &Tag, range: &Range<usize>) {
        let message = format!("the tag `{}{}` means nothing here", tag.handle, tag.suffix);
        self.mistake(Rule::YamlTag, range.clone(), message, Some("leave the tag out".to_owned()));
    }

    fn count(&mut self, values: usize, range: &Range<usize>) -> Option<()> {
        self.values = self.values.saturating_add(values);
        if self.values > MOST_VALUES {
            let message = format!("a file holds at most {MOST_VALUES} values, aliases expanded");
            let hint = "split it into several files; write aliases out".to_owned();
            self.mistake(Rule::YamlLimit, range.clone(), message, Some(hint));
            return None;
        }
        Some(())
    }

    fn scalar(
        &mut self,
        text: std::borrow::Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        range: &Range<usize>,
    ) -> NodeValue {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.unknown_tag(tag, range);
        }
        let shown = text.to_string();
        let value = match Scalar::parse_from_cow_and_metadata(text, style, tag.map(std::borrow::Cow::Borrowed).as_ref())
        {
            Some(Scalar::Null) => Value::Null,
            Some(Scalar::Boolean(value)) => Value::Bool(value),
            Some(Scalar::Integer(value)) => Value::from(value),
            // Numbers that JSON does not have (`.inf`, `.nan`) stay text: the schema then names what is expected.
            Some(Scalar::FloatingPoint(value)) => {
                serde_json::Number::from_f64(value.into_inner()).map_or(Value::String(shown), Value::Number)
            }
            Some(Scalar::String(text)) => Value::String(text.into_owned()),
            None => {
                let message = format!("`{shown}` is not what its tag says");
                self.mistake(Rule::YamlTag, range.clone(), message, Some("leave the tag out".to_owned()));
                Value::String(shown)
            }
        };
        NodeValue::Scalar(value)
    }

    /// Without the white space at the end that the parser counts in.
    fn trim(&self, range: Range<usize>) -> Range<usize> {
        let base = self.positions.base;
        let Some(text) = self.text.get(range.start - base..range.end - base) else { return range };
        range.start..range.start + text.trim_end().len()
    }

    fn close(&mut self, end: usize) -> Option<()> {
        let open = self.open.pop()?;
        let (node, anchor) = match open {
            Open::Sequence { start, anchor, items } => {
                (Node { span: self.trim(start..end.max(start)), value: NodeValue::Sequence(items) }, anchor)
            }
            Open::Mapping { start, anchor, entries, key: _ } => {
                (Node { span: self.trim(start..end.max(start)), value: NodeValue::Mapping(entries) }, anchor)
            }
        };
        self.put(node, anchor)
    }

    /// Puts a finished value where it belongs. None: a limit was passed.
    fn put(&mut self, node: Node, anchor: usize) -> Option<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => {
                if !matches!(node.value, NodeValue::Scalar(Value::Null)) {
                    self.documents.push(node);
                }
            }
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, .. }) => match key.take() {
                None => {
                    let text = match node.value {
                        NodeValue::Scalar(Value::String(text)) => Some(text),
                        NodeValue::Scalar(_) | NodeValue::Sequence(_) | NodeValue::Mapping(_) => None,
                    };
                    *key = Some((text, node.span));
                }
                Some((Some(name), key_span)) => {
                    if let Some(first) =
                        entries.iter().find(|entry| entry.key == name).map(|entry| entry.key_span.clone())
                    {
                        self.mistakes.push(Mistake {
                            rule: Rule::YamlDuplicateKey,
                            span: key_span,
                            message: format!("`{name}` is written twice"),
                            hint: Some("keep one of them".to_owned()),
                            related: Some((first, format!("`{name}` stands here first"))),
                        });
                    } else if entries.len() == MOST_KEYS {
                        let message = format!("a mapping holds at most {MOST_KEYS} keys");
                        let hint = "split it up".to_owned();
                        self.mistake(Rule::YamlLimit, key_span, message, Some(hint));
                        return None;
                    } else if name == "<<" {
                        let message = "merge keys are not read".to_owned();
                        let hint = "write the fields out; an alias for a whole value is fine".to_owned();
                        self.mistake(Rule::YamlMergeKey, key_span, message, Some(hint));
                    } else {
                        entries.push(Entry { key: name, key_span, node });
                    }
                }
                Some((None, key_span)) => {
                    let hint = "quote it, if it is meant as text".to_owned();
                    self.mistake(Rule::YamlKey, key_span, "a key must be text".to_owned(), Some(hint));
                }
            },
        }
        Some(())
    }
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
