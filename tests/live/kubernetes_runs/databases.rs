//! Dumps in the user's image, and volume snapshots, in one restore point.

use super::{Installation, wait_for};
use crate::kubernetes_faults::matrix::fault;

/// A MariaDB and a PostgreSQL server, small and only for a test.
const SERVERS: &str = include_str!("servers.yaml");

/// A shop with both servers.
pub fn with_servers(name: &str) -> Installation {
    let installation = Installation::new(name).with_shop();
    installation.shop.apply(SERVERS);
    for server in ["mariadb", "postgres"] {
        installation.shop.wait(&format!("pod/{server}"), "condition=Ready");
    }
    // Their names lead to the pods themselves, as soon as they lead anywhere: a proxy may be late on a slow machine.
    wait_for("the names of the servers", 300, || {
        let look = installation
            .shop
            .kubectl()
            .args(["exec", "deployment/shop", "--", "getent", "hosts", "mariadb", "postgres"])
            .output();
        look.is_ok_and(|output| output.status.success()).then_some(())
    });
    installation
}

/// The example for a MariaDB server, at the one of this test.
pub const MARIADB: [(&str, &str); 2] = [("host: db,", "host: mariadb,"), ("mariadb:11", "databases:test")];

#[test]
fn a_hosting_domain_is_a_volume_snapshot_and_a_dump_together() {
    let installation = with_servers("hosting");
    let applied = installation.apply("kubernetes-hosting", &MARIADB);
    let report = applied.run("domain");
    let point = applied.points().remove(0);
    let parts = point["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2, "{point:#}");
    assert_eq!((&parts[0]["source"], &parts[0]["repository"]), (&"site/data".into(), &"VolumeSnapshot".into()));
    let (_, name) = parts[0]["snapshot"].as_str().unwrap().split_once('/').unwrap();
    let snapshot = format!("volumesnapshot/{name}");
    assert_eq!(installation.shop.field(&snapshot, "{.status.readyToUse}{.metadata.ownerReferences}"), "true");
    assert!(parts[0]["sizeBytes"].as_u64() > Some(0), "{report:#}");
    assert!(applied.restic_dump("latest", "/site.sql").contains("INSERT INTO `visits`"));
}

#[test]
fn a_wrong_password_leaves_no_restore_point() {
    let installation = with_servers("wrong");
    let wrong = [MARIADB[0], MARIADB[1], ("key: password}, image", "key: wrong}, image")];
    let applied = installation.apply("kubernetes-hosting", &wrong);
    applied.start("wrong", &[]);
    let report = applied.report("wrong");
    fault("the password of a database is wrong").ended(&report);
    assert!(applied.points().is_empty());
}

#[test]
fn postgres_and_any_program_run_in_the_image_that_is_named() {
    let installation = with_servers("dumps");
    let postgres = [("host: db\n", "host: postgres\n"), ("postgres:17", "databases:test")];
    let applied = installation.apply("kubernetes-postgres", &postgres);
    applied.run("postgres");
    assert!(applied.restic_dump("latest", "/shop.dump").starts_with("PGDMP"));
    let program = [("--host=db", "--host=postgres"), ("postgres:17", "databases:test")];
    let applied = installation.apply("kubernetes-program", &program);
    applied.run("program");
    assert!(applied.restic_dump("latest", "/roles").contains("CREATE ROLE postgres"));
}

#[test]
fn a_snapshot_class_that_is_missing_or_never_ready_is_told_and_leaves_nothing() {
    let installation = with_servers("classes");
    let volumes = "volumes: {selector: {hosting: domain}}";
    for (class, told) in [
        ("nowhere", fault("the class of volume snapshots is missing")),
        ("never-ready", fault("a volume snapshot is never ready")),
    ] {
        let with_class = format!("volumes: {{selector: {{hosting: domain}}, snapshotClass: {class}}}");
        let applied = installation.apply("kubernetes-hosting", &[MARIADB[0], MARIADB[1], (volumes, &with_class)]);
        applied.start(class, &[("MAINSTAY_SNAPSHOT_SECONDS", "5")]);
        told.ended(&applied.report(class));
        installation.wait_until_gone("volumesnapshots");
        assert!(applied.points().is_empty());
    }
}
