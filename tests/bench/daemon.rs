//! A daemon with 10,000 policies and 100,000 restore points: what one commit costs, and what idling costs.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mainstay::{
    engine::local::{
        inventory::Merged,
        state::{
            State,
            points::{StoredPart, StoredPoint},
        },
    },
    policy::{
        EngineKind, PolicyName,
        load::{self, ParseCache, read_directory},
    },
    restore_point::{Part, RestorePoint, RestorePointId},
};

use crate::{
    documents::{POINTS_EACH, document, file, git, policies, write_documents},
    measure::{goal, spread},
    running::{Daemon, PATIENCE},
};

/// How many commits are measured.
const COMMITS: usize = 15;
/// How long the idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(60);

/// Measures and prints.
pub fn bench() {
    let folder = tempfile::tempdir().expect("a folder");
    let documents = folder.path().join("documents");
    let state = folder.path().join("state");
    write_documents(&documents, 10);
    git(&documents, &["init", "-q", "-b", "main"]);
    git(&documents, &["add", "-A"]);
    git(&documents, &["commit", "-q", "-m", "before"]);
    fill(&state, &documents);

    println!("\nA daemon with {} policies, {} restore points: ours / goal", policies(), policies() * POINTS_EACH);
    let daemon = Daemon::start(&documents, &state, &[]);
    daemon.wait_for_turns(1.0);
    println!("{:<34} {:8.1} ms", "first turn, status included", daemon.metric("mainstay_turn_duration_seconds") * 1e3);
    let (mut planned, mut turned, mut applied, mut used) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..COMMITS {
        let (turns, cpu) = (daemon.turns(), daemon.cpu_seconds());
        // Each commit changes one policy of its own; the revision that is in force afterwards is that of the commit.
        fs::write(file(&documents, round), document(round, 20)).expect("a document");
        git(&documents, &["add", "-A"]);
        git(&documents, &["commit", "-q", "-m", "edit"]);
        let committed = Instant::now();
        applied.push(wait_for_revision(&state, round, &head(&documents), committed));
        // The commit of the status, too: a turn that found nothing to do may have come between.
        wait_for_status(&documents);
        daemon.wait_for_turns(turns + 1.0);
        planned.push(daemon.metric("mainstay_plan_duration_seconds") * 1e3);
        turned.push(daemon.metric("mainstay_turn_duration_seconds") * 1e3);
        used.push((daemon.cpu_seconds() - cpu) * 1e3);
    }
    goal("one changed file re-planned", "ms", &mut planned, 20.0);
    goal("commit to applied", "ms", &mut applied, 100.0);
    spread("whole turn, status included", "ms", &mut turned);
    spread("CPU of it, all threads", "ms", &mut used);

    let (cpu, bytes, turns) = (daemon.cpu_seconds(), daemon.written_bytes(), daemon.turns());
    let before = (newest_change(&state), branches(&documents));
    let began = Instant::now();
    std::thread::sleep(IDLE);
    let share = (daemon.cpu_seconds() - cpu) / began.elapsed().as_secs_f64() * 100.0;
    println!("{:<34} {share:8.3} % of one processor", "idle daemon");
    println!("{:<34} {:8} bytes / 0", "written while idle", daemon.written_bytes() - bytes);
    assert_eq!((newest_change(&state), branches(&documents)), before, "an idle daemon writes");

    // A turn that finds nothing to do: the branch is touched and says what it said.
    let turns_while_idle = daemon.turns() - turns;
    let mut idle = Vec::new();
    for _ in 0..5 {
        let turns = daemon.turns();
        let branch = fs::File::options().append(true).open(documents.join(".git/refs/heads/main")).expect("the branch");
        branch.set_modified(std::time::SystemTime::now()).expect("a time");
        daemon.wait_for_turns(turns + 1.0);
        idle.push(daemon.metric("mainstay_turn_duration_seconds") * 1e3);
    }
    spread("turn with nothing to do", "ms", &mut idle);
    assert_eq!((newest_change(&state), branches(&documents)), before, "a turn with nothing to do writes");
    println!("{:<34} {:8.0} MB", "memory, peak", daemon.peak_bytes() / 1e6);
    println!("{:<34} {turns_while_idle:8}", "turns while idle");
}

/// The state after these documents were applied and ran ten times each.
fn fill(directory: &Path, documents: &Path) {
    let files = read_directory(documents).expect("the documents");
    let loaded = load::load(&files, EngineKind::Local, &mut ParseCache::default());
    let state = State::open(directory).expect("a state");
    let now = Timestamp::now();
    for (name, policy) in &loaded.desired.policies {
        state.put_policy(&policy.compile(&loaded.desired.settings, None), now).expect("a policy");
        let points: Vec<StoredPoint> = (1..=POINTS_EACH).rev().map(|days| point(now, days)).collect();
        state.set_inventory(name, now, true, &Merged { fresh: points, ..Merged::default() }).expect("an inventory");
    }
}

fn point(now: Timestamp, days: usize) -> StoredPoint {
    let time = now - jiff::SignedDuration::from_hours(24 * i64::try_from(days).expect("a few"));
    let part = |source: &str| Part {
        source: source.to_owned(),
        repository: "disk".to_owned(),
        location: None,
        snapshot: "0123456789abcdef".repeat(4),
        size_bytes: 1 << 30,
        added_bytes: 1 << 20,
        files: 1000,
        unreadable: 0,
        duration_milliseconds: 1234,
    };
    let point = RestorePoint {
        id: RestorePointId::from_time(time),
        time,
        size_bytes: 2 << 30,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    let parts = ["files", "db"].map(|source| StoredPart { place: 1, part: part(source) });
    StoredPoint { point, parts: parts.to_vec(), forgetting: false }
}

fn head(documents: &Path) -> String {
    let output = Command::new("git").current_dir(documents).args(["rev-parse", "HEAD"]).output().expect("git");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn branches(documents: &Path) -> Vec<u8> {
    Command::new("git").current_dir(documents).args(["for-each-ref"]).output().expect("git").stdout
}

/// Milliseconds from the commit until the engine runs the policy as that commit has it.
fn wait_for_revision(state: &Path, number: usize, revision: &str, committed: Instant) -> f64 {
    let state = State::open_read_only(state).expect("the state");
    let name = PolicyName::new(&format!("team-{:02}", number % 100), &format!("policy-{number:05}"));
    loop {
        let stored = state.policy(&name).expect("the state").expect("the policy");
        if stored.compiled.revision.as_deref() == Some(revision) {
            return committed.elapsed().as_secs_f64() * 1e3;
        }
        assert!(committed.elapsed() < PATIENCE, "the commit is not applied");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the status branch tells of the newest commit.
fn wait_for_status(documents: &Path) {
    let began = Instant::now();
    let said =
        || Command::new("git").current_dir(documents).args(["log", "-1", "--format=%s", "mainstay/status"]).output();
    let short = &head(documents)[..7];
    while !String::from_utf8_lossy(&said().expect("git").stdout).contains(short) {
        assert!(began.elapsed() < PATIENCE, "the status is not written back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The number of the newest change in the state.
fn newest_change(state: &Path) -> i64 {
    let connection = rusqlite::Connection::open(state.join("state.sqlite")).expect("the state");
    connection.query_row("SELECT MAX(number) FROM changes", [], |row| row.get(0)).expect("the newest change")
}
