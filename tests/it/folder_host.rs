//! A host in a folder: documents, stand-in programs, state, and the binary under test. Gone when the test ends.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::host_folder::HostFolder;

/// A host in a folder.
pub struct Host {
    directory: HostFolder,
}

impl Host {
    /// An empty host.
    pub fn new() -> Self {
        let host = Self { directory: HostFolder::new() };
        for folder in ["documents", "bin", "etc/mainstay", "var/backups"] {
            fs::create_dir_all(host.path(folder)).expect("a folder");
        }
        host
    }

    /// A host with the documents of an example, whose absolute paths are moved below the host's folder. Those that ask
    /// for a restore are left out: [`Host::ask_for_restore`] adds them, as a person would, once there is something.
    pub fn of_example(example: &str) -> Self {
        let host = Self::new();
        host.copy_example(&examples().join(example), "documents", false);
        host
    }

    /// Adds the example's `restore.backup.yaml`.
    pub fn ask_for_restore(&self, example: &str) {
        self.copy_example(&examples().join(example), "documents", true);
    }

    fn copy_example(&self, from: &Path, to: &str, restores: bool) {
        for entry in fs::read_dir(from).expect("the example").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            let into = format!("{to}/{name}");
            if entry.path().is_dir() {
                self.copy_example(&entry.path(), &into, restores);
            } else if name.ends_with("backup.yaml") && (restores || name != "restore.backup.yaml") {
                self.write(&into, self.moved(&fs::read_to_string(entry.path()).expect("text")));
            }
        }
    }

    /// A text whose absolute paths are moved below the host's folder.
    pub fn moved(&self, text: &str) -> String {
        let below = self.directory.path().display();
        ["/srv/", "/var/", "/etc/mainstay/"]
            .iter()
            .fold(text.to_owned(), |text, folder| text.replace(folder, &format!("{below}{folder}")))
    }

    /// A path below the host's folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// The same as text.
    pub fn text(&self, relative: &str) -> String {
        self.path(relative).display().to_string()
    }

    /// Writes a file below the host's folder, and the folders above it.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("below a folder")).expect("folders");
        fs::write(path, content).expect("a file");
    }

    /// Reads a text file below the host's folder; empty where there is none.
    pub fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_default()
    }

    /// Replaces a text in a file, in which it must stand.
    pub fn edit(&self, relative: &str, from: &str, to: &str) {
        let text = self.read(relative);
        assert!(text.contains(from), "`{from}` is not in {relative}:\n{text}");
        self.write(relative, text.replace(from, to));
    }

    /// A program on the host's PATH, as a shell script that runs in the host's folder.
    pub fn program(&self, name: &str, script: &str) {
        let file = format!("bin/{name}");
        self.write(&file, format!("#!/bin/sh\ncd '{}'\n{script}\n", self.directory.path().display()));
        fs::set_permissions(self.path(&file), fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// A command line of the binary under test on this host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    fn prepare(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.text("bin")))
            .env("MAINSTAY_STATE", self.path("state"))
            .env("HOME", self.directory.path())
            .env("NO_COLOR", "1")
            .env_remove("RUST_BACKTRACE")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
    }

    /// Carries a command out and waits for its end.
    pub fn mainstay(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary under test starts")
    }

    /// Carries a command out that must succeed; gives its standard output.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.mainstay(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Carries a command out that must end with this exit code; gives all that it said, without what is different on
    /// every host.
    pub fn bad(&self, arguments: &[&str], code: i32) -> String {
        let output = self.mainstay(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        let said = said.replace(&self.directory.path().display().to_string(), "HOST").replace("HOST//", "HOST/");
        said.split('\n').map(without_times).collect::<Vec<_>>().join("\n")
    }

    /// Carries git out in the documents' folder.
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        self.prepare(&mut command);
        command.current_dir(self.path("documents")).args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        ]);
        let output = command.args(arguments).output().expect("git starts");
        assert!(output.status.success(), "git {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Commits all documents; the first time it makes the git repository.
    pub fn commit(&self, message: &str) {
        if !self.path("documents/.git").exists() {
            self.git(&["init", "-q", "-b", "main"]);
            // `mainstay approve` commits as well.
            self.git(&["config", "user.name", "A"]);
            self.git(&["config", "user.email", "a@example.org"]);
            self.git(&["config", "commit.gpgsign", "false"]);
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    /// Makes the documents so.
    pub fn apply(&self) {
        self.good(&["apply", "--path", "documents"]);
    }

    /// The restore points of a policy as `points -o json` gives them, oldest first.
    pub fn points(&self, policy: &str) -> Vec<Value> {
        let output = self.mainstay(&["points", policy, "--path", "documents", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        list.as_array().expect("an array").clone()
    }

    /// Their ids.
    pub fn ids(&self, policy: &str) -> Vec<String> {
        self.points(policy).iter().map(|point| point["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// `status -o json`, the part of one policy.
    pub fn status(&self, policy: &str) -> Value {
        let status: Value = serde_json::from_str(&self.good(&["status", "-o", "json"])).expect("JSON");
        status["policies"][policy].clone()
    }

    /// Restores the latest point of a policy into a fresh folder; gives that folder.
    pub fn restored(&self, policy: &str, more: &[&str]) -> PathBuf {
        let into = tempfile::tempdir_in(self.path("")).expect("a folder").keep();
        let into_text = into.display().to_string();
        self.good(&[&["restore", policy, "latest", "--into", &into_text], more].concat());
        into
    }

    /// Where a path of the host lies below a folder that something was restored into.
    pub fn below(&self, restored: &Path, relative: &str) -> PathBuf {
        restored.join(self.path(relative).strip_prefix("/").expect("an absolute path"))
    }

    /// Restores the latest point of a policy, and fails unless this folder or file is the same as it was.
    pub fn restores(&self, policy: &str, relative: &str) {
        let restored = self.restored(policy, &[]);
        let (left, right) = (self.path(relative), self.below(&restored, relative));
        let output = Command::new("diff").arg("-r").arg(&left).arg(&right).output().expect("diff");
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Starts a daemon on the documents' git repository.
    pub fn daemon(&self, more: &[&str]) -> Daemon {
        let log = fs::File::create(self.path("daemon.log")).expect("a log");
        let mut command =
            self.command(&[&["daemon", "--repo", "documents", "--branch", "main", "--poll", "1s"], more].concat());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        Daemon { child: command.spawn().expect("the daemon starts") }
    }

    /// Waits until `condition` gives a value.
    pub fn wait_for<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "waited for: {what}\n{}", self.read("daemon.log"));
            std::thread::sleep(Duration::from_millis(20)); // the pause of a poll, not a guess at how long it takes
        }
    }
}

/// A daemon of the test's own; ended with it.
pub struct Daemon {
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A line without how long something took and when it was captured.
fn without_times(line: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    for index in 0..words.len() {
        let next = words.get(index + 1).copied().unwrap_or_default();
        if next.starts_with('s') && words[index].contains('.') && words[index].parse::<f64>().is_ok() {
            words[index] = "N";
        }
    }
    let line = words.join(" ");
    match line.split_once(", captured ") {
        Some((before, rest)) => {
            format!("{before}, captured TIME,{}", rest.split_once(',').map_or("", |(_, rest)| rest))
        }
        None => line,
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
