//! A host for a daemon: a repository with documents, state, data, and the real binary.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use mainstay::status::ledger::{self, Entry, EventKind};
use rustix::process::{Pid, Signal};

use crate::{
    git::fixture::{WorkTree, git},
    host_folder::HostFolder,
};

/// How long a test waits for what must happen; none waits that long where all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is there.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20)); // the pause of a poll, not a guess at how long it takes
    }
}

/// A host of its own.
pub struct Host {
    directory: HostFolder,
    /// The watched repository.
    pub documents: WorkTree,
}

impl Host {
    /// With one file to protect and an empty repository.
    pub fn new() -> Self {
        let directory = HostFolder::new();
        fs::create_dir(directory.path().join("data")).expect("a directory");
        fs::write(directory.path().join("data/file"), "content").expect("a file");
        fs::write(directory.path().join("password"), "correct horse\n").expect("a file");
        let documents = WorkTree::empty();
        git(documents.path(), &["config", "user.name", "Ada"]);
        git(documents.path(), &["config", "user.email", "ada@example.org"]);
        Self { directory, documents }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The document of a repository that all policies use.
    pub fn store(&self) -> String {
        format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: store}}\nspec:\n  \
             directory: {}\n  password: {{file: {}}}\n",
            self.path("store").display(),
            self.path("password").display()
        )
    }

    /// The document of a policy `shop/NAME` that is due once in four years, with further fields (YAML, indented by 2).
    pub fn policy(&self, name: &str, fields: &str) -> String {
        format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             schedule: \"0 3 29 2 *\"\n  repositories: [store]\n  sources: [{{name: files, paths: [{}]}}]\n{fields}\n",
            self.path("data").display()
        )
    }

    /// Commits the repository and one policy `shop/nightly` with further fields.
    pub fn commit_policy(&self, fields: &str) -> String {
        self.commit(&[("backup.yaml", &self.policy("nightly", fields)), ("store.backup.yaml", &self.store())])
    }

    /// Commits files, and gives the commit's id.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        self.documents.commit(files, "documents").0
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        git(self.documents.path(), arguments)
    }

    /// A command line of the binary under test, with this host's state, in the work tree.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command
            .args(arguments)
            .env("MAINSTAY_STATE", self.path("state"))
            .env("HOME", self.directory.path())
            .env("NO_COLOR", "1")
            .current_dir(self.documents.path())
            .stdin(Stdio::null());
        command
    }

    pub fn mainstay(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary under test")
    }

    /// Carries out a command that must succeed; gives its standard output.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.mainstay(arguments);
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}\n{failed}");
        said.into_owned()
    }

    /// A run by hand, which gives one more restore point; they are named by the second.
    pub fn run_by_hand(&self) {
        let before = self.points().len();
        wait_for("another restore point", || {
            self.good(&["run", "shop/nightly"]);
            (self.points().len() > before).then_some(())
        });
    }

    /// The ids of the restore points of `shop/nightly`, oldest first.
    pub fn points(&self) -> Vec<String> {
        let database = self.database();
        let mut query =
            database.prepare("SELECT id FROM points WHERE policy = 'shop/nightly' ORDER BY time").expect("a query");
        let rows = query.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("ids")
    }

    /// Starts a daemon on the documents.
    pub fn daemon(&self) -> Daemon {
        let repository = self.documents.path().display().to_string();
        self.daemon_with(&["--repo", &repository], &[])
    }

    /// Starts a daemon with arguments and environment.
    pub fn daemon_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let number = (1..).find(|number| !self.path(&format!("daemon-{number}.log")).exists()).expect("a number");
        let log = self.path(&format!("daemon-{number}.log"));
        let file = fs::File::create(&log).expect("a log");
        let child = self
            .command(&["daemon", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(file.try_clone().expect("a handle"))
            .stderr(file)
            .spawn()
            .expect("the binary under test");
        Daemon { child, log }
    }

    /// A file of the status branch; none: it is not there.
    pub fn status(&self, path: &str) -> Option<String> {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.documents.path())
            .args(["show", &format!("mainstay/status:{path}")])
            .output()
            .expect("git");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until a file of the status branch says something.
    pub fn wait_for_status(&self, path: &str, text: &str) -> String {
        wait_for(&format!("`{text}` in {path} of the status, which says:\n{}", self.logs()), || {
            self.status(path).filter(|status| status.contains(text))
        })
    }

    /// Waits until the dashboard says something.
    pub fn wait_for_dashboard(&self, text: &str) -> String {
        self.wait_for_status("README.md", text)
    }

    /// How many commits the status branch has.
    pub fn status_commits(&self) -> usize {
        self.git(&["rev-list", "--count", "mainstay/status"]).trim().parse().expect("a number")
    }

    /// The published ledger: its chain is whole, its numbers have no gap, and no run ended twice.
    pub fn ledger(&self) -> Vec<Entry> {
        let files = self.git(&["ls-tree", "-r", "--name-only", "mainstay/status", "runs/"]);
        let text: String = files.lines().filter_map(|path| self.status(path)).collect();
        ledger::verify(text.lines()).expect("the chain is whole");
        let entries: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
        let sequences: Vec<u64> = entries.iter().map(|entry| entry.event.sequence).collect();
        assert_eq!(sequences, (1..=entries.len() as u64).collect::<Vec<_>>(), "gaps or doubles");
        let mut ended = BTreeSet::new();
        for entry in &entries {
            if let EventKind::RunEnded(report) = &entry.event.kind {
                assert!(ended.insert((report.policy.clone(), report.id.clone())), "{} ended twice", report.id);
            }
        }
        entries
    }

    fn logs(&self) -> String {
        let read = |number: u32| fs::read_to_string(self.path(&format!("daemon-{number}.log"))).ok();
        (1..).map_while(read).collect::<Vec<_>>().join("---\n")
    }

    /// The state's database, for tests that turn its clock.
    pub fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.path("state/state.sqlite")).expect("the state");
        database.busy_timeout(Duration::from_secs(10)).expect("a time limit");
        database
    }

    /// Makes the policies due: what was scheduled since 2020 was missed.
    pub fn make_due(&self) {
        self.database().execute("UPDATE policies SET last_scheduled = '2020-01-01T00:00:00Z'", []).expect("an update");
    }
}

