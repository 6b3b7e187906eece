//! A host in a folder: documents, state, repositories, and the binary under test. Gone when the test ends.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    judge,
    peers::{Peers, said, succeed},
};

/// The password of all repositories of the tests.
pub const PASSWORD: &str = "correct horse";

/// A host in a folder. When its test ends well, the real restic finds no fault in any repository there.
pub struct World {
    directory: tempfile::TempDir,
    is_damaged: Cell<bool>,
    elsewhere: RefCell<Vec<PathBuf>>,
}

impl World {
    /// An empty host; its folder is named after the test.
    pub fn new(name: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(Peers::scratch())
            .expect("a folder for the test");
        let world = Self { directory, is_damaged: Cell::new(false), elsewhere: RefCell::default() };
        fs::create_dir(world.path("documents")).expect("a folder for documents");
        fs::write(world.path("password"), format!("{PASSWORD}\n")).expect("a password file");
        fs::write(world.path("database-password"), "mainstay\n").expect("a password file");
        world
    }

    /// This test damages what is in a repository, so restic is not asked in the end.
    pub fn damages(&self) {
        self.is_damaged.set(true);
    }

    /// Repositories of this host are below this folder as well, where it is there.
    pub fn also_uses(&self, folder: PathBuf) {
        self.elsewhere.borrow_mut().push(folder);
    }

    /// A path below the host's folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Writes a file below the host's folder, and the folders above it.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a path below a folder")).expect("folders");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Writes `documents/backup.yaml`: a repository `store` in the folder `store`, and the policy `nightly` with these
    /// sources (YAML, indented by 4 spaces below `sources:`) and further fields (indented by 2).
    pub fn policy(&self, sources: &str, fields: &str) {
        self.policy_into(&format!("directory: {}", self.path("store").display()), sources, fields);
    }

