//! From the parser's events to values, each with its place, within limits.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use saphyr::Scalar;
use saphyr_parser::{Event, ScalarStyle, Span, Tag};
use serde_json::Value;

use super::{
    Entry, MOST_DOCUMENTS, MOST_KEYS, MOST_NESTING, MOST_VALUES, Mistake, Node, NodeValue, positions::Positions,
};
use crate::policy::diagnostic::Rule;

/// A collection that is being read.
enum Open {
    Sequence { start: usize, anchor: usize, items: Vec<Node> },
    Mapping { start: usize, anchor: usize, entries: Vec<Entry>, key: Option<(Option<String>, Range<usize>)> },
}

/// What has been read of one text.
pub(super) struct Builder<'text> {
    text: &'text str,
    pub positions: Positions,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    values: usize,
    pub documents: Vec<Node>,
    pub mistakes: Vec<Mistake>,
}

impl<'text> Builder<'text> {
    pub fn new(text: &'text str, base: usize) -> Self {
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

    pub fn mistake(&mut self, rule: Rule, span: Range<usize>, message: String, hint: Option<String>) {
        self.mistakes.push(Mistake { rule, span, message, hint, related: None });
    }

    /// Takes one event. None: a limit was passed and reading stops.
    pub fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
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

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, range: &Range<usize>) -> NodeValue {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.unknown_tag(tag, range);
        }
        let shown = text.to_string();
        let value = match Scalar::parse_from_cow_and_metadata(text, style, tag.map(Cow::Borrowed).as_ref()) {
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
