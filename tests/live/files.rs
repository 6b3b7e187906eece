//! Directories with everything that a file system can hold, judged by the real restic.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::{
    peers::succeed,
    world::{World, assert_same_tree},
};

/// A folder with everything that a file system can hold.
fn fill(folder: &Path) {
    let script = r#"
        set -eu
        mkdir -p deep/er 'with space' $'new\nline' empty secret
        printf 'text' >deep/er/file
        printf 'Ünïcode' >'with space/ünï'
        : >empty-file
        head -c 5000000 /dev/urandom >random
        truncate -s 40M sparse; printf 'x' | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
        ln deep/er/file hard-link
        ln -s deep/er/file symlink; ln -s /does/not/exist dangling; ln -s . loop
        mkfifo pipe
        chmod 4755 deep/er/file; chmod 000 secret; chmod 1777 empty
        chown 1234:4321 random
        setfattr -n user.colour -v blue deep/er/file
        cp /bin/true ping; setcap cap_net_raw+ep ping
        mkdir shared; setfacl -m u:1234:rwx,d:g:4321:r-x shared; setfacl -m u:1234:rw,m::r 'with space/ünï'
        touch -d '2001-02-03 04:05:06.789 UTC' empty-file; touch -d '1999-12-31 23:59:59 UTC' deep
    "#;
    succeed(Command::new("bash").current_dir(folder).args(["-c", script]));
}

fn policy(world: &World, more: &str) {
    world.policy(&format!("    - name: files\n      paths: [{}]{more}", world.path("site").display()), "");
    world.apply();
}

#[test]
fn a_folder_comes_back_as_it_was_by_us_and_by_the_real_restic() {
    let world = World::new("files");
    fs::create_dir(world.path("site")).expect("a folder");
    fill(&world.path("site"));
    policy(&world, "");
    world.run();

    let snapshots = world.restic_check();
    assert_eq!(snapshots.len(), 1);
    let by_restic = world.restic_restore(snapshots[0]["id"].as_str().expect("an id"));
    let inside = world.path("site");
    let inside = inside.strip_prefix("/").expect("an absolute path");
    assert_same_tree(&world.path("site"), &by_restic.join(inside));

    let elsewhere = world.path("elsewhere");
    world.good(&["restore", "shop/nightly", "latest", "--into", &elsewhere.display().to_string()]);
    let restored = succeed(Command::new("find").arg(&elsewhere).args(["-name", "site", "-type", "d"]));
    assert_same_tree(&world.path("site"), Path::new(restored.trim()));

    // And in place, after the worst day.
    let kept = world.path("kept");
    fs::rename(world.path("site"), &kept).expect("the folder moves away");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes"]);
    assert_same_tree(&kept, &world.path("site"));
}

#[test]
fn a_second_run_adds_only_what_changed() {
    let world = World::new("files-incremental");
    fs::create_dir(world.path("site")).expect("a folder");
    fill(&world.path("site"));
    policy(&world, "");
    world.run();
    let size = |world: &World| -> u64 {
        let out = succeed(Command::new("du").args(["-sb"]).arg(world.path("store")));
        out.split_whitespace().next().and_then(|number| number.parse().ok()).expect("du prints a size")
    };
    let before = size(&world);
    world.write("site/new", "a few bytes");
    crate::peers::wait_for("a second run in another second", 30, || {
        let ran = world.mainstay(&["run", "shop/nightly"]);
        (ran.status.success() && world.points().len() == 2).then_some(())
    });
    assert!(size(&world) - before < 200_000, "from {before} to {} bytes", size(&world));
    assert_eq!(world.restic_check().len(), 2);
}

#[test]
fn excludes_and_other_file_systems_are_left_out() {
    let world = World::new("files-exclude");
    world.write("site/keep/a", "a");
    world.write("site/cache/b", "b");
    world.write("site/mounted/c", "c");
    let mount = crate::faults::Mount::tmpfs(&world.path("site/mounted"), "1m");
    world.write("site/mounted/d", "d");
    policy(&world, "\n      exclude: [\"cache/**\"]\n      oneFileSystem: true");
    world.run();
    let elsewhere = world.path("elsewhere");
    world.good(&["restore", "shop/nightly", "latest", "--into", &elsewhere.display().to_string()]);
    let files = succeed(Command::new("find").arg(&elsewhere).args(["-type", "f", "-printf", "%f\n"]));
    assert_eq!(files.trim(), "a");
    drop(mount);
}

