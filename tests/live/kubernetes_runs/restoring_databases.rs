//! Restores of volume snapshots and of databases.

use super::{
    Installation,
    databases::{MARIADB, with_servers},
    succeed, wait_for,
};

fn mariadb(installation: &Installation, sql: &str) -> String {
    let script = format!("mariadb -h 127.0.0.1 -u backup -pgeheim -N -e \"{sql}\" 2>&1 || true");
    installation.shop.shell("pod/mariadb", &script).trim().to_owned()
}

fn postgres(installation: &Installation, database: &str, sql: &str) -> String {
    let script =
        format!("PGPASSWORD=geheim psql -h $(hostname -i) -U postgres -tA {database} -c \"{sql}\" 2>&1 || true");
    installation.shop.shell("pod/postgres", &script).trim().to_owned()
}

#[test]
fn a_domain_comes_back_from_its_volume_snapshot_with_its_database() {
    let installation = with_servers("domain");
    let applied = installation.apply("kubernetes-hosting", &MARIADB);
    applied.run("domain");
    let shop = &installation.shop;
    shop.shell("deployment/shop", "rm /data/private; touch /data/after");
    mariadb(&installation, "DELETE FROM site.visits; INSERT INTO site.visits VALUES (9)");
    let documents = installation.restores("kubernetes-restore");
    let report = applied.restore("domain", &documents[0]);
    assert_eq!(report["sources"][0]["source"], "site/data", "{report:#}");
    assert_eq!(report["sources"][1]["phase"], "Succeeded", "{report:#}");
    let files = shop.shell("deployment/shop", "cat /data/private; ls /data");
    assert!(files.contains("hello") && !files.contains("after"), "{files}");
    assert_eq!(mariadb(&installation, "SELECT COUNT(*), MAX(id) FROM site.visits"), "3\t3");
    assert_eq!(shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
    // What the database held before was captured only for the time of the restore.
    assert_eq!(applied.restic().len(), 1);
    assert_eq!(applied.points().len(), 1);
    // The volume snapshot stays a restore point, and can become another claim as well.
    applied.restore("copy", &documents[1]);
    let pod = installation.looks(shop, "data-copy");
    assert_eq!(shop.shell(&pod, "cat /data/private"), "hello\n");
    // In another namespace, too; the volume snapshot itself stays where it is.
    let other = shop.second("runs-domain-other");
    installation.rights().protect(&other);
    let elsewhere = "{policy: '', sources: [site], into: {namespace: runs-domain-other}}";
    let report = applied.start_restore("refused", elsewhere, &[]).report();
    let message = report["message"].as_str().unwrap();
    assert!(message.starts_with("nothing was written: "), "{message}");
    assert!(message.contains("may not create VolumeSnapshotContents") && message.contains("`across`"), "{message}");
    assert_eq!(succeed(other.kubectl().args(["get", "pvc,jobs,volumesnapshots", "-o", "name"])), "");
    installation.rights().allow_across(&installation.system);
    applied.restore("other", elsewhere);
    let pod = installation.looks(&other, "data");
    assert_eq!(other.shell(&pod, "cat /data/private"), "hello\n");
    wait_for("the second name of the volume snapshot to be gone", 120, || {
        let names = succeed(other.kubectl().args(["get", "volumesnapshots", "-o", "name"]));
        let contents = succeed(crate::cluster::kubectl().args(["get", "volumesnapshotcontents", "-o", "name"]));
        (names.is_empty() && !contents.contains("/restore-")).then_some(())
    });
    assert_eq!(succeed(shop.kubectl().args(["get", "volumesnapshots", "-o", "name"])).lines().count(), 1);
    let again = applied.start_restore("again", &documents[1], &[]);
    let report = again.report();
    assert!(report["message"].as_str().unwrap().contains("can only become a new claim"), "{report:#}");
}

#[test]
fn a_dump_that_does_not_load_brings_back_what_the_database_held() {
    let installation = with_servers("badload");
    let applied = installation.apply("kubernetes-hosting", &MARIADB);
    applied.run("domain");
    mariadb(&installation, "INSERT INTO site.visits VALUES (4)");
    // Its table cannot be made: there is a view of that name, which the dump's DROP TABLE does not take away.
    mariadb(
        &installation,
        "RENAME TABLE site.visits TO site.kept; CREATE VIEW site.visits AS SELECT id FROM site.kept",
    );
    let former = installation.shop.field("pvc/data", "{.spec.volumeName}");
    let report = applied.start_restore("bad", "{policy: '', existing: Update}", &[]).report();
    assert_eq!(report["phase"], "Failed", "{report:#}");
    assert_eq!(report["sources"][1]["phase"], "Failed", "{report:#}");
    assert!(report["message"].as_str().unwrap().contains("there again"), "{report:#}");
    assert_eq!(mariadb(&installation, "SELECT COUNT(*) FROM site.visits"), "4");
    assert_eq!(installation.shop.field("pvc/data", "{.spec.volumeName}"), former);
    let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
    assert_eq!(up, "2 2");
}

#[test]
fn what_could_not_be_captured_before_is_not_said_to_be_there_again() {
    let installation = with_servers("unsaved");
    let applied = installation.apply("kubernetes-hosting", &MARIADB);
    applied.run("domain");
    // A view of a table that is gone: the database cannot be dumped, and the dump's table cannot be made.
    mariadb(&installation, "DROP TABLE site.visits; CREATE TABLE site.kept (id INT)");
    mariadb(&installation, "CREATE VIEW site.visits AS SELECT id FROM site.kept; DROP TABLE site.kept");
    let former = installation.shop.field("pvc/data", "{.spec.volumeName}");
    let report = applied.start_restore("bad", "{policy: '', existing: Update}", &[]).report();
    assert_eq!(report["phase"], "Failed", "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("what source db held before could not be captured"), "{message}");
    assert!(!message.contains("there again"), "{message}");
    assert_eq!(installation.shop.field("pvc/data", "{.spec.volumeName}"), former);
    let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
    assert_eq!(up, "2 2");
}

#[test]
fn a_source_that_was_renamed_meanwhile_is_loaded_back() {
    let installation = with_servers("renamed");
    let applied = installation.apply("kubernetes-hosting", &MARIADB);
    applied.run("domain");
    mariadb(&installation, "INSERT INTO site.visits VALUES (4)");
    let pause = [("MAINSTAY_TEST_PAUSE", "load:done=forever")];
    let restore = applied.start_restore("renamed", "{policy: '', existing: Update}", &pause);
    wait_for("the dump to be loaded", 300, || {
        let record = restore.record();
        (record["report"]["sources"][1]["phase"] == "Succeeded").then_some(())
    });
    assert_eq!(mariadb(&installation, "SELECT COUNT(*) FROM site.visits"), "3");
    installation.apply("kubernetes-hosting", &[MARIADB[0], MARIADB[1], ("- name: db", "- name: database")]);
    let pods = ["delete", "pods", "-l", &format!("job-name={}", restore.job), "--grace-period=0", "--force"];
    succeed(installation.system.kubectl().args(pods));
    let report = restore.report();
    assert_eq!(report["phase"], "Failed", "{report:#}");
    assert!(report["message"].as_str().unwrap().contains("there again"), "{report:#}");
    assert_eq!(mariadb(&installation, "SELECT COUNT(*) FROM site.visits"), "4");
    let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
    assert_eq!(up, "2 2");
}

#[test]
fn postgres_goes_into_another_database_and_back_in_place() {
    let installation = with_servers("pgback");
    let servers = [("host: db\n", "host: postgres\n"), ("postgres:17", "databases:test")];
    let applied = installation.apply("kubernetes-postgres", &servers);
    postgres(&installation, "shop", "CREATE TABLE customers AS SELECT 1 AS id");
    applied.run("postgres");
    postgres(&installation, "shop", "DELETE FROM orders WHERE id > 10");
    postgres(&installation, "postgres", "CREATE DATABASE copy");
    applied.restore("copy", "{policy: '', into: {database: copy}}");
    assert_eq!(postgres(&installation, "copy", "SELECT count(*) FROM orders"), "1000");
    assert_eq!(postgres(&installation, "shop", "SELECT count(*) FROM orders"), "10");
    let report = applied.start_restore("full", "{policy: '', into: {database: copy}}", &[]).report();
    assert!(report["message"].as_str().unwrap().contains("database copy is not empty"), "{report:#}");
    // Only one table, into a database of its own: the other one does not come with it.
    postgres(&installation, "postgres", "CREATE DATABASE part");
    applied.restore("part", "{policy: '', tables: [customers], into: {database: part}}");
    let tables = "SELECT string_agg(relname, ',') FROM pg_stat_user_tables";
    assert_eq!(postgres(&installation, "part", tables), "customers");
    assert_eq!(postgres(&installation, "part", "SELECT count(*) FROM customers"), "1");
    applied.restore("back", "{policy: '', existing: Update}");
    assert_eq!(postgres(&installation, "shop", "SELECT count(*) FROM orders"), "1000");
}

#[test]
fn a_program_takes_its_own_stream_back() {
    let installation = with_servers("program");
    let program = [("--host=db", "--host=postgres"), ("postgres:17", "databases:test")];
    let applied = installation.apply("kubernetes-program", &program);
    applied.run("program");
    let report = applied.start_restore("roles", "{policy: '', existing: Update}", &[]).report();
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("has no `command.restore`"), "{message}");
    succeed(installation.mainstay().args(["points", "show", &applied.policy]));
}
