//! Files and archives: what was captured comes back as it was, only what changed is read again, and nothing is overwritten
//! unasked.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use mainstay::mover::{
    archive::{UnpackError, unpack},
    job::{Event, FailureKind, Outcome, Task},
};

use super::{World, capture, paths};

/// A tree with everything that a file system of this host can hold without being root.
pub(super) fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir_all(root.join("cache")).unwrap();
    fs::write(root.join("a.txt"), "hello").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("left-out.tmp"), "x").unwrap();
    fs::write(root.join("cache/left-out"), "x").unwrap();
    fs::write(root.join("sub/ünïcode \"quoted\"\n"), "odd name").unwrap();
    let random: Vec<u8> = (0..3_000_000_u64).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(root.join("sub/deep/big"), random).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    fs::hard_link(root.join("a.txt"), root.join("sub/linked.txt")).unwrap();
    symlink("../nowhere", root.join("sub/dangling")).unwrap();
    fs::set_permissions(root.join("a.txt"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("sub/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    // Not every file system has attributes; where there are none, none come back.
    let _ = xattr::set(root.join("a.txt"), "user.origin", b"a\0b");
    for (name, seconds) in [("sub/dangling", 1_000), ("a.txt", 1_234_567_890), ("sub/deep", 1_500_000_000)] {
        let time = filetime::FileTime::from_unix_time(seconds, 123_456_789);
        filetime::set_symlink_file_times(root.join(name), time, time).unwrap();
    }
    let time = filetime::FileTime::from_unix_time(1_600_000_000, 0);
    filetime::set_file_times(root, time, time).unwrap();
}

/// One line for each file: all that has to come back.
fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            use sha2::Digest as _;
            format!("{} {}", metadata.len(), hex::encode(sha2::Sha256::digest(fs::read(&path).unwrap())))
        };
        let attributes: Vec<_> = xattr::list(&path)
            .map(|names| names.map(|name| (name.clone(), xattr::get(&path, name).unwrap())).collect())
            .unwrap_or_default();
        lines.push(format!(
            "{:?} {:o} {}:{} {}.{} {content} {attributes:?}",
            path.strip_prefix(root).unwrap(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ));
    }
    lines.sort();
    lines
}

#[test]
fn files_come_back_as_they_were() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    let captured = world.capture("1", paths(&[&root])).unwrap();
    let Outcome::Captured { size_bytes, unreadable, files, snapshot, .. } = captured else { panic!() };
    assert_eq!((files, unreadable), (7, 0));
    assert_eq!(size_bytes, 5 + 5 + 8 + 3_000_000 + (8 << 20));
    let snapshots = world.list();
    assert_eq!(snapshots[0].id, snapshot);
    assert_eq!(snapshots[0].label.policy.to_string(), "shop/nightly");
    assert_eq!((snapshots[0].size_bytes, snapshots[0].time.to_string().as_str()), (size_bytes, "2026-11-21T02:00:00Z"));

    let into = world.path("into");
    let dry = |dry_run, paths| Task::RestoreFiles {
        snapshot: snapshot.clone(),
        into: Some(into.clone()),
        paths,
        overwrite: false,
        dry_run,
    };
    let counted = world.run(dry(true, Vec::new())).unwrap();
    assert!(!into.exists());
    let restored = world.run(dry(false, Vec::new())).unwrap();
    assert!(matches!(counted, Outcome::Restored { files: 7, .. }), "{counted:?}");
    assert!(matches!(restored, Outcome::Restored { files: 7, .. }), "{restored:?}");

    fs::remove_file(root.join("left-out.tmp")).unwrap();
    fs::remove_file(root.join("cache/left-out")).unwrap();
    let time = filetime::FileTime::from_unix_time(1_600_000_000, 0);
    filetime::set_file_times(&root, time, time).unwrap();
    let copy = into.join(root.strip_prefix("/").unwrap());
    let without_cache = |root: &Path| -> Vec<String> {
        // Its time changed when the test removed what was left out.
        describe(root).into_iter().filter(|line| !line.starts_with("\"cache\"")).collect()
    };
    assert_eq!(without_cache(&root), without_cache(&copy));
    let inode = |path: &str| fs::metadata(copy.join(path)).unwrap().ino();
    assert_eq!(inode("a.txt"), inode("sub/linked.txt"));
    assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() < 64);

    // A second restore finds everything in the way, and one with overwrite puts right what differs.
    let failure = world.run(dry(false, Vec::new())).unwrap_err();
    assert_eq!(failure.kind, FailureKind::DestinationRefused);
    fs::write(copy.join("a.txt"), "HELLO, changed").unwrap();
    fs::remove_file(copy.join("sub/deep/big")).unwrap();
    fs::write(copy.join("mine"), "not in the snapshot").unwrap();
    world.restore(&into, true).unwrap();
    assert_eq!(fs::read_to_string(copy.join("mine")).unwrap(), "not in the snapshot");
    fs::remove_file(copy.join("mine")).unwrap();
    filetime::set_file_times(&copy, time, time).unwrap();
    assert_eq!(without_cache(&root), without_cache(&copy));
}

