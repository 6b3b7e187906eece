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
    /// The forge that hosts the watched repository: plans appear on its change requests, and consent is given there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge: Option<Forge>,
    /// Who is told when a policy fails, when it has not succeeded within its RPO, when a repository of it did not pass its
    /// check, and when it is well again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Receiver>,
}

/// Limits of what a plan may do without approval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Safety {
    /// How many restore points one edit may lose without approval. Default 0. A raise does not count for the commit that
    /// brings it, nor as long as something is refused or could not be done; a lower number counts at once. What was in
    /// force before is what the daemon remembers, also for `mainstay plan` and `mainstay apply` by hand, or what the
    /// revision of `--base` says. Where no daemon has worked yet, the documents themselves say it.
    #[serde(default)]
    pub losses: u32,
}

/// How many at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Concurrency {
    /// Runs at the same time; further ones wait. Besides them, as many cleanups, prunes and checks that have a schedule of
    /// their own. Default 2.
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
    /// Its address, such as `https://git.example.org`; for GitHub `https://github.com`.
    pub url: String,
    /// The watched repository there: `OWNER/NAME`, or a longer path on GitLab.
    pub repository: String,
    /// Access token of the account that comments. It needs to read and write change requests, comments and commit
    /// statuses, and to see who may write: on Gitea that is an administrator of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretReference>,
    /// The GitHub App that comments, in the place of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<GitHubApp>,
    /// The secret that webhooks to `/webhook` are signed with. Default: no webhook is listened to, and the forge is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<SecretReference>,
    /// What counts as consent on a change request.
    #[serde(default)]
    pub approval: Approval,
}

/// A GitHub App.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitHubApp {
    /// Its id or client id.
    pub id: String,
    /// The id of its installation in the organisation or account that has the repository.
    pub installation: u64,
    /// Its private key in PEM.
    pub private_key: SecretReference,
}

/// Who is told: exactly one of `webhook`, `slack`, `healthchecks` and `email`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Receiver {
    /// A name for it; what it was told is remembered under it.
    pub name: String,
    /// Policies that it is told of, as globs of `NAMESPACE/NAME`. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// A JSON document is posted to this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Address>,
    /// A message is posted to this incoming webhook of Slack, or of what takes the same (Mattermost, Rocket.Chat).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<Address>,
    /// This address is pinged at the start (`/start`), the success and the failure (`/fail`) of each run, as
    /// healthchecks.io takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthchecks: Option<Address>,
    /// An email is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
}

/// An address that is a secret in itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    /// Where it is read from.
    pub url: SecretReference,
}

/// How email is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Email {
    /// The server: `smtps://HOST`, `smtp://HOST:587?tls=required`, or `smtp://127.0.0.1` without encryption.
    pub server: String,
    /// Whom to sign in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With which password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretReference>,
    /// Whom it comes from.
    pub from: String,
    /// Whom it goes to.
    pub to: Vec<String>,
}

/// What counts as consent on a change request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    /// Whether an approving review of someone who may write to the repository is consent to what the comment said when
    /// it was given. Default true; else only the comment `/mainstay approve DIGEST` is.
    #[serde(default = "default_reviews")]
    pub reviews: bool,
    /// Whether the author of a change request may consent to it by a comment. Default false.
    #[serde(default)]
    pub author: bool,
}

impl Default for Approval {
    fn default() -> Self {
        Self { reviews: default_reviews(), author: false }
    }
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

fn default_reviews() -> bool {
    true
}

fn default_runs() -> u32 {
    2
}
