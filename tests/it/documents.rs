//! Documents: golden findings for every rule, the examples, the schema, and text that is nearly right.
//!
//! A case is `cases/documents/NAME.yaml`; a line `# file: PATH` begins another file of it. What is found stands in
//! `NAME.txt`. After a change of words: `UPDATE_EXPECT=1 cargo test --test it documents::`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use mainstay::policy::{
    EngineKind, PolicyName,
    diagnostic::{Rule, github, json, sarif, text},
    load::{FileContent, Loaded, MOST_BYTES, ParseCache, load, read_directory},
    schema::schema_text,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn content(bytes: impl Into<Vec<u8>>) -> FileContent {
    FileContent { bytes: bytes.into(), blob: None }
}

fn check(files: &BTreeMap<PathBuf, FileContent>) -> Loaded {
    load(files, EngineKind::Local, &mut ParseCache::default())
}

fn one(text: &str) -> BTreeMap<PathBuf, FileContent> {
    BTreeMap::from([(PathBuf::from("backup.yaml"), content(text))])
}

fn mainstay(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mainstay")).args(arguments).current_dir(directory).output().unwrap()
}

fn expect(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, actual).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == actual, "{} differs; UPDATE_EXPECT=1 rewrites it. Now:\n{actual}", path.display());
}

fn case_files(bytes: &[u8]) -> BTreeMap<PathBuf, FileContent> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return BTreeMap::from([(PathBuf::from("backup.yaml"), content(bytes))]);
    };
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut name = PathBuf::from("backup.yaml");
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("# file: ") {
            Some(path) => name = PathBuf::from(path.trim()),
            None => files.entry(name.clone()).or_default().push_str(line),
        }
    }
    files.into_iter().map(|(path, text)| (path, content(text))).collect()
}

#[test]
fn every_rule_has_a_golden_case() {
    let directory = root().join("tests/it/cases/documents");
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let files = case_files(&fs::read(&path).unwrap());
            let loaded = check(&files);
            seen.extend(loaded.diagnostics.iter().map(|finding| finding.rule));
            expect(&path.with_extension("txt"), &text::render(&loaded.diagnostics, &files, false));
        }
    }
    // These two need more text than a case should have; they are tested below.
    seen.extend([Rule::FileTooLarge, Rule::FileTooManyFindings]);
    let missing: Vec<&str> = Rule::ALL.iter().filter(|rule| !seen.contains(rule)).map(|rule| rule.id()).collect();
    assert_eq!(missing, Vec::<&str>::new(), "rules without a case");
}

#[test]
fn every_example_is_valid() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.is_dir() {
            continue;
        }
        let files = read_directory(&directory).unwrap();
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap();
        let engine = if name.starts_with("kubernetes-") { EngineKind::Kubernetes } else { EngineKind::Local };
        let loaded = load(&files, engine, &mut ParseCache::default());
        let findings = text::render(&loaded.diagnostics, &files, false);
        assert!(findings.is_empty(), "{}:\n{findings}", directory.display());
        assert!(!loaded.desired.policies.is_empty(), "{}", directory.display());
        count += 1;
    }
    assert!(count >= 10, "{count} examples");
}

#[test]
fn the_schema_is_up_to_date() {
    expect(&root().join("schema/backup.schema.json"), &schema_text());
}

#[test]
fn too_large_and_too_many() {
    let large = check(&one(&"#".repeat(MOST_BYTES + 1)));
    assert_eq!(large.diagnostics[0].rule, Rule::FileTooLarge);
    let wrong = "apiVersion: mainstay.dev/v1alpha1\nkind: Policy\n---\n".repeat(500);
    let many = check(&one(&wrong));
    assert_eq!(many.diagnostics.len(), 201);
    assert!(many.diagnostics.iter().any(|finding| finding.rule == Rule::FileTooManyFindings));
}

const REPOSITORY: &str = "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: local}\n\
                          spec: {directory: /backup, password: {generate: true}}\n";

fn policy(name: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{repositories: [local], sources: [{{name: files, paths: [/srv]}}]}}\n"
    )
}

