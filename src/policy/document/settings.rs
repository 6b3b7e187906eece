//! `Settings`: of this installation; at most one document.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// Settings of this installation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingsSpec {
    /// Name of this host or cluster; part of the path of repositories with `layout: PerPolicy`. Default `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Change nothing, let nothing expire and start no run while true. The plan still says what would change; restores go
    /// on. `mainstay run` and `mainstay apply` do their work all the same with `--despite-freeze`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freeze: bool,
    /// Limits of what a plan may do without approval.
    #[serde(default)]
    pub safety: Safety,
    /// How many at once.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// Whose commits are believed. Default: everyone's who can push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Signatures>,
    /// Which directory may name which namespaces and repositories. Default: all may name all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,
    /// Where metrics of each run are pushed besides being served, such as `http://127.0.0.1:9091`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushgateway: Option<String>,
    /// The forge that hosts the watched repository (not available yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge: Option<Forge>,
}

/// Limits of what a plan may do without approval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Safety {
    /// How many restore points one edit may lose without approval. Default 0.
    #[serde(default)]
    pub losses: u32,
}

/// How many at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Concurrency {
    /// Runs at the same time; further ones wait. Default 2.
    #[serde(default = "default_runs")]
    pub runs: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { runs: default_runs() }
    }
}

/// Whose commits are believed: the newest commit of the watched branch must carry a good signature of one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signatures {
    /// File in the format of ssh-keygen's ALLOWED SIGNERS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_allowed_signers: Option<String>,
    /// Directory of a GnuPG key ring that holds the trusted public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpg_home: Option<String>,
}

/// What the documents below a directory may name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tenant {
    /// Directory, relative to the watched path.
    pub directory: String,
    /// Namespaces that its documents may use; globs.
    pub namespaces: Vec<String>,
    /// Repositories that its documents may use; globs.
    pub repositories: Vec<String>,
}

/// The forge that hosts the watched repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forge {
    /// Which software it runs.
    pub kind: ForgeKind,
    /// Its address.
    pub url: String,
    /// Access token.
    pub token: SecretReference,
}

/// Software of a forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForgeKind {
    /// github.com or GitHub Enterprise.
    GitHub,
    /// gitlab.com or an own GitLab.
    GitLab,
    /// Gitea or Forgejo.
    Gitea,
}

fn default_runs() -> u32 {
    2
}
