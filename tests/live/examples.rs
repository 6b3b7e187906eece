//! The examples that need a server, carried out as they are written: only paths, addresses and ports are put in the
//! place of those of the documents. The others are in `tests/it/examples.rs`.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    peers::{Peers, succeed, wait_for},
    world::{World, assert_same_tree},
};

/// A host with the documents of an example; absolute paths are moved below its folder, and S3 is the real server.
fn host(example: &str, replaced: &[(&str, &str)]) -> World {
    let world = World::new(&format!("example-{example}"));
    world.write("etc/mainstay/s3-id", "mainstay\n");
    world.write("etc/mainstay/s3-secret", "mainstay-secret\n");
    fs::create_dir_all(world.path("var/backups")).expect("a folder");
    world.also_uses(Peers::s3_folder(example));
    add(&world, example, "backup.yaml", replaced);
    world
}

fn add(world: &World, example: &str, file: &str, replaced: &[(&str, &str)]) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join(file);
    let mut text = fs::read_to_string(from).expect("the example");
    for (what, with) in replaced {
        assert!(text.contains(what), "`{what}` is not in {example}/{file}");
        text = text.replace(what, with);
    }
    text = text.replace("https://s3.example.org", &Peers::s3());
    text = text.replace("prefix: prod", &format!("prefix: {example}"));
    for folder in ["/srv/", "/var/", "/etc/mainstay/"] {
        text = text.replace(folder, &format!("{}{folder}", world.path("").display().to_string().trim_end_matches('/')));
    }
    world.write(&format!("documents/{file}"), text);
}

