//! `Repository`: where restore points are stored, in restic's format.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// Where restore points are stored: exactly one of `directory`, `nfs`, `s3` and `rest`.
// The alternatives are boxed: every policy that is held has a copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositorySpec {
    /// Absolute path of a directory on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// An NFS export (needs the kubernetes engine; on one host mount it and name the directory).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<Box<Nfs>>,
    /// A bucket that speaks the S3 protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<Box<S3>>,
    /// A restic REST server (not available yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Box<Rest>>,
    /// `PerPolicy` gives every policy a repository of its own below this place; `Shared` puts all into one.
    #[serde(default)]
    pub layout: Layout,
    /// The password that encrypts everything.
    pub password: Password,
    /// Seal the password to these recipients and commit it beside the status (not available yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<Box<Escrow>>,
    /// When space is reclaimed and integrity checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Box<Maintenance>>,
}

/// How policies share a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Layout {
    /// `{cluster}/{namespace}-{policy}-{suffix}` below the place; the suffix is fresh for a policy made anew.
    #[default]
    PerPolicy,
    /// All policies in one repository, so that equal data is stored once.
    Shared,
}

/// An NFS export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nfs {
    /// Host name of the server.
    pub server: String,
    /// Exported path.
    pub path: String,
}

/// A bucket that speaks the S3 protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// `https://HOST[:PORT]`, or `http://` inside a trusted network.
    pub endpoint: String,
    /// Name of the bucket; it must exist.
    pub bucket: String,
    /// Path inside the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Region. Default `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Access key id.
    pub access_key_id: SecretReference,
    /// Secret access key.
    pub secret_access_key: SecretReference,
    /// File with the certificate of a private authority that signed the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
}

/// A restic REST server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rest {
    /// `https://HOST[:PORT]/PATH`.
    pub url: String,
}

/// Where the password comes from: exactly one of `secret` with `key`, `file` and `env`; or `generate: true` alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Password {
    /// Name of a Kubernetes Secret in Mainstay's own namespace (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The key inside that Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Absolute path of a file whose content, without a trailing newline, is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Name of an environment variable of the daemon that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// Make a random password once where there is none: in the named file or Secret, or, alone, below the state
    /// directory or as Secret `repository-NAME`. Keep a copy elsewhere: without it nothing can be restored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generate: bool,
}

/// Who can open the sealed password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Escrow {
    /// age recipients, such as `age1…`.
    pub age: Vec<String>,
}

/// When space is reclaimed and integrity checked. One maintenance at a time for each repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Maintenance {
    /// When unreferenced data is pruned: 5-field cron expression in UTC. Default: with each cleanup that forgot something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<String>,
    /// When the repository's integrity is checked: 5-field cron expression in UTC. Default: never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Share of the stored data that each check reads back, such as `5%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_data: Option<String>,
}