fn names(names: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

#[test]
fn one_bad_file_freezes_its_policies_and_nothing_else() {
    let mut files = BTreeMap::from([
        (PathBuf::from("a/backup.yaml"), content(policy("good"))),
        (PathBuf::from("b/backup.yaml"), content(format!("{}---\n{}---\n: [", policy("beside"), policy("torn")))),
        (PathBuf::from("repository.backup.yaml"), content(REPOSITORY)),
    ]);
    let loaded = check(&files);
    assert_eq!(names(loaded.desired.policies.keys()), ["shop/good"]);
    assert_eq!(names(&loaded.desired.frozen_policies), ["shop/beside", "shop/torn"]);
    assert_eq!(loaded.desired.frozen_files, BTreeSet::from([PathBuf::from("b/backup.yaml")]));
    assert_eq!(loaded.desired.deletion_blocked, None);

    // A repository with a mistake freezes the policies that need it, but is the only finding.
    let broken = REPOSITORY.replace("directory: /backup", "directory: backup");
    files.insert(PathBuf::from("repository.backup.yaml"), content(broken));
    files.remove(Path::new("b/backup.yaml"));
    let loaded = check(&files);
    assert_eq!(loaded.diagnostics.iter().map(|finding| finding.rule).collect::<Vec<_>>(), [Rule::AbsolutePath]);
    assert_eq!(names(&loaded.desired.frozen_policies), ["shop/good"]);
    assert!(loaded.desired.policies.is_empty());
}

#[test]
fn settings_that_cannot_be_read_block_deletion() {
    let settings = "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\n";
    for (spec, blocked) in
        [("spec: {safety: {losses: 3}}\n", false), ("spec: {safety: 3}\n", true), ("spec: [\n", true)]
    {
        let loaded = check(&one(&format!("{settings}{spec}")));
        assert_eq!(loaded.desired.deletion_blocked.is_some(), blocked, "{spec}");
        assert_eq!(loaded.desired.settings.safety.losses, if blocked { 0 } else { 3 });
    }
    assert!(check(&BTreeMap::new()).desired.deletion_blocked.is_some());
    assert!(check(&one("# nothing\n")).desired.deletion_blocked.is_some());
}

#[test]
fn defaults_are_filled_in_and_read_back() {
    let loaded = check(&one(&format!("{}---\n{REPOSITORY}", policy("nightly"))));
    let policy = &loaded.desired.policies[&PolicyName::new("shop", "nightly")];
    let retention = &policy.document.spec.retention;
    assert_eq!((retention.keep_last, retention.keep_daily, retention.keep_weekly), (Some(7), Some(7), Some(4)));
    assert_eq!(policy.grace.as_hours(), 24);
    assert_eq!(policy.repositories.len(), 1);
    let compiled = policy.compile(&loaded.desired.settings, None);
    let stored = serde_json::to_string(&compiled).unwrap();
    let read: mainstay::policy::CompiledPolicy = serde_json::from_str(&stored).unwrap();
    assert_eq!(read.content_hash(), compiled.spec_hash);
    let again = mainstay::policy::policy_of(&read).unwrap();
    assert_eq!(again.compile(&loaded.desired.settings, None), compiled);
}

/// Two ways to write the same policy are the same policy.
#[test]
fn spelling_does_not_change_a_policy() {
    let plain = policy("nightly");
    let spelled = "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {namespace: shop, name: nightly}\n\
                   spec: {schedule: ['0 2 * * *'], timeZone: UTC, jitter: 0s, sources: [{name: files, paths: [/srv]}], \
                   retention: {keepLast: 7, keepDaily: 7, keepWeekly: 4, keepYearly: 0, grace: 1440m}, \
                   repositories: [local], limits: {timeout: 24h}, deletion: Retain, suspend: false}\n";
    let hashes: Vec<String> = [plain.as_str(), spelled]
        .iter()
        .map(|text| {
            let loaded = check(&one(&format!("{text}---\n{REPOSITORY}")));
            assert_eq!(loaded.diagnostics, []);
            let policy = loaded.desired.policies.values().next().unwrap().clone();
            policy.compile(&loaded.desired.settings, None).spec_hash
        })
        .collect();
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn only_changed_blobs_are_parsed_again() {
    let blob = |text: &str, id: &str| FileContent { bytes: text.as_bytes().to_vec(), blob: Some(id.to_owned()) };
    let mut cache = ParseCache::default();
    let mut files = BTreeMap::from([(PathBuf::from("backup.yaml"), blob(REPOSITORY, "1"))]);
    assert!(!load(&files, EngineKind::Local, &mut cache).has_errors());
    // The same id is not looked at again, so the other text goes unseen; another id is.
    files.insert(PathBuf::from("backup.yaml"), blob("[", "1"));
    assert!(!load(&files, EngineKind::Local, &mut cache).has_errors());
    files.insert(PathBuf::from("backup.yaml"), blob("[", "2"));
    assert!(load(&files, EngineKind::Local, &mut cache).has_errors());
}

#[test]
fn what_needs_kubernetes_is_fine_there() {
    let text = "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {name: a}\nspec:\n  consistency: Cold\n  \
                repositories: [r]\n  stagger: 1m\n  sources: [{name: v, volumes: {workload: Deployment/shop}, method: Files}]\n\
                ---\napiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: r}\nspec: {nfs: {server: nas, path: /x}, password: {secret: a, key: b}}\n";
    let findings = |engine| load(&one(text), engine, &mut ParseCache::default()).diagnostics.len();
    assert_eq!((findings(EngineKind::Kubernetes), findings(EngineKind::Local)), (0, 5));
}

/// Thousands of mistakes that nobody thought of, the same ones each time: none of them panics, in any format.
#[test]
fn nearly_right_text_never_panics() {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for directory in ["examples", "tests/it/cases/documents"] {
        collect(&root().join(directory), &mut seeds);
    }
    assert!(seeds.len() > 20);
    let mut random = Random(0x5eed);
    for round in 0..4000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut bytes, &seeds, &mut random);
        }
        bytes.truncate(20_000);
        let files = BTreeMap::from([(PathBuf::from("backup.yaml"), content(bytes))]);
        let loaded = check(&files);
        if round % 4 == 0 {
            let _ = text::render(&loaded.diagnostics, &files, round % 8 == 0);
            let _ = (
                json::render(&loaded.diagnostics),
                github::render(&loaded.diagnostics),
                sarif::render(&loaded.diagnostics),
            );
        }
        let length = files[Path::new("backup.yaml")].text().map_or(0, str::len);
        for finding in &loaded.diagnostics {
            assert!(
                finding.span.as_ref().is_none_or(|span| span.start <= span.end && span.end <= length),
                "{finding:?}"
            );
        }
    }
}

