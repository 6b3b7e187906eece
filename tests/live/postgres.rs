//! PostgreSQL: dumped, destroyed, restored; and each way in which a dump can fail.

use std::{fs, process::Command};

use crate::{
    peers::{OwnServer, Peers, Postgres, free_port, wait_for},
    world::{World, orderly_failure},
};

/// Tables with data of all kinds, and what else a database holds.
const SHOP: &str = r#"
CREATE TYPE colour AS ENUM ('red', 'green', 'blå');
CREATE TABLE item (
    id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, price numeric(20, 10), weight double precision,
    colour colour, photo bytea, attributes jsonb, words text[], made timestamptz, open_from time, kept interval,
    place point, address inet, parent bigint REFERENCES item, searched tsvector
        GENERATED ALWAYS AS (to_tsvector('simple', name)) STORED,
    CHECK (price >= 0)
);
INSERT INTO item (name, price, weight, colour, photo, attributes, words, made, open_from, kept, place, address) VALUES
    ('Öl; -- ''quoted'' "double" \ backslash', 12345678.0123456789, 'NaN', 'blå', decode('0001ff5c27220a0d', 'hex'),
     '{"a": [1, null, "é"], "b": {"c": 1e400}}', ARRAY['x', NULL, '', 'with,comma'], '2026-03-29 02:30:00+02', '23:59:59.999',
     '1 year 2 mons -3 days', '(1.5,-2)', '2001:db8::/32'),
    (E'line\nbreak\ttab', 0, '-Infinity', NULL, '', 'null', '{}', 'infinity', NULL, NULL, NULL, NULL),
    ('', NULL, 5e-324, 'red', NULL, NULL, NULL, '0044-03-15 12:00:00 BC', NULL, NULL, NULL, NULL);
INSERT INTO item (name, price, parent) SELECT 'item ' || n, n / 7.0, 1 FROM generate_series(1, 20000) AS n;
CREATE INDEX item_search ON item USING gin (searched);
CREATE VIEW cheap AS SELECT name FROM item WHERE price < 10;
CREATE MATERIALIZED VIEW counted AS SELECT colour, count(*) FROM item GROUP BY colour ORDER BY colour;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * n';
CREATE TABLE "Strange ""Name""" (a int, b int) PARTITION BY RANGE (a);
CREATE TABLE low PARTITION OF "Strange ""Name""" FOR VALUES FROM (0) TO (10);
INSERT INTO "Strange ""Name""" VALUES (1, 2), (3, 4);
CREATE SEQUENCE ticket START 1000;
SELECT nextval('ticket'), lo_from_bytea(4711, 'a large object');
COMMENT ON TABLE item IS 'what is sold';
"#;

fn source(world: &World, server: &Postgres, databases: &str, more: &str) -> String {
    format!(
        "    - name: db
      postgres: {{host: 127.0.0.1, port: {}, databases: [{databases}], user: mainstay, password: {{file: {}}}{more}}}",
        server.port,
        world.path("database-password").display()
    )
}

fn shop(server: &Postgres, database: &str) {
    server.sql("postgres", &format!("CREATE DATABASE {database}"));
    server.sql(database, SHOP);
}

#[test]
fn a_destroyed_database_comes_back_row_for_row() {
    let (world, server) = (World::new("pg-destroyed"), Peers::postgres());
    shop(&server, "destroyed");
    let before = server.content("destroyed");
    world.policy(&source(&world, &server, "destroyed", ""), "");
    world.apply();
    world.run();
    assert_eq!(world.points().len(), 1);

    server.sql(
        "destroyed",
        "DROP TABLE item CASCADE; DROP TYPE colour CASCADE; UPDATE low SET b = 0; SELECT lo_unlink(4711)",
    );
    assert_ne!(server.content("destroyed"), before);
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(server.content("destroyed"), before);

    // The whole database gone is the worse day.
    server.sql("postgres", "DROP DATABASE destroyed");
    server.sql("postgres", "CREATE DATABASE destroyed");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(server.content("destroyed"), before);
    world.restic_check();
}

