//! The JSON schema of the documents, generated from their types, and what can be looked up in it.
//!
//! Pure. Draft-07, because editors read nothing newer.

use std::sync::LazyLock;

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::document::{API_VERSION, BackupPolicyDocument, RepositoryDocument, RestoreDocument, SettingsDocument};

/// The kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What to protect, when, where to, and for how long.
    BackupPolicy,
    /// Where restore points are stored.
    Repository,
    /// A restore asked for in git.
    Restore,
    /// Settings of this installation.
    Settings,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 4] = [Kind::BackupPolicy, Kind::Repository, Kind::Restore, Kind::Settings];

    /// As it is written in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackupPolicy => "BackupPolicy",
            Self::Repository => "Repository",
            Self::Restore => "Restore",
            Self::Settings => "Settings",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    fn description(self) -> &'static str {
        match self {
            Self::BackupPolicy => "A backup policy: what to protect, when, where to, and for how long.",
            Self::Repository => "A repository: where restore points are stored, in restic's format.",
            Self::Restore => "A restore, carried out once per document and content.",
            Self::Settings => "Settings of this installation; at most one document.",
        }
    }
}

/// The whole schema.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(generate);
    &SCHEMA
}

/// The schema as it is printed and stored in `schema/backup.schema.json`.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// The schema of one kind alone, to check documents with: its errors are not hidden behind an `if`.
pub fn schema_of(kind: Kind) -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": format!("#/definitions/{}", kind.as_str()),
        "definitions": schema()["definitions"],
    })
}

/// A field of the documents, as the schema knows it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The part of the schema that has its description and default.
    pub outer: &'static Value,
    /// The part of the schema that has its type, references followed.
    pub inner: &'static Value,
    /// The name of the definition that it refers to.
    pub definition: Option<&'static str>,
}

impl Field {
    /// The field at the root of a kind.
    pub fn root(kind: Kind) -> Self {
        Self::of(&schema()["definitions"][kind.as_str()])
    }

    /// The field at a JSON pointer into a document.
    pub fn at(kind: Kind, pointer: &str) -> Option<Self> {
        pointer
            .split('/')
            .skip(1)
            .try_fold(Self::root(kind), |field, token| field.child(&token.replace("~1", "/").replace("~0", "~")))
    }

    /// What the fields below are called.
    pub fn children(&self) -> Vec<&'static str> {
        let object = self.alternatives().into_iter().find_map(|part| part["properties"].as_object());
        object.map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The field below with this name; for a list any index leads to its items.
    pub fn child(&self, name: &str) -> Option<Self> {
        for part in self.alternatives() {
            if let Some(property) = part["properties"].get(name) {
                return Some(Self::of(property));
            }
            if part["items"].is_object() && (name.parse::<usize>().is_ok() || name == "items") {
                return Some(Self::of(&part["items"]));
            }
            if part["additionalProperties"].is_object() {
                return Some(Self::of(&part["additionalProperties"]));
            }
        }
        None
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Self> {
        self.alternatives().into_iter().map(|part| &part["items"]).find(|items| items.is_object()).map(Self::of)
    }

    /// What it is, in a sentence or two.
    pub fn description(&self) -> Option<&'static str> {
        [self.outer, self.inner].into_iter().find_map(|part| part["description"].as_str())
    }

    /// Whether it must be written in its parent.
    pub fn is_required(&self, parent: &Field, name: &str) -> bool {
        parent.inner["required"].as_array().is_some_and(|required| required.iter().any(|field| field == name))
    }

    /// The type in words, such as `list of text`.
    pub fn type_in_words(&self) -> String {
        if let Some(options) = self.options() {
            return format!(
                "one of {}",
                options.iter().map(|option| format!("`{option}`")).collect::<Vec<_>>().join(", ")
            );
        }
        let mut words: Vec<String> = Vec::new();
        for part in self.alternatives() {
            let word = match part["type"].as_str() {
                Some("object") if part["additionalProperties"].is_object() => "mapping of names to values".to_owned(),
                Some("object") => "mapping".to_owned(),
                Some("array") => match Self::of(&part["items"]).type_in_words() {
                    items if items.is_empty() => "list".to_owned(),
                    items => format!("list of {items}"),
                },
                Some("string") => match self.definition {
                    Some("DurationText") => "duration, such as `90s`, `10m`, `24h` or `7d`".to_owned(),
                    Some("KeepWithinText") => {
                        "span of the calendar, such as `12h`, `3d`, `2w`, `6mo` or `1y`".to_owned()
                    }
                    Some(_) | None => "text".to_owned(),
                },
                Some("integer") => "whole number".to_owned(),
                Some("number") => "number".to_owned(),
                Some("boolean") => "`true` or `false`".to_owned(),
                Some(_) | None => continue,
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.join(", or ")
    }

    /// The values that it takes, if they are few.
    pub fn options(&self) -> Option<Vec<&'static str>> {
        let variants = |part: &'static Value| -> Option<Vec<&'static str>> {
            part["enum"].as_array().map(|options| options.iter().filter_map(Value::as_str).collect())
        };
        if let Some(options) = variants(self.inner) {
            return Some(options);
        }
        if let Some(value) = self.inner["const"].as_str() {
            return Some(vec![value]);
        }
        let parts = self.inner["oneOf"].as_array()?;
        parts
            .iter()
            .map(|part| part["const"].as_str().map(|value| vec![value]).or_else(|| variants(part)))
            .collect::<Option<Vec<_>>>()
            .map(|options| options.concat())
    }

    fn of(outer: &'static Value) -> Self {
        let (mut inner, mut definition) = (outer, None);
        // Definitions do not refer to each other in circles; the bound keeps that from being a promise.
        for _ in 0..8 {
            let reference = inner["$ref"].as_str().or_else(|| match inner["allOf"].as_array().map(Vec::as_slice) {
                Some([only]) => only["$ref"].as_str(),
                Some(_) | None => None,
            });
            let Some(name) = reference.and_then(|reference| reference.strip_prefix("#/definitions/")) else { break };
            definition = Some(name);
            inner = &schema()["definitions"][name];
        }
        Self { outer, inner, definition }
    }

    fn alternatives(&self) -> Vec<&'static Value> {
        match self.inner["anyOf"].as_array() {
            Some(parts) => parts.iter().map(|part| Self::of(part).inner).collect(),
            None => vec![self.inner],
        }
    }
}

