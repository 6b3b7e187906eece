//! The examples, carried out as they are written: applied, run, restored, compared. Those that need a server are in
//! `tests/live/examples.rs`. Only paths are moved, below a folder of the test; programs of a host are stand-ins.

mod table;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
};

use serde_json::Value;

use crate::folder_host::{Host, examples};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("an address").port()
}

/// KS6, PW5: programs of any kind, and a run now.
#[test]
fn any_program_is_dumped_and_takes_its_dump_back() {
    let host = Host::of_example("any-program");
    host.write("ldap", "dn: dc=example,dc=org\n");
    host.write("var/lib/app/app.db", "CREATE TABLE a;\nCOMMIT;\n");
    host.program("slapcat", "[ \"$*\" = '-n 1' ] && cat ldap");
    host.program("slapadd", "[ \"$*\" = '-n 1' ] && cat >ldap");
    host.program("sqlite3", "if [ \"$2\" = .dump ]; then cat \"$1\"; else cat >\"$1\"; fi");
    host.apply();
    host.good(&["run", "office/directory-service"]);
    assert_eq!(host.ids("office/directory-service").len(), 1);
    host.write("ldap", "");
    host.write("var/lib/app/app.db", "spoiled");
    host.good(&["restore", "office/directory-service", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(host.read("ldap"), "dn: dc=example,dc=org\n");
    assert_eq!(host.read("var/lib/app/app.db"), "CREATE TABLE a;\nCOMMIT;\n");

    // The trailer of the second one is what tells a dump that was cut off.
    host.write("var/lib/app/app.db", "CREATE TABLE a;\n");
    let said = host.bad(&["run", "office/directory-service"], 1);
    assert!(said.contains("source sqlite"), "{said}");
    assert_eq!(host.ids("office/directory-service").len(), 1);
}

/// PW3: what is copied was stopped, and is started again on every path.
#[test]
fn a_cold_service_is_copied_while_it_stands_still() {
    let host = Host::of_example("cold");
    host.write("var/lib/wiki/state", "up");
    host.program(
        "systemctl",
        "echo \"$*\" >>systemctl.log; [ $1 = stop ] && echo down >var/lib/wiki/state || echo up >var/lib/wiki/state",
    );
    host.apply();
    host.good(&["run", "office/wiki"]);
    assert_eq!(host.read("systemctl.log"), "stop wiki\nstart wiki\n");
    assert_eq!(host.read("var/lib/wiki/state"), "up\n");
    let restored = host.restored("office/wiki", &[]);
    let copied = fs::read_to_string(host.below(&restored, "var/lib/wiki/state")).expect("a file");
    assert_eq!(copied, "down\n", "it was copied while it was at work");

    fs::rename(host.path("var/lib/wiki"), host.path("var/lib/away")).expect("the folder moves away");
    host.program("systemctl", "echo \"$*\" >>systemctl.log");
    host.bad(&["run", "office/wiki"], 1);
    assert_eq!(host.read("systemctl.log"), "stop wiki\nstart wiki\nstop wiki\nstart wiki\n");
    assert_eq!(host.ids("office/wiki").len(), 1);
}

/// PW2: a hook that fails is the end of the run before anything is copied.
#[test]
fn a_hook_comes_first_and_its_failure_copies_nothing() {
    let host = Host::of_example("hot-with-hooks");
    fs::create_dir_all(host.path("var/lib/redis")).expect("a folder");
    host.program("redis-cli", "[ $1 = SAVE ] && echo saved >var/lib/redis/dump.rdb");
    host.program("logger", "echo \"$1\" >>syslog");
    host.apply();
    host.good(&["run", "shop/cache-server"]);
    host.restores("shop/cache-server", "var/lib/redis");
    assert!(host.path("var/lib/redis/dump.rdb").exists());
    let before = host.ids("shop/cache-server");

    host.program("redis-cli", "echo 'Could not connect to Redis' >&2; exit 1");
    let said = host.bad(&["run", "shop/cache-server"], 1);
    assert!(said.contains("redis-cli") && said.contains("Could not connect to Redis"), "{said}");
    assert!(!said.contains("capture files"), "it copied after all: {said}");
    assert_eq!(host.ids("shop/cache-server"), before);
    assert_eq!(host.read("syslog"), "backup of redis ended\n".repeat(2), "the hook after a run runs on every path");
}

/// PW10: a repository for each policy, with a suffix that is fresh for one that was deleted and made again.
#[test]
fn each_policy_has_a_repository_of_its_own() {
    let host = Host::of_example("own-repository");
    for customer in ["a", "b"] {
        host.write(&format!("srv/customers/{customer}/file"), customer);
    }
    host.apply();
    for customer in ["a", "b"] {
        host.good(&["run", &format!("customers/customer-{customer}")]);
        host.restores(&format!("customers/customer-{customer}"), &format!("srv/customers/{customer}"));
    }
    let repositories = || -> Vec<String> {
        let find = Command::new("find").arg(host.path("var/backups/customers")).args(["-name", "config"]).output();
        let text = String::from_utf8(find.expect("find").stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    };
    let first = repositories();
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first.iter().any(|path| path.contains("/local/customers-customer-a-")), "{first:?}");
    let password = host.read("etc/mainstay/customers-password");
    assert!(password.trim().len() >= 32, "a weak password: {} characters", password.trim().len());

    let documents = host.read("documents/backup.yaml");
    let only_b = documents.split("---\n").skip(1).collect::<Vec<_>>().join("---\n");
    host.write("documents/backup.yaml", only_b);
    host.apply();
    host.write("documents/backup.yaml", documents);
    host.apply();
    host.good(&["run", "customers/customer-a"]);
    let now = repositories();
    assert_eq!(now.len(), 3, "made again, it has a fresh repository: {now:?}");
    assert!(first.iter().all(|path| now.contains(path)), "the former one is still there: {now:?}");
    // What the former one holds can still be restored.
    assert_eq!(host.ids("customers/customer-a").len(), 2);
}

/// PW6, PW7, B1, B2, B3: what an edit would lose is listed and refused; consent makes it so; a revert takes it back.
#[test]
fn a_loss_is_listed_refused_approved_and_taken_back() {
    let host = Host::of_example("retention");
    for file in ["file", "plans/a", "plans/b"] {
        host.write(&format!("srv/projects/{file}"), "content");
    }
    host.commit("Keep much");
    host.apply();
    for _ in 0..3 {
        host.good(&["run", "studio/projects"]);
    }
    let all = host.ids("studio/projects");
    assert_eq!(all.len(), 3);
    for point in host.points("studio/projects") {
        assert!(point["sizeBytes"].as_u64().is_some_and(|size| size > 0), "{point}");
        assert!(point["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{point}");
        assert_eq!(point["kept"], true);
    }
    let shown = host.good(&["points", "show", "studio/projects", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["parts"][0]["files"], &shown["parts"][0]["unreadable"]), (&3.into(), &0.into()), "{shown}");

    host.edit(
        "documents/backup.yaml",
        "keepLast: 7, keepHourly: 24, keepDaily: 7, keepWeekly: 4, keepMonthly: 12, keepYearly: -1, keepWithin: 3d",
        "keepLast: 1",
    );
    host.commit("Keep little");
    let plan = host.bad(&["plan", "--path", "documents", "--detailed-exitcode"], 3);
    assert!(all[..2].iter().all(|lost| plan.contains(lost)) && !plan.contains(&all[2]), "{plan}");
    assert!(plan.contains("Restore points: 2 lost ("), "{plan}");
    let refused = host.bad(&["apply", "--path", "documents"], 3);
    host.good(&["run", "studio/projects"]);
    assert_eq!(host.ids("studio/projects").len(), 4, "the former rules hold: {refused}");

    let plan: Value =
        serde_json::from_str(&host.good(&["plan", "--path", "documents", "-o", "json"])).expect("a plan in JSON");
    let digest = plan["refused"][0]["digest"].as_str().expect("a digest").to_owned();
    host.good(&["approve", &digest, "--path", "documents"]);
    host.apply();
    let expired = |host: &Host| host.good(&["status", "-o", "json", "--inventory"]);
    host.good(&["run", "studio/projects"]);
    let kept: Vec<bool> = host.points("studio/projects").iter().map(|point| point["kept"] == true).collect();
    assert_eq!(kept, [false, false, false, false, true], "{}", expired(&host));

    // Nothing is gone before the grace time is over.
    host.git(&["revert", "--no-edit", "HEAD~1"]);
    host.apply();
    assert!(host.points("studio/projects").iter().all(|point| point["kept"] == true), "{}", expired(&host));
    host.good(&["restore", "studio/projects", &all[0], "--into", &host.text("oldest")]);
}

/// KP7: files go out as tar.gz and come back from one; a restore is asked for in git.
#[test]
fn files_are_downloaded_uploaded_and_restored_by_a_commit() {
    let host = Host::of_example("download-and-restore");
    host.write("srv/uploads/deep/file", "content");
    host.apply();
    host.good(&["run", "domains/uploads"]);
    let archive = host.text("uploads.tar.gz");
    host.good(&["points", "download", "domains/uploads", "--output", &archive]);
    let listed = Command::new("tar").args(["-tzf", &archive]).output().expect("tar");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("srv/uploads/deep/file"), "{listed:?}");
    host.good(&["restore", "domains/uploads", "--archive", &archive, "--into", &host.text("unpacked")]);
    let unpacked = host.path("unpacked");
    let found = Command::new("find").arg(&unpacked).args(["-name", "file"]).output().expect("find");
    assert!(String::from_utf8_lossy(&found.stdout).contains("srv/uploads/deep/file"), "{found:?}");

    host.ask_for_restore("download-and-restore");
    host.apply();
    let content = host.wait_for("the restore", |host| {
        let status: Value = serde_json::from_str(&host.good(&["status", "-o", "json"])).expect("JSON");
        let phase = status["restores"][0]["report"]["phase"].clone();
        assert_ne!(phase, "Failed", "{status:#}");
        (phase == "Succeeded").then(|| {
            let file = host.below(&host.path("srv/uploads-restored"), "srv/uploads/deep/file");
            fs::read_to_string(file).expect("the restored file")
        })
    });
    assert_eq!(content, "content");
    // Once only.
    fs::remove_dir_all(host.path("srv/uploads-restored")).expect("a folder");
    host.apply();
    assert!(!host.path("srv/uploads-restored").exists());
}

/// KS1: a repository is declared once, and a team names it from its own directory, and no other.
#[test]
fn a_team_uses_what_its_directory_is_allowed() {
    let host = Host::of_example("tenants");
    host.write("srv/shop/file", "content");
    host.apply();
    host.good(&["run", "shop/files"]);
    host.restores("shop/files", "srv/shop");
    let before = host.ids("shop/files");
    host.edit("documents/teams/shop/backup.yaml", "namespace: shop", "namespace: finance");
    let said = host.bad(&["apply", "--path", "documents"], 4);
    assert!(said.contains("teams/shop/backup.yaml") && said.contains("finance"), "{said}");
    assert_eq!(host.ids("shop/files"), before);
}

/// ST5: the metrics of a run are pushed, and those of all served.
#[test]
fn metrics_are_pushed_and_served() {
    let host = Host::of_example("metrics");
    host.write("srv/measured/file", "content");
    let gateway = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = gateway.local_addr().expect("an address").to_string();
    host.edit("documents/backup.yaml", "127.0.0.1:9091", &address);
    let pushed = std::thread::spawn(move || {
        let (mut stream, _) = gateway.accept().expect("a push");
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&request).contains("mainstay_run_source_files{") {
            let read = stream.read(&mut piece).expect("a request");
            assert!(read > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&piece[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
        String::from_utf8(request).expect("text")
    });
    host.commit("Measure");
    host.apply();
    host.good(&["run", "office/measured"]);
    let request = pushed.join().expect("the gateway");
    assert!(
        request.starts_with("PUT /metrics/job/mainstay/namespace/office/policy/measured HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("\nmainstay_run_success 1\n"), "{request}");

    let listen = format!("127.0.0.1:{}", free_port());
    let _daemon = host.daemon(&["--listen", &listen]);
    let metrics = host.wait_for("the metrics of the daemon", |_| {
        let mut stream = TcpStream::connect(&listen).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("policy=\"office/measured\"").then_some(answer)
    });
    assert!(metrics.contains("mainstay_restore_points{policy=\"office/measured\"} 1"), "{metrics}");
}

/// B8: a clone without any state, credentials or access to the repository plans from the published inventory.
#[test]
fn a_plan_in_ci_needs_the_published_inventory_only() {
    let host = Host::of_example("plan-in-ci");
    host.write("srv/records/file", "content");
    host.commit("Keep the records");
    host.apply();
    for _ in 0..3 {
        host.good(&["run", "clinic/records"]);
    }
    let all = host.ids("clinic/records");
    let daemon = host.daemon(&[]);
    host.wait_for("the published inventory", |host| {
        let mut show = Command::new("git");
        show.arg("-C").arg(host.path("documents")).args(["show", "mainstay/status:inventory.json"]);
        let output = show.output().ok()?;
        String::from_utf8_lossy(&output.stdout).contains(&all[2]).then_some(())
    });
    drop(daemon);
    let ci = Host::new();
    fs::remove_dir(ci.path("documents")).expect("an empty folder");
    let clone =
        Command::new("git").args(["clone", "-q"]).arg(host.path("documents")).arg(ci.path("documents")).status();
    assert!(clone.expect("git").success());
    ci.edit("documents/backup.yaml", "keepLast: 28, keepMonthly: 24", "keepLast: 1");
    ci.git(&["checkout", "-q", "-b", "edit"]);
    ci.commit("Keep less");
    // Whatever it would want to open is out of reach.
    drop(fs::remove_dir_all(host.path("var")));
    drop(fs::remove_dir_all(host.path("state")));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mainstay"), ci.path("bin/mainstay")).expect("a link");
    let plan = |head: &str| {
        let path = format!("{}:{}", ci.text("bin"), std::env::var("PATH").unwrap_or_default());
        Command::new(examples().join("plan-in-ci/plan"))
            .args(["origin/main", head])
            .current_dir(ci.path("documents"))
            .env("PATH", path)
            .env("HOME", ci.path(""))
            .env_remove("MAINSTAY_STATE")
            .output()
            .expect("the script starts")
    };
    let (same, edited) = (plan("origin/main"), plan("HEAD"));
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    assert_eq!(edited.status.code(), Some(3), "{edited:?}");
    let text = String::from_utf8(edited.stdout).expect("text");
    assert!(all[..2].iter().all(|lost| text.contains(lost)) && !text.contains(&all[2]), "{text}");
}