#[test]
fn files_that_exist_are_not_overwritten_unless_told() {
    let world = World::new("files-existing");
    world.write("site/a", "first");
    world.write("site/b", "first");
    policy(&world, "");
    world.run();
    world.write("site/a", "second");
    fs::remove_file(world.path("site/b")).expect("a file");
    world.bad(&["restore", "shop/nightly", "latest", "--in-place", "--yes"]);
    assert_eq!(fs::read_to_string(world.path("site/a")).expect("a file"), "second");
    assert!(!world.path("site/b").exists(), "half of the restore was written");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes", "--existing", "update"]);
    assert_eq!(fs::read_to_string(world.path("site/a")).expect("a file"), "first");
    assert_eq!(fs::read_to_string(world.path("site/b")).expect("a file"), "first");
}

#[test]
fn files_that_nobody_may_read_are_counted_and_the_others_are_captured() {
    let world = World::new("unreadable");
    world.write("site/readable", "yes");
    let secret = world.write("site/secret", "no");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("a mode");
    let closed = world.write("site/closed/inside", "no");
    fs::set_permissions(closed.parent().expect("a folder"), fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::create_dir(world.path("store")).expect("a folder");
    succeed(Command::new("chown").arg("nobody").arg(world.path("store")));
    policy_of(&world);
    world.good_as_nobody(&["apply", "--path", "documents"]);
    world.good_as_nobody(&["run", "shop/nightly"]);
    let status: serde_json::Value =
        serde_json::from_str(&world.good_as_nobody(&["status", "-o", "json"])).expect("JSON");
    let text = status.to_string();
    assert!(text.contains("\"unreadable\":2"), "a file and a folder: {text}");
    assert!(world.good_as_nobody(&["status", "shop/nightly"]).contains("2 unreadable"));
    let back = world.path("state-of-nobody/back").display().to_string();
    world.good_as_nobody(&["restore", "shop/nightly", "latest", "--into", &back]);
    let found = succeed(Command::new("find").arg(&back).args(["-type", "f", "-printf", "%f\n"]));
    assert_eq!(found, "readable\n");
}

fn policy_of(world: &World) {
    world.policy(&format!("    - name: files\n      paths: [{}]", world.path("site").display()), "");
}

#[test]
fn a_terminal_shows_how_far_a_run_and_a_restore_are() {
    let world = World::new("progress");
    fs::create_dir(world.path("site")).expect("a folder");
    let script = format!("head -c 200000000 /dev/urandom >{}", world.path("site/large").display());
    succeed(Command::new("sh").args(["-c", &script]));
    policy(&world, "");
    let into = world.path("back").display().to_string();
    for arguments in [["run", "shop/nightly"].as_slice(), &["restore", "shop/nightly", "latest", "--into", &into]] {
        let ours = world.command(arguments);
        let line = format!("{} {}", ours.get_program().display(), arguments.join(" "));
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &line, "/dev/null"]).current_dir(world.path("")).env("TERM", "xterm");
        terminal.env("MAINSTAY_STATE", world.path("state")).env("HOME", world.path(""));
        let shown = succeed(&mut terminal);
        // What is done, and how fast; of how much, where that is known from the beginning.
        assert!(shown.contains("MiB") && shown.contains("iB/s"), "{arguments:?}: {shown}");
        assert!(arguments[0] == "run" || shown.contains("/190.73 MiB"), "{arguments:?}: {shown}");
    }
}

/// A prune only marks what nothing refers to any more; 23 hours later the next one deletes it.
#[test]
fn what_is_pruned_leaves_the_disk_with_a_prune_of_the_next_day() {
    let world = World::new("two-phases");
    let content = |seed: &str| {
        let script = format!("head -c 8000000 /dev/urandom >{}", world.path(seed).display());
        succeed(Command::new("sh").args(["-c", &script]));
    };
    fs::create_dir(world.path("site")).expect("a folder");
    let retention = "  retention: {keepLast: 1, keepDaily: 0, keepWeekly: 0, keepMonthly: 0, grace: 0s}";
    world.policy(&format!("    - name: files\n      paths: [{}]", world.path("site").display()), retention);
    world.apply();
    let at = |ahead: &str| {
        let mut command = world.command(&["run", "shop/nightly"]);
        command
            .env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
            .env("FAKETIME", ahead)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        succeed(&mut command);
        let size = succeed(Command::new("du").args(["-sb"]).arg(world.path("store")));
        size.split_whitespace().next().and_then(|bytes| bytes.parse::<u64>().ok()).expect("du prints a size")
    };
    content("site/a");
    assert!((8_000_000..10_000_000).contains(&at("+0")));
    content("site/a");
    at("+1m");
    let marked = at("+2m");
    assert!(marked > 16_000_000, "what was forgotten a moment ago is only marked: {marked}");
    let waits = at("+22h");
    assert!(waits > 16_000_000, "a capture that began before may still need it: {waits}");
    let deleted = at("+24h");
    assert!(deleted < 10_000_000, "nothing has referred to it for a day: {deleted}");
    world.restic_check();
}
