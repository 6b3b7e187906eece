//! Which fields of a policy differ between two compiled forms, as paths that a person would write.
//!
//! Pure. Lists of named things (sources, repositories) are compared by name: `sources[db].mariadb.port`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::policy::CompiledPolicy;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Such as `retention.keepDaily`, `sources[db].mariadb.port` or `repository[offsite].s3.bucket`.
    pub path: String,
    /// Its value before, in YAML's flow style; none: it was absent.
    pub before: Option<String>,
    /// Its value after.
    pub after: Option<String>,
}

/// All fields that differ, in the order of the document.
pub fn changed(before: &CompiledPolicy, after: &CompiledPolicy) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", &view(before), &view(after), &mut changes);
    changes
}

/// What counts of a compiled policy, with the policy's own fields at the top.
fn view(policy: &CompiledPolicy) -> Value {
    let CompiledPolicy { name: _, document, repositories, cluster, pushgateway, revision: _, source: _, spec_hash: _ } =
        policy;
    let mut root = serde_json::to_value(&document.spec).unwrap_or_default();
    let repositories: Vec<Value> = repositories
        .iter()
        .map(|repository| {
            let mut value = serde_json::to_value(&repository.spec).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.insert("name".to_owned(), json!(repository.metadata.name));
            }
            value
        })
        .collect();
    if let Value::Object(fields) = &mut root {
        fields.insert("metadata".to_owned(), serde_json::to_value(&document.metadata).unwrap_or_default());
        fields.insert("repository".to_owned(), Value::Array(repositories));
        fields.insert("cluster".to_owned(), json!(cluster));
        fields.insert("pushgateway".to_owned(), json!(pushgateway));
    }
    root
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null), changes);
        }
        return;
    }
    if let (Some(old), Some(new)) = (by_name(before), by_name(after)) {
        let known = changes.len();
        let names: std::collections::BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        for name in names {
            let item = |items: &BTreeMap<&str, &Value>| items.get(name).map_or(Value::Null, |item| (*item).clone());
            compare(&format!("{path}[{name}]"), &item(&old), &item(&new), changes);
        }
        if changes.len() == known {
            let order = |list: &Value| Some(format!("[{}]", names_of(list).collect::<Vec<_>>().join(", ")));
            changes.push(FieldChange { path: path.to_owned(), before: order(before), after: order(after) });
        }
        return;
    }
    changes.push(FieldChange { path: path.to_owned(), before: written(before), after: written(after) });
}

/// A list whose items all have a name of their own, by name.
fn by_name(list: &Value) -> Option<BTreeMap<&str, &Value>> {
    let items = list.as_array()?;
    let named: BTreeMap<&str, &Value> =
        items.iter().filter_map(|item| Some((item.get("name")?.as_str()?, item))).collect();
    (named.len() == items.len()).then_some(named)
}

fn names_of(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(|item| item.get("name")?.as_str())
}

/// A value in YAML's flow style; none where there is none.
fn written(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().filter_map(written).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(key, value)| Some(format!("{key}: {}", written(value)?)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    })
}
