//! The daemon on a remote repository, over https with a token and over ssh with checked host keys.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    peers::{Peers, free_port, succeed, wait_for},
    world::{Started, World},
};

fn git(directory: &Path, arguments: &[&str]) -> String {
    succeed(
        Command::new("git")
            .current_dir(directory)
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"])
            .args(arguments),
    )
}

/// A bare repository on the server with one commit: the documents of this world.
fn hosted(world: &World, name: &str) -> PathBuf {
    let (_, _, root) = Peers::git_https();
    let bare = root.join(name);
    world.write("site/a", "a");
    world.policy(&format!("    - name: files\n      paths: [{}]", world.path("site").display()), "");
    git(&world.path("documents"), &["init", "-q", "-b", "main"]);
    succeed(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&bare));
    git(&world.path("documents"), &["remote", "add", "origin", &bare.display().to_string()]);
    commit(world, "first");
    bare
}

fn commit(world: &World, message: &str) {
    git(&world.path("documents"), &["add", "-A"]);
    git(&world.path("documents"), &["commit", "-q", "-m", message]);
    git(&world.path("documents"), &["push", "-q", "origin", "main"]);
}

/// Waits until the status branch on the server knows the policy.
fn wait_for_status(bare: &Path, text: &str) {
    wait_for(&format!("`{text}` on the status branch"), 60, || {
        let output = Command::new("git")
            .arg("-C")
            .arg(bare)
            .args(["show", "mainstay/status:status/shop/nightly.yaml"])
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).contains(text).then_some(())
    });
}

/// Starts a daemon that trusts the authority of the tests, as libgit2 is told by the environment.
fn start_daemon(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Started {
    let mut all = vec!["daemon", "--poll", "1s"];
    all.extend(arguments);
    let authority = Peers::authority().display().to_string();
    world.start_with("daemon", &all, &[&[("SSL_CERT_FILE", authority.as_str())], environment].concat())
}

/// A first commit is applied, and a second one, too; the status comes back; runs work.
fn watched(world: &World, bare: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
    let daemon = start_daemon(world, arguments, environment);
    wait_for("the policy to be applied", 60, || {
        world.mainstay(&["run", "shop/nightly"]).status.success().then_some(())
    });
    wait_for_status(bare, "observedRevision");
    world.policy(&format!("    - name: other\n      paths: [{}]", world.path("site").display()), "");
    commit(world, "second");
    let head = git(&world.path("documents"), &["rev-parse", "HEAD"]);
    wait_for_status(bare, head.trim());
    drop(daemon);
}

/// Watches a repository that asks for a token, which is given by arguments or by the environment.
fn watched_with_token(name: &str, arguments: &[&str], environment: &[(&str, &str)]) {
    let world = World::new(name);
    let bare = hosted(&world, &format!("{name}.git"));
    let (address, token, _) = Peers::git_https();
    world.write("token", format!("{token}\n"));
    let address = format!("{address}/{name}.git");
    watched(&world, &bare, &[&["--repo", address.as_str()], arguments].concat(), environment);
    let log = fs::read_to_string(world.path("daemon.log")).expect("a log");
    assert!(!log.contains(&token), "the token is in the log");
}

#[test]
fn https_with_a_token() {
    // Commands are carried out in the folder of the host.
    watched_with_token("git-https", &["--git-token-file", "token"], &[]);
}

#[test]
fn https_with_a_token_in_the_environment() {
    let (_, token, _) = Peers::git_https();
    watched_with_token("git-https-environment", &[], &[("MAINSTAY_GIT_TOKEN", &token)]);
}

#[test]
fn ssh_with_a_key_and_a_known_host() {
    let world = World::new("git-ssh");
    let bare = hosted(&world, "ssh.git");
    let (port, keys) = Peers::ssh();
    let address = format!("ssh://root@127.0.0.1:{port}{}", bare.display());
    let (key, hosts) = (keys.join("client").display().to_string(), keys.join("known_hosts").display().to_string());
    watched(&world, &bare, &["--repo", &address, "--ssh-key", &key, "--known-hosts", &hosts], &[]);
}

/// Starts a daemon that cannot get at its documents, and waits until its log says why.
fn refused(world: &World, arguments: &[&str], why: &str) {
    let _daemon = start_daemon(world, arguments, &[]);
    wait_for(&format!("the log to say `{why}`"), 60, || {
        let log = fs::read_to_string(world.path("daemon.log")).ok()?;
        log.to_lowercase().contains(why).then_some(())
    });
}

#[test]
fn a_wrong_token_is_refused_and_not_tried_for_ever() {
    let world = World::new("git-token");
    hosted(&world, "token.git");
    let (address, _, _) = Peers::git_https();
    let file = world.write("token", "not-the-token\n").display().to_string();
    let address = format!("{address}/token.git");
    refused(&world, &["--repo", &address, "--git-token-file", &file], "refuses our credentials");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let world = World::new("git-certificate");
    hosted(&world, "certificate.git");
    let (address, token, _) = Peers::git_https();
    let file = world.write("token", format!("{token}\n")).display().to_string();
    let address = format!("{address}/certificate.git");
    let _daemon = world.start("daemon", &["daemon", "--repo", &address, "--git-token-file", &file]);
    wait_for("the log to name the certificate", 60, || {
        let log = fs::read_to_string(world.path("daemon.log")).ok()?;
        (log.contains("the certificate of") && log.contains("SSL_CERT_FILE")).then_some(())
    });
}

#[test]
fn an_unknown_host_key_is_refused() {
    let world = World::new("git-host-key");
    let bare = hosted(&world, "host-key.git");
    let (port, keys) = Peers::ssh();
    let hosts = world.write("known_hosts", "").display().to_string();
    let address = format!("ssh://root@127.0.0.1:{port}{}", bare.display());
    let key = keys.join("client").display().to_string();
    refused(&world, &["--repo", &address, "--ssh-key", &key, "--known-hosts", &hosts], "ssh host key of");
}

#[test]
fn a_git_server_that_is_away_keeps_the_policies_and_comes_back() {
    let world = World::new("git-away");
    let bare = hosted(&world, "away.git");
    let (port, keys) = Peers::ssh();
    let address = format!("ssh://root@127.0.0.1:{port}{}", bare.display());
    let (key, hosts) = (keys.join("client").display().to_string(), keys.join("known_hosts").display().to_string());
    let arguments = ["--repo", address.as_str(), "--ssh-key", key.as_str(), "--known-hosts", hosts.as_str()];
    watched(&world, &bare, &arguments, &[]);
    // The same state, another address on which nobody answers: the schedule stays.
    let nobody = format!("ssh://root@127.0.0.1:{}{}", free_port(), bare.display());
    refused(&world, &["--repo", &nobody, "--ssh-key", &key, "--known-hosts", &hosts], "127.0.0.1");
    wait_for("a run without git", 30, || world.mainstay(&["run", "shop/nightly"]).status.success().then_some(()));
}