fn generate() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let root = match kind {
            Kind::BackupPolicy => document::<BackupPolicyDocument>(&mut generator),
            Kind::Repository => document::<RepositoryDocument>(&mut generator),
            Kind::Restore => document::<RestoreDocument>(&mut generator),
            Kind::Settings => document::<SettingsDocument>(&mut generator),
        };
        kinds.push((kind, root));
    }
    let mut definitions: Map<String, Value> = Map::new();
    for (kind, mut root) in kinds {
        root["title"] = json!(kind.as_str());
        root["description"] = json!(kind.description());
        root["properties"]["kind"]["const"] = json!(kind.as_str());
        root["properties"]["apiVersion"]["const"] = json!(API_VERSION);
        definitions.insert(kind.as_str().to_owned(), root);
    }
    let mut rest: Vec<(String, Value)> = generator.take_definitions(true).into_iter().collect();
    rest.retain(|(name, _)| !name.starts_with("Resource_for_"));
    rest.sort_by(|a, b| a.0.cmp(&b.0));
    definitions.extend(rest);
    let mut definitions = Value::Object(definitions);
    simplify(&mut definitions);

    let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
    let branches: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            json!({
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": format!("#/definitions/{kind}")},
            })
        })
        .collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Mainstay documents",
        "description": "One document of a `backup.yaml` or `*.backup.yaml` file.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "Always `mainstay.dev/v1alpha1`."},
            "kind": {"enum": kinds, "description": "What kind of document this is."},
            "metadata": {"description": "The name of the document, and its grouping.", "allOf": [{"$ref": "#/definitions/Metadata"}]},
            "spec": {"type": "object", "description": "What is asked for."},
        },
        "allOf": branches,
        "definitions": definitions,
    })
}

/// The schema of a kind, with what it refers to left in the generator.
fn document<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = T::json_schema(generator);
    for transform in SchemaSettings::draft07().transforms.iter_mut() {
        transform.transform(&mut schema);
    }
    schema.to_value()
}

/// Makes the generated schema say what we mean: an absent field is left out and never `null`, descriptions are one
/// paragraph, and Rust's number formats mean nothing to an editor.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(parts)) = object.get_mut("anyOf") {
                parts.retain(|part| part.get("type").is_none_or(|name| name != "null"));
                if parts.len() == 1 {
                    let only = parts.remove(0);
                    object.shift_remove("anyOf");
                    if only.get("$ref").is_some() {
                        object.insert("allOf".to_owned(), Value::Array(vec![only]));
                    } else if let Value::Object(only) = only {
                        object.extend(only);
                    }
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.shift_remove("default");
            }
            if let Some(Value::String(description)) = object.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.contains("int")) {
                object.shift_remove("format");
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_pointer() {
        let daily = Field::at(Kind::BackupPolicy, "/spec/retention/keepDaily").unwrap();
        assert_eq!(daily.type_in_words(), "whole number");
        assert!(daily.description().unwrap().starts_with("For the last N days"));
        let host = Field::at(Kind::BackupPolicy, "/spec/sources/3/postgres/host").unwrap();
        assert_eq!(host.type_in_words(), "text");
        let schedule = Field::at(Kind::BackupPolicy, "/spec/schedule").unwrap();
        assert_eq!(schedule.type_in_words(), "text, or list of text");
        let consistency = Field::at(Kind::BackupPolicy, "/spec/consistency").unwrap();
        assert_eq!(consistency.options(), Some(vec!["Hot", "Cold"]));
        assert!(Field::at(Kind::BackupPolicy, "/spec/nothing").is_none());
    }

    /// Editors show a description at every field, so there must be one.
    #[test]
    fn every_property_has_a_description() {
        fn walk(name: &str, part: &Value, missing: &mut Vec<String>) {
            match part {
                Value::Object(object) => {
                    if let Some(Value::Object(properties)) = object.get("properties") {
                        for (key, property) in properties {
                            if property.get("description").is_none() && name != "/allOf" {
                                missing.push(format!("{name}/{key}"));
                            }
                        }
                    }
                    for (key, value) in object {
                        if key != "if" {
                            walk(&format!("{name}/{key}"), value, missing);
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(name, item, missing)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let mut missing = Vec::new();
        walk("", schema(), &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
