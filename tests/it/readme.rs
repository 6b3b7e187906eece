//! The README and its companions are true: the plan is a golden one, documents are valid, commands and links exist.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PAGES: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "deploy/systemd/README.md",
    "examples/README.md",
    "tests/bench/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a page that are in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(fence) = line.trim_start().strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        if fence == language {
            found.push(block.join("\n") + "\n");
        }
    }
    found
}

/// A comment `<!-- plan: FILE -->` stands before a block that is the content of that golden file, without its first
/// lines, which hold the exit code. `UPDATE_EXPECT=1 cargo test --test it readme` writes the block anew.
#[test]
fn the_plan_is_a_golden_one() {
    let text = page("README.md");
    let (before, rest) = text.split_once("<!-- plan: ").expect("the README shows a plan");
    let (file, rest) = rest.split_once(" -->\n```text\n").expect("a block follows");
    let (block, after) = rest.split_once("```\n").expect("the block ends");
    let golden = page(file);
    let (_, golden) = golden.split_once("\n\n").expect("the exit code comes first");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text = format!("{before}<!-- plan: {file} -->\n```text\n{golden}```\n{after}");
        fs::write(root().join("README.md"), text).expect("the README can be written");
        return;
    }
    assert_eq!(block, golden, "UPDATE_EXPECT=1 cargo test --test it readme writes it anew");
}

#[test]
fn there_are_exactly_two_commands_to_set_up() {
    let text = page("README.md");
    let (_, rest) = text.split_once("\n## Set up\n").expect("a section");
    let (section, _) = rest.split_once("\n## ").expect("another section");
    let commands = blocks(section, "sh").concat();
    assert_eq!(commands, "examples/quickstart/run\ntests/run\n");
}

#[test]
fn the_documents_are_valid() {
    for (number, block) in blocks(&page("README.md"), "yaml").iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("backup.yaml"), block).expect("a file");
        let output = Command::new(env!("CARGO_BIN_EXE_mainstay"))
            .args(["validate", "--path"])
            .arg(folder.path())
            .output()
            .expect("the binary under test starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "block {number}:\n{block}\n{said}");
    }
}

/// Every `mainstay COMMAND` in a page exists, with every option that is used.
#[test]
fn the_commands_exist() {
    let mut help = BTreeMap::new();
    for path in PAGES {
        for line in blocks(&page(path), "sh").concat().lines() {
            let Some(arguments) = line.trim_start().strip_prefix("mainstay ") else { continue };
            let words: Vec<&str> =
                arguments.split_whitespace().take_while(|word| *word != ">" && *word != "#").collect();
            let command = words[0];
            let text = help.entry(command.to_owned()).or_insert_with(|| {
                let mut all = String::new();
                // `schedule next` and the like: the options are those of the inner command.
                let inner = words.iter().copied().take(2).take_while(|word| !word.starts_with('-')).collect();
                for inner in [vec![command], inner] {
                    let output = Command::new(env!("CARGO_BIN_EXE_mainstay"))
                        .args(inner)
                        .arg("--help")
                        .output()
                        .expect("the binary under test starts");
                    assert!(output.status.success(), "{path}: `{line}`: there is no such command");
                    all += &String::from_utf8_lossy(&output.stdout);
                }
                all
            });
            for option in words.iter().filter(|word| word.starts_with('-')) {
                let option = option.split('=').next().expect("a first part");
                let known = text.split([' ', ',', '\n', '=']).any(|word| word == option);
                assert!(known, "{path}: `{line}`: there is no option {option}");
            }
        }
    }
}

#[test]
fn the_links_lead_somewhere() {
    for path in PAGES {
        let text = page(path);
        for piece in text.split("](").skip(1) {
            let (link, _) = piece.split_once(')').expect("a link ends");
            if link.starts_with("https://") {
                continue;
            }
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = root().join(path).parent().expect("below the root").join(file);
            assert!(file.is_empty() || target.exists(), "{path}: `{link}` leads nowhere");
        }
    }
}
