//! What goes wrong on a host: a full disk, no permission, a wrong password, a repository that vanished or is damaged.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    peers::{succeed, wait_for},
    world::{World, orderly_failure},
};

/// A small file system in memory; unmounted when it is dropped.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts one of this size (such as `8m`). Needs root.
    pub fn tmpfs(point: &Path, size: &str) -> Self {
        fs::create_dir_all(point).expect("a mount point");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(point));
        Self { point: point.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

fn files(world: &World) -> String {
    format!("    - name: files\n      paths: [{}]", world.path("site").display())
}

#[test]
fn a_full_disk_fails_the_run_and_loses_nothing() {
    let world = World::new("full");
    let _mount = Mount::tmpfs(&world.path("store"), "24m");
    world.write("site/small", "small");
    world.policy(&files(&world), "");
    world.apply();
    world.run();
    let first = world.points();
    assert_eq!(first.len(), 1);

    succeed(
        Command::new("sh").args(["-c", &format!("head -c 60M /dev/urandom >{}", world.path("site/big").display())]),
    );
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.to_lowercase().contains("space"), "{said}");
    assert_eq!(world.points(), first);
    let good = world.path("good");
    world.good(&["restore", "shop/nightly", "latest", "--into", &good.display().to_string()]);

    // Room again: the next run is good, and what is left of the bad one harms nobody.
    fs::remove_file(world.path("site/big")).expect("a file");
    succeed(Command::new("mount").args(["-o", "remount,size=200m"]).arg(world.path("store")));
    world.run();
    assert_eq!(world.points().len(), 2);
    assert_eq!(world.restic_check().len(), 2);
}

/// Fills a file system to its last byte; gives the file that does it.
fn fill(folder: &Path) -> PathBuf {
    let file = folder.join("filler");
    let copied = Command::new("dd").args(["if=/dev/zero", "bs=4k", &format!("of={}", file.display())]).output();
    assert!(!copied.expect("dd starts").status.success(), "the file system has no end");
    file
}

#[test]
fn a_full_state_directory_keeps_no_workload_down_and_loses_nothing() {
    let world = World::new("full-state");
    let _mount = Mount::tmpfs(&world.path("state"), "16m");
    world.write("site/a", "a");
    let (up, down) = (world.path("up"), world.path("down"));
    let [stop, start] =
        [(&up, &down), (&down, &up)].map(|(from, to)| format!("[mv, {}, {}]", from.display(), to.display()));
    world.write("up", "");
    world.policy(&files(&world), &format!("  consistency: Cold\n  quiesce: {{stop: {stop}, start: {start}}}"));
    world.apply();
    world.run();
    let first = world.points();

    let filler = fill(&world.path("state"));
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("space") || said.contains("full"), "{said}");
    assert!(up.exists(), "the workload is down: {said}");
    // What only reads needs no room, or says why it cannot.
    let restored = world.path("restored").display().to_string();
    let output = world.mainstay(&["restore", "shop/nightly", "latest", "--into", &restored]);
    if !output.status.success() {
        orderly_failure(&output);
    }

    fs::remove_file(filler).expect("a file");
    assert_eq!(world.points(), first);
    world.run();
    assert_eq!(world.points().len(), 2);
    assert!(up.exists());
}

#[test]
fn a_daemon_whose_state_directory_is_full_says_so_and_goes_on_once_there_is_room() {
    let world = World::new("full-daemon");
    let _mount = Mount::tmpfs(&world.path("state"), "16m");
    world.write("site/a", "a");
    world.policy(&files(&world), "");
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"];
        succeed(Command::new("git").args(identity).arg("-C").arg(world.path("documents")).args(arguments));
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "a policy"]);
    let repository = world.path("documents").display().to_string();
    let daemon = world.start("daemon", &["daemon", "--repo", &repository, "--listen", "127.0.0.1:0"]);
    let log = || fs::read_to_string(world.path("daemon.log")).expect("a log");
    let applied = |word: &str| {
        let policies = world.status();
        policies.to_string().contains(word).then_some(())
    };
    wait_for("the policy to be applied", 60, || applied("nightly"));

    let filler = fill(&world.path("state"));
    let text = fs::read_to_string(world.path("documents/backup.yaml")).expect("a file");
    world.write("documents/backup.yaml", text.replace("name: nightly,", "name: hourly,"));
    git(&["commit", "--quiet", "--all", "--message", "another name"]);
    wait_for("the daemon to say that there is no room", 60, || {
        let log = log();
        (log.contains("No space left") || log.contains("disk is full")).then_some(())
    });
    fs::remove_file(filler).expect("a file");
    wait_for("the policy of another name to be applied", 120, || applied("hourly"));
    drop(daemon);
    assert!(!log().contains("panicked"), "{}", log());
}

#[test]
fn a_user_without_the_right_to_write_is_told_so() {
    let world = World::new("permission");
    world.write("site/a", "a");
    fs::create_dir(world.path("store")).expect("a folder");
    world.policy(&files(&world), "");
    world.good_as_nobody(&["apply", "--path", "documents"]);
    let said = orderly_failure(&world.as_nobody(&["run", "shop/nightly"]));
    assert!(said.to_lowercase().contains("permission") || said.contains("permitted"), "{said}");
    assert_eq!(fs::read_dir(world.path("store")).expect("a folder").count(), 0);
}

#[test]
fn a_wrong_password_is_told_and_nothing_is_written() {
    let world = World::new("wrong-password");
    world.write("site/a", "a");
    world.policy(&files(&world), "");
    world.apply();
    world.run();
    world.write("password", "another");
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("password"), "{said}");
    world.write("password", crate::world::PASSWORD);
    assert_eq!(world.restic_check().len(), 1);
}

#[test]
fn a_repository_that_vanished_is_not_made_anew_in_silence() {
    let world = World::new("vanished");
    world.write("site/a", "a");
    world.policy(&files(&world), "");
    world.apply();
    world.run();
    let first = world.points();
    fs::rename(world.path("store"), world.path("away")).expect("the folder moves away");
    world.bad(&["run", "shop/nightly"]);
    fs::remove_dir_all(world.path("store")).ok();
    fs::rename(world.path("away"), world.path("store")).expect("the folder comes back");
    world.good(&["verify", "shop/nightly"]);
    assert_eq!(world.points(), first);
}

#[test]
fn a_corrupted_pack_is_found() {
    let world = World::new("corrupted");
    world.damages();
    succeed(Command::new("mkdir").arg(world.path("site")));
    succeed(Command::new("sh").args(["-c", &format!("head -c 3M /dev/urandom >{}", world.path("site/a").display())]));
    world.policy(&files(&world), "");
    world.apply();
    world.run();
    world.good(&["verify", "shop/nightly", "--read-data", "100%"]);
    let find = "find data -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2";
    let pack = succeed(Command::new("sh").current_dir(world.path("store")).args(["-c", find]));
    let pack = world.path("store").join(pack.trim());
    let mut bytes = fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    fs::write(&pack, bytes).expect("a file of ours");
    world.bad(&["verify", "shop/nightly", "--read-data", "100%"]);
}
