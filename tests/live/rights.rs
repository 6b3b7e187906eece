//! The accounts and rights that `deploy/kustomize` ships, for the namespaces of one test: what passes under these passes
//! in production.

use std::path::Path;

use serde_json::Value;

use crate::{
    cluster::{Namespace, kubectl},
    peers::succeed,
};

/// Mainstay's own namespace, as the shipped manifests name it.
const SYSTEM: &str = "mainstay-system";
/// Who may do what; everything else of the base is the daemon.
const KINDS: [&str; 5] = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];

/// What a component of the kustomization adds to them.
const ACROSS: &str = "across";

/// The rights of one installation. Those that are in no namespace go when this is dropped.
pub struct Rights {
    system: String,
}

impl Rights {
    /// Gives Mainstay in `system` its accounts, its rights there, and those in the namespaces that policies protect.
    pub fn grant(system: &Namespace, protected: &[&Namespace]) -> Self {
        let name = system.name();
        system.apply(&only_rights(&rendered("base", name)));
        let rights = Self { system: name.to_owned() };
        for namespace in protected {
            rights.protect(namespace);
        }
        rights
    }

    /// Gives Mainstay its rights in one namespace more.
    pub fn protect(&self, namespace: &Namespace) {
        namespace.apply(&only_rights(&rendered("namespace", &self.system)));
    }

    /// Allows restores of volume snapshots into other namespaces than their own.
    pub fn allow_across(&self, system: &Namespace) {
        system.apply(&rendered(ACROSS, &self.system));
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        remove(&self.system);
    }
}

/// Removes what an installation has in no namespace.
pub fn remove(system: &str) {
    let names = ["run", "restore", ACROSS].map(|which| format!("{system}:mainstay-{which}"));
    let delete = ["delete", "clusterrole,clusterrolebinding", "--ignore-not-found"];
    let _ = kubectl().args(delete).args(names).output();
}

/// A kubeconfig of one of the accounts in `system`, from that of the administrator.
pub fn kubeconfig(system: &Namespace, account: &str) -> String {
    let view = ["config", "view", "--raw", "--minify", "-o", "json"];
    let admin: Value = serde_json::from_str(&succeed(kubectl().args(view))).expect("a kubeconfig");
    let token = succeed(system.kubectl().args(["create", "token", account, "--duration=4h"]));
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": admin["clusters"],
        "users": [{"name": account, "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": admin["clusters"][0]["name"], "user": account}}],
        "current-context": "c",
    });
    config.to_string()
}

/// A folder of `deploy/kustomize` as `kubectl kustomize` renders it, for Mainstay in the namespace `system`.
pub fn rendered(folder: &str, system: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kustomize").join(folder);
    succeed(kubectl().arg("kustomize").arg(path)).replace(SYSTEM, system)
}

fn only_rights(manifests: &str) -> String {
    let is_right = |document: &&str| {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).expect("a kind");
        KINDS.contains(&kind)
    };
    manifests.split("\n---\n").filter(is_right).collect::<Vec<_>>().join("\n---\n")
}
