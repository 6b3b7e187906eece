//! What of an object is not as we applied it: values compared, never identities or hashes alone.
//!
//! Pure. The API server fills in defaults and others add fields of their own; only fields that are ours count. Lists
//! are ours as a whole: a container or an argument more is a difference.

use serde_json::Value;

use super::{super::labels, policy::Installation};

/// How many differences are named; the rest is counted.
const MOST_NAMED: usize = 3;
/// A longer value is not shown.
const LONGEST_VALUE: usize = 60;

/// The differences in words, such as `spec.schedule: 0 3 * * * instead of 0 2 * * *`; none: it is as it should be.
pub fn difference(expected: &Value, observed: &Value) -> Option<String> {
    let mut differences = Vec::new();
    walk(expected, observed, &mut String::new(), &mut differences);
    if differences.is_empty() {
        return None;
    }
    let more = differences.len().saturating_sub(MOST_NAMED);
    differences.truncate(MOST_NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(format!("{}{more}", differences.join(", ")))
}

/// What is expected, where this process does not know the image, or that everything is frozen: then what is there
/// counts as right.
pub fn installation_as_seen(installation: &Installation, observed: &Value) -> Installation {
    let image = observed.pointer("/spec/jobTemplate/spec/template/spec/containers/0/image").and_then(Value::as_str);
    let account = observed.pointer("/spec/jobTemplate/spec/template/spec/serviceAccountName").and_then(Value::as_str);
    match &installation.image {
        Some(_) => installation.clone(),
        None => Installation {
            image: image.map(str::to_owned),
            run_service_account: account.unwrap_or(&installation.run_service_account).to_owned(),
            frozen: observed
                .pointer("/metadata/annotations")
                .is_some_and(|annotations| !annotations[labels::FROZEN].is_null()),
            ..installation.clone()
        },
    }
}

fn walk(expected: &Value, observed: &Value, path: &mut String, differences: &mut Vec<String>) {
    match (expected, observed) {
        (Value::Object(expected), Value::Object(observed)) => {
            for (key, value) in expected {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match observed.get(key) {
                    Some(there) => walk(value, there, path, differences),
                    None if is_empty(value) => {}
                    None => differences.push(format!("{path} is missing")),
                }
                path.truncate(length);
            }
        }
        (Value::Array(expected), Value::Array(observed)) if expected.len() == observed.len() => {
            for (index, (one, other)) in expected.iter().zip(observed).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                walk(one, other, path, differences);
                path.truncate(length);
            }
        }
        (one, other) if one == other => {}
        (one, other) => match (short(one), short(other)) {
            (Some(one), Some(other)) => differences.push(format!("{path}: {other} instead of {one}")),
            _ => differences.push(format!("{path} is different")),
        },
    }
}

/// The API server leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn short(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => return None,
    };
    (text.chars().count() <= LONGEST_VALUE && !text.contains('\n')).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_our_own_fields_count() {
        let ours =
            json!({"spec": {"schedule": "0 2 * * *", "suspend": false, "args": ["a"], "volume": {"emptyDir": {}}}});
        let cases = [
            // Defaults, and what others add.
            (
                json!({"spec": {"schedule": "0 2 * * *", "suspend": false, "args": ["a"], "volume": {"emptyDir": {}, "x": 1}}, "status": 1}),
                None,
            ),
            (json!({"spec": {"schedule": "0 2 * * *", "args": ["a"], "volume": {}}}), None),
            (
                json!({"spec": {"schedule": "0 3 * * *", "suspend": true, "args": ["a"], "volume": {"emptyDir": {}}}}),
                Some("spec.schedule: 0 3 * * * instead of 0 2 * * *, spec.suspend: true instead of false"),
            ),
            (
                json!({"spec": {"schedule": "0 2 * * *", "suspend": false, "args": ["a", "b"], "volume": {"emptyDir": {}}}}),
                Some("spec.args is different"),
            ),
            (json!({}), Some("spec is missing")),
        ];
        for (observed, expected) in cases {
            assert_eq!(difference(&ours, &observed).as_deref(), expected, "{observed}");
        }
    }
}
