//! SQLite through a `command` source: the way for every database that has a program to dump it.

use std::process::Command;

use crate::{peers::succeed, world::World};

fn sql(world: &World, file: &str, sql: &str) -> String {
    succeed(Command::new("sqlite3").arg(world.path(file)).arg(sql))
}

#[test]
fn a_database_comes_back_row_for_row() {
    let world = World::new("sqlite");
    sql(
        &world,
        "shop.db",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, photo BLOB);
         INSERT INTO item VALUES (1, 'Öl ''quoted''', 1e-300, x'0001ff'), (2, NULL, NULL, NULL);
         CREATE INDEX by_name ON item (name);",
    );
    let before = sql(&world, "shop.db", ".dump");
    let sources = format!(
        "    - name: db
      command:
        dump: [sqlite3, {database}, .dump]
        restore: [sqlite3, {restored}]
        fileName: shop.sql
        trailer: COMMIT;",
        database = world.path("shop.db").display(),
        restored = world.path("restored.db").display(),
    );
    world.policy(&sources, "");
    world.apply();
    world.run();
    sql(&world, "shop.db", "DROP TABLE item");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(sql(&world, "restored.db", ".dump"), before);
    world.restic_check();
}
