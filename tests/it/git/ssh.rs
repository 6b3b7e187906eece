//! Fetching over ssh from a real sshd on loopback: whose host keys are believed. With the live tests only, for sshd is
//! not there wherever git is.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mainstay::git::{Retry, checkout::Checkout};

use super::{
    fixture::{WorkTree, git, options},
    signature::make_key,
};

/// A server that lets one key in, and ends with the test.
struct Sshd {
    child: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // It has ended already if these fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    fn start(directory: &Path, host_key: &str, user_key: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let authorized = directory.join("authorized_keys");
        std::fs::copy(format!("{user_key}.pub"), &authorized).expect("a copy");
        let settings = directory.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
            authorized.display()
        );
        std::fs::write(&settings, text).expect("a file");
        // sshd started by root wants this directory; anybody else does not need it.
        let _ = std::fs::create_dir_all("/run/sshd");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(settings)
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd; install openssh-server");
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "sshd does not listen");
            std::thread::yield_now();
        }
        Self { child, port }
    }
}

fn known_hosts(directory: &Path, name: &str, line: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, line).expect("a file");
    path
}

#[test]
fn only_a_host_that_someone_vouched_for_is_talked_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = ["host", "other-host", "user", "other-user"].map(|name| make_key(directory.path(), name));
    let [host, other_host, user, other_user] = &keys;
    let server = Sshd::start(directory.path(), host, user);
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "root".to_owned());
    let url = format!("ssh://{name}@127.0.0.1:{}{}", server.port, tree.path().display());
    let line = |key: &str, host: &str| {
        let public = std::fs::read_to_string(format!("{key}.pub")).expect("a public key");
        format!("{host} {public}")
    };
    let address = format!("[127.0.0.1]:{}", server.port);

    let fetch = |known: PathBuf, key: &str| {
        let mut options = options(Path::new(&url), "");
        options.cache_directory = directory.path().join("cache");
        options.credentials.known_hosts = Some(known);
        options.credentials.ssh_key = Some(PathBuf::from(key));
        Checkout::open(options).expect("a mirror").fetch()
    };
    let nobody = fetch(known_hosts(directory.path(), "nobody", ""), user).expect_err("not known");
    assert_eq!((nobody.reason(), nobody.retry()), ("HostKeyUnknown", Retry::AfterRepair), "{nobody:?}");
    assert!(nobody.to_string().contains(&address), "{nobody}");
    let other_port = fetch(known_hosts(directory.path(), "port", &line(host, "127.0.0.1")), user).expect_err("another");
    assert_eq!(other_port.reason(), "HostKeyUnknown");
    let changed =
        fetch(known_hosts(directory.path(), "changed", &line(other_host, &address)), user).expect_err("changed");
    assert_eq!(changed.reason(), "HostKeyChanged", "{changed:?}");

    let good = known_hosts(directory.path(), "good", &line(host, &address));
    assert_eq!(fetch(good.clone(), user).expect("fetched"), tree.head());
    let refused = fetch(good.clone(), other_user).expect_err("a key that is not let in");
    assert_eq!(refused.reason(), "AuthenticationFailed", "{refused:?}");

    // Names may be hashed, which is Debian's default.
    let hashed = known_hosts(directory.path(), "hashed", &line(host, &address));
    let output = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&hashed).output().expect("ssh-keygen");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(&hashed).expect("a file").starts_with("|1|"));
    tree.commit(&[], "second");
    assert_eq!(fetch(hashed, user).expect("fetched"), tree.head());
    assert_eq!(git(tree.path(), &["status", "--porcelain"]), "");
}
