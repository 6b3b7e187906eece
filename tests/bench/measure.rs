//! Carries a program out and measures it: wall time, CPU time and peak memory of it and its children.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// How much of the work is done: all of it, or the part that `MAINSTAY_BENCH_SCALE` names.
pub fn scale() -> f64 {
    std::env::var("MAINSTAY_BENCH_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

/// What a program needed.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    /// Seconds from start to end.
    pub wall_seconds: f64,
    /// Seconds of CPU, user and system.
    pub cpu_seconds: f64,
    /// The largest resident set of any of its processes.
    pub peak_bytes: f64,
}

/// Python asks the kernel what the children needed; Rust's standard library cannot without unsafe code.
const MEASURE: &str = "
import resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[2:])
wall = time.monotonic() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], 'w').write(f'{code} {wall} {used.ru_utime + used.ru_stime} {used.ru_maxrss * 1024}')
";

/// Measures a shell command line, which must end with one of these exit codes. Gives also its standard output.
pub fn measure(folder: &Path, line: &str, good_codes: &[i32]) -> (Needed, String) {
    let numbers = folder.join("measured");
    let output = Command::new("python3")
        .args(["-c", MEASURE])
        .arg(&numbers)
        .args(["sh", "-c", line])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .expect("python3 is needed: it measures");
    let text = fs::read_to_string(&numbers).expect("python3 wrote the numbers");
    let mut fields = text.split(' ').map(|field| field.parse::<f64>().expect("a number"));
    let mut next = || fields.next().expect("four numbers");
    let code = next();
    assert!(
        good_codes.iter().any(|good| f64::from(*good) == code),
        "`{line}` ended with {code}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let needed = Needed { wall_seconds: next(), cpu_seconds: next(), peak_bytes: next() };
    (needed, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints the medians of what two programs needed in several rounds, and the medians of the ratios round by round:
/// those hold, where others slow down now this round and now that.
pub fn compare_rounds(what: &str, rounds: &[(Needed, Needed)]) {
    let median = |of: &dyn Fn(&(Needed, Needed)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let field = |name: &str, unit: &str, of: &dyn Fn(&Needed) -> f64| {
        format!(
            "{name} {:7.2} {unit} / {:7.2} {unit} = {:5.2}",
            median(&|(ours, _)| of(ours)),
            median(&|(_, theirs)| of(theirs)),
            median(&|(ours, theirs)| of(ours) / of(theirs)),
        )
    };
    println!(
        "{what:<28} {}   {}   {}",
        field("wall", "s", &|needed| needed.wall_seconds),
        field("CPU", "s", &|needed| needed.cpu_seconds),
        field("memory", "MB", &|needed| needed.peak_bytes / 1e6),
    );
}

/// Prints what one program needed, beside a goal.
pub fn against_goal(what: &str, needed: Needed, wall_seconds: f64, peak_bytes: f64) {
    println!(
        "{what:<28} wall {:7.3} s / {wall_seconds:.0} s = {:5.2}   CPU {:7.3} s   memory {:5.0} MB / {:.0} MB = {:5.2}",
        needed.wall_seconds,
        needed.wall_seconds / wall_seconds,
        needed.cpu_seconds,
        needed.peak_bytes / 1e6,
        peak_bytes / 1e6,
        needed.peak_bytes / peak_bytes,
    );
}

/// Prints what several measurements of one thing gave, beside a goal. The machine is noisy: the least of them says what
/// the program needs, the median what the machine gives.
pub fn goal(what: &str, unit: &str, figures: &mut [f64], goal: f64) {
    figures.sort_by(f64::total_cmp);
    let (least, median) = (figures[0], figures[figures.len() / 2]);
    println!(
        "{what:<34} least {least:8.1} {unit} / {goal:.0} {unit} = {:5.2}   median {median:8.1} {unit} = {:5.2}",
        least / goal,
        median / goal
    );
}

/// Prints what several measurements of one thing gave.
pub fn spread(what: &str, unit: &str, figures: &mut [f64]) {
    figures.sort_by(f64::total_cmp);
    println!("{what:<34} least {:8.1} {unit}   median {:8.1} {unit}", figures[0], figures[figures.len() / 2]);
}
