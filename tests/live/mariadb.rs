//! MariaDB, through the source kinds `mariadb` and `mysql`: dumped, destroyed, restored, and failing.

use std::process::Command;

use crate::{
    peers::{MariaDb, OwnServer, Peers, free_port, wait_for},
    world::World,
};

/// Tables with data of all kinds, and what else a database holds.
const SHOP: &str = r#"
CREATE TABLE item (
    id bigint unsigned AUTO_INCREMENT PRIMARY KEY, name varchar(200) CHARACTER SET utf8mb4 NOT NULL, price decimal(30, 10),
    weight double, colour enum('red', 'blå'), flags set('a', 'b'), photo longblob, bits bit(9), words json,
    made timestamp(6) NULL, day date, kept time(3), place point, long_text longtext, double_price decimal(31, 10) AS (price * 2) STORED
) ENGINE=InnoDB;
INSERT INTO item (name, price, weight, colour, flags, photo, bits, words, made, day, kept, place, long_text) VALUES
    ('Öl 🦀 -- ''quoted'' "double" \\ backslash', 12345678901234567890.0123456789, 1.7976931348623157e308, 'blå', 'a,b',
     x'0001ff5c27220a0d1a', b'101010101', '{"a": [1, null, "é"]}', '2026-03-29 00:30:00.123456', '9999-12-31', '-838:59:59.000',
     ST_GeomFromText('POINT(1.5 -2)'), REPEAT('long ', 20000)),
    ('line\nbreak\ttab\0zero', NULL, NULL, NULL, '', '', NULL, NULL, NULL, '1000-01-01', NULL, NULL, '');
INSERT INTO item (name, price) SELECT CONCAT('item ', seq), seq / 7 FROM seq_1_to_20000;
CREATE VIEW cheap AS SELECT name FROM item WHERE price < 10;
CREATE TABLE changed (id bigint unsigned, at timestamp DEFAULT '2026-01-01 00:00:00');
CREATE TRIGGER note AFTER DELETE ON item FOR EACH ROW INSERT INTO changed (id) VALUES (OLD.id);
CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN 2 * n;
CREATE PROCEDURE nothing() SELECT 1;
"#;

fn source(world: &World, server: &MariaDb, kind: &str, databases: &str, more: &str) -> String {
    format!(
        "    - name: db
      {kind}: {{host: 127.0.0.1, port: {}, databases: [{databases}], user: mainstay, password: {{file: {}}}{more}}}",
        server.port,
        world.path("database-password").display()
    )
}

fn shop(server: &MariaDb, database: &str) {
    server.sql(&format!("CREATE DATABASE {database}; USE {database}; {SHOP}"));
}

/// The source kind `mysql` works against MariaDB, too: its client programs carry both names.
#[test]
fn a_destroyed_database_comes_back_row_for_row() {
    let server = Peers::mariadb();
    for kind in ["mariadb", "mysql"] {
        let world = World::new(kind);
        let database = format!("destroyed_by_{kind}");
        shop(&server, &database);
        let before = server.content(&database);
        world.policy(&source(&world, &server, kind, &database, ""), "");
        world.apply();
        world.run();
        assert_eq!(world.points().len(), 1);

        server
            .sql(&format!("DROP TRIGGER {database}.note; DELETE FROM {database}.item; DROP FUNCTION {database}.twice"));
        world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
        assert_eq!(server.content(&database), before, "{kind}: damaged");

        server.sql(&format!("DROP DATABASE {database}; CREATE DATABASE {database}"));
        world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
        assert_eq!(server.content(&database), before, "{kind}: gone");
        world.restic_check();
    }
}

