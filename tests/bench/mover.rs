//! The mover against the restic in PATH, on the same data in the same run.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use mainstay::{
    mover::job::{
        Event, Input, Job, Outcome, Place, Program, RepositoryAccess, SnapshotLabel, Stream, StreamCheck, Task,
    },
    policy::PolicyName,
    restore_point::RestorePointId,
    secret::Secret,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::measure::{Needed, compare_rounds, measure};

const PASSWORD: &str = "bench";

/// Steps in the order in which they were measured, each with what both needed in every round.
type Steps = Vec<(String, Vec<(Needed, Needed)>)>;

/// Measures and prints.
pub fn bench() {
    let version =
        Command::new("restic").arg("version").output().expect("restic is needed: the mover is compared with it");
    println!("\nmover / {}", String::from_utf8_lossy(&version.stdout).trim());
    let number = |name: &str, default: f64| {
        std::env::var(name).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(default)
    };
    let scale = number("MAINSTAY_BENCH_SCALE", 1.0);
    let rounds = number("MAINSTAY_BENCH_ROUNDS", 3.0) as u32;
    let mut random = StdRng::seed_from_u64(4711);
    files(rounds, "mixed", |folder| mixed(folder, (1024.0 * scale) as u64, &mut random));
    files(rounds, "small", |folder| small(folder, (100_000.0 * scale) as u64));
    let short = stream(rounds, "stream, 0.5 GiB", (512.0 * scale) as u64);
    let long = stream(rounds, "stream, 2 GiB", (2048.0 * scale) as u64);
    let (short, long) = (short / 1e6, long / 1e6);
    println!("{:<28} {long:.0} MB / {short:.0} MB = {:.2}", "memory, long / short stream", long / short);
}

fn note(steps: &mut Steps, name: String, pair: (Needed, Needed)) {
    match steps.iter_mut().find(|(step, _)| *step == name) {
        Some((_, rounds)) => rounds.push(pair),
        None => steps.push((name, vec![pair])),
    }
}

fn print(steps: &Steps) {
    for (name, rounds) in steps {
        compare_rounds(name, rounds);
    }
}

/// One folder with a repository of ours and one of restic's.
struct Bench {
    folder: tempfile::TempDir,
    jobs: Cell<u32>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("a folder"), jobs: Cell::new(0) };
        fs::write(bench.path("password"), PASSWORD).expect("a file");
        fs::create_dir(bench.path("data")).expect("a folder");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One job of our mover, and what came of it.
    fn ours(&self, task: Task) -> (Needed, Outcome) {
        self.jobs.set(self.jobs.get() + 1);
        let job = Job {
            repository: RepositoryAccess {
                name: "bench".to_owned(),
                place: Place::Directory(self.path("ours")),
                password: Secret::new(PASSWORD),
            },
            cache_directory: Some(self.path("cache-ours")),
            bandwidth_bytes_per_second: None,
            task,
        };
        let file = self.path(&format!("job-{}.json", self.jobs.get()));
        fs::write(&file, serde_json::to_vec(&job).expect("a job is JSON")).expect("a file");
        let line = format!("{} mover <{}", env!("CARGO_BIN_EXE_mainstay"), file.display());
        let (needed, said) = measure(self.folder.path(), &line, &[0]);
        let last = said.lines().last().expect("the mover says how it ended");
        let event = serde_json::from_str(last).expect("the mover says it as JSON");
        let Event::Done(outcome) = event else { panic!("not done: {event:?}") };
        (needed, outcome)
    }

    fn capture(&self, input: Input) -> (Needed, String) {
        let time = Timestamp::from_second(1_795_000_000 + i64::from(self.jobs.get())).expect("a time");
        let label = SnapshotLabel {
            policy: PolicyName::new("bench", "bench"),
            run: RestorePointId::from_time(time),
            source: "data".to_owned(),
            sources: 1,
            host: "local".to_owned(),
            maker: None,
        };
        match self.ours(Task::Capture { label, time, input }) {
            (needed, Outcome::Captured { snapshot, .. }) => (needed, snapshot),
            (_, other) => panic!("not captured: {other:?}"),
        }
    }

    /// One call of restic's.
    fn theirs(&self, arguments: &str) -> Needed {
        let line = format!("restic {} {arguments} >/dev/null", self.restic_options());
        measure(self.folder.path(), &line, &[0]).0
    }

    fn restic_options(&self) -> String {
        let (repository, password, cache) = (self.path("theirs"), self.path("password"), self.path("cache-theirs"));
        format!("-r {} --password-file {} --cache-dir {}", repository.display(), password.display(), cache.display())
    }

    /// Fresh repositories for both, and nothing of the round before.
    fn initialise(&self) {
        for old in ["ours", "theirs", "cache-ours", "cache-theirs"] {
            // Before the first round there is none.
            let _ = fs::remove_dir_all(self.path(old));
        }
        self.ours(Task::Initialise);
        self.theirs("init");
    }
}

/// Who begins takes turns: the second one finds the data in memory.
fn in_turns<A, B>(round: u32, ours: impl FnOnce() -> A, theirs: impl FnOnce() -> B) -> (A, B) {
    if round.is_multiple_of(2) {
        let ours = ours();
        (ours, theirs())
    } else {
        let theirs = theirs();
        (ours(), theirs)
    }
}

