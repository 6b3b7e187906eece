//! `plan`, `approve` and `points` through the real binary.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const NOW: &str = "2026-11-20T12:00:00Z";

/// A git repository that knows nothing of the machine it is on.
pub struct World {
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap() };
        world.git(&["init", "-q", "-b", "main"]);
        world.git(&["config", "user.name", "Someone"]);
        world.git(&["config", "user.email", "someone@example.org"]);
        world
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn copy(&self, from: &Path) {
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let Ok(entries) = std::fs::read_dir(from.join(&relative)) else { continue };
            for entry in entries {
                let entry = entry.unwrap();
                let relative = relative.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    std::fs::create_dir_all(self.path().join(&relative)).unwrap();
                    pending.push(relative);
                } else {
                    std::fs::copy(entry.path(), self.path().join(&relative)).unwrap();
                }
            }
        }
    }

    pub fn clear(&self) {
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            match (entry.file_name() == ".git", entry.file_type().unwrap().is_dir()) {
                (true, _) => {}
                (false, true) => std::fs::remove_dir_all(entry.path()).unwrap(),
                (false, false) => std::fs::remove_file(entry.path()).unwrap(),
            }
        }
    }

    pub fn write(&self, file: &str, content: &str) {
        std::fs::write(self.path().join(file), content).unwrap();
    }

    pub fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    pub fn revision(&self, name: &str) -> String {
        self.git(&["rev-parse", name]).trim().to_owned()
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", "2026-11-20T10:00:00Z")
            .env("GIT_COMMITTER_DATE", "2026-11-20T10:00:00Z")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Runs `mainstay` in a directory: exit code, standard output, standard error.
pub fn run(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env("XDG_STATE_HOME", directory.join(".git/state"))
        .env_remove("MAINSTAY_STATE")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn documents(retention: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: nightly, namespace: shop}}
spec:
  repositories: [disk]
  sources: [{{name: files, paths: [/srv/shop]}}]
  retention: {{{retention}}}
---
apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {{name: disk}}
spec: {{directory: /backup, password: {{generate: true}}}}
"
    )
}

/// An inventory with the newest points of one policy, one a day.
fn inventory(days: i64) -> String {
    let newest: jiff::Timestamp = "2026-11-20T02:00:00Z".parse().unwrap();
    let points: Vec<Value> = (0..days)
        .map(|day| newest - jiff::SignedDuration::from_hours(24 * day))
        .map(|time| serde_json::json!({"id": mainstay::restore_point::RestorePointId::from_time(time), "time": time, "sizeBytes": 1 << 30}))
        .collect();
    serde_json::json!({"formatVersion": 1, "observedAt": NOW, "complete": true, "policies": {"shop/nightly": {"schedule": "0 2 * * *", "restorePoints": points}}})
        .to_string()
}

/// An edit that lets 3 of 10 restore points go.
fn tightened() -> World {
    let world = World::new();
    world.write("backup.yaml", &documents("keepDaily: 30"));
    world.commit("before");
    world.git(&["tag", "base"]);
    world.write("backup.yaml", &documents("keepDaily: 7"));
    world.commit("after");
    std::fs::write(world.path().join(".git/inventory.json"), inventory(10)).unwrap();
    world
}

const COMPARE: [&str; 6] = ["--base=base", "--head=HEAD", "--offline=.git/inventory.json", "--now", NOW, "-ojson"];

fn plan(world: &World, more: &[&str]) -> (i32, Value, String) {
    let (exit, output, errors) = run(world.path(), &[&["plan"], &COMPARE[..], more].concat());
    (exit, serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}{errors}")), errors)
}

