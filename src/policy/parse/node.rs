//! A value that knows where it stands in the text.

use std::ops::Range;

use serde_json::{Map, Value};

/// A value and the bytes of the text that it was written with.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// What stands there.
    pub value: NodeValue,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with values, in the order written; no key twice.
    Mapping(Vec<Entry>),
}

/// One key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Bytes of the text that the key was written with.
    pub key_span: Range<usize>,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The value at a JSON pointer, such as `/spec/sources/0/name`.
    pub fn find(&self, pointer: &str) -> Option<&Node> {
        self.entry(pointer).map(|(node, _)| node)
    }

    /// Where the last key of a JSON pointer is written; for an item of a list, where the item is.
    pub fn key_span(&self, pointer: &str) -> Option<Range<usize>> {
        self.entry(pointer).and_then(|(node, key)| key.or_else(|| Some(node.span.clone())))
    }

    /// The text at a JSON pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        match &self.find(pointer)?.value {
            NodeValue::Scalar(Value::String(text)) => Some(text),
            NodeValue::Scalar(_) | NodeValue::Sequence(_) | NodeValue::Mapping(_) => None,
        }
    }

    /// How many values it holds, itself counted in.
    pub fn values(&self) -> usize {
        match &self.value {
            NodeValue::Scalar(_) => 1,
            NodeValue::Sequence(items) => 1 + items.iter().map(Node::values).sum::<usize>(),
            NodeValue::Mapping(entries) => 1 + entries.iter().map(|entry| entry.node.values()).sum::<usize>(),
        }
    }

    /// The plain value.
    pub fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Scalar(value) => value.clone(),
            NodeValue::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            NodeValue::Mapping(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// Every scalar below, with its JSON pointer, in the order written.
    pub fn scalars(&self) -> Vec<(String, &Node)> {
        let mut found = Vec::new();
        self.collect_scalars(String::new(), &mut found);
        found
    }

    fn collect_scalars<'a>(&'a self, pointer: String, found: &mut Vec<(String, &'a Node)>) {
        match &self.value {
            NodeValue::Scalar(_) => found.push((pointer, self)),
            NodeValue::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.collect_scalars(format!("{pointer}/{index}"), found);
                }
            }
            NodeValue::Mapping(entries) => {
                for entry in entries {
                    entry.node.collect_scalars(format!("{pointer}/{}", escape(&entry.key)), found);
                }
            }
        }
    }

    fn entry(&self, pointer: &str) -> Option<(&Node, Option<Range<usize>>)> {
        let mut here = (self, None);
        for token in pointer.split('/').skip(1) {
            here = match &here.0.value {
                NodeValue::Scalar(_) => return None,
                NodeValue::Sequence(items) => (items.get(token.parse::<usize>().ok()?)?, None),
                NodeValue::Mapping(entries) => {
                    let key = token.replace("~1", "/").replace("~0", "~");
                    let entry = entries.iter().find(|entry| entry.key == key)?;
                    (&entry.node, Some(entry.key_span.clone()))
                }
            };
        }
        Some(here)
    }
}

/// A key as a token of a JSON pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
