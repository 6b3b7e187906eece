//! What is asked for: names, and the validated policy that all later code takes.
//!
//! Pure. `document` holds the raw shapes, `parse` reads YAML with positions, `validate` turns documents into
//! [`Policy`] or diagnostics.

use std::{fmt, ops::Deref, path::PathBuf, sync::Arc};

use jiff::{SignedDuration, tz::TimeZone};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    policy::document::{BackupPolicyDocument, RepositoryDocument, RestoreDocument, SettingsSpec},
    retention::KeepRules,
    schedule::Schedule,
};

pub mod diagnostic;
pub mod document;
pub mod load;
pub mod parse;
pub mod schema;
pub mod secrets;
pub mod validate;

pub use validate::{EngineKind, PolicyError, policy_of};

/// The name of a policy: always `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyName {
    // Shared: a turn has the name of each policy in a dozen maps.
    namespace: Arc<str>,
    name: Arc<str>,
}

/// A policy name that is not of the form `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a policy; write NAMESPACE/NAME")]
pub struct PolicyNameError(String);

impl PolicyName {
    /// From its two parts. The caller has checked them, see [`is_name`].
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The grouping, or the Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name without the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for PolicyName {
    type Err = PolicyNameError;

    /// Reads `NAMESPACE/NAME`; a bare `NAME` is in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, PolicyNameError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if is_name(namespace) && is_name(name) {
            Ok(Self::new(namespace, name))
        } else {
            Err(PolicyNameError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for PolicyName {
    type Error = PolicyNameError;

    fn try_from(text: String) -> Result<Self, PolicyNameError> {
        text.parse()
    }
}

impl From<PolicyName> for String {
    fn from(name: PolicyName) -> Self {
        name.to_string()
    }
}

/// The name of a repository; unique over all namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RepositoryName(pub String);

impl fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether a text can name a document: lower-case letters, digits and inner `-`, at most 52 characters, so that the
/// names made from it stay within the 63 of a DNS label.
pub fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=52).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Where something stands in the documents. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Path of the file, relative to the watched path.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A validated policy with the repositories that it names. Only `validate` and the reading back of a
/// [`CompiledPolicy`] make one. A clone shares everything: one that did not change is the same from load to load.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What its own document says; its fields are read as if they were the policy's.
    pub content: Arc<PolicyContent>,
    /// The repositories that get every restore point, in the order written.
    pub repositories: Vec<Arc<RepositoryDocument>>,
}

impl Deref for Policy {
    type Target = PolicyContent;

    fn deref(&self) -> &PolicyContent {
        &self.content
    }
}

/// What a policy's own document says, whatever other documents there are.
#[derive(Debug, Clone)]
pub struct PolicyContent {
    /// `NAMESPACE/NAME`.
    pub name: PolicyName,
    /// Where its document stands.
    pub location: Location,
    /// When it runs: one or more schedules, all in the policy's zone. Every one has a next time.
    pub schedules: Vec<Schedule>,
    /// The zone in which the schedules are read.
    pub time_zone: TimeZone,
    /// Starts are spread over at most this long.
    pub jitter: SignedDuration,
    /// How late a missed run may start; none: until the next one is due.
    pub deadline: Option<SignedDuration>,
    /// The user paused the schedule.
    pub suspend: bool,
    /// Which restore points to keep; keeps at least one.
    pub rules: KeepRules,
    /// How long an expired point can be taken back.
    pub grace: SignedDuration,
    /// When cleanup runs; none: after each run.
    pub cleanup: Option<Schedule>,
    /// The document, with defaults filled in: everything else that a run needs.
    pub document: Arc<BackupPolicyDocument>,
}

impl PolicyContent {
    /// The same policy, whose schedules the controller of Kubernetes starts.
    pub fn by_controller(self) -> Self {
        let schedules = self.schedules.into_iter().map(Schedule::by_controller).collect();
        let cleanup = self.cleanup.map(Schedule::by_controller);
        Self { schedules, cleanup, ..self }
    }
}

impl Policy {
    /// The form that the engine stores: everything that a run needs, without git.
    pub fn compile(&self, settings: &SettingsSpec, revision: Option<&str>) -> CompiledPolicy {
        let mut compiled = CompiledPolicy {
            name: self.name.clone(),
            document: self.document.clone(),
            repositories: self.repositories.clone(),
            cluster: cluster(settings).to_owned(),
            pushgateway: settings.pushgateway.clone(),
            revision: revision.map(str::to_owned),
            source: self.location.clone(),
            spec_hash: String::new(),
        };
        compiled.spec_hash = compiled.content_hash();
        compiled
    }

