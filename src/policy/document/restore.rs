//! `Restore`: a restore asked for in git.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A restore. It is carried out once per document and content; the result is in the status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreSpec {
    /// The policy whose restore point is used: `NAME` in this namespace, or `NAMESPACE/NAME`.
    pub policy: String,
    /// The repository to read from. Default: the first of the policy that has the restore point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Which restore point. Default: the latest.
    #[serde(default)]
    pub restore_point: PointChoice,
    /// Names of the sources to restore. Default: all of the restore point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Only these tables of PostgreSQL dumps, without their indexes and constraints, as `pg_restore --table` takes them
    /// back. Default: whole databases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Where to. Default: in place, which overwrites and needs approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<Into>,
    /// What to do where something exists already. Default `Fail`.
    #[serde(default)]
    pub existing: Existing,
}

/// Which restore point: `latest`, an id, or `{before: TIME}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PointChoice {
    /// `latest`, or the id of a restore point.
    Name(String),
    /// The newest restore point before a time.
    Before {
        /// RFC 3339 time, such as `2026-11-20T12:00:00Z`.
        #[schemars(with = "String")]
        before: Timestamp,
    },
}

impl Default for PointChoice {
    fn default() -> Self {
        Self::Name("latest".to_owned())
    }
}

/// Where a restore goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Into {
    /// Absolute path of a directory: files arrive below it, dumps as files (local engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Name of another database on the same server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Another namespace (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Other claims, old name to new name (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub claims: std::collections::BTreeMap<String, String>,
}

/// What to do where something exists already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Existing {
    /// Refuse before anything is written.
    #[default]
    Fail,
    /// Overwrite what differs in content; leave the rest. Needs approval, wherever it goes.
    Update,
}
