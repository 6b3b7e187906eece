//! The inventory of all policies as a file: what `status -o json --inventory` writes and `--offline` reads, so that a
//! plan needs neither credentials nor the engine. A boundary format (JSON).
//!
//! Pure. An entry that carries `applied` tells the rules that are in force; one that does not tells only when the
//! policy runs and which restore points there are, and a plan then has to learn the former rules elsewhere or to treat
//! them as unknown. Fields that are not known here are passed over, so that a newer Mainstay may add some.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ActualPolicy, ActualState, RestoreReport};
use crate::{
    plan::diff::written_schedule,
    policy::{CompiledPolicy, PolicyName, PolicyNameError},
    restore_point::{Inventory, RestorePoint},
    run::Phase,
};

/// The largest file that is read: ten times what 100,000 restore points need.
pub const INVENTORY_BYTES: u64 = 256 << 20;
const FORMAT_VERSION: u32 = 1;

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InventoryFile<'a> {
    format_version: u32,
    observed_at: Timestamp,
    complete: bool,
    policies: BTreeMap<String, Entry<'a>>,
    /// What was begun of restores: none of them is carried out again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restores: Vec<Begun>,
}

/// A Restore document that was carried out, or is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Begun {
    name: String,
    /// Hash of what the document says.
    content: String,
    phase: Phase,
    started_at: Timestamp,
}

/// One policy in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    /// The cron expressions, joined by `, `. None: the policy was removed and only its restore points are left.
    #[serde(default)]
    schedule: Option<Expressions>,
    /// Whether all of its restore points could be seen.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    complete: bool,
    #[serde(default)]
    restore_points: Cow<'a, [RestorePoint]>,
    /// What was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<Cow<'a, CompiledPolicy>>,
}

/// One expression or a list of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Expressions {
    One(String),
    Many(Vec<String>),
}

/// Why an inventory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Not JSON of this shape.
    #[error("it is not an inventory; `mainstay status -o json --inventory` writes one")]
    Malformed(#[source] serde_json::Error),
    /// From another version of Mainstay.
    #[error("it has format version {0}, and this version of mainstay reads {FORMAT_VERSION}; write it anew")]
    Version(u32),
    /// A key of `policies` is not a name.
    #[error("it has an entry `{name}` that names no policy")]
    Name {
        /// The key.
        name: String,
        /// Why.
        #[source]
        source: PolicyNameError,
    },
    /// Two restore points of one policy with the same id, or an id that is none.
    #[error("{policy} has a restore point `{id}` whose id is {problem}; write the inventory anew")]
    Point {
        /// Whose it is.
        policy: PolicyName,
        /// Which.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Reads an inventory as one observation.
///
/// # Errors
/// It is something else, from another version, or says two things of one restore point.
pub fn read(content: &[u8]) -> Result<ActualState, InventoryError> {
    let file: InventoryFile = serde_json::from_slice(content).map_err(InventoryError::Malformed)?;
    let InventoryFile { format_version, observed_at, complete, policies, restores } = file;
    if format_version != FORMAT_VERSION {
        return Err(InventoryError::Version(format_version));
    }
    let policies = policies.into_iter().map(|(key, entry)| {
        let name: PolicyName = key.parse().map_err(|source| InventoryError::Name { name: key, source })?;
        let policy = policy(&name, entry, observed_at)?;
        Ok((name, Arc::new(policy)))
    });
    // Through a list: a map that is filled in order one by one has room for nearly twice as many.
    let policies = policies.collect::<Result<Vec<_>, InventoryError>>()?.into_iter().collect();
    let restores = restores.into_iter().map(|Begun { name, content, phase, started_at }| {
        let name: PolicyName = name.parse().map_err(|source| InventoryError::Name { name, source })?;
        let report = RestoreReport {
            restore_point: None,
            phase,
            started_at,
            finished_at: None,
            message: String::new(),
            sources: Vec::new(),
        };
        Ok(((name, content), report))
    });
    let restores = restores.collect::<Result<_, InventoryError>>()?;
    Ok(ActualState { observed_at, complete, policies, restores, foreign: BTreeMap::new() })
}

/// Writes an observation as an inventory.
pub fn write(state: &ActualState) -> String {
    let policies = state.policies.iter().map(|(name, policy)| {
        let applied = policy.compiled.as_ref();
        let schedule = applied.map(written_schedule).or_else(|| policy.schedule.clone());
        let Inventory { observed_at: _, complete, points } = &policy.inventory;
        let entry = Entry {
            schedule: schedule.map(Expressions::One),
            complete: *complete,
            restore_points: Cow::Borrowed(points),
            applied: applied.map(Cow::Borrowed),
        };
        (name.to_string(), entry)
    });
    let file = InventoryFile {
        format_version: FORMAT_VERSION,
        observed_at: state.observed_at,
        complete: state.complete,
        policies: policies.collect(),
        restores: begun(state)
            .map(|((name, content), phase, started_at)| Begun {
                name: name.to_string(),
                content: content.clone(),
                phase,
                started_at,
            })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&file).expect("documents and restore points are plain data");
    text.push('\n');
    text
}

/// What the file says of restores: document and hash of each, how far it is, and since when.
pub fn begun(state: &ActualState) -> impl Iterator<Item = (&(PolicyName, String), Phase, Timestamp)> {
    state.restores.iter().map(|(restore, report)| (restore, report.phase, report.started_at))
}

fn policy(name: &PolicyName, entry: Entry<'_>, observed_at: Timestamp) -> Result<ActualPolicy, InventoryError> {
    let Entry { schedule, complete, restore_points, applied } = entry;
    let mut restore_points = restore_points.into_owned();
    restore_points.shrink_to_fit();
    restore_points.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
    let mut ids: Vec<&str> = restore_points.iter().map(|point| point.id.0.as_str()).collect();
    ids.sort_unstable();
    let wrong = |id: &str, problem| InventoryError::Point { policy: name.clone(), id: id.to_owned(), problem };
    if let Some(id) = ids.iter().find(|id| !is_id(id)) {
        return Err(wrong(id, "not 1 to 128 letters, digits, `.`, `_`, `:` and `-`"));
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(pair[0], "there twice"));
    }
    let schedule = schedule.map(|expressions| match expressions {
        Expressions::One(expression) => expression,
        Expressions::Many(expressions) => expressions.join(", "),
    });
    Ok(ActualPolicy {
        compiled: applied.map(Cow::into_owned),
        schedule,
        inventory: Inventory { observed_at, complete, points: restore_points },
        last_run: None,
        last_success: None,
        running: None,
        drift: None,
        failed_checks: Vec::new(),
    })
}

/// Ids stand in commit trailers, so they are one word.
fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
}

