//! Which secrets a policy's documents name.
//!
//! Pure.

use serde::Serialize;
use serde_json::Value;

use super::{CompiledPolicy, document::SecretReference};

/// The fields of which a reference to a secret consists; `generate` is that of a password.
const FIELDS: [&str; 5] = ["secret", "key", "file", "env", "generate"];

/// All references in the documents of a policy, wherever they stand: a field that comes later is not forgotten.
pub fn named(policy: &CompiledPolicy) -> Vec<SecretReference> {
    let mut found = named_in(policy.document.as_ref());
    for repository in &policy.repositories {
        found.extend(named_in(repository.as_ref()));
    }
    found
}

/// All references in one document.
pub fn named_in(document: &impl Serialize) -> Vec<SecretReference> {
    let mut found = Vec::new();
    // What cannot be written as JSON was not read from a document.
    if let Ok(value) = serde_json::to_value(document) {
        collect(&value, &mut found);
    }
    found
}

fn collect(value: &Value, found: &mut Vec<SecretReference>) {
    match value {
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            let (file, env) = (text("file"), text("env"));
            if fields.keys().all(|name| FIELDS.contains(&name.as_str())) && (file.is_some() || env.is_some()) {
                found.push(SecretReference { secret: None, key: None, file, env });
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let document = json!({"spec": {
            "sources": [
                {"name": "db", "postgres": {"password": {"env": "DB"}, "databases": ["shop"]}},
                {"name": "x", "command": {"dump": ["env"], "environment": {"env": {"file": "/run/token"}}}},
            ],
            "password": {"file": "/run/password", "generate": true},
            "s3": {"accessKeyId": {"secret": "offsite", "key": "id"}, "certificateAuthority": "/etc/ca.pem"},
        }});
        let found: Vec<(Option<String>, Option<String>)> =
            named_in(&document).into_iter().map(|reference| (reference.file, reference.env)).collect();
        let file = |name: &str| (Some(name.to_owned()), None);
        assert_eq!(found, [(None, Some("DB".to_owned())), file("/run/token"), file("/run/password")]);
    }
}
