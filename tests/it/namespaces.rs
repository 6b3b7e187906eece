//! One state, two namespaces of process numbers, as a container and its host have them: who is alive there is told by a
//! lock, because a number means another process, or none.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mainstay::{engine::local::Recovered, run::Phase};
use serde_json::json;

use crate::host::{Host, good};

/// Carries a command out in a namespace of process numbers of its own. None: this host forbids it.
fn contained(command: &Command) -> Option<Command> {
    let contain = || {
        let mut contained = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            contained.args(["--user", "--map-root-user"]);
        }
        contained.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        contained
    };
    let tried = contain().arg("true").output();
    let allowed = tried.as_ref().is_ok_and(|tried| tried.status.success());
    assert!(allowed || std::env::var_os("CI").is_none(), "this test needs `unshare --pid --mount-proc`: {tried:?}");
    if !allowed {
        eprintln!("NOT TESTED: `unshare --pid --mount-proc` is forbidden here: {tried:?}");
        return None;
    }
    let mut contained = contain();
    contained.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => contained.env(name, value),
            None => contained.env_remove(name),
        };
    }
    Some(contained)
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A run that stands in its capture until the FIFO is written to, and writes a line when it gets there.
async fn host_that_stands(host: &Host) {
    let (begun, go_on) = (host.fifo("begun"), host.fifo("go-on"));
    let dump = format!("echo run >> {}; echo > {}; cat {}", host.text("log"), begun.display(), go_on.display());
    host.put(json!({
        "consistency": "Cold", "quiesce": host.quiesce(),
        "sources": [{"name": "dump", "command": {"dump": ["sh", "-c", dump]}}],
    }))
    .await;
}

/// Promise 5, over the border of a container, whichever side the run is on.
#[tokio::test]
async fn a_run_in_another_container_is_alive_and_its_policy_runs_once() {
    for run_is_contained in [true, false] {
        let host = Host::new();
        host_that_stands(&host).await;
        let command = || host.command(&["run", "shop/nightly"]);
        let (run, other) = match (contained(&command()), run_is_contained) {
            (None, _) => return,
            (Some(contained), true) => (contained, command()),
            (Some(contained), false) => (command(), contained),
        };
        let mut run = quiet(run);
        fs::read(host.path("begun")).unwrap();
        if run_is_contained {
            let recovered = host.engine().recover(Timestamp::now()).await.unwrap();
            assert_eq!(recovered, Recovered::default(), "a living run was taken for dead");
        }
        let said = good({ other }.output().unwrap());
        assert!(said.contains("is under way already; nothing was started"), "{said}");
        fs::write(host.path("go-on"), "rows\n").unwrap();
        assert!(run.wait().unwrap().success());
        assert_eq!(host.log(), "stop\nrun\nstart\n");
        assert_eq!(host.actual().await.inventory.points.len(), 1);
    }
}

/// Promise 1: its lock went with it, so that it is known to be gone, and its workload is woken from outside.
#[tokio::test]
async fn a_run_that_was_killed_in_another_container_is_recovered() {
    let host = Host::new();
    host_that_stands(&host).await;
    let Some(run) = contained(&host.command(&["run", "shop/nightly"])) else { return };
    let mut run = quiet(run);
    fs::read(host.path("begun")).unwrap();
    // With it the whole container ends.
    run.kill().unwrap();
    run.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        assert!(Instant::now() < deadline, "a run that was killed is taken for a living one");
        // The kernel ends the container's processes one by one.
        let recovered = host.engine().recover(Timestamp::now()).await.unwrap();
        if !recovered.ended.is_empty() {
            break recovered;
        }
        std::thread::yield_now();
    };
    assert_eq!(ended.ended.len(), 1, "{ended:?}");
    assert_eq!(host.log(), "stop\nrun\nstart\n");
    assert_eq!(host.actual().await.last_run.unwrap().phase, Phase::Failed);
}