#[test]
fn a_dump_restores_into_another_database_and_the_first_stays_as_it_is() {
    let (world, server) = (World::new("pg-other"), Peers::postgres());
    shop(&server, "original");
    world.policy(&source(&world, &server, "original", ""), "");
    world.apply();
    world.run();
    let before = server.content("original");
    server.sql("postgres", "CREATE DATABASE elsewhere");
    server.sql("original", "DELETE FROM item WHERE id > 100");
    let changed = server.content("original");
    world.good(&["restore", "shop/nightly", "latest", "--database", "elsewhere"]);
    assert_eq!(server.content("elsewhere"), before);
    assert_eq!(server.content("original"), changed);
}

/// Nothing is written into a database that is not empty, or of which nobody can tell, unless that is asked for.
#[test]
fn a_database_that_is_not_empty_is_not_written_into_unasked() {
    let (world, server) = (World::new("pg-existing"), Peers::postgres());
    shop(&server, "guarded");
    world.policy(&source(&world, &server, "guarded", ""), "");
    world.apply();
    world.run();
    let restore = |database: &str| world.bad(&["restore", "shop/nightly", "latest", "--database", database]);
    let said = restore("not_there");
    assert!(
        said.contains("nobody can tell whether database not_there is empty") && said.contains("not exist"),
        "{said}"
    );
    // The least that a person can have made: one row of a table, a view of nothing, a sequence in a schema of its own.
    for (database, made) in [
        ("has_table", "CREATE TABLE mine AS SELECT 1 AS a"),
        ("has_view", "CREATE VIEW mine AS SELECT 1 AS a"),
        ("has_sequence", "CREATE SCHEMA other; CREATE SEQUENCE other.mine"),
    ] {
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        server.sql(database, made);
        let before = server.content(database);
        let said = restore(database);
        assert!(said.contains(&format!("database {database} is not empty (1 tables")), "{said}");
        assert_eq!(server.content(database), before);
    }
    let update = ["restore", "shop/nightly", "latest", "--database", "has_table", "--existing", "update"];
    world.good(&update);
    assert_eq!(server.sql("has_table", "SELECT a FROM mine").trim(), "1");
    assert_eq!(server.sql("has_table", "SELECT count(*) FROM item").trim(), "20003");
}