fn yes() -> bool {
    true
}

fn is_yes(complete: &bool) -> bool {
    *complete
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(content: &str) -> String {
        read(content.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_entry_is_read_and_sorted() {
        let state = read(
            br#"{"formatVersion":1,"observedAt":"2026-11-20T12:00:00Z","complete":true,"policies":{"shop/nightly":
            {"schedule":"0 2 * * *","later":1,"restorePoints":[
              {"id":"b","time":"2026-11-20T02:00:00Z","sizeBytes":2},
              {"id":"a","time":"2026-11-19T02:00:00Z","sizeBytes":1,"held":true}]}}}"#,
        )
        .unwrap();
        let policy = &state.policies[&PolicyName::new("shop", "nightly")];
        let ids: Vec<&str> = policy.inventory.points.iter().map(|point| point.id.0.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(policy.inventory.complete && policy.inventory.points[0].held);
        assert_eq!(policy.schedule.as_deref(), Some("0 2 * * *"));
        assert_eq!(read(write(&state).as_bytes()).unwrap().policies.len(), 1);
        let done = read(
            br#"{"formatVersion":1,"observedAt":"2026-11-20T12:00:00Z","complete":true,"policies":{},"restores":
            [{"name":"shop/undo","content":"c0ffee","phase":"Succeeded","startedAt":"2026-11-20T02:00:00Z"}]}"#,
        )
        .unwrap();
        let again = read(write(&done).as_bytes()).unwrap();
        assert!(again.restores.contains_key(&(PolicyName::new("shop", "undo"), "c0ffee".to_owned())));
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        let with = |version: u32, policies: &str| {
            format!(
                r#"{{"formatVersion":{version},"observedAt":"2026-11-20T12:00:00Z","complete":true,"policies":{policies}}}"#
            )
        };
        let point = |id: &str| format!(r#"{{"id":"{id}","time":"2026-11-20T02:00:00Z","sizeBytes":2}}"#);
        let points = |ids: &[&str]| {
            let points: Vec<String> = ids.iter().map(|id| point(id)).collect();
            with(1, &format!(r#"{{"a/b":{{"restorePoints":[{}]}}}}"#, points.join(",")))
        };
        for (content, part) in [
            (String::new(), "not an inventory"),
            ("[]".to_owned(), "not an inventory"),
            (with(2, "{}"), "format version 2"),
            (with(1, r#"{"A/b":{}}"#), "`A/b`"),
            (points(&["x", "x"]), "there twice"),
            (points(&["x y"]), "not 1 to 128"),
        ] {
            let message = error(&content);
            assert!(message.contains(part), "{content}: {message}");
        }
    }
}