    /// The same with another place for the repository (YAML, one line below `spec:`).
    pub fn policy_into(&self, place: &str, sources: &str, fields: &str) {
        let password = self.path("password");
        let text = format!(
            "apiVersion: mainstay.dev/v1alpha1
kind: Repository
metadata: {{name: store}}
spec:
  {place}
  layout: Shared
  password: {{file: {password}}}
---
apiVersion: mainstay.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: nightly, namespace: shop}}
spec:
  repositories: [store]
{fields}
  sources:
{sources}
",
            password = password.display()
        );
        self.write("documents/backup.yaml", text);
    }

    /// A command line of the binary under test, with this host's state.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command
            .args(arguments)
            .env("MAINSTAY_STATE", self.path("state"))
            .env("HOME", self.directory.path())
            .env("NO_COLOR", "1")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Carries a command out and waits for its end.
    pub fn mainstay(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary under test starts")
    }

    /// Carries a command out that must succeed; gives its standard output.
    pub fn good(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Carries a command out that must fail in an orderly way (not by a signal, not by a panic), and gives all it said.
    pub fn bad(&self, arguments: &[&str]) -> String {
        orderly_failure(&self.mainstay(arguments))
    }

    /// Carries a command out as the user `nobody`, who has a state of its own below `state-of-nobody`.
    pub fn as_nobody(&self, arguments: &[&str]) -> Output {
        let (state, program) = (self.path("state-of-nobody"), self.path("mainstay"));
        if !program.exists() {
            fs::create_dir(&state).expect("a folder");
            succeed(Command::new("chown").arg("nobody").arg(&state));
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(self.path("password"), readable).expect("a readable password");
            // The binary may be in a folder that nobody else can enter.
            fs::copy(env!("CARGO_BIN_EXE_mainstay"), &program).expect("a copy of the binary");
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"])
            .arg(program)
            .args(arguments)
            .current_dir(self.path(""))
            .env("MAINSTAY_STATE", &state)
            .env("HOME", &state)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command.output().expect("setpriv starts")
    }

    /// The same, which must succeed; gives its standard output.
    pub fn good_as_nobody(&self, arguments: &[&str]) -> String {
        let output = self.as_nobody(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command in a process group of its own, so that it can be killed with or without its children. What it
    /// says goes to the file `NAME.log`.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Started {
        self.start_with(name, arguments, &[])
    }

    /// The same with further variables in its environment.
    pub fn start_with(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Started {
        let log = fs::File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let child = self
            .command(arguments)
            .envs(environment.iter().copied())
            .process_group(0)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary under test starts");
        Started { child }
    }

    /// Makes the documents so.
    pub fn apply(&self) {
        self.good(&["apply", "--path", "documents"]);
    }

    /// Runs the policy `shop/nightly`, which must succeed.
    pub fn run(&self) -> String {
        self.good(&["run", "shop/nightly"])
    }

    /// The ids of the restore points of `shop/nightly`, oldest first.
    pub fn points(&self) -> Vec<String> {
        let text = self.good(&["points", "shop/nightly", "--path", "documents", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"));
        let mut found: Vec<(String, String)> = list
            .as_array()
            .unwrap_or_else(|| panic!("not an array: {text}"))
            .iter()
            .map(|point| (point["time"].to_string(), point["id"].as_str().expect("an id").to_owned()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// `status -o json`.
    pub fn status(&self) -> Value {
        let text = self.good(&["status", "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"))
    }

    /// The real restic on the repository in `store`, with `check --read-data`; then gives its snapshots as JSON.
    pub fn restic_check(&self) -> Vec<Value> {
        restic_check(&format!("{}", self.path("store").display()), &self.path("password"))
    }

    /// The real restic restores the snapshot with this tag into a folder, which is returned.
    pub fn restic_restore(&self, snapshot: &str) -> PathBuf {
        let into = self.path(&format!("restic-{snapshot}"));
        succeed(restic(&self.path("store").display().to_string(), &self.path("password")).args([
            "restore",
            snapshot,
            "--target",
            &into.display().to_string(),
        ]));
        into
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || self.is_damaged.get() {
            return;
        }
        let mut passwords = vec![self.path("password")];
        let keys = ["state/keys", "etc/mainstay", "home/mainstay-quickstart/state/keys"];
        passwords.extend(judge::files_in(&keys.map(|folder| self.path(folder))));
        for folder in self.elsewhere.borrow().iter().map(PathBuf::as_path).chain([self.directory.path()]) {
            let judged = judge::judge(Path::new("restic"), folder, &passwords);
            let is_own = folder == self.directory.path();
            assert!(is_own || judged > 0 || !folder.exists(), "no repository in {}", folder.display());
        }
    }
}

/// The real restic on a repository.
pub fn restic(repository: &str, password: &Path) -> Command {
    let mut command = Command::new("restic");
    command
        .args(["--no-cache", "--cacert"])
        .arg(Peers::authority())
        .arg("-r")
        .arg(repository)
        .arg("--password-file")
        .arg(password)
        .env("AWS_ACCESS_KEY_ID", "mainstay")
        .env("AWS_SECRET_ACCESS_KEY", "mainstay-secret");
    command
}

/// The real restic reads everything in a repository, finds no fault, and lists the snapshots.
pub fn restic_check(repository: &str, password: &Path) -> Vec<Value> {
    succeed(restic(repository, password).args(["check", "--read-data"]));
    let list = succeed(restic(repository, password).args(["snapshots", "--json"]));
    serde_json::from_str(&list).expect("restic writes a list as JSON")
}

/// All that a command said that must fail in an orderly way: with an exit code, with a hint, without a panic.
pub fn orderly_failure(output: &Output) -> String {
    let said = said(output);
    assert!(output.status.code().is_some_and(|code| code != 0), "it should fail, but: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains(PASSWORD), "the password shows: {said}");
    said
}

/// A started command. Whatever is left of it ends with the test.
pub struct Started {
    /// Its process, the leader of its group.
    pub child: Child,
}

impl Started {
    /// `kill -9` of this process alone; its children live on.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child can be killed");
        self.child.wait().expect("our child can be waited for");
    }

    /// Waits for its end; gives the exit code, none after a signal.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("our child can be waited for").code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).output();
        let _ = self.child.wait();
    }
}

/// Process ids of the descendants of a process whose command line has all of these words.
pub fn descendants(ancestor: u32, words: &[&str]) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.iter().all(|word| line.contains(word)) && is_below(process, ancestor) {
            found.push(process);
        }
    }
    found
}

fn is_below(process: u32, ancestor: u32) -> bool {
    let mut current = process;
    for _ in 0..64 {
        let Ok(stat) = fs::read_to_string(format!("/proc/{current}/stat")) else { return false };
        // The command in brackets may hold anything; the parent is the second field behind it.
        let Some(parent) = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok()) else {
            return false;
        };
        if parent == ancestor {
            return true;
        }
        if parent <= 1 {
            return false;
        }
        current = parent;
    }
    false
}

/// `kill -9` of a process by its id.
pub fn kill_process(process: u32) {
    succeed(Command::new("kill").args(["-KILL", &process.to_string()]));
}

/// Two folders hold the same: names, kinds, content, modes, owners, times, links, extended attributes.
pub fn assert_same_tree(left: &Path, right: &Path) {
    assert_eq!(listing(left), listing(right), "{} and {} differ", left.display(), right.display());
}

fn listing(folder: &Path) -> String {
    // `find` and `getfattr` are independent of the code under test.
    let facts = succeed(Command::new("find").current_dir(folder).args([
        ".",
        "-mindepth",
        "1",
        "(",
        "-type",
        "d",
        "-printf",
        "%P %y %m %U:%G %T@\\n",
        "-o",
        "-printf",
        "%P %y %m %U:%G %s %n %T@ -> %l\\n",
        ")",
    ]));
    let sums = succeed(Command::new("sh").current_dir(folder).args(["-c", "find . -type f -exec sha256sum {} +"]));
    let attributes = succeed(Command::new("getfattr").current_dir(folder).args(["-Rhd", "-m", "-", "."]));
    let mut lines: Vec<&str> = facts.lines().chain(sums.lines()).collect();
    lines.sort_unstable();
    let mut blocks: Vec<&str> = attributes.split("\n\n").map(str::trim).collect();
    blocks.sort_unstable();
    format!("{}\n{}", lines.join("\n"), blocks.join("\n"))
}