#[test]
fn a_restore_in_place_refuses_before_it_writes_anything() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let snapshot = world.only_snapshot();
    let in_place = |paths: &[&str], overwrite| Task::RestoreFiles {
        snapshot: snapshot.clone(),
        into: None,
        paths: paths.iter().map(|path| root.join(path)).collect(),
        overwrite,
        dry_run: false,
    };
    fs::remove_file(root.join("empty")).unwrap();
    fs::write(root.join("a.txt"), "newer").unwrap();
    let failure = world.run(in_place(&[], false)).unwrap_err();
    assert!(failure.message.contains("nothing was written"), "{failure:?}");
    assert!(!root.join("empty").exists());

    assert_eq!(world.run(in_place(&["empty"], false)), Ok(Outcome::Restored { files: 1, bytes: 0 }));
    assert!(root.join("empty").exists());
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "newer");
    world.run(in_place(&["a.txt"], true)).unwrap();
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "hello");
    assert_eq!(world.run(in_place(&["nothing"], true)).unwrap_err().kind, FailureKind::DestinationRefused);

    // A directory in the way of a file is never removed, and a link in the way of a directory never followed.
    fs::remove_file(root.join("a.txt")).unwrap();
    fs::create_dir(root.join("a.txt")).unwrap();
    assert_eq!(world.run(in_place(&["a.txt"], true)).unwrap_err().kind, FailureKind::DestinationRefused);
    fs::remove_dir_all(root.join("sub")).unwrap();
    fs::create_dir(world.path("elsewhere")).unwrap();
    symlink(world.path("elsewhere"), root.join("sub")).unwrap();
    assert_eq!(world.run(in_place(&["sub"], true)).unwrap_err().kind, FailureKind::DestinationRefused);
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn an_unchanged_tree_adds_nothing() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let Ok(Outcome::Captured { added_bytes, files, .. }) = world.capture("2", paths(&[&root])) else { panic!() };
    assert_eq!((added_bytes, files), (0, 7));
    assert_eq!(world.list().len(), 2);
}