#[test]
fn the_losses_are_exact_and_each_has_its_reason() {
    let world = tightened();
    let (exit, plan, _) = plan(&world, &[]);
    assert_eq!(exit, 0, "a plan with refusals is a good plan");
    let ids: Vec<&str> = plan["losses"].as_array().unwrap().iter().map(|loss| loss["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["20261111-020000", "20261112-020000", "20261113-020000"]);
    assert_eq!(plan["losses"][0]["reason"], "keepDaily 30 → 7");
    assert_eq!(plan["losses"][0]["sizeBytes"], 1 << 30);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 0);
    assert_eq!(plan["refused"][0]["policy"], "shop/nightly");
    assert_eq!(plan["refused"][0]["change"]["fields"][0]["path"], "retention.keepDaily");
    assert_eq!(plan["refused"][0]["change"]["source"]["file"], "backup.yaml");
    assert_eq!(plan["revision"], world.revision("HEAD"));
    assert_eq!(plan["errored"], false);
}

#[test]
fn an_approval_lifts_exactly_what_it_names() {
    let world = tightened();
    let (exit, before, _) = plan(&world, &["--detailed-exitcode"]);
    assert_eq!(exit, 3);
    // The very command that the plan prints.
    let command = before["refused"][0]["approve"].as_str().unwrap().to_owned();
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let (exit, output, errors) = run(world.path(), &arguments);
    assert_eq!(exit, 0, "{errors}");
    assert!(output.contains("losing 3 restore points"), "{output}");
    assert_eq!(world.git(&["diff", "--stat", "HEAD~1", "HEAD"]), "", "an approval changes no file");
    let (exit, after, _) = plan(&world, &["--detailed-exitcode"]);
    assert_eq!(exit, 2);
    assert_eq!(after["refused"].as_array().unwrap().len(), 0);
    assert_eq!(after["changes"][0]["losses"].as_array().unwrap().len(), 3);
    assert_eq!(after["digest"], before["digest"], "approving does not change what is approved");
    // One more day, and another point would go: that one was never approved.
    let later = inventory(10).replace("20261111", "20261110x");
    std::fs::write(world.path().join(".git/inventory.json"), later).unwrap();
    assert_eq!(plan(&world, &["--detailed-exitcode"]).0, 3);
}

#[test]
fn an_edit_that_raises_the_limit_is_judged_by_that_of_the_base() {
    let world = tightened();
    let settings = "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {safety: \
                    {losses: 3}}\n";
    world.write("settings.backup.yaml", settings);
    world.commit("more may be lost");
    let (exit, both, _) = plan(&world, &["--detailed-exitcode"]);
    assert_eq!(exit, 3, "{both}");
    let reason = both["refused"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("the 3 of this edit count once nothing is held back"), "{reason}");
    world.git(&["tag", "--force", "base"]);
    world.write("backup.yaml", &documents("keepDaily: 4"));
    world.commit("tighter");
    let (exit, after, _) = plan(&world, &["--detailed-exitcode"]);
    assert_eq!(exit, 2, "{after}");
}

#[test]
fn approving_something_else_is_refused() {
    let world = tightened();
    let head = world.revision("HEAD");
    for (digest, part) in [("abc", "is not a digest"), (&"0".repeat(64), "not the digest of anything")] {
        let arguments = [&["approve", digest], &COMPARE[..5]].concat();
        let (exit, _, errors) = run(world.path(), &arguments);
        assert_eq!(exit, 1);
        assert!(errors.contains(part), "{errors}");
    }
    assert_eq!(world.revision("HEAD"), head);
}

#[test]
fn without_a_base_every_point_that_is_not_kept_counts_as_lost() {
    let world = tightened();
    let (_, output, _) = run(world.path(), &["plan", "--offline=.git/inventory.json", "--now", NOW]);
    assert!(output.contains("does not say which rules are in force"), "{output}");
    assert!(output.contains("Plan: 0 to create, 0 to update, 0 to delete, 1 refused."), "{output}");
    assert!(output.contains("Restore points: 3 lost (3.0 GiB)"), "{output}");
}

#[test]
fn a_first_plan_needs_nothing_but_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("backup.yaml"), documents("keepDaily: 7")).unwrap();
    let (exit, output, errors) =
        run(directory.path(), &["plan", "--detailed-exitcode", "--state=nowhere", "--now", NOW]);
    assert_eq!(exit, 2, "{errors}");
    assert!(output.contains("+ shop/nightly"), "{output}");
    assert!(output.contains("next runs: 2026-11-21T02:00:00Z, 2026-11-22T02:00:00Z, 2026-11-23T02:00:00Z"), "{output}");
    assert!(!directory.path().join("nowhere").exists(), "a plan makes nothing");
}

#[test]
fn what_cannot_be_read_says_what_to_do() {
    let world = tightened();
    world.write("bad.json", "{}");
    for (arguments, parts) in [
        (&["plan", "--base=nothing"][..], ["no commit `nothing`", "fetch it"]),
        (&["plan", "--offline=missing.json"], ["missing.json", "because"]),
        (&["plan", "--offline=bad.json"], ["bad.json", "status -o json --inventory"]),
        (&["plan", "--path=missing"], ["missing", "--path"]),
        (&["points", "nobody", "--offline=.git/inventory.json"], ["no policy default/nobody", "mainstay points"]),
    ] {
        let (exit, _, errors) = run(world.path(), arguments);
        assert_eq!(exit, 1, "{arguments:?}: {errors}");
        for part in parts {
            assert!(errors.contains(part), "{arguments:?}: {errors}");
        }
    }
}

#[test]
fn points_say_what_keeps_them_and_until_when() {
    let world = tightened();
    let list = |more: &[&str]| {
        let arguments = [&["points"], more, &["--offline=.git/inventory.json", "--now", NOW, "-o", "json"]].concat();
        let (exit, output, errors) = run(world.path(), &arguments);
        assert_eq!(exit, 0, "{errors}");
        serde_json::from_str::<Value>(&output).unwrap()
    };
    let all = list(&[]);
    assert_eq!(all, list(&["shop/nightly"]));
    let points = all.as_array().unwrap();
    let kept: Vec<bool> = points.iter().map(|point| point["kept"].as_bool().unwrap()).collect();
    assert_eq!(kept, [false, false, false, true, true, true, true, true, true, true]);
    // Seven stay; each run from the next one on lets the oldest go.
    assert_eq!(points[3]["expiresAt"], "2026-11-21T02:00:00Z");
    assert_eq!(points[9]["expiresAt"], "2026-11-27T02:00:00Z");
    assert_eq!(points[3]["policy"], "shop/nightly");
}

#[test]
#[cfg(unix)]
fn an_approval_is_signed_where_git_signs() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = tightened();
    let signer = world.path().join(".git/signer");
    let script = "#!/bin/sh\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\necho signed\n";
    std::fs::write(&signer, script).unwrap();
    std::fs::set_permissions(&signer, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.git(&["config", "commit.gpgsign", "true"]);
    world.git(&["config", "gpg.program", signer.to_str().unwrap()]);
    world.write("staged", "not part of an approval");
    world.git(&["add", "staged"]);
    let digest = plan(&world, &[]).1["digest"].as_str().unwrap().to_owned();
    let (exit, _, errors) = run(world.path(), &[&["approve", &digest], &COMPARE[..5]].concat());
    assert_eq!(exit, 0, "{errors}");
    assert!(world.git(&["cat-file", "-p", "HEAD"]).contains("gpgsig signed"));
    assert_eq!(world.git(&["diff", "--stat", "HEAD~1", "HEAD"]), "");
    assert_eq!(plan(&world, &["--detailed-exitcode"]).0, 2);
}
