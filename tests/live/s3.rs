//! Repositories in S3: http, https with an own authority, wrong keys, and a server that dies in the middle.

use std::{fs, path::Path, process::Command};

use crate::{
    peers::{OwnServer, Peers, free_port, succeed, wait_for},
    world::{World, assert_same_tree, restic, restic_check},
};

fn place(world: &World, endpoint: &str, prefix: &str, more: &str) -> String {
    world.write("s3/id", "mainstay\n");
    if !world.path("s3/key").exists() {
        world.write("s3/key", "mainstay-secret\n");
    }
    format!(
        "s3: {{endpoint: \"{endpoint}\", bucket: backups, prefix: {prefix}, accessKeyId: {{file: {}}}, secretAccessKey: {{file: {}}}{more}}}",
        world.path("s3/id").display(),
        world.path("s3/key").display()
    )
}

fn files(world: &World) -> String {
    format!("    - name: files\n      paths: [{}]", world.path("site").display())
}

fn random(world: &World, name: &str, mebibytes: u32) {
    fs::create_dir_all(world.path("site")).expect("a folder");
    let script = format!("head -c {mebibytes}M /dev/urandom >{name}");
    succeed(Command::new("sh").current_dir(world.path("site")).args(["-c", &script]));
}

/// Everything from a run to a restore, by us and by the real restic.
fn round_trip(world: &World, endpoint: &str, prefix: &str, more: &str) {
    random(world, "random", 20);
    world.write("site/text", "text");
    world.policy_into(&place(world, endpoint, prefix, more), &files(world), "");
    world.apply();
    world.run();
    assert_eq!(world.points().len(), 1);

    let repository = format!("s3:{endpoint}/backups/{prefix}");
    let snapshots = restic_check(&repository, &world.path("password"));
    assert_eq!(snapshots.len(), 1);
    let by_restic = world.path("by-restic");
    succeed(restic(&repository, &world.path("password")).args(["restore", "latest", "--target"]).arg(&by_restic));
    let site = world.path("site");
    assert_same_tree(&site, &by_restic.join(site.strip_prefix("/").expect("an absolute path")));

    let kept = world.path("kept");
    fs::rename(&site, &kept).expect("the folder moves away");
    world.good(&["restore", "shop/nightly", "latest", "--in-place", "--yes"]);
    assert_same_tree(&kept, &site);
}

#[test]
fn a_folder_goes_to_a_bucket_and_comes_back() {
    round_trip(&World::new("s3-http"), &Peers::s3(), "http", "");
}

#[test]
fn the_same_over_https_with_a_private_authority() {
    let authority = format!(", certificateAuthority: {}", Peers::authority().display());
    round_trip(&World::new("s3-https"), &Peers::s3_tls(), "https", &authority);
}

/// As in the image of a database, which knows no authority: the program carries its own.
#[test]
fn authorities_beside_the_program_are_trusted() {
    let world = World::new("s3-carried");
    world.write("site/text", "text");
    world.policy_into(&place(&world, &Peers::s3_tls(), "carried", ""), &files(&world), "");
    world.apply();
    let program = world.path("program");
    std::fs::create_dir(&program).expect("a folder");
    std::fs::copy(env!("CARGO_BIN_EXE_mainstay"), program.join("mainstay")).expect("a copy of the program");
    let run = || {
        let mut command = std::process::Command::new(program.join("mainstay"));
        command.args(["run", "shop/nightly"]).env("MAINSTAY_STATE", world.path("state"));
        command.env("SSL_CERT_FILE", "/nowhere/at/all").env("SSL_CERT_DIR", "/nowhere/at/all");
        command.output().expect("the copy starts")
    };
    let said = crate::peers::said(&run());
    assert!(said.contains("certificate"), "{said}");
    std::fs::copy(Peers::authority(), program.join("ca-certificates.crt")).expect("a bundle");
    let output = run();
    assert!(output.status.success(), "{}", crate::peers::said(&output));
    assert_eq!(world.points().len(), 1);
}

#[test]
fn an_unknown_authority_is_refused() {
    let world = World::new("s3-untrusted");
    world.write("site/text", "text");
    world.policy_into(&place(&world, &Peers::s3_tls(), "untrusted", ""), &files(&world), "");
    world.apply();
    world.bad(&["run", "shop/nightly"]);
    assert_eq!(world.points(), Vec::<String>::new());
}

#[test]
fn wrong_keys_and_a_missing_bucket_are_told_and_show_no_secret() {
    let world = World::new("s3-keys");
    world.write("site/text", "text");
    world.write("s3/key", "wr0ng-secret");
    world.policy_into(&place(&world, &Peers::s3(), "keys", ""), &files(&world), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(!said.contains("wr0ng-secret"), "{said}");

    world.write("s3/key", "mainstay-secret");
    let missing = place(&world, &Peers::s3(), "keys", "").replace("bucket: backups", "bucket: nosuchbucket");
    world.policy_into(&missing, &files(&world), "");
    world.apply();
    let said = world.bad(&["run", "shop/nightly"]);
    assert!(said.contains("nosuchbucket"), "{said}");
    assert_eq!(world.points(), Vec::<String>::new());
}

#[test]
fn a_server_killed_in_the_middle_of_an_upload_fails_the_run_and_the_next_one_is_good() {
    let world = World::new("s3-killed");
    let (port, data) = (free_port(), world.path("server"));
    let mut own = OwnServer::s3(port, &data);
    let endpoint = format!("http://127.0.0.1:{port}");
    world.write("site/text", "text");
    world.policy_into(&place(&world, &endpoint, "killed", ""), &files(&world), "  limits: {bandwidth: 8MiB}");
    world.apply();
    world.run();
    let packs = |below: &Path| -> usize {
        let list =
            succeed(Command::new("find").arg(below.join("data/backups")).args(["-path", "*/data/*", "-type", "f"]));
        list.lines().count()
    };
    let before = packs(&data);
    random(&world, "random", 200);
    let mut run = world.start("run", &["run", "shop/nightly"]);
    wait_for("the upload to be on its way", 60, || {
        assert!(run.child.try_wait().expect("our child").is_none(), "the run ended before it could be disturbed");
        (packs(&data) > before).then_some(())
    });
    own.kill();
    assert_eq!(run.code(), Some(1));

    let _own = OwnServer::s3(port, &data);
    assert_eq!(world.points().len(), 1, "the first restore point stays, and is the only one");
    world.policy_into(&place(&world, &endpoint, "killed", ""), &files(&world), "");
    world.apply();
    world.run();
    assert_eq!(world.points().len(), 2);
    let snapshots = restic_check(&format!("s3:{endpoint}/backups/killed"), &world.path("password"));
    assert_eq!(snapshots.len(), 2);
}
