//! House rules that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below some folders, with their content.
fn files(folders: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source code is text");
            (path.strip_prefix(root()).expect("below the root").to_owned(), text)
        })
        .collect()
}

/// Fails with all findings at once.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The lines that are code, numbered from 1: no comments, nothing from the unit tests at a file's end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn every_test_file_is_named_by_a_mod() {
    let all = files(&["src", "tests/it", "tests/live", "tests/bench"]);
    let named = |path: &Path, text: &str| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        text.lines().any(|line| {
            // Whatever its visibility is.
            let line = line.trim();
            line.strip_suffix(&format!("mod {stem};"))
                .is_some_and(|before| before.is_empty() || before.starts_with("pub"))
        })
    };
    let findings = all
        .iter()
        .filter(|(path, _)| !["main.rs", "lib.rs"].iter().any(|name| path.ends_with(name)))
        .filter(|(path, _)| {
            let folder = path.parent().expect("below the root");
            // Its parent is the file beside its folder, or the main file in it.
            let parents = [folder.with_extension("rs"), folder.join("main.rs"), folder.join("lib.rs")];
            !all.iter().any(|(parent, text)| parents.contains(parent) && named(path, text))
        })
        .map(|(path, _)| format!("{}: no `mod` names this file, so it is never compiled", path.display()))
        .collect();
    none(findings);
}

#[test]
fn nothing_is_ignored_allowed_or_left_to_do() {
    // Put together, so that this file does not find itself.
    let forbidden = [
        (concat!("#[", "ignore"), "a test that is not run proves nothing"),
        (concat!("#[", "allow("), "write #[expect(.., reason = \"…\")]"),
        (concat!("#![", "allow("), "write #![expect(.., reason = \"…\")]"),
        (concat!("todo", "!("), "never leave a stub"),
        (concat!("unimplemented", "!("), "never leave a stub"),
        (concat!("dbg", "!("), "take it out"),
    ];
    let mut findings = Vec::new();
    for (path, text) in files(&["src", "tests"]) {
        for (number, line) in text.lines().enumerate() {
            for (pattern, advice) in forbidden {
                if line.contains(pattern) && !line.trim_start().starts_with("//") {
                    findings.push(format!("{}:{}: `{pattern}`: {advice}", path.display(), number + 1));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn every_file_says_what_it_is_and_is_not_too_long() {
    let mut findings = Vec::new();
    for (path, text) in files(&["src", "tests"]) {
        if !text.starts_with("//!") {
            findings.push(format!("{}: does not start with `//!`", path.display()));
        }
        let lines = text.lines().count();
        if lines > 800 {
            findings.push(format!("{}: {lines} lines; more than 800 is a redesign", path.display()));
        }
    }
    none(findings);
}

#[test]
fn modules_are_named_with_the_words_of_the_trade() {
    // What is not said, and what to say for it.
    let words = [
        ("util utils common helper helpers misc manager types", "the thing that it is about"),
        ("config spec", "policy or document"),
        ("target asset", "source"),
        ("vault", "repository"),
        ("worker agent", "mover"),
        ("provider", "engine"),
        ("session", "run"),
        ("task", "job"),
        ("timer backfill", "schedule or catch-up"),
        ("splay", "jitter"),
        ("rotation", "retention"),
        ("purge gc", "cleanup"),
        ("changeset", "plan"),
        ("reconciler tick", "turn"),
        ("mod", "foo.rs beside foo/"),
    ];
    let mut findings = Vec::new();
    for (path, _) in files(&["src", "tests"]) {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        for (forbidden, say) in words {
            if forbidden.split(' ').any(|word| word == stem) {
                findings.push(format!("{}: not `{stem}`; say {say}", path.display()));
            }
        }
    }
    none(findings);
}

#[test]
fn only_the_movers_repository_imports_rustic_core() {
    let findings = files(&["src"])
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/mover/repository") && path != Path::new("src/mover/repository.rs"))
        .flat_map(|(path, text)| {
            code(&text)
                .filter(|(_, line)| line.contains("rustic_core::") || line.contains("use rustic_core"))
                .map(|(number, _)| format!("{}:{number}: rustic_core outside mover::repository", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    none(findings);
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let pure = [
        "policy",
        "schedule",
        "retention",
        "restore_point",
        "desired",
        "actual",
        "plan",
        "status",
        "run/machine",
        "forge/command",
        "forge/comment",
        "forge/consent",
        "forge/done",
        "forge/webhook",
        "notify/judge",
        "notify/message",
    ];
    // Readers of a directory and writers of a file are the edge of their module, and say so in their names.
    let edges = ["src/policy/directory.rs", "src/policy/load.rs", "src/plan/saved.rs"];
    let forbidden = [
        "std::fs",
        "std::net",
        "std::process",
        "tokio",
        "git2",
        "SystemTime",
        "Timestamp::now",
        "Zoned::now",
        "HashMap",
    ];
    let mut findings = Vec::new();
    for (path, text) in files(&["src"]) {
        let inside = pure
            .iter()
            .any(|module| path == Path::new(&format!("src/{module}.rs")) || path.starts_with(format!("src/{module}/")));
        let exempt = edges.iter().any(|edge| path == Path::new(edge)) || path.ends_with("tests.rs");
        if !inside || exempt {
            continue;
        }
        for (number, line) in code(&text) {
            for pattern in forbidden {
                if line.contains(pattern) {
                    findings.push(format!("{}:{number}: a pure module uses {pattern}", path.display()));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn the_systemd_unit_says_what_it_must() {
    let unit = systemd_unit();
    assert!(unit.contains("KillMode=process"), "runs must survive a restart of the daemon");
    assert!(unit.contains("CAP_DAC_READ_SEARCH"), "it must be able to read everything");
    assert!(unit.contains("\nPrivateTmp=yes\n"), "signatures need temporary files, and strict leaves /tmp read-only");
}

/// The unit is what an administrator copies: what systemd thinks of it counts. With the live tests only.
#[cfg(feature = "live")]
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("mainstay.service");
    // systemd also looks whether the program is installed, which it is not here.
    fs::write(&copy, systemd_unit().replace("/usr/local/bin/mainstay", "/bin/true")).expect("a copy");
    let output =
        std::process::Command::new("systemd-analyze").arg("verify").arg(&copy).output().expect("systemd-analyze");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("mainstay.service")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

fn systemd_unit() -> String {
    fs::read_to_string(root().join("deploy/systemd/mainstay.service")).expect("the unit")
}
