//! Files and several databases of several servers in one restore point: all of them, or none.

use std::fs;

use crate::{
    peers::{Peers, free_port},
    world::{World, assert_same_tree},
};

fn sources(world: &World, mariadb_port: u16) -> String {
    let password = world.path("database-password");
    let password = password.display();
    format!(
        "    - name: files
      paths: [{site}]
    - name: shop
      postgres: {{host: 127.0.0.1, port: {postgres}, databases: [several_a, several_b], user: mainstay, password: {{file: {password}}}}}
    - name: blog
      mariadb: {{host: 127.0.0.1, port: {mariadb_port}, databases: [several_c], user: mainstay, password: {{file: {password}}}}}",
        site = world.path("site").display(),
        postgres = Peers::postgres().port,
    )
}

#[test]
fn a_domain_with_files_and_databases_comes_back_together() {
    let (world, postgres, mariadb) = (World::new("several"), Peers::postgres(), Peers::mariadb());
    world.write("site/index.html", "<h1>shop</h1>");
    for database in ["several_a", "several_b"] {
        postgres.sql("postgres", &format!("CREATE DATABASE {database}"));
        postgres.sql(database, &format!("CREATE TABLE t AS SELECT '{database}' AS name"));
    }
    mariadb.sql("CREATE DATABASE several_c; CREATE TABLE several_c.t AS SELECT 'c' AS name");
    world.policy(&sources(&world, mariadb.port), "");
    world.apply();
    world.run();
    assert_eq!(world.points().len(), 1, "one run, one restore point");
    // Each source has a snapshot of its own in the repository, and a line of its own in the status.
    assert_eq!(world.restic_check().len(), 3);
    let status = world.status().to_string();
    for source in ["files", "shop", "blog"] {
        assert!(status.contains(&format!("\"source\":\"{source}\"")), "{source} is not in {status}");
    }

    let good = world.path("good");
    fs::rename(world.path("site"), &good).expect("the folder moves away");
    postgres.sql("several_a", "DROP TABLE t");
    postgres.sql("several_b", "UPDATE t SET name = 'wrong'");
    mariadb.sql("DROP TABLE several_c.t");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_same_tree(&good, &world.path("site"));
    assert_eq!(postgres.sql("several_a", "SELECT name FROM t").trim(), "several_a");
    assert_eq!(postgres.sql("several_b", "SELECT name FROM t").trim(), "several_b");
    assert_eq!(mariadb.sql("SELECT name FROM several_c.t").trim(), "c");
}

#[test]
fn one_source_that_fails_leaves_no_restore_point_of_the_others() {
    let world = World::new("several-one-fails");
    let postgres = Peers::postgres();
    world.write("site/index.html", "<h1>shop</h1>");
    for database in ["several_a2", "several_b2"] {
        postgres.sql("postgres", &format!("CREATE DATABASE {database}"));
    }
    let sources = sources(&world, free_port()).replace("several_a", "several_a2").replace("several_b", "several_b2");
    world.policy(&sources, "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("blog"), "the source that failed is not named: {said}");
    assert_eq!(world.points(), Vec::<String>::new());
}