/// Nothing is written into a database that is not empty, or of which nobody can tell, unless that is asked for.
#[test]
fn a_database_that_is_not_empty_is_not_written_into_unasked() {
    let server = Peers::mariadb();
    for kind in ["mariadb", "mysql"] {
        let world = World::new(&format!("{kind}-existing"));
        let [guarded, other, empty] = ["guarded", "other", "empty"].map(|name| format!("{name}_of_{kind}"));
        shop(&server, &guarded);
        world.policy(&source(&world, &server, kind, &guarded, ""), "");
        world.apply();
        world.run();
        let restore = ["restore", "shop/nightly", "latest", "--database"];
        server.sql(&format!("CREATE DATABASE {other}; CREATE VIEW {other}.mine AS SELECT 1 AS a"));
        let before = server.content(&other);
        let said = world.bad(&[&restore[..], &[&other]].concat());
        assert!(said.contains(&format!("database {other} is not empty (1 tables")), "{said}");
        assert_eq!(server.content(&other), before);
        world.good(&[&restore[..], &[&other, "--existing", "update"]].concat());
        assert_eq!(server.sql(&format!("SELECT a FROM {other}.mine")).trim(), "1");

        server.sql(&format!("CREATE DATABASE {empty}"));
        world.good(&[&restore[..], &[&empty]].concat());
        assert_eq!(server.sql(&format!("SELECT COUNT(*) FROM {empty}.item")).trim(), "20002");
    }
}

#[test]
fn a_dump_is_downloaded_as_sql_that_the_real_client_takes() {
    let (world, server) = (World::new("mariadb-download"), Peers::mariadb());
    shop(&server, "downloaded");
    world.policy(&source(&world, &server, "mariadb", "downloaded", ""), "");
    world.apply();
    world.run();
    let point = world.points().remove(0);
    let output = world.path("downloaded.sql");
    world.good(&[
        "points",
        "download",
        "shop/nightly",
        &point,
        "--source",
        "db",
        "--output",
        &output.display().to_string(),
    ]);
    server.sql("CREATE DATABASE downloaded2");
    server.sql(&format!("USE downloaded2;\nsource {}", output.display()));
    assert_eq!(server.content("downloaded2").replace("downloaded2", "downloaded"), server.content("downloaded"));
}

#[test]
fn a_wrong_password_and_a_server_that_is_down_fail_the_run() {
    let (world, server) = (World::new("mariadb-password"), Peers::mariadb());
    world.write("database-password", "wr0ng-secret");
    world.policy(&source(&world, &server, "mariadb", "mysql", ""), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("Access denied"), "{said}");
    assert!(!said.contains("wr0ng-secret"), "{said}");

    world.policy(&source(&world, &MariaDb { port: free_port() }, "mariadb", "mysql", ""), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("Can't connect"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
    assert!(world.restic_check().is_empty());
}

#[test]
fn a_server_killed_in_the_middle_of_a_dump_leaves_no_restore_point() {
    let world = World::new("mariadb-killed");
    let mut own = OwnServer::start("mariadb.sh", &world.path("server"), &[]);
    let server = MariaDb { port: own.port };
    wait_for("the server to take connections", 60, || {
        let ping = Command::new("mariadb-admin")
            .args(["--no-defaults", "-umainstay", "-pmainstay", "-h127.0.0.1", "ping", "-P"])
            .arg(own.port.to_string())
            .output();
        ping.ok().filter(|output| output.status.success())
    });
    server.sql(
        "CREATE DATABASE big; USE big; CREATE TABLE big ENGINE=InnoDB AS
         SELECT seq AS n, CONCAT(MD5(seq), MD5(-seq), MD5(seq * 7)) AS a FROM seq_1_to_1000000",
    );
    world.policy(&source(&world, &server, "mariadb", "big", ""), "  limits: {bandwidth: 4MiB}");
    world.apply();
    let mut run = world.start("run", &["run", "shop/nightly"]);
    wait_for("the dump to be in the middle of the table", 60, || {
        assert!(run.child.try_wait().expect("our child").is_none(), "the run ended before it could be disturbed");
        let list = server.sql("SELECT info FROM information_schema.processlist WHERE info LIKE 'SELECT % FROM `big`%'");
        (!list.trim().is_empty()).then_some(())
    });
    own.kill();
    assert_eq!(run.code(), Some(1));
    assert_eq!(world.points(), Vec::<String>::new());
    assert!(world.restic_check().is_empty(), "a cut-off dump became a snapshot");
}