/// A daemon; it ends with the test.
pub struct Daemon {
    pub child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("`{text}` in the log, which says:\n{}", self.log()), || {
            self.log().contains(text).then_some(())
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).expect("our child");
        self.child.wait().expect("our child")
    }

    /// What it serves: status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let address = wait_for("the address", || {
            let log = self.log();
            let at = log.find("127.0.0.1:")?;
            let end = log[at..].find(|character: char| character.is_whitespace() || character == '"')?;
            Some(log[at..at + end].to_owned())
        });
        let mut stream = TcpStream::connect(address).expect("the daemon listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
        (code, body.to_owned())
    }

    /// The value of a metric, named with its labels; 0: it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// How many turns went through.
    pub fn turns(&self) -> f64 {
        self.metric("mainstay_turns_total{result=\"success\"}")
    }

    /// Waits until no turn is under way and none is about to follow: a turn of our own is the last one.
    pub fn settle(&self, host: &Host) {
        // Each forced turn is one; if more than that happened, something else was still going on.
        wait_for("the daemon to settle", || {
            let before = self.turns();
            force_turn(host);
            wait_for("a turn", || (self.turns() > before).then_some(()));
            (self.turns() == before + 1.0).then_some(())
        });
    }
}

/// Makes the daemon look at git although nothing is new there.
pub fn force_turn(host: &Host) {
    let reference = host.documents.path().join(".git/refs/heads/main");
    let file = fs::File::options().append(true).open(reference).expect("the branch");
    file.set_modified(std::time::SystemTime::now()).expect("a time");
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All files below a directory but SQLite's shared memory, which is no file but for its name: size and time of each.
pub fn fingerprint(directory: &Path) -> BTreeSet<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(fingerprint(&path));
        } else if !path.to_string_lossy().ends_with("-shm") {
            let metadata = fs::metadata(&path).expect("a file");
            found.insert((path, metadata.len(), metadata.modified().expect("a time")));
        }
    }
    found
}