fn collect(directory: &Path, seeds: &mut Vec<Vec<u8>>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, seeds);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            seeds.push(fs::read(&path).unwrap());
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const PIECES: [&str; 20] = [
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "\n---\n",
        "&a ",
        "*a",
        "<<: ",
        "|\n",
        "!!int ",
        "-1",
        "é☃",
        "\t",
        "\r\n",
        "# ",
        "99999999999999999999",
    ];
    let at = random.below(bytes.len() + 1);
    match random.below(5) {
        0 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
        1 => {
            let end = (at + random.below(12)).min(bytes.len());
            drop(bytes.splice(at..end, []));
        }
        2 => bytes.truncate(at),
        3 => {
            let other = &seeds[random.below(seeds.len())];
            let start = random.below(other.len() + 1);
            let end = (start + random.below(200)).min(other.len());
            drop(bytes.splice(at..at, other[start..end].iter().copied()));
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = (random.next() & 0xff) as u8;
            }
        }
    }
}

/// SplitMix64: a few lines, and the same numbers for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

#[test]
fn validate_says_how_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| mainstay(arguments, directory.path());
    let none = run(&["validate"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("mainstay init"));
    assert_eq!(run(&["validate", "nowhere"]).status.code(), Some(1));

    fs::write(directory.path().join("backup.yaml"), format!("{}---\n{REPOSITORY}", policy("nightly"))).unwrap();
    let clean = run(&["validate"]);
    assert_eq!(clean.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&clean.stdout),
        "1 policy, 1 repository and 0 restores in 1 file: no findings\n"
    );

    fs::write(directory.path().join("b.backup.yaml"), "kind: Settings\n").unwrap();
    for format in ["text", "json", "github", "sarif"] {
        let wrong = run(&["validate", "--path", ".", "--format", format]);
        assert_eq!(wrong.status.code(), Some(4), "{format}");
        let output = String::from_utf8(wrong.stdout).unwrap();
        assert!(output.contains("document/api-version") && !output.contains('\u{1b}'), "{output}");
        if matches!(format, "json" | "sarif") {
            serde_json::from_str::<serde_json::Value>(&output).unwrap();
        }
    }
    // A mistake in a known place, as each kind of reader gets it.
    fs::remove_file(directory.path().join("backup.yaml")).unwrap();
    let mistake = policy("nightly").replace("sources:", "schedule: \"0 2 31 2 *\", sources:");
    fs::write(directory.path().join("b.backup.yaml"), format!("{mistake}---\n{REPOSITORY}")).unwrap();
    for format in ["json", "github", "sarif"] {
        let wrong = run(&["validate", "--path", ".", "--format", format]);
        let version = env!("CARGO_PKG_VERSION");
        let said = String::from_utf8(wrong.stdout).unwrap().replace(version, "VERSION");
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/cases/formats/{format}.txt"));
        expect_test::expect_file![golden].assert_eq(&said);
    }
    fs::write(directory.path().join("backup.yaml"), format!("{}---\n{REPOSITORY}", policy("nightly"))).unwrap();
    assert_eq!(run(&["validate", "backup.yaml"]).status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn links_and_git_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("backup.yaml"), "[").unwrap();
    std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("backup.yaml"), directory.path().join("backup.yaml")).unwrap();
    fs::create_dir_all(directory.path().join(".git")).unwrap();
    fs::write(directory.path().join(".git/backup.yaml"), "[").unwrap();
    fs::create_dir_all(directory.path().join("deep/er")).unwrap();
    fs::write(directory.path().join("deep/er/x.backup.yaml"), REPOSITORY).unwrap();
    let files: Vec<PathBuf> = read_directory(directory.path()).unwrap().into_keys().collect();
    assert_eq!(files, [PathBuf::from("deep/er/x.backup.yaml")]);
}

