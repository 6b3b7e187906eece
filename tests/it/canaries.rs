//! Canaries: secrets that are given to the daemon or a run reach no program that they are not meant for, and nothing that
//! a program says of them is kept or shown.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::host::{Host, bad, good};

/// The secrets: of the repository by the environment, of a source by the environment and by a file, and of git.
const CANARIES: [(&str, &str); 3] =
    [("CANARY_REPOSITORY", "canary-one"), ("CANARY_SOURCE", "canary-two"), ("MAINSTAY_GIT_TOKEN", "canary-three")];
const IN_FILE: &str = "canary in a file";

/// Says all secrets that a program of this policy could know, on both channels.
const BETRAY: &str = "env; env >&2; cat HOST/secret HOST/others >&2";

fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command(arguments);
    command.envs(CANARIES);
    command
}

/// Stores a policy whose programs are these; `HOST/` is the host's folder.
async fn put(host: &Host, hook: &str, quiesce: [&str; 2], dump: &str, restore: &str) {
    let shell = |script: &str| json!(["sh", "-c", script.replace("HOST/", &host.text(""))]);
    let [stop, start] = quiesce;
    fs::write(host.path("secret"), format!("{IN_FILE}\n")).unwrap();
    let [repository, source, _] = CANARIES.map(|(_, value)| value);
    // The judge's.
    fs::write(host.path("password"), repository).unwrap();
    fs::write(host.path("others"), format!("{repository} {source}\n")).unwrap();
    let more = json!({
        "consistency": "Cold", "quiesce": {"stop": shell(stop), "start": shell(start)},
        "hooks": {"after": [{"command": shell(hook)}]},
        "sources": [{"name": "dump", "command": {
            "dump": shell(dump), "restore": shell(restore),
            "environment": {"TOKEN": {"env": "CANARY_SOURCE"}, "OTHER": {"file": host.text("secret")}},
        }}],
    });
    let password = json!({"password": {"env": "CANARY_REPOSITORY"}});
    let policy = host.policy_in(&["disk"], password, more);
    mainstay::engine::Engine::put(&host.engine(), &policy).await.unwrap();
}

fn assert_no_canary(what: &str, text: &[u8]) {
    for canary in CANARIES.iter().map(|(_, value)| *value).chain([IN_FILE]) {
        let found = text.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!found, "{what} has `{canary}`:\n{}", String::from_utf8_lossy(text));
    }
}

/// All that is kept.
fn assert_nothing_kept(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => assert_nothing_kept(&path),
            false => assert_no_canary(&path.display().to_string(), &fs::read(&path).unwrap()),
        }
    }
}

#[tokio::test]
async fn programs_get_only_the_secrets_that_are_meant_for_them() {
    let host = Host::new();
    let quiesce = ["env > HOST/stop", "env > HOST/start"];
    put(&host, "env > HOST/hook", quiesce, "env > HOST/dump; echo rows", "cat > HOST/rows; env > HOST/restore").await;
    good(command(&host, &["run", "shop/nightly"]).output().unwrap());
    let restore = ["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"];
    good(command(&host, &restore).output().unwrap());
    for program in ["stop", "start", "hook"] {
        let environment = fs::read(host.path(program)).unwrap();
        assert!(!environment.is_empty());
        assert_no_canary(program, &environment);
    }
    for program in ["dump", "restore"] {
        let environment = fs::read_to_string(host.path(program)).unwrap();
        let (own, inherited): (Vec<&str>, Vec<&str>) =
            environment.lines().partition(|line| line.starts_with("TOKEN=") || line.starts_with("OTHER="));
        assert_eq!(own.len(), 2, "{environment}");
        assert_no_canary(program, inherited.join("\n").as_bytes());
    }
}

#[tokio::test]
async fn what_programs_say_of_secrets_is_not_kept() {
    let host = Host::new();
    let betray = |exit: i32| format!("{BETRAY}; exit {exit}");
    // Each program fails in its turn, after it has said all that it knows.
    let rows = format!("{BETRAY}; echo rows");
    for (hook, quiesce, dump) in [
        (betray(1), ["true".to_owned(), "true".to_owned()], rows.clone()),
        ("true".to_owned(), [betray(2), "true".to_owned()], rows.clone()),
        ("true".to_owned(), ["true".to_owned(), betray(3)], rows.clone()),
        ("true".to_owned(), ["true".to_owned(), "true".to_owned()], betray(4)),
    ] {
        put(&host, &hook, [&quiesce[0], &quiesce[1]], &dump, &betray(5)).await;
        let output = command(&host, &["run", "shop/nightly"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8_lossy(&said).contains("***"), "{}", String::from_utf8_lossy(&said));
        assert_no_canary("the run", &said);
        // What is left stopped is started by hand of a guard, which says as little.
        put(&host, "true", ["true", "true"], "echo rows", &betray(5)).await;
        let _ = command(&host, &["run", "shop/nightly"]).output().unwrap();
    }
    let (_, said) = bad(command(&host, &["restore", "shop/nightly", "--in-place", "--existing", "update", "--yes"])
        .output()
        .unwrap());
    assert!(said.contains("***"), "{said}");
    assert_no_canary("the restore", said.as_bytes());
    assert_no_canary("the status", good(command(&host, &["status", "-o", "json"]).output().unwrap()).as_bytes());
    assert_nothing_kept(&host.path("state"));
}