fn points(world: &World, policy: &str) -> Vec<Value> {
    let text = world.good(&["points", policy, "--path", "documents", "-o", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"))
}

/// A user `backup` of MariaDB with this password.
fn mariadb_user(password: &str) -> u16 {
    let server = Peers::mariadb();
    server.sql(&format!(
        "CREATE USER IF NOT EXISTS backup@'%' IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO backup@'%'"
    ));
    server.port
}

const PASSWORD: &str = "of the user backup";

/// PW1 on one host: two repositories, of which each alone brings everything back.
#[test]
fn directories_are_in_each_of_two_repositories() {
    let world = host("directories", &[]);
    world.write("srv/documents/letter", "Dear");
    world.write("srv/documents/draft.tmp", "not this");
    world.write("srv/documents/.cache/x", "nor this");
    world.write("srv/scans/page", [0, 1, 2, 255]);
    world.apply();
    world.good(&["run", "office/documents"]);
    fs::remove_file(world.path("srv/documents/draft.tmp")).expect("a file");
    fs::remove_file(world.path("srv/documents/.cache/x")).expect("a file");
    for repository in ["local", "offsite"] {
        let into = world.path(repository);
        let text = into.display().to_string();
        world.good(&["restore", "office/documents", "latest", "--repository", repository, "--into", &text]);
        let restored = into.join(world.path("srv").strip_prefix("/").expect("an absolute path"));
        for folder in ["documents", "scans"] {
            let (left, right) = (world.path("srv").join(folder), restored.join(folder));
            let diff = Command::new("diff").arg("-r").arg(left).arg(right).output().expect("diff");
            assert!(diff.status.success(), "{repository}: {diff:?}");
        }
    }
    // The folders changed just now; after that, nothing new is stored.
    world.good(&["run", "office/documents"]);
    let again = world.good(&["run", "office/documents"]);
    assert!(again.contains("0 B new"), "{again}");
}

/// KS1, KS2: two schedules, two repositories, one of them shared and one with a repository for each policy.
#[test]
fn several_schedules_and_repositories() {
    let world = host("schedules-and-repositories", &[]);
    world.write("srv/shop/file", "content");
    let plan = world.good(&["plan", "--path", "documents", "--now", "2026-11-20T18:30:00Z"]);
    // Friday 20:00 in Berlin is 19:00 UTC; then Saturday and Sunday at 03:00 by the other schedule.
    for next in ["2026-11-20T19:00:00Z", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"] {
        assert!(plan.contains(next), "{next} is not in: {plan}");
    }
    world.apply();
    world.good(&["run", "shop/shop"]);
    let verified = world.good(&["verify", "shop/shop", "--read-data", "100%"]);
    assert!(verified.contains("shared: good") && verified.contains("offsite: good"), "{verified}");
    assert!(world.path("var/backups/shared/config").exists(), "`layout: Shared` is the directory itself");
    assert_eq!(points(&world, "shop/shop").len(), 1, "two repositories, but one restore point");
    let into = world.path("restored");
    let text = into.display().to_string();
    world.good(&["restore", "shop/shop", "latest", "--repository", "offsite", "--into", &text]);
    let site = world.path("srv/shop");
    assert_same_tree(&site, &into.join(site.strip_prefix("/").expect("an absolute path")));
}

/// KP2, KP4, KP5, KS4: files and database in one restore point, run now, with a status for each of them.
#[test]
fn a_domain_with_its_database() {
    let port = mariadb_user(PASSWORD);
    let server = Peers::mariadb();
    server.sql("CREATE DATABASE example_org; USE example_org; CREATE TABLE example_org.page AS SELECT seq AS id, REPEAT('text ', 200) AS body FROM seq_1_to_2000");
    let before = server.content("example_org");
    let world = host("domain-with-database", &[("host: 127.0.0.1", &format!("host: 127.0.0.1, port: {port}"))]);
    world.write("etc/mainstay/mariadb", PASSWORD);
    world.write("srv/domains/example.org/index.html", "<h1>Example</h1>");
    world.apply();
    world.good(&["run", "domains/example-org"]);

    let status = world.status();
    let run = &status["policies"]["domains/example-org"]["lastRun"];
    assert_eq!(run["phase"], "Succeeded", "{run:#}");
    let sources = run["sources"].as_array().expect("sources");
    assert_eq!(sources.len(), 2, "{run:#}");
    for source in sources {
        assert_eq!(source["phase"], "Succeeded", "{source}");
        assert!(source["sizeBytes"].as_u64().is_some_and(|size| size > 0), "{source}");
        assert!(source["durationMilliseconds"].is_u64(), "{source}");
        assert!(source["snapshot"].as_str().is_some_and(|id| id.len() == 64), "{source}");
    }
    let database = sources.iter().find(|source| source["source"] == "database").expect("the database");
    let size = database["sizeBytes"].as_u64().unwrap_or(0);
    let packs = succeed(Command::new("find").arg(world.path("var/backups")).args(["-type", "f", "-printf", "%s\\n"]));
    let stored: u64 = packs.lines().map(|bytes| bytes.parse::<u64>().expect("a number")).sum();
    assert!(size > 1_000_000 && stored < size / 5, "{stored} for {size} bytes: it is not compressed");
    let point = &points(&world, "domains/example-org")[0];
    assert!(point["expiresAt"].is_string(), "no expiry date: {point}");

    let sql = world.path("example_org.sql");
    world.good(&[
        "points",
        "download",
        "domains/example-org",
        "--source",
        "database",
        "--output",
        &sql.display().to_string(),
    ]);
    assert!(fs::read_to_string(&sql).expect("SQL").contains("CREATE TABLE `page`"));
    server.sql("DELETE FROM example_org.page");
    let site = world.path("srv/domains/example.org");
    fs::write(site.join("index.html"), "defaced").expect("a file");
    world.good(&["restore", "domains/example-org", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(server.content("example_org"), before);
    assert_eq!(fs::read_to_string(site.join("index.html")).expect("a file"), "<h1>Example</h1>");
}

/// A Restore in git: the state before a time, into another database, once.
#[test]
fn a_database_as_it_was_before_an_accident() {
    let port = mariadb_user(PASSWORD);
    let server = Peers::mariadb();
    server.sql("CREATE DATABASE blog; CREATE TABLE blog.post AS SELECT 'before the day' AS body");
    let world = host(
        "database-restore",
        &[("databases: [blog]", &format!("host: 127.0.0.1, port: {port}, databases: [blog]"))],
    );
    world.write("etc/mainstay/mariadb", PASSWORD);
    world.apply();
    world.good(&["run", "web/blog"]);
    server.sql("UPDATE blog.post SET body = 'accident'; CREATE DATABASE blog_before");
    world.good(&["run", "web/blog"]);
    let after = points(&world, "web/blog")[1]["time"].as_str().expect("a time").to_owned();
    add(&world, "database-restore", "restore.backup.yaml", &[("2026-11-20T12:00:00Z", &after)]);
    world.apply();
    wait_for("the restore", 60, || {
        let status = world.status();
        let report = &status["restores"][0]["report"];
        assert_ne!(report["phase"], "Failed", "{report:#}");
        (report["phase"] == "Succeeded").then_some(())
    });
    assert_eq!(server.sql("SELECT body FROM blog_before.post").trim(), "before the day");
    assert_eq!(server.sql("SELECT body FROM blog.post").trim(), "accident", "the other database is as it was");
}

/// ST2, ST4: piped straight into S3 and back; no temporary file is written beside it.
#[test]
fn a_mysql_dump_is_piped_both_ways() {
    let port = mariadb_user(PASSWORD);
    let server = Peers::mariadb();
    server.sql("CREATE DATABASE warehouse; USE warehouse; CREATE TABLE warehouse.item AS SELECT seq AS id, MD5(seq) AS name FROM seq_1_to_50000");
    let before = server.content("warehouse");
    let world = host("mysql-stream", &[("host: mysql.example.org", &format!("host: 127.0.0.1, port: {port}"))]);
    world.write("etc/mainstay/mysql", PASSWORD);
    world.apply();
    // A folder for temporary files in which nothing can be created: whatever needs one fails.
    let no_folder = world.path("no-such-folder");
    let run = |arguments: &[&str]| succeed(world.command(arguments).env("TMPDIR", &no_folder));
    run(&["run", "finance/warehouse"]);
    server.sql("DROP DATABASE warehouse; CREATE DATABASE warehouse");
    run(&["restore", "finance/warehouse", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(server.content("warehouse"), before);
}

/// PW4, PW7: custom format, a password that is given by the environment, several databases, a restore of one table.
#[test]
fn a_table_is_chosen_from_a_postgres_dump() {
    let server = Peers::postgres();
    server.sql("postgres", "CREATE ROLE backup SUPERUSER LOGIN PASSWORD 'of the role backup'");
    for database in ["ledger", "audit"] {
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        server.sql(database, "CREATE TABLE entry AS SELECT n AS id FROM generate_series(1, 100) AS n; CREATE TABLE other AS SELECT 1 AS id");
    }
    let world =
        host("postgres", &[("host: db.example.org, port: 5432", &format!("host: 127.0.0.1, port: {}", server.port))]);
    let run = |arguments: &[&str]| succeed(world.command(arguments).env("LEDGER_PASSWORD", "of the role backup"));
    world.apply();
    let without = world.bad(&["run", "finance/ledger"]);
    assert!(without.contains("LEDGER_PASSWORD"), "{without}");
    run(&["run", "finance/ledger"]);
    let found = points(&world, "finance/ledger");
    assert_eq!(found.len(), 1);
    let shown = world.good(&["points", "show", "finance/ledger", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["parts"][0]["files"], 2, "a file for each database: {shown}");

    let dump = world.path("ledger.dump");
    let dump_text = dump.display().to_string();
    world.good(&["points", "download", "finance/ledger", "--file", "ledger.dump", "--output", &dump_text]);
    server.sql("ledger", "DROP TABLE entry; DELETE FROM other");
    let mut restore = Command::new("pg_restore");
    restore.env("PGPASSWORD", "of the role backup").args([
        "--exit-on-error",
        "-h",
        "127.0.0.1",
        "-U",
        "backup",
        "-t",
        "entry",
    ]);
    succeed(restore.args(["-d", "ledger", "-p", &server.port.to_string()]).arg(&dump));
    assert_eq!(server.sql("ledger", "SELECT count(*) FROM entry").trim(), "100");
    assert_eq!(server.sql("ledger", "SELECT count(*) FROM other").trim(), "0", "only one table was asked for");

    server.sql("audit", "DROP TABLE entry");
    run(&["restore", "finance/ledger", "latest", "--in-place", "--yes", "--existing", "update"]);
    for database in ["ledger", "audit"] {
        assert_eq!(server.sql(database, "SELECT sum(id) FROM entry").trim(), "5050");
    }
}