    /// Whether compiling it gives the content of `compiled`; makes and hashes nothing, for most policies of most plans
    /// have not changed.
    pub fn is_compiled_as(&self, compiled: &CompiledPolicy, settings: &SettingsSpec) -> bool {
        let CompiledPolicy {
            name,
            document,
            repositories,
            cluster: compiled_cluster,
            pushgateway,
            revision: _,
            source: _,
            spec_hash: _,
        } = compiled;
        let Policy { content, repositories: own } = self;
        content.name == *name
            && is_same(&content.document, document)
            && own.len() == repositories.len()
            && own.iter().zip(repositories).all(|(own, compiled)| is_same(own, compiled))
            && cluster(settings) == compiled_cluster
            && settings.pushgateway == *pushgateway
    }
}

/// Whether two documents say the same. The same document in memory, which is usual, need not be looked at.
fn is_same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// The name of this host or cluster.
fn cluster(settings: &SettingsSpec) -> &str {
    settings.cluster.as_deref().unwrap_or("local")
}

/// What the engine stores for a policy, and what a run reads: the normalised documents. A boundary format (JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledPolicy {
    /// `NAMESPACE/NAME`.
    pub name: PolicyName,
    /// The policy's document with defaults filled in.
    #[serde(with = "document::shared")]
    pub document: Arc<BackupPolicyDocument>,
    /// The documents of its repositories, in the order of the policy.
    #[serde(with = "document::shared::list")]
    pub repositories: Vec<Arc<RepositoryDocument>>,
    /// `Settings.cluster`.
    pub cluster: String,
    /// `Settings.pushgateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushgateway: Option<String>,
    /// The commit that it was compiled from.
    pub revision: Option<String>,
    /// Where the document stands at that commit.
    pub source: Location,
    /// [`CompiledPolicy::content_hash`] at the time when it was compiled.
    pub spec_hash: String,
}

impl CompiledPolicy {
    /// Hash (hex SHA-256) over everything that changes what a run does: not the revision, not the place of the document.
    pub fn content_hash(&self) -> String {
        let Self { name, document, repositories, cluster, pushgateway, revision: _, source: _, spec_hash: _ } = self;
        let repositories: Vec<&RepositoryDocument> = repositories.iter().map(Arc::as_ref).collect();
        let content = serde_json::to_vec(&(name, document.as_ref(), repositories, cluster, pushgateway))
            .expect("documents hold only strings, numbers and string-keyed maps");
        hex::encode(Sha256::digest(content))
    }
}

/// A validated restore that is asked for in git.
#[derive(Debug, Clone)]
pub struct Restore {
    /// `NAMESPACE/NAME` of the Restore document.
    pub name: PolicyName,
    /// The policy whose restore point is used.
    pub policy: PolicyName,
    /// Where its document stands.
    pub location: Location,
    /// The document.
    pub document: RestoreDocument,
}

impl Restore {
    /// Hash (hex SHA-256) over the document's content: another content is another restore.
    pub fn content_hash(&self) -> String {
        let content = serde_json::to_vec(&(&self.name, &self.document.spec)).expect("documents are plain data");
        hex::encode(Sha256::digest(content))
    }

    /// Whether it may write over what is there: in place, or anywhere with `existing: Update`. It needs consent.
    pub fn is_in_place(&self) -> bool {
        self.document.spec.into.is_none() || self.document.spec.existing == document::restore::Existing::Update
    }
}
