//! A daemon that is measured: what it says of itself, and what the kernel says of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A real daemon.
pub struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    /// Starts one on a repository and a state. `environment` is added to its own.
    pub fn start(documents: &Path, state: &Path, environment: &[(&str, &str)]) -> Self {
        let log: PathBuf = state.with_extension("log");
        // As if it had been told so: no other program takes the port within a moment.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.expect("a port").to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
            .args(["daemon", "--listen", &address, "--repo"])
            .arg(documents)
            .arg("--state")
            .arg(state)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(fs::File::create(log).expect("a log"))
            .spawn()
            .expect("the daemon");
        Self { child, address }
    }

    /// One metric; 0: it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            write!(stream, "GET /metrics HTTP/1.0\r\nHost: bench\r\n\r\n").expect("a request");
            stream.read_to_string(&mut text).expect("an answer");
        }
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or(0.0)
    }

    /// How many turns went through.
    pub fn turns(&self) -> f64 {
        self.metric("mainstay_turns_total{result=\"success\"}")
    }

    /// Waits for so many of them.
    pub fn wait_for_turns(&self, count: f64) {
        let began = Instant::now();
        while self.turns() < count {
            assert!(began.elapsed() < PATIENCE, "the daemon makes no turn");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it has used of the processors until now.
    pub fn cpu_seconds(&self) -> f64 {
        /// Ticks a second, as every Linux counts for its users.
        const TICKS: f64 = 100.0;
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / TICKS
    }

    /// What it has written to disk until now.
    pub fn written_bytes(&self) -> u64 {
        self.field("io", "write_bytes:") as u64
    }

    /// The most memory that it had at once.
    pub fn peak_bytes(&self) -> f64 {
        self.field("status", "VmHWM:") * 1024.0
    }

    fn field(&self, file: &str, name: &str) -> f64 {
        let text = self.proc(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        value.expect("the kernel tells")
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the daemon is there")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
