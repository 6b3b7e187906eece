//! The promises, with a real `kill -9`: of the daemon, of a run, of a mover.

use std::{fs, path::Path, process::Command};

use crate::{
    peers::{succeed, wait_for},
    world::{World, descendants, kill_process},
};

/// A source whose dump waits at a gate: it says `begun`, and ends once the file `gate` is there.
fn gated(world: &World) -> String {
    let script = world.write(
        "dump",
        format!(
            "#!/bin/sh\ncd {}\necho some data\n: >begun\nwhile [ ! -e gate ]; do sleep 0.05; done\necho END\n",
            world.path("").display()
        ),
    );
    succeed(Command::new("chmod").arg("+x").arg(&script));
    format!("    - name: db\n      command: {{dump: [{}], trailer: END}}", script.display())
}

/// A workload that is stopped for the time of the copy: up while the file `up` is there; every start and stop is noted.
fn cold(world: &World) -> String {
    world.write("up", "");
    let (up, log) = (world.path("up"), world.path("starts"));
    let (up, log) = (up.display(), log.display());
    format!(
        "  consistency: Cold
  quiesce:
    stop: [sh, -c, \"rm -f {up}; echo stop >>{log}\"]
    start: [sh, -c, \"touch {up}; echo start >>{log}\"]"
    )
}

fn begun(world: &World) {
    wait_for("the dump to begin", 60, || world.path("begun").exists().then_some(()));
}

fn open_gate(world: &World) {
    world.write("gate", "");
}

#[test]
fn a_killed_run_leaves_no_workload_down_and_the_next_run_is_good() {
    let world = World::new("kill-run");
    world.policy(&gated(&world), &cold(&world));
    world.apply();
    let mut run = world.start("run", &["run", "shop/nightly"]);
    begun(&world);
    assert!(!world.path("up").exists(), "the workload was not stopped");
    run.kill();
    open_gate(&world);
    // The guard of a run that is gone is the daemon, or the next run.
    wait_for("the next run to be good", 60, || world.mainstay(&["run", "shop/nightly"]).status.success().then_some(()));
    assert!(world.path("up").exists(), "the workload is still down");
    assert_eq!(world.points().len(), 1, "a killed run left a restore point");
    world.restic_check();
}

#[test]
fn a_killed_mover_fails_the_run_and_starts_the_workload_again() {
    let world = World::new("kill-mover");
    world.policy(&gated(&world), &cold(&world));
    world.apply();
    let mut run = world.start("run", &["run", "shop/nightly"]);
    begun(&world);
    let movers = descendants(run.child.id(), &["mainstay", "mover"]);
    assert!(!movers.is_empty(), "no mover is at work");
    movers.into_iter().for_each(kill_process);
    assert_eq!(run.code(), Some(1));
    assert!(world.path("up").exists(), "the workload is still down");
    assert_eq!(world.points(), Vec::<String>::new());
    open_gate(&world);
    wait_for("the next run to be good", 60, || world.mainstay(&["run", "shop/nightly"]).status.success().then_some(()));
    assert_eq!(world.points().len(), 1);
    world.restic_check();
}

#[test]
fn a_terminated_run_starts_the_workload_again_by_itself() {
    let world = World::new("terminate-run");
    world.policy(&gated(&world), &cold(&world));
    world.apply();
    let mut run = world.start("run", &["run", "shop/nightly"]);
    begun(&world);
    succeed(Command::new("kill").args(["-TERM", &run.child.id().to_string()]));
    assert_ne!(run.code(), Some(0));
    assert!(world.path("up").exists(), "the workload is still down");
    assert_eq!(world.points(), Vec::<String>::new());
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    succeed(
        Command::new("git")
            .current_dir(directory)
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"])
            .args(arguments),
    )
}

fn watched(world: &World) {
    let documents = world.path("documents");
    git(&documents, &["init", "-q", "-b", "main"]);
    git(&documents, &["add", "-A"]);
    git(&documents, &["commit", "-q", "-m", "documents"]);
}

fn start_daemon(world: &World) -> crate::world::Started {
    world.start("daemon", &["daemon", "--repo", "documents", "--branch", "main", "--poll", "1s"])
}

/// Runs of this world, by id, as the status tells.
fn starts(world: &World) -> usize {
    fs::read_to_string(world.path("starts")).unwrap_or_default().lines().filter(|line| *line == "stop").count()
}

#[test]
fn a_killed_daemon_starts_no_run_twice_and_its_run_goes_on() {
    let world = World::new("kill-daemon");
    // Due every minute: the daemon starts it by itself.
    let fields = format!("  schedule: \"* * * * *\"\n{}", cold(&world));
    world.policy(&gated(&world), &fields);
    watched(&world);
    let mut daemon = start_daemon(&world);
    wait_for("the scheduled run to begin", 100, || world.path("begun").exists().then_some(()));
    daemon.kill();
    let again = world.start("daemon2", &["daemon", "--repo", "documents", "--branch", "main", "--poll", "1s"]);
    wait_for("the new daemon to be at work", 60, || {
        fs::read_to_string(world.path("daemon2.log")).is_ok_and(|log| !log.is_empty()).then_some(())
    });
    assert_eq!(starts(&world), 1, "the run was started twice");
    open_gate(&world);
    wait_for("the run to end well", 60, || (!world.points().is_empty()).then_some(()));
    wait_for("the workload to be up", 60, || world.path("up").exists().then_some(()));
    drop(again);
    drop(daemon);
    world.restic_check();
}

#[test]
fn a_failed_an_empty_and_a_cut_off_dump_are_no_restore_points() {
    for (name, dump) in [
        ("failed", "[sh, -c, \"echo data; echo END; exit 3\"]"),
        ("empty", "[\"true\"]"),
        ("cut-off", "[sh, -c, \"echo data\"]"),
        ("killed", "[sh, -c, \"echo data; echo END; kill -9 $$\"]"),
    ] {
        let world = World::new(name);
        world.policy(&format!("    - name: db\n      command: {{dump: {dump}, trailer: END}}"), "");
        world.apply();
        world.bad(&["run", "shop/nightly"]);
        assert_eq!(world.points(), Vec::<String>::new(), "{name}");
        assert!(world.restic_check().is_empty(), "{name}: a snapshot was left");
    }
}

#[test]
fn a_loss_is_refused_until_it_is_approved_and_can_be_taken_back() {
    let world = World::new("losses");
    world.write("site/a", "a");
    let sources = format!("    - name: files\n      paths: [{}]", world.path("site").display());
    let keep = |count: u32| format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}");
    world.policy(&sources, &keep(3));
    world.apply();
    for wanted in 1..=3 {
        wait_for("another run in another second", 30, || {
            let ran = world.mainstay(&["run", "shop/nightly"]);
            (ran.status.success() && world.points().len() == wanted).then_some(())
        });
    }
    let all = world.points();
    world.policy(&sources, &keep(1));
    let plan = world.mainstay(&["plan", "--path", "documents", "--detailed-exitcode"]);
    assert_eq!(plan.status.code(), Some(3), "{}", crate::peers::said(&plan));
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    for lost in &all[..2] {
        assert!(text.contains(lost.as_str()), "{lost} is not named in: {text}");
    }
    let _ = world.mainstay(&["apply", "--path", "documents"]);
    wait_for("a run under the former rules", 30, || {
        world.mainstay(&["run", "shop/nightly"]).status.success().then_some(())
    });
    assert_eq!(world.restic_check().len(), 4, "a refused loss was carried out");
}

#[test]
fn a_turn_with_nothing_to_do_writes_nothing() {
    let world = World::new("idle");
    world.write("site/a", "a");
    world.policy(&format!("    - name: files\n      paths: [{}]", world.path("site").display()), "");
    watched(&world);
    let documents = world.path("documents");
    let _daemon = start_daemon(&world);
    let head = |branch: &str| {
        let output = Command::new("git").arg("-C").arg(&documents).args(["rev-parse", branch]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let first = wait_for("the status branch", 60, || head("mainstay/status"));
    // A commit that changes no document causes a turn; the dashboard names it, and nothing else may follow.
    world.write("documents/notes.txt", "no document");
    git(&documents, &["add", "-A"]);
    git(&documents, &["commit", "-q", "-m", "notes"]);
    let revision = head("main").expect("a commit");
    let second = wait_for("the status of the second commit", 60, || {
        let page = succeed(Command::new("git").arg("-C").arg(&documents).args(["show", "mainstay/status:README.md"]));
        if page.contains(&revision[..8]) { head("mainstay/status") } else { None }
    });
    let count = succeed(Command::new("git").arg("-C").arg(&documents).args(["rev-list", "--count", "mainstay/status"]));
    let count: usize = count.trim().parse().expect("a number");
    assert!(count <= 2, "{count} status commits for two commits; from {first} to {second}");
}