fn files(rounds: u32, name: &str, fill: impl FnOnce(&Path)) {
    let bench = Bench::new();
    let data = bench.path("data");
    fill(&data);
    let input = || Input::Paths { paths: vec![data.clone()], exclude: Vec::new(), one_file_system: false };
    let backup = format!("backup --quiet {}", data.display());
    let mut steps = Steps::new();
    for round in 0..rounds {
        bench.initialise();
        let mut snapshot = String::new();
        for step in ["first", "unchanged", "1 % changed"] {
            if step == "1 % changed" {
                change(&data);
            }
            let ((ours, id), theirs) = in_turns(round, || bench.capture(input()), || bench.theirs(&backup));
            snapshot = id;
            note(&mut steps, format!("{name}, {step}"), (ours, theirs));
        }
        // What was restored before is left there: ext4 passes over inodes that were freed in the last minutes, and to
        // look for others would cost the first of the two, and only that one, more than the restore.
        let into = |whose: &str| bench.path(&format!("restored-{whose}-{round}"));
        let task = Task::RestoreFiles {
            snapshot,
            into: Some(into("ours")),
            paths: Vec::new(),
            overwrite: false,
            dry_run: false,
        };
        let restore = format!("restore latest --quiet --target {}", into("theirs").display());
        let pair = in_turns(round, || bench.ours(task).0, || bench.theirs(&restore));
        note(&mut steps, format!("{name}, restore"), pair);
    }
    print(&steps);
}

/// The median of the memory that our capture needed.
fn stream(rounds: u32, name: &str, mebibytes: u64) -> f64 {
    let bench = Bench::new();
    let file = bench.path("dump.sql");
    dump(&file, mebibytes);
    let mut steps = Steps::new();
    let mut peaks = Vec::new();
    for round in 0..rounds {
        bench.initialise();
        let program =
            Program { arguments: vec!["cat".to_owned(), file.display().to_string()], environment: BTreeMap::default() };
        let check = StreamCheck::LastLineStartsWith("-- Dump completed".to_owned());
        let input = Input::Streams(vec![Stream { file_name: "dump.sql".to_owned(), program, check }]);
        let options = bench.restic_options();
        let line = format!("cat {} | restic {options} backup --quiet --stdin >/dev/null", file.display());
        let theirs = || measure(bench.folder.path(), &line, &[0]).0;
        let ((ours, snapshot), theirs) = in_turns(round, || bench.capture(input), theirs);
        peaks.push(ours.peak_bytes);
        note(&mut steps, format!("{name}, first"), (ours, theirs));
        let program = Program {
            arguments: ["sh", "-c", "cat >/dev/null"].map(str::to_owned).to_vec(),
            environment: BTreeMap::default(),
        };
        let task = Task::RestoreStream { snapshot, file_name: "dump.sql".to_owned(), program, guard: None };
        let pair = in_turns(round, || bench.ours(task).0, || bench.theirs("dump latest /stdin"));
        note(&mut steps, format!("{name}, restore"), pair);
    }
    print(&steps);
    peaks.sort_by(f64::total_cmp);
    peaks[peaks.len() / 2]
}

/// Half random, half text, in files from 4 KiB to 64 MiB.
fn mixed(folder: &Path, mebibytes: u64, random: &mut StdRng) {
    let mut left = mebibytes * 1024 * 1024;
    let mut number = 0u64;
    let mut block = vec![0u8; 64 * 1024 * 1024];
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| (0..random.random_range(2..10)).map(|_| random.random_range(b'a'..=b'z')).collect())
        .collect();
    while left > 0 {
        let size = (4096u64 << (number % 15)).min(left);
        let content = &mut block[..size as usize];
        if number.is_multiple_of(2) {
            random.fill(content);
        } else {
            prose(content, &words, random);
        }
        fs::write(folder.join(format!("file-{number}")), content).expect("a file");
        left -= size;
        number += 1;
    }
}

/// Words in random order: half as long when compressed, and no two stretches are equal.
fn prose(content: &mut [u8], words: &[Vec<u8>], random: &mut StdRng) {
    let mut written = 0;
    while written < content.len() {
        let word = &words[random.random_range(0..words.len())];
        let length = word.len().min(content.len() - written);
        content[written..written + length].copy_from_slice(&word[..length]);
        if let Some(after) = content.get_mut(written + length) {
            *after = b' ';
        }
        written += length + 1;
    }
}

fn small(folder: &Path, files: u64) {
    for number in 0..files {
        let inside = folder.join(format!("folder-{:03}", number % 1000));
        if number < 1000 {
            fs::create_dir(&inside).expect("a folder");
        }
        let text = format!("file {number} with some text of its own {}\n", number * 7919);
        fs::write(inside.join(format!("file-{number}")), text.repeat(20 + (number % 60) as usize)).expect("a file");
    }
}

/// Appends to one file in a hundred.
fn change(folder: &Path) {
    let list = Command::new("find").arg(folder).args(["-type", "f"]).output().expect("find");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut names: Vec<&str> = list.lines().collect();
    names.sort_unstable();
    for name in names.iter().step_by(100) {
        let mut file = fs::OpenOptions::new().append(true).open(name).expect("a file");
        file.write_all(b"one more line\n").expect("it can be written");
    }
}

/// Text as a dump of a database has it, of this length, with its trailer.
fn dump(file: &Path, mebibytes: u64) {
    let mut out = BufWriter::new(fs::File::create(file).expect("a file"));
    let (mut written, mut row) = (0u64, 0u64);
    while written < mebibytes * 1024 * 1024 {
        let hash = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = format!(
            "INSERT INTO item VALUES ({row}, 'customer {}', '{hash:016x}', {}.{:02});\n",
            row % 9973,
            row * 31 % 100_000,
            row % 100
        );
        out.write_all(line.as_bytes()).expect("it can be written");
        written += line.len() as u64;
        row += 1;
    }
    out.write_all(b"-- Dump completed on 2026-11-21\n").expect("it can be written");
    out.flush().expect("it can be written");
}
