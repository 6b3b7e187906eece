//! The table of `examples/README.md`: every system that is claimed has an example and a test, and they exist.

use std::{collections::BTreeSet, fs, path::Path};

use crate::folder_host::examples;

/// What must be there: the rows of the systems whose job one host does.
const ROWS: [&str; 24] = [
    "KP2", "KP4", "KP5", "KP7", "PW2", "PW3", "PW4", "PW5", "PW6", "PW7", "PW10", "PW11", "PW13", "KS1", "KS2", "KS4",
    "KS6", "ST2", "ST4", "ST5", "B1", "B2", "B3", "B8",
];

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_has_an_example_and_a_test_that_exist() {
    let page = fs::read_to_string(examples().join("README.md")).expect("the table");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut rows, mut named) = (BTreeSet::new(), BTreeSet::new());
    let mut findings = Vec::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && !["| row", "| ---"].iter().any(|head| line.starts_with(head)))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _what, example_cell, tests] = cells[..] else { panic!("not four cells: {line}") };
        rows.insert(row.to_owned());
        for example in quoted(example_cell) {
            named.insert(example.to_owned());
            if !examples().join(example).is_dir() {
                findings.push(format!("{row}: there is no example {example}"));
            }
        }
        let before = findings.len();
        let mut count = 0;
        for test in quoted(tests) {
            count += 1;
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{row}: `{test}` is not FILE::TEST"));
            let text = fs::read_to_string(root.join("tests").join(file)).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) {
                findings.push(format!("{row}: tests/{file} has no test {name}"));
            }
        }
        if findings.len() == before && (count == 0 || quoted(example_cell).next().is_none()) {
            findings.push(format!("{row}: it needs an example and a test"));
        }
    }
    findings.extend(ROWS.iter().filter(|row| !rows.contains(**row)).map(|row| format!("{row} is missing")));
    for entry in fs::read_dir(examples()).expect("the examples").flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().expect("a name");
        if !named.contains(&name) {
            findings.push(format!("the example {name} is in no row"));
        }
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
