//! `sources[]`: what a policy protects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// One thing that is protected: a name, and exactly one of `paths`, `volumes`, `postgres`, `mysql`, `mariadb`,
/// `galera`, `resources` and `command`.
// The alternatives are boxed: a source has one of them, and ten thousand policies are held at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Name of the source, unique in the policy; a restore can choose it.
    pub name: String,
    /// Absolute paths of files and directories on this host (local engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Persistent volume claims (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Box<Volumes>>,
    /// How volumes are captured (kubernetes engine). Default `Files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Globs that are left out of `paths` or `volumes`, relative to each path, such as `cache/**`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Do not cross into other file systems below `paths`. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_file_system: bool,
    /// PostgreSQL databases, dumped with `pg_dump --format=custom` and streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Box<Database>>,
    /// MySQL databases, dumped with `mysqldump` and streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<Box<Database>>,
    /// MariaDB databases, dumped with `mariadb-dump` and streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mariadb: Option<Box<Database>>,
    /// A Galera cluster, captured physically through a garbd state transfer (not available yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub galera: Option<Box<Galera>>,
    /// Kubernetes manifests (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Box<Resources>>,
    /// Any program; its standard output is captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Box<Command>>,
}

/// Which persistent volume claims: at least one of the four.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volumes {
    /// Names of claims in the policy's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Claims with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<std::collections::BTreeMap<String, String>>,
    /// Every claim that this workload mounts, such as `Deployment/shop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Every claim that these workloads mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
    /// The VolumeSnapshotClass that volume snapshots are made with. Default: the default class of the claim's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
}

/// How a volume is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// Copy the files of the live claim.
    Files,
    /// A CSI volume snapshot; nothing is copied.
    VolumeSnapshot,
    /// Copy the files of a claim made from a CSI volume snapshot.
    FilesFromSnapshot,
}

/// A database server and what is dumped from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Database {
    /// Host name, address, or the directory of a Unix socket. Default: the client program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port. Default 5432 for PostgreSQL, 3306 for MySQL and MariaDB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Names of the databases; each is one file of the restore point.
    pub databases: Vec<String>,
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user name where it stands beside the password in a Secret, such as one of the type
    /// `kubernetes.io/basic-auth`; instead of `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_from: Option<SecretReference>,
    /// Password; it never appears in an argument vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretReference>,
    /// Image with the client programs (needs the kubernetes engine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Further arguments for the dump program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Directory that holds the client programs. Default: found in PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_directory: Option<String>,
}

/// A Galera cluster (not available yet).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Galera {
    /// Name of the cluster, as in `wsrep_cluster_name`.
    pub cluster: String,
    /// Addresses of its nodes.
    pub nodes: Vec<String>,
}

/// Kubernetes manifests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Namespaces; empty: all but the excluded ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_namespaces: Vec<String>,
    /// Kinds; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Only objects with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Any program whose standard output is captured, and the one that takes it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// Argument vector of the program whose standard output is captured; no shell is involved.
    pub dump: Vec<String>,
    /// Image in which the programs are carried out (kubernetes engine, which needs one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Argument vector of the program that reads the captured stream on its standard input when it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Vec<String>>,
    /// Name of the file in the restore point. Default: the name of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// Text that the stream must end with (white space at the end is ignored); a cut-off stream is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trailer: Option<String>,
    /// Further environment variables, each from a secret.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub environment: std::collections::BTreeMap<String, SecretReference>,
}
