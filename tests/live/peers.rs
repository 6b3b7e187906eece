//! The real servers: those that `tests/run` started, and those that a test starts for itself in order to kill them.

use std::{
    env,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// What `tests/run` started.
pub struct Peers;

impl Peers {
    /// The PostgreSQL server that all tests share.
    pub fn postgres() -> Postgres {
        Postgres { port: port("MAINSTAY_LIVE_POSTGRES_PORT") }
    }

    /// The MariaDB server that all tests share.
    pub fn mariadb() -> MariaDb {
        MariaDb { port: port("MAINSTAY_LIVE_MARIADB_PORT") }
    }

    /// Where the objects of [`Peers::s3`] are files, below a prefix in its bucket.
    pub fn s3_folder(prefix: &str) -> PathBuf {
        Self::scratch().join("s3/data/backups").join(prefix)
    }

    /// The S3 server that speaks http: its address.
    pub fn s3() -> String {
        variable("MAINSTAY_LIVE_S3")
    }

    /// The S3 server that speaks https with a certificate of [`Peers::authority`].
    pub fn s3_tls() -> String {
        variable("MAINSTAY_LIVE_S3_TLS")
    }

    /// File with the certificate of the tests' own authority.
    pub fn authority() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_CERTIFICATES")).join("authority.pem")
    }

    /// The git server that speaks https: its address, the token that it takes, the folder of its repositories.
    pub fn git_https() -> (String, String, PathBuf) {
        (
            variable("MAINSTAY_LIVE_GIT_HTTPS"),
            variable("MAINSTAY_LIVE_GIT_TOKEN"),
            PathBuf::from(variable("MAINSTAY_LIVE_GIT_ROOT")),
        )
    }

    /// The SSH server: its port, and the folder with `client` (the key) and `known_hosts`.
    pub fn ssh() -> (u16, PathBuf) {
        (port("MAINSTAY_LIVE_SSH_PORT"), PathBuf::from(variable("MAINSTAY_LIVE_SSH")))
    }

    /// The program of the language server that editors check YAML with; node runs it.
    pub fn yaml_language_server() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_YAML_LANGUAGE_SERVER"))
    }

    /// The program of Gitea, whose pages lie beside it.
    pub fn gitea() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_GITEA"))
    }

    /// The program that installs charts.
    pub fn helm() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_HELM"))
    }

    /// Folder with the definitions of the operator of Prometheus.
    pub fn prometheus_operator() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_PROMETHEUS_OPERATOR"))
    }

    /// Folder in which tests make theirs.
    pub fn scratch() -> PathBuf {
        PathBuf::from(variable("MAINSTAY_LIVE_SCRATCH"))
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: the live tests need their peers. Run `tests/run live`, which starts them.")
    })
}

fn port(name: &str) -> u16 {
    variable(name).parse().unwrap_or_else(|_| panic!("{name} is not a port"))
}

/// Waits until `condition` gives a value; panics with `what` after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut pause = Duration::from_millis(20);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let began = Instant::now();
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s for: {what}");
        // The pause of a poll, not a guess at how long it takes. Most conditions start a program, which costs more time
        // of the processors than what is waited for, if it is done again at once, and the more so on a busy machine.
        let longest = (began.elapsed() * 2).clamp(Duration::from_millis(300), Duration::from_secs(1));
        std::thread::sleep(pause);
        pause = pause.mul_f64(1.5).min(longest);
    }
}

/// A port on which nothing listens at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Carries a program out and gives its standard output; panics with all that it said if it fails.
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both outputs of a program.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A server that a test started for itself; killed, without warning, when it is dropped.
pub struct OwnServer {
    /// The port it listens on.
    pub port: u16,
    child: Child,
}

impl OwnServer {
    /// Starts `tests/peers/SCRIPT DIRECTORY PORT ARGUMENTS…` and waits until it listens.
    pub fn start(script: &str, directory: &Path, arguments: &[&str]) -> Self {
        Self::start_on(free_port(), script, directory, arguments)
    }

    /// The same on a chosen port, so that a killed server can come back where it was.
    pub fn start_on(port: u16, script: &str, directory: &Path, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let spawn = || {
            Command::new(&script)
                .arg(directory)
                .arg(port.to_string())
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", script.display()))
        };
        let mut server = Self { port, child: spawn() };
        wait_for(&format!("{} to listen on port {port}", script.display()), 60, || {
            // What is left of a killed server may hold its files for a moment.
            if server.child.try_wait().expect("our child").is_some() {
                server.child = spawn();
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }

    /// Starts an S3 server whose data are below `directory`.
    pub fn s3(port: u16, directory: &Path) -> Self {
        Self::start_on(port, "s3.sh", directory, &[&variable("MAINSTAY_LIVE_VERSITYGW")])
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child can be killed");
        self.child.wait().expect("our child can be waited for");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A PostgreSQL server.
pub struct Postgres {
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Postgres {
    /// Carries SQL out in a database; gives the rows, columns separated by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        succeed(self.program("psql").args(["-v", "ON_ERROR_STOP=1", "-qAtX", "-d", database, "-c", sql]))
    }

    /// Everything in a database as SQL: the same text means the same database.
    pub fn content(&self, database: &str) -> String {
        let dump = succeed(self.program("pg_dump").args(["--no-owner", "-d", database]));
        // Newer minor versions guard the script with a random word.
        let random = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
        dump.lines().filter(random).collect::<Vec<_>>().join("\n")
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PGPASSWORD", "mainstay").args(["-h", "127.0.0.1", "-U", "mainstay", "-p", &self.port.to_string()]);
        command
    }
}

/// A MariaDB server.
pub struct MariaDb {
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl MariaDb {
    /// Carries SQL out; gives the rows, columns separated by tabs.
    pub fn sql(&self, sql: &str) -> String {
        succeed(self.program("mariadb").args([
            "--default-character-set=utf8mb4",
            "--batch",
            "--skip-column-names",
            "-e",
            sql,
        ]))
    }

    /// Everything in a database as SQL, without dates: the same text means the same database.
    pub fn content(&self, database: &str) -> String {
        succeed(self.program("mariadb-dump").args([
            "--skip-dump-date",
            "--routines",
            "--triggers",
            "--hex-blob",
            database,
        ]))
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("MYSQL_PWD", "mainstay").arg("--no-defaults").args([
            "-h",
            "127.0.0.1",
            "-u",
            "mainstay",
            "-P",
            &self.port.to_string(),
        ]);
        command
    }
}
