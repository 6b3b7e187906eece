//! Faults: real outages and `kill -9` in a real cluster. After each, workloads have their replicas, no run was started
//! twice, no restore point is half, and what is said tells a person what happened.
//!
//! [`matrix`] holds what comes of each; a copy of it is in `deploy/README.md`.

use std::fs;

use serde_json::Value;

use crate::{
    cluster::Namespace,
    kubernetes_runs::installation::{Applied, Installation},
    peers::{succeed, wait_for},
};

pub mod matrix;
mod movers;
mod outages;
mod pods;

/// Slow enough to be caught in the middle.
const SLOWLY: (&str, &str) = ("spec:\n  schedule:", "spec:\n  limits: {bandwidth: 512KiB, timeout: 10m}\n  schedule:");
/// The workload stands still for the whole copy.
const STILL_ALL_THE_TIME: (&str, &str) = ("method: FilesFromSnapshot", "method: Files");

impl Installation {
    /// Something to copy that takes a while, as [`SLOWLY`] goes.
    fn fill(&self, mebibytes: usize) {
        self.shop.shell("deployment/shop", &format!("head -c {mebibytes}M /dev/urandom > /data/large; sync"));
    }
}

impl Applied<'_> {
    /// Starts a run and waits until its mover is in the middle of its work; gives the mover's pod.
    fn start_and_catch(&self, job: &str) -> String {
        self.start(job, &[]);
        let shop = &self.installation.shop;
        wait_for("a mover in the middle of its work", 300, || {
            let runs = self.runs();
            let run = runs.iter().find(|run| run["job"] == job)?["report"]["id"].as_str()?.to_owned();
            let (ours, running) = (format!("mainstay.dev/run={run}"), "--field-selector=status.phase=Running");
            let pods = succeed(shop.kubectl().args(["get", "pods", "-l", &ours, running, "-o", "name"]));
            let pod = pods.lines().next()?.to_owned();
            let log = shop.kubectl().args(["logs", &pod, "-c", "mover"]).output().expect("kubectl");
            is_under_way(&String::from_utf8_lossy(&log.stdout)).then_some(pod)
        })
    }

    /// What must hold after every fault: `jobs` are the runs that were started.
    fn settled(&self, jobs: &[&str]) {
        let installation = self.installation;
        wait_for("the workload to have its replicas", 300, || {
            let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
            (up == "2 2").then_some(())
        });
        let told = installation.shop.field("deployment/shop", "{.metadata.annotations}{.metadata.labels}");
        assert!(!told.contains("mainstay.dev"), "{told}");
        let runs = self.runs();
        let mut of_jobs: Vec<&str> = runs.iter().filter_map(|run| run["job"].as_str()).collect();
        of_jobs.sort_unstable();
        let mut expected = jobs.to_vec();
        expected.sort_unstable();
        assert_eq!(of_jobs, expected, "each run that was asked for was made once");
        let good = runs.iter().filter(|run| run["report"]["phase"] == "Succeeded").count();
        assert_eq!(self.points().len(), good, "a restore point for each good run, and for no other");
        installation.wait_until_gone("volumesnapshots");
        wait_for("movers to have ended, and temporary claims to be gone", 300, || {
            let jobs =
                installation.shop.kubectl().args(["get", "jobs", "-o", "jsonpath={.items[*].status.active}"]).output();
            let claims = succeed(installation.shop.kubectl().args(["get", "pvc", "-o", "name"]));
            (jobs.expect("kubectl").stdout.is_empty() && claims.lines().count() == 2).then_some(())
        });
    }

    /// A good run after a fault, and nothing in the repository that belongs to no restore point.
    fn goes_on(&self, jobs: &[&str]) {
        self.run("after");
        self.settled(&[jobs, &["after"]].concat());
        let parts: usize = self.points().iter().map(|point| point["parts"].as_array().expect("parts").len()).sum();
        assert_eq!(self.restic().len(), parts, "each snapshot belongs to a restore point");
    }
}

/// Whether a mover's log tells of bytes that are done, and of no end.
fn is_under_way(log: &str) -> bool {
    let mut events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = events.next_back().unwrap_or_default();
    last["Progress"]["done_bytes"].as_u64() > Some(0)
}

/// Kills, with SIGKILL and without a word, this program in a pod.
pub fn kill(namespace: &Namespace, pod: &str) {
    let uid = namespace.field(pod, "{.metadata.uid}");
    let mut killed = 0;
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let in_pod = String::from_utf8_lossy(&read("cgroup")).contains(&uid);
        if in_pod && String::from_utf8_lossy(&read("cmdline")).starts_with("/mainstay") {
            succeed(std::process::Command::new("kill").args(["-KILL", process]));
            killed += 1;
        }
    }
    assert!(killed > 0, "{pod} has no process of Mainstay");
}

/// The pod of a Job in Mainstay's namespace that is at work.
fn pod_of(namespace: &Namespace, job: &str) -> String {
    let selector = format!("job-name={job}");
    let running = "--field-selector=status.phase=Running";
    let pods = succeed(namespace.kubectl().args(["get", "pods", "-l", &selector, running, "-o", "name"]));
    pods.lines().next().expect("a pod that runs").to_owned()
}
