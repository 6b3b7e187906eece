//! CI without the daemon: the steps of the workflow, of the jobs and of the hooks in `examples/plan-in-ci`, carried out
//! as they are written, with the variables that each system sets. The systems themselves are not here.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use crate::folder_host::{Host, examples};

/// A clone in CI, without credentials and without anything of the host, whose branch `edit` keeps less.
struct Ci {
    host: Host,
    /// Where the clone came from, and fetches from.
    _origin: Host,
}

impl Ci {
    fn new() -> Self {
        let origin = Host::of_example("plan-in-ci");
        origin.write("srv/records/file", "content");
        origin.commit("Keep the records");
        origin.apply();
        for _ in 0..3 {
            origin.good(&["run", "clinic/records"]);
        }
        let newest = origin.ids("clinic/records").last().cloned().expect("a point");
        let daemon = origin.daemon(&[]);
        origin.wait_for("the published inventory", |origin| {
            let mut show = Command::new("git");
            show.arg("-C").arg(origin.path("documents")).args(["show", "mainstay/status:inventory.json"]);
            String::from_utf8_lossy(&show.output().ok()?.stdout).contains(&newest).then_some(())
        });
        drop(daemon);
        let host = Host::new();
        fs::remove_dir(host.path("documents")).expect("an empty folder");
        let mut clone = Command::new("git");
        clone.args(["clone", "-q"]).arg(origin.path("documents")).arg(host.path("documents"));
        assert!(clone.status().expect("git").success());
        host.git(&["checkout", "-q", "-b", "edit"]);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mainstay"), host.path("bin/mainstay")).expect("a link");
        Self { host, _origin: origin }
    }

    fn keep_less(&self) {
        self.host.edit("documents/backup.yaml", "keepLast: 28, keepMonthly: 24", "keepLast: 1");
        self.host.commit("Keep less");
    }

    fn break_it(&self) {
        self.host.edit("documents/backup.yaml", "keepLast: ", "keepLst: ");
    }

    /// Carries out a step in the clone.
    fn step(&self, shell: &[&str], script: &str) -> Output {
        let path = format!("{}:{}", self.host.text("bin"), std::env::var("PATH").unwrap_or_default());
        Command::new(shell[0])
            .args(&shell[1..])
            .arg(script)
            .current_dir(self.host.path("documents"))
            .env_clear()
            .envs([("PATH", path), ("HOME", self.host.text("")), ("GIT_CONFIG_NOSYSTEM", "1".to_owned())])
            .envs([("GITHUB_BASE_REF", "main"), ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")])
            .env("GITHUB_STEP_SUMMARY", self.host.path("summary"))
            .env("RUNNER_TEMP", self.host.path(""))
            .output()
            .expect("the shell starts")
    }
}

fn document(name: &str) -> Value {
    let text = fs::read_to_string(examples().join("plan-in-ci").join(name)).expect("an example");
    serde_yaml::from_str(&text).expect("YAML")
}

fn code(output: &Output) -> Option<i32> {
    eprintln!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.code()
}

#[test]
fn the_workflow_for_github_plans_and_refuses() {
    let workflow = document("github.yaml");
    let steps = workflow["jobs"]["plan"]["steps"].as_array().expect("steps");
    let run = |name: &str| {
        let step = steps.iter().find(|step| step["name"] == name).expect("a step");
        step["run"].as_str().expect("a script").to_owned()
    };
    assert_eq!(workflow["permissions"], serde_json::json!({ "contents": "read" }), "it gets no right to write");
    assert!(!workflow.to_string().contains("secrets."), "it needs no secret");
    // As GitHub starts them: `bash -e {0}` and `bash --noprofile --norc -eo pipefail {0}`.
    let bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"];
    let ci = Ci::new();
    assert_eq!(code(&ci.step(&bash, &run("validate"))), Some(0));
    assert_eq!(code(&ci.step(&bash, &run("plan"))), Some(0), "nothing changes");
    ci.keep_less();
    assert_eq!(code(&ci.step(&bash, &run("plan"))), Some(3), "a loss is refused");
    let summary = ci.host.read("summary");
    assert!(summary.contains("Restore points: 2 lost"), "{summary}");
    ci.host.edit("documents/backup.yaml", "keepLast: 1", "keepLast: 40");
    ci.host.commit("Keep more");
    assert_eq!(code(&ci.step(&bash, &run("plan"))), Some(0), "changes alone are no failure");
    ci.break_it();
    let broken = ci.step(&bash, &run("validate"));
    assert_eq!(code(&broken), Some(4));
    assert!(String::from_utf8_lossy(&broken.stdout).contains("::error file=backup.yaml,line="));
}

#[test]
fn the_jobs_for_gitlab_plan_and_refuse() {
    let jobs = document("gitlab.yaml");
    // As GitLab's runner does it: all lines of a job in one shell that ends at the first failure.
    let script = |job: &str| {
        let lines = jobs[job]["script"].as_array().expect("a script").iter();
        lines.map(|line| line.as_str().expect("a line")).collect::<Vec<_>>().join("\n")
    };
    let shell = ["bash", "-eo", "pipefail", "-c"];
    let ci = Ci::new();
    assert_eq!(code(&ci.step(&shell, &script("validate backups"))), Some(0));
    assert_eq!(code(&ci.step(&shell, &script("plan backups"))), Some(0));
    ci.keep_less();
    assert_eq!(code(&ci.step(&shell, &script("plan backups"))), Some(3));
    let plan = ci.host.read("documents/plan.md");
    assert!(plan.contains("Restore points: 2 lost"), "{plan}");
    ci.break_it();
    assert_eq!(code(&ci.step(&shell, &script("validate backups"))), Some(4));
}

#[test]
fn the_hooks_stop_a_commit_with_findings() {
    let ci = Ci::new();
    let hook = ci.host.path("documents/.git/hooks/pre-commit");
    fs::copy(examples().join("plan-in-ci/pre-commit"), &hook).expect("a hook");
    let commit = || ci.step(&["sh", "-c"], "git -c user.name=A -c user.email=a@example.org commit -qam edit");
    ci.keep_less_in_the_work_tree();
    assert_eq!(code(&commit()), Some(0));
    ci.break_it();
    let refused = commit();
    assert_ne!(code(&refused), Some(0));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("keepLst"), "the hook says why");

    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(".pre-commit-hooks.yaml")).expect("hooks");
    let hooks: Value = serde_yaml::from_str(&text).expect("YAML");
    let entry = hooks[0]["entry"].as_str().expect("an entry");
    assert_eq!(code(&ci.step(&["sh", "-c"], entry)), Some(4));
    let files = hooks[0]["files"].as_str().expect("a pattern");
    assert_eq!(files, r"(^|/)([^/]+\.)?backup\.yaml$");
}

impl Ci {
    fn keep_less_in_the_work_tree(&self) {
        self.host.edit("documents/backup.yaml", "keepLast: 28", "keepLast: 27");
    }
}