#[test]
fn init_writes_a_valid_policy_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| mainstay(arguments, directory.path());
    assert_eq!(run(&["init", "--path", "new"]).status.code(), Some(0));
    let policy = fs::read_to_string(directory.path().join("new/backup.yaml")).unwrap();
    assert!(policy.starts_with("# yaml-language-server: $schema=.mainstay/backup.schema.json\n"));
    assert_eq!(fs::read_to_string(directory.path().join("new/.mainstay/backup.schema.json")).unwrap(), schema_text());
    let validated = run(&["validate", "new"]);
    assert_eq!(validated.status.code(), Some(0), "{}", String::from_utf8_lossy(&validated.stdout));
    let again = run(&["init", "--path", "new"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    assert_eq!(fs::read_to_string(directory.path().join("new/backup.yaml")).unwrap(), policy);
}

#[test]
fn explain_knows_every_field() {
    let run = |arguments: &[&str]| mainstay(arguments, &root());
    let daily = run(&["explain", "BackupPolicy.spec.retention.keepDaily"]);
    expect_test::expect![[r#"
        FIELD
          BackupPolicy.spec.retention.keepDaily

        TYPE
          whole number

        DESCRIPTION
          For the last N days that have a restore point, keep the newest of each. `-1`: all such days.
    "#]]
    .assert_eq(&String::from_utf8(daily.stdout).unwrap());
    for field in [
        "BackupPolicy",
        "spec.sources",
        "backuppolicy.spec.sources.postgres.password",
        "Repository.spec.s3",
        "Settings.spec.tenants",
    ] {
        assert_eq!(run(&["explain", field]).status.code(), Some(0), "{field}");
    }
    for (field, hint) in [
        ("BackupPolicy.spec.retention.keepDayly", "did you mean `BackupPolicy.spec.retention.keepDaily`?"),
        ("BackupPolicyy", "did you mean `BackupPolicy`?"),
        ("spec.timeZone.x", "has no fields"),
    ] {
        let output = run(&["explain", field]);
        assert_eq!(output.status.code(), Some(1), "{field}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(hint), "{output:?}");
    }
}

#[test]
fn schema_completions_and_manual_are_printed() {
    let run = |arguments: &[&str]| {
        let output = mainstay(arguments, &root());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["schema"]), schema_text());
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("validate"), "{shell}");
    }
    assert!(run(&["man"]).contains(".TH mainstay"));
    assert!(run(&["man", "validate"]).contains("Check documents"));
    assert_eq!(mainstay(&["man", "validat"], &root()).status.code(), Some(1));
}
