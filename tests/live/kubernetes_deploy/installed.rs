//! One installation as an administrator makes it: with the real `kubectl apply -k`, or with the real helm; its documents
//! in a git repository that a server offers over https with a token.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster::{Namespace, kubectl, script},
    kubernetes_runs::installation::Installation,
    peers::{Peers, succeed, wait_for},
    rights,
    world::World,
};

/// How the host's loopback is called in pods.
const HOST: &str = "10.77.0.1";

/// What installs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `kubectl apply -k`.
    Kustomize,
    /// `helm install` and `helm upgrade`.
    Helm,
}

/// One installation.
pub struct Installed {
    /// Its namespaces, and what becomes of runs.
    pub cluster: Installation,
    tool: Tool,
    world: World,
    bare: PathBuf,
    address: String,
}

impl Installed {
    /// Namespaces with a shop in one of them, and an empty repository of documents; nothing is installed yet.
    pub fn new(name: &str, tool: Tool) -> Self {
        let world = World::new(name);
        let system = Namespace::new(&format!("{name}-system"));
        let shop = system.second(name);
        let restricted =
            ["pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted"];
        succeed(kubectl().args(["label", "namespace", system.name()]).args(restricted));
        let (address, token, root) = Peers::git_https();
        let port = address.rsplit(':').next().expect("a port");
        succeed(script("reach").arg(port));
        let bare = root.join(format!("{name}.git"));
        succeed(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&bare));
        let authority = Peers::authority();
        let secret = ["create", "secret", "generic", "mainstay-git", &format!("--from-literal=token={token}")];
        succeed(system.kubectl().args(secret).arg(format!("--from-file=authority.pem={}", authority.display())));
        let address = format!("https://{HOST}:{port}/{name}.git");
        let installed = Self { cluster: Installation::of(system, shop).with_shop(), tool, world, bare, address };
        installed.git(&["init", "-q", "-b", "main"]);
        installed.git(&["remote", "add", "origin", &installed.bare.display().to_string()]);
        installed
    }

    /// Installs, or upgrades to, this image (NAME:TAG) with so many daemons.
    pub fn install(&self, image: &str, replicas: u32) {
        match self.tool {
            Tool::Kustomize => {
                let folder = self.overlay(image, replicas);
                succeed(kubectl().args(["apply", "--server-side", "--force-conflicts", "-k"]).arg(folder));
            }
            Tool::Helm => {
                let (repository, tag) = image.split_once(':').expect("NAME:TAG");
                let values = [
                    format!("image.repository={repository},image.tag={tag},replicas={replicas}"),
                    format!("git.url={},git.poll=2s,git.secret=mainstay-git", self.address),
                    "git.tokenKey=token,git.certificatesKey=authority.pem".to_owned(),
                    format!("namespaces={{{}}}", self.cluster.shop.name()),
                ];
                let mut command = self.helm(&["upgrade", "--install", "mainstay"]);
                command.arg(chart()).args(values.iter().map(|value| format!("--set={value}")));
                succeed(command.args(["--wait", "--timeout=300s"]));
            }
        }
        let status = ["rollout", "status", "deployment/mainstay", "--timeout=300s"];
        let output = self.cluster.system.kubectl().args(status).output().expect("kubectl");
        assert!(output.status.success(), "{}", self.log());
    }

    /// Takes it away again.
    pub fn uninstall(&self) {
        match self.tool {
            Tool::Kustomize => {
                let folder = self.world.path("deploy/kustomize/example");
                succeed(kubectl().args(["delete", "--wait", "-k"]).arg(folder));
            }
            Tool::Helm => {
                succeed(self.helm(&["uninstall", "mainstay", "--wait"]).arg("--timeout=300s"));
            }
        }
        wait_for("the daemon to be gone", 120, || self.daemons().is_empty().then_some(()));
    }

    /// The pods of daemons.
    pub fn daemons(&self) -> Vec<String> {
        let daemon = ["get", "pods", "-l", "app.kubernetes.io/component=daemon", "-o", "name"];
        succeed(self.cluster.system.kubectl().args(daemon)).lines().map(str::to_owned).collect()
    }

    /// What the daemons have said, all of them, also before they were killed.
    pub fn log(&self) -> String {
        let mut all = String::new();
        for pod in self.daemons() {
            for which in ["--previous=true", "--previous=false"] {
                let output = self.cluster.system.kubectl().args(["logs", &pod, which]).output().expect("kubectl");
                all.push_str(&String::from_utf8_lossy(&output.stdout));
            }
        }
        all
    }

    /// Commits this text as the documents, and pushes.
    pub fn commit(&self, documents: &str, message: &str) {
        self.world.write("documents/backup.yaml", documents);
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["push", "-q", "origin", "main"]);
    }

    /// Waits until the status branch says something of a policy.
    pub fn wait_for_status(&self, policy: &str, text: &str) {
        wait_for(&format!("`{text}` on the status branch"), 120, || {
            let mut command = Command::new("git");
            command.arg("-C").arg(&self.bare).args(["show", &format!("mainstay/status:status/{policy}.yaml")]);
            String::from_utf8_lossy(&command.output().ok()?.stdout).contains(text).then_some(())
        });
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        let documents = self.world.path("documents");
        succeed(Command::new("git").current_dir(documents).args(identity).args(arguments));
    }

    fn helm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Peers::helm());
        command.args(arguments).args(["--namespace", self.cluster.system.name()]);
        let kubeconfig = succeed(kubectl().args(["config", "view", "--raw", "--minify", "--flatten"]));
        command.env("KUBECONFIG", self.world.write("kubeconfig", kubeconfig)).env("HOME", self.world.path("home"));
        command
    }

    /// The folders as an administrator copies and changes them.
    fn overlay(&self, image: &str, replicas: u32) -> PathBuf {
        let (system, shop) = (self.cluster.system.name(), self.cluster.shop.name());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kustomize");
        for file in files_below(&shipped) {
            let text = std::fs::read_to_string(&file).expect("a manifest").replace("mainstay-system", system);
            let name = file.strip_prefix(&shipped).expect("below it").display().to_string();
            self.world.write(&format!("deploy/kustomize/{name}"), text);
        }
        let example = |file: &str, change: &dyn Fn(String) -> String| {
            let path = self.world.path(&format!("deploy/kustomize/example/{file}"));
            let text = std::fs::read_to_string(&path).expect("a manifest");
            std::fs::write(path, change(text)).expect("a manifest");
        };
        // There is no Prometheus operator here.
        example("kustomization.yaml", &|text| {
            let kept = text.lines().filter(|line| !line.contains("monitoring") && *line != "components:");
            kept.collect::<Vec<_>>().join("\n")
        });
        example("shop/kustomization.yaml", &|text| text.replace("namespace: shop", &format!("namespace: {shop}")));
        example("daemon.yaml", &|text| {
            let more = "            - {name: SSL_CERT_FILE, value: /etc/mainstay/git/authority.pem}\n            - {name: MAINSTAY_POLL, value: 2s}\n          volumeMounts:";
            text.replace("registry.example.org/mainstay:0.1.0", image)
                .replace("https://git.example.org/backups.git", &self.address)
                .replace("          volumeMounts:", more)
                .replacen("spec:\n", &format!("spec:\n  replicas: {replicas}\n"), 1)
        });
        self.world.path("deploy/kustomize/example")
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        rights::remove(self.cluster.system.name());
    }
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/mainstay")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(files_below(&path)),
            path => all.push(path),
        }
    }
    all
}
