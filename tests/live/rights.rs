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

/// The rights of one installation. Those that are in no namespace go when this is dropped.
pub struct Rights {
    system: String,
}

impl Rights {
    /// Gives Mainstay in `system` its accounts, its rights there, and those in the namespaces that policies protect.
    pub fn grant(system: &Namespace, protected: &[&Namespace]) -> Self {
        let name = system.name();
        system.apply(&only_rights(&rendered("base", name)));
        for namespace in protected {
            namespace.apply(&only_rights(&rendered("namespace", name)));
        }
        Self { system: name.to_owned() }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        remove(&self.system);
    }
}

/// Removes what an installation has in no namespace.
pub fn remove(system: &str) {
    let names = ["run", "restore"].map(|which| format!("{system}:mainstay-{which}"));
    let delete = ["delete", "clusterrole,clusterrolebinding", "--ignore-not-found"];
    let _ = kubectl().args(delete).args(names).output();
}

/// The kubeconfig of the daemon's account in the namespace `system`, from that of the administrator.
pub fn kubeconfig(system: &Namespace) -> String {
    let view = ["config", "view", "--raw", "--minify", "-o", "json"];
    let admin: Value = serde_json::from_str(&succeed(kubectl().args(view))).expect("a kubeconfig");
    let token = succeed(system.kubectl().args(["create", "token", "mainstay", "--duration=4h"]));
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": admin["clusters"],
        "users": [{"name": "mainstay", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": admin["clusters"][0]["name"], "user": "mainstay"}}],
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