#[test]
fn the_real_restic_gives_a_dump_that_the_real_pg_restore_takes() {
    let (world, server) = (World::new("pg-restic"), Peers::postgres());
    shop(&server, "byrestic");
    world.policy(&source(&world, &server, "byrestic", ""), "");
    world.apply();
    world.run();
    let snapshots = world.restic_check();
    assert_eq!(snapshots.len(), 1);
    let folder = world.restic_restore(snapshots[0]["id"].as_str().expect("an id"));
    let dump = wait_for("the dump that restic restored", 1, || find(&folder, "byrestic.dump"));
    assert!(fs::read(&dump).expect("a dump").starts_with(b"PGDMP"));
    server.sql("postgres", "CREATE DATABASE byrestic2");
    let status = Command::new("pg_restore")
        .env("PGPASSWORD", "mainstay")
        .args(["--exit-on-error", "--no-owner", "-h", "127.0.0.1", "-U", "mainstay", "-d", "byrestic2", "-p"])
        .arg(server.port.to_string())
        .arg(&dump)
        .status()
        .expect("pg_restore starts");
    assert!(status.success());
    assert_eq!(server.content("byrestic2"), server.content("byrestic"));
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    let output = Command::new("find").arg(folder).args(["-name", name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(Into::into)
}

#[test]
fn a_wrong_password_fails_the_run_and_shows_neither_password() {
    let (world, server) = (World::new("pg-password"), Peers::postgres());
    world.write("database-password", "wr0ng-secret");
    world.policy(&source(&world, &server, "postgres", ""), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("password authentication failed"), "{said}");
    assert!(!said.contains("wr0ng-secret"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
    assert!(world.restic_check().is_empty());
}

#[test]
fn a_server_that_is_down_fails_the_run() {
    let world = World::new("pg-down");
    let server = Postgres { port: free_port() };
    world.policy(&source(&world, &server, "shop", ""), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("Connection refused"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
}

#[test]
fn a_missing_dump_program_is_named() {
    let (world, server) = (World::new("pg-program"), Peers::postgres());
    let empty = world.path("empty");
    fs::create_dir(&empty).expect("a folder");
    let more = format!(", programDirectory: {}", empty.display());
    world.policy(&source(&world, &server, "postgres", &more), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("pg_dump"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
}

#[test]
fn a_missing_database_among_several_leaves_no_restore_point() {
    let (world, server) = (World::new("pg-missing"), Peers::postgres());
    world.policy(&source(&world, &server, "postgres, nosuchdatabase", ""), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("nosuchdatabase"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
    assert!(world.restic_check().is_empty(), "a half dump became a snapshot");
}

#[test]
fn a_server_killed_in_the_middle_of_a_dump_leaves_no_restore_point() {
    let world = World::new("pg-killed");
    let directory = world.path("server");
    let mut own = OwnServer::start("postgres.sh", &directory, &[]);
    let server = Postgres { port: own.port };
    wait_for("the server to take connections", 60, || {
        let ready = Command::new("pg_isready").args(["-q", "-h", "127.0.0.1", "-p"]).arg(own.port.to_string()).status();
        ready.ok().filter(|status| status.success())
    });
    // Large enough that its dump takes seconds.
    server.sql(
        "postgres",
        "CREATE TABLE big AS SELECT n, md5(n::text) || md5((-n)::text) AS a, md5((n * 7)::text) AS b FROM generate_series(1, 2000000) AS n",
    );
    // Uncompressed, and uploaded slowly: so the kill surely comes in the middle of the stream.
    world
        .policy(&source(&world, &server, "postgres", ", arguments: [\"--compress=0\"]"), "  limits: {bandwidth: 4MiB}");
    world.apply();
    let mut run = world.start("run", &["run", "shop/nightly"]);
    wait_for("the dump to be in the middle of the table", 60, || {
        let copying = server.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_progress_copy WHERE command = 'COPY TO' AND tuples_processed > 10000",
        );
        assert!(run.child.try_wait().expect("our child").is_none(), "the run ended before it could be disturbed");
        (copying.trim() != "0").then_some(())
    });
    own.kill();
    assert_eq!(run.code(), Some(1));
    assert_eq!(world.points(), Vec::<String>::new());
    assert!(world.restic_check().is_empty(), "a cut-off dump became a snapshot");

    // The server comes back, and so does the run.
    drop(own);
    let _own = OwnServer::start_on(server.port, "postgres.sh", &directory, &[]);
    wait_for("the server to recover", 60, || {
        let ready =
            Command::new("pg_isready").args(["-q", "-h", "127.0.0.1", "-p"]).arg(server.port.to_string()).status();
        ready.ok().filter(|status| status.success())
    });
    world.policy(&source(&world, &server, "postgres", ""), "");
    world.apply();
    world.run();
    assert_eq!(world.points().len(), 1);
    world.restic_check();
}

#[test]
fn a_restore_into_a_server_that_is_down_fails_in_an_orderly_way() {
    let (world, server) = (World::new("pg-restore-down"), Peers::postgres());
    server.sql("postgres", "CREATE DATABASE restoredown");
    world.policy(&source(&world, &server, "restoredown", ""), "");
    world.apply();
    world.run();
    let said = orderly_failure(&world.mainstay(&["restore", "shop/nightly", "latest", "--database", "nosuchdatabase"]));
    assert!(said.contains("nosuchdatabase"), "{said}");
}
