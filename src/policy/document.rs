//! The documents as a person writes them: serde types, and the source of `schema/backup.schema.json`.
//!
//! Nothing here is checked beyond its shape; [`crate::policy::validate`] turns a document into a
//! [`Policy`](crate::policy::Policy), and later code takes only that. Every doc comment below becomes a
//! description in the schema, so editors show it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod backup_policy;
pub mod quantity;
pub mod repository;
pub mod restore;
pub mod settings;
pub mod shared;
pub mod source;

pub use backup_policy::{BackupPolicySpec, Retention};
pub use quantity::{DurationText, KeepWithinText};
pub use repository::RepositorySpec;
pub use restore::RestoreSpec;
pub use settings::SettingsSpec;
pub use source::Source;

/// The API group and version that every document names.
pub const API_VERSION: &str = "mainstay.dev/v1alpha1";

/// One document of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// What to protect, when, where to, and for how long.
    BackupPolicy(Box<BackupPolicyDocument>),
    /// Where restore points are stored.
    Repository(Box<RepositoryDocument>),
    /// A restore asked for in git.
    Restore(Box<RestoreDocument>),
    /// Settings of this installation; at most one.
    Settings(Box<SettingsDocument>),
}

/// A backup policy: what to protect, when, where to, and for how long.
pub type BackupPolicyDocument = Resource<BackupPolicySpec>;
/// A repository: where restore points are stored.
pub type RepositoryDocument = Resource<RepositorySpec>;
/// A restore, carried out once per document and content.
pub type RestoreDocument = Resource<RestoreSpec>;
/// Settings of this installation.
pub type SettingsDocument = Resource<SettingsSpec>;

/// The Kubernetes Resource Model envelope around a `spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource<S> {
    /// Always `mainstay.dev/v1alpha1`.
    pub api_version: String,
    /// What kind of document this is: BackupPolicy, Repository, Restore or Settings.
    pub kind: String,
    /// The name of the document, and its grouping.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: S,
}

/// The name of a document, and its grouping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Lower-case letters, digits and `-`; at most 52 characters. Unique per kind and namespace.
    pub name: String,
    /// On Kubernetes the namespace of what is protected; on one host only a grouping. Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Free labels; carried along, never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free annotations; carried along, never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A value that may be secret: exactly one of `secret` with `key`, `file`, or `env`. Never a literal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Name of a Kubernetes Secret (needs the kubernetes engine): for a repository in Mainstay's own namespace, for a
    /// source in the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The key inside that Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Absolute path of a file whose content, without a trailing newline, is the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Name of an environment variable of the daemon that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// Several values.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All values, in the order in which they are written.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}
