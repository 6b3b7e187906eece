//! The whole story on a real forge and a real cluster: open, plan, refused, approved, merged, applied, run, restored by
//! change request, reverted within the grace time; and no secret in anything that anybody can see.
//!
//! The daemon has the shipped rights and no more. It runs on this host, which the forge answers, too.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mainstay::status::ledger;

use crate::{
    forge::{
        WEBHOOK_SECRET, digest_in,
        server::{Clone, Gitea},
        settings, start_daemon_with,
    },
    kubernetes_runs::installation::{Installation, PASSWORD},
    peers::{free_port, succeed, wait_for},
    rights::kubeconfig,
    world::{Started, World},
};

/// What opens the object storage of the cluster.
const S3_SECRET: &str = "mainstay-secret";
/// A run in the cluster starts two pods or more.
const PATIENCE: u64 = 300;

/// A daemon that watches a repository on a Gitea and works on a cluster.
struct Site {
    // In this order they end: whoever is at work goes before what it works on.
    _daemon: Started,
    gitea: Gitea,
    ada: Clone,
    installation: Installation,
    world: World,
}

impl Site {
    fn new(name: &str) -> Self {
        let world = World::new(&format!("kubernetes-{name}"));
        let installation = Installation::new(name).with_shop();
        let gitea = Gitea::start(&world.path("gitea"));
        world.write("webhook-secret", format!("{WEBHOOK_SECRET}\n"));
        let ada = Clone::new(&gitea, world.path("ada"), "ada", "ada/backups");
        let files = [("backup.yaml", policy(&installation, 5)), ("settings.backup.yaml", settings(&world, &gitea))];
        ada.push("main", &files.each_ref().map(|(path, text)| (*path, text.as_str())), "first");
        world.write("kubeconfig", kubeconfig(&installation.system, "mainstay"));
        let config = world.path("kubeconfig").display().to_string();
        let environment = [
            ("MAINSTAY_ENGINE", "kubernetes"),
            ("MAINSTAY_NAMESPACE", installation.system.name()),
            ("MAINSTAY_IMAGE", &crate::cluster::image()),
            ("KUBECONFIG", &config),
            ("NO_PROXY", "*"),
        ];
        let daemon = start_daemon_with(&world, &gitea, free_port(), "1s", &environment);
        let site = Self { _daemon: daemon, gitea, ada, installation, world };
        wait_for("the schedule of the policy", PATIENCE, || {
            let list = site.installation.system.kubectl().args(["get", "cronjobs", "-o", "name"]).output();
            list.is_ok_and(|list| !list.stdout.is_empty()).then_some(())
        });
        site
    }

    /// A run by hand, to its end.
    fn run(&self) {
        succeed(self.installation.mainstay().args(["run", "--follow", &self.policy_name()]));
    }

    fn policy_name(&self) -> String {
        format!("{}/nightly", self.installation.shop.name())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.path("daemon.log")).unwrap_or_default()
    }

    fn propose_to_keep(&self, branch: &str, keep: u32) -> (u64, String) {
        let head = self.ada.push(branch, &[("backup.yaml", &policy(&self.installation, keep))], "keep another number");
        (self.gitea.open("ada", branch), head)
    }

    fn wait_for_comment(&self, number: u64, words: &[&str]) -> String {
        self.gitea.wait_for_comment(number, words, || self.log())
    }
}

/// What `examples/kubernetes-files` says, in short.
fn policy(installation: &Installation, keep: u32) -> String {
    let namespace = installation.shop.name();
    format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {{name: offsite}}
spec:
  s3:
    endpoint: http://s3.peers:9000
    bucket: backups
    prefix: {prefix}
    accessKeyId: {{secret: offsite, key: id}}
    secretAccessKey: {{secret: offsite, key: secret}}
  password: {{secret: offsite, key: password}}
---
apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: nightly, namespace: {namespace}}}
spec:
  schedule: \"0 3 29 2 *\"
  repositories: [offsite]
  sources:
    - name: data
      volumes: {{claims: [data]}}
  retention: {{keepLast: {keep}}}
",
        prefix = installation.prefix,
    )
}

