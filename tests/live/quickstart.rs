//! The first set-up command of the README, by somebody who is not root and has no network.

use std::{fs, path::Path, process::Command};

use crate::{peers::succeed, world::World};

#[test]
fn the_quickstart_needs_no_root_and_no_service() {
    let world = World::new("quickstart");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    succeed(Command::new("cp").arg("-r").arg(source).arg(world.path("quickstart")));
    fs::copy(env!("CARGO_BIN_EXE_mainstay"), world.path("mainstay")).expect("a copy of the binary");
    let home = world.path("home");
    fs::create_dir(&home).expect("a folder");
    succeed(Command::new("chown").arg("nobody").arg(&home));
    // Its own network namespace has nothing, not even loopback.
    let said = succeed(
        Command::new("unshare")
            .args(["--net", "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"])
            .arg(world.path("quickstart/run"))
            .current_dir(&home)
            .env("HOME", &home)
            .env("MAINSTAY", world.path("mainstay")),
    );
    assert!(said.contains("The files and the dump of the database are the same as the originals."), "{said}");
}