#[test]
fn only_what_changed_is_read_again() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let capture_again = |run: &str| -> (u64, String) {
        let (result, events) = world.run_with_events(capture(run, paths(&[&root])));
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Warning(_))).count(), 0, "{events:?}");
        match result {
            Ok(Outcome::Captured { added_bytes, snapshot, .. }) => (added_bytes, snapshot),
            other => panic!("{other:?}"),
        }
    };
    let (sparse, big) = (root.join("sparse"), root.join("sub/deep/big"));
    let before = fs::metadata(&big).unwrap();
    fs::write(root.join("new"), "five!").unwrap();
    fs::write(&sparse, "now there is something").unwrap();
    let (added, _) = capture_again("2");
    assert!((20..10_000).contains(&added), "{added}");
    // The same length and time, but another change time: read again.
    let mut content = fs::read(&big).unwrap();
    content[1_500_000] ^= 1;
    fs::write(&big, content).unwrap();
    let time = filetime::FileTime::from_last_modification_time(&before);
    filetime::set_file_times(&big, time, time).unwrap();
    let (added, snapshot) = capture_again("3");
    assert!(added > 500_000, "{added}");
    let into = world.path("into");
    let all =
        Task::RestoreFiles { snapshot, into: Some(into.clone()), paths: Vec::new(), overwrite: false, dry_run: false };
    world.run(all).unwrap();
    let copy = into.join(root.strip_prefix("/").unwrap());
    for name in ["new", "sparse", "a.txt", "sub/deep/big"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), fs::read(copy.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_damaged_tree_of_the_snapshot_before_only_means_to_read_everything() {
    let world = World::new();
    world.directory.damages();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    // The smallest pack is that of the trees.
    let mut packs: Vec<PathBuf> = Vec::new();
    for directory in fs::read_dir(world.path("repository/data")).unwrap() {
        packs.extend(fs::read_dir(directory.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    let pack = packs.iter().min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut content = fs::read(pack).unwrap();
    content[40] ^= 1;
    fs::write(pack, &content).unwrap();
    let (result, events) = world.run_with_events(capture("2", paths(&[&root])));
    assert!(matches!(result, Ok(Outcome::Captured { files: 7, .. })), "{result:?}");
    let told = |event: &Event| matches!(event, Event::Warning(text) if text.contains("read again"));
    assert!(events.iter().any(told), "{events:?}");
}

#[test]
fn a_missing_root_is_a_failure() {
    let world = World::new();
    let root = world.path("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("good"), "good").unwrap();
    let missing = world.capture("1", paths(&[&root, &world.path("missing")])).unwrap_err();
    assert_eq!(missing.kind, FailureKind::SourceFailed);
    assert!(missing.message.contains("missing"), "{missing:?}");
    assert_eq!(world.list(), []);
}

#[test]
fn a_source_that_lost_all_its_files_gives_no_restore_point() {
    let world = World::new();
    let root = world.path("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a"), "a").unwrap();
    world.capture("2", paths(&[&root])).unwrap();
    fs::remove_file(root.join("a")).unwrap();
    let failure = world.capture("3", paths(&[&root])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::SourceFailed);
    assert!(failure.message.contains("holds no file any more"), "{failure:?}");
    assert_eq!(world.list().len(), 1);
    // One in which nothing ever was is fine.
    let other = World::new();
    let root = other.path("data");
    fs::create_dir(&root).unwrap();
    other.capture("1", paths(&[&root])).unwrap();
}

#[test]
fn an_archive_goes_out_and_comes_back() {
    let world = World::new();
    let root = world.path("data");
    make_tree(&root);
    world.capture("1", paths(&[&root])).unwrap();
    let archive = world.path("points.tar.gz");
    let download = Task::Download { snapshot: world.only_snapshot(), file_name: None, output: archive.clone() };
    world.run(download).unwrap();

    let into = world.path("upload");
    let unpacked = unpack(&archive, &into, false).unwrap();
    assert_eq!(unpacked.files, 7);
    let copy = into.join(root.strip_prefix("/").unwrap());
    for name in ["a.txt", "empty", "sparse", "sub/deep/big", "sub/linked.txt", "sub/ünïcode \"quoted\"\n"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), fs::read(copy.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_link(copy.join("sub/dangling")).unwrap(), Path::new("../nowhere"));
    assert!(matches!(unpack(&archive, &into, false), Err(UnpackError::Exists { .. })));
    unpack(&archive, &into, true).unwrap();
}

#[test]
fn an_archive_of_a_stranger_stays_where_it_is_put() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("evil.tar.gz");
    let into = directory.path().join("into");
    let write = |entries: &[(&str, tar::EntryType, &str)]| {
        let file = fs::File::create(&archive).unwrap();
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
        for (name, kind, target) in entries {
            let mut header = tar::Header::new_gnu();
            // The setters refuse such names; an attacker's tool does not.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6777);
            let content: &[u8] = if kind.is_file() { b"evil" } else { b"" };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap();
    };
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    for entries in [
        &[("../escaped", Regular, "")][..],
        &[("/tmp/mainstay-escaped", Regular, "")],
        &[("a/../../escaped", Regular, "")],
        &[("hard", Link, "../outside")],
        &[("hard", Link, "/etc/passwd")],
        &[("device", Char, "")],
        &[("pipe", Fifo, "")],
        &[("good", Regular, ""), ("../escaped", Regular, "")],
    ] {
        write(entries);
        assert!(unpack(&archive, &into, true).is_err(), "{entries:?}");
        assert!(!into.exists(), "{entries:?}");
    }
    // A link first, then a file below it: the link waits, so the file stays inside, and the link is refused.
    write(&[("way", Symlink, ".."), ("way/escaped", Regular, ""), ("dir", Directory, ""), ("ok", Regular, "")]);
    assert!(unpack(&archive, &into, false).is_err());
    assert!(!directory.path().join("escaped").exists());
    assert_eq!(fs::metadata(into.join("ok")).unwrap().mode() & 0o7777, 0o777);
    fs::write(&archive, "no archive").unwrap();
    assert!(matches!(unpack(&archive, &into, true), Err(UnpackError::Archive { .. })));
}