#[test]
fn the_story_of_an_edit_from_the_change_request_to_the_cluster_and_back() {
    let site = Site::new("forge-story");
    let Site { gitea, installation, .. } = &site;
    let watched = CommandLines::watch();
    for _ in 0..3 {
        site.run();
    }

    // What no policy protects is on the dashboard; what one protects is not, and everything could be looked at.
    let shop = installation.shop.name();
    let dashboard = wait_for("the dashboard", PATIENCE, || {
        Some(site.ada.status("README.md")).filter(|page| page.contains("## Not covered by any policy"))
    });
    assert!(dashboard.contains(&format!("volume {shop}/more (mounted by Deployment/shop)")), "{dashboard}");
    assert!(!dashboard.contains(&format!("volume {shop}/data")) && !dashboard.contains("looked into"), "{dashboard}");

    // The plan comes to the change request, and it is refused.
    let (number, head) = site.propose_to_keep("fewer", 1);
    let plan = site.wait_for_comment(number, &["Restore points: 2 lost", "/mainstay approve"]);
    gitea.wait_for_check(&head, "mainstay/plan", "failure", "approval needed: 2 restore points would be lost");
    gitea.comment("ada", number, &format!("/mainstay approve {}", digest_in(&plan)));
    site.wait_for_comment(number, &["`ada`: the author of a change request cannot consent"]);

    // Somebody else consents; it is merged and applied.
    gitea.approve("bob", number);
    site.wait_for_comment(number, &["#### Consent", "`bob` by review"]);
    gitea.wait_for_check(&head, "mainstay/plan", "success", "2 restore points lost with consent");
    let commit = gitea.merge("ada", number, "merge");
    site.wait_for_comment(number, &["### Mainstay: applied", "2 restore points are marked as expired"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");

    // A revert would take back what was lost. On its change request a run is asked for.
    let (revert, _) = site.propose_to_keep("more", 5);
    site.wait_for_comment(revert, &["takes back"]);
    let before = installation.applied(&site.policy_name()).runs().len();
    gitea.comment("bob", revert, &format!("/mainstay run {}", site.policy_name()));
    wait_for("the run that was asked for", PATIENCE, || {
        let runs = installation.applied(&site.policy_name()).runs();
        (runs.len() > before && runs.iter().all(|run| run["report"]["phase"] == "Succeeded")).then_some(())
    });

    // A restore is a change request of its own, carried out when it is merged.
    let order = format!("/mainstay restore {} latest claim=data=restored", site.policy_name());
    gitea.comment("bob", revert, &order);
    let answer = site.wait_for_comment(revert, &["has the restore"]);
    let digits = answer.split("change request ").nth(1).and_then(|rest| rest.split(' ').next());
    let restore: u64 = digits.and_then(|digits| digits.parse().ok()).expect("a number");
    site.wait_for_comment(restore, &[&format!("restores {} from latest", site.policy_name())]);
    let commit = gitea.merge("ada", restore, "rebase");
    site.wait_for_comment(restore, &["### Mainstay: applied", "restored:"]);
    gitea.wait_for_check(&commit, "mainstay/apply", "success", "1 policy applied");
    let looks = installation.looks(&installation.shop, "restored");
    assert_eq!(installation.shop.shell(&looks, "cat /data/private"), "hello\n");

    // The revert is merged within the grace time.
    gitea.merge("ada", revert, "squash");
    site.wait_for_comment(revert, &["### Mainstay: applied", "taken back"]);
    assert_eq!(installation.applied(&site.policy_name()).points().len(), 4);

    // The ledger tells all of it, in a chain that holds.
    let ledger = wait_for("the end of the story in the ledger", PATIENCE, || {
        Some(site.ada.ledger()).filter(|ledger| ledger.contains("takenBack"))
    });
    ledger::verify(ledger.lines()).expect("the chain is whole");
    for event in ["runEnded", "approved", "bob by review", "lostByEdit", "restoreEnded"] {
        assert!(ledger.contains(event), "{event} is missing in:\n{ledger}");
    }
    // What is published is enough for a plan without the cluster.
    let inventory = site.world.write("inventory.json", site.ada.status("inventory.json"));
    site.ada.git(&["checkout", "-q", "-B", "main", "origin/main"]);
    let plan = succeed(
        site.world
            .command(&["plan", "--engine", "kubernetes", "--offline"])
            .arg(inventory)
            .arg("--path")
            .arg(&site.ada.path)
            .env("KUBECONFIG", "/dev/null"),
    );
    assert!(plan.contains("Plan: 0 to create, 0 to update, 0 to delete, 0 refused."), "{plan}");

    no_secret_shows(&site, &[number, restore, revert], watched.end());
}

/// Looks for the values of all secrets in everything that anybody can see.
fn no_secret_shows(site: &Site, requests: &[u64], command_lines: BTreeSet<String>) {
    let token = site.gitea.token("mainstay");
    let mut seen = vec![("the daemon's log".to_owned(), site.log())];
    for number in requests {
        let comments = site.gitea.comments(*number, "mainstay");
        assert!(!comments.is_empty());
        seen.extend(comments.into_iter().map(|comment| (format!("a comment on {number}"), comment)));
    }
    site.ada.git(&["fetch", "-q", "origin"]);
    seen.push(("the commits".to_owned(), site.ada.git(&["log", "--all", "-p"])));
    assert!(command_lines.iter().any(|line| line.contains("mainstay mover")), "no mover was seen: {command_lines:#?}");
    seen.extend(command_lines.into_iter().map(|line| (format!("the command line `{line}`"), line)));
    for namespace in [&site.installation.system, &site.installation.shop] {
        for kind in ["events", "configmaps", "cronjobs", "jobs", "pods", "leases", "persistentvolumeclaims"] {
            let objects = succeed(namespace.kubectl().args(["get", kind, "-o", "json"]));
            seen.push((format!("the {kind} in {}", namespace.name()), objects));
        }
        let pods = succeed(namespace.kubectl().args(["get", "pods", "-o", "name"]));
        for pod in pods.lines() {
            let log = namespace.kubectl().args(["logs", pod, "--all-containers"]).output().expect("kubectl");
            seen.push((format!("the log of {pod}"), String::from_utf8_lossy(&log.stdout).into_owned()));
        }
    }
    for (place, text) in seen {
        for secret in [token.as_str(), WEBHOOK_SECRET, PASSWORD, S3_SECRET] {
            assert!(!text.contains(secret), "{place} shows a secret");
        }
    }
}

/// The command lines of all Mainstay's processes on this machine, in pods and out of them, for as long as this lives.
struct CommandLines {
    ended: Arc<AtomicBool>,
    watch: JoinHandle<BTreeSet<String>>,
}

impl CommandLines {
    fn watch() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let watch = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !until.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").expect("Linux").flatten() {
                    let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    // Whoever clones for a test has a token in the address.
                    let is_git = line.starts_with("git ") || line.contains("/git-core/");
                    if line.contains("mainstay") && !is_git {
                        seen.insert(line);
                    }
                }
                std::thread::sleep(Duration::from_millis(50)); // how often it looks, not a guess at how long it takes
            }
            seen
        });
        Self { ended, watch }
    }

    fn end(self) -> BTreeSet<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.watch.join().expect("it looked")
    }
}
