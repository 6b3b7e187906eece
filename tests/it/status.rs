//! What the status branch says: golden files, and that nothing changes when nothing happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use expect_test::expect_file;
use jiff::SignedDuration;
use mainstay::{
    actual::{RestoreReport, checks::FailedCheck},
    git::writeback::{PublishOptions, Published, STATUS_BRANCH, publish_status},
    plan::{Action, Drift},
    restore_point::RestorePointId,
    run::{Phase, Trigger},
    status::{
        Edit,
        coverage::{Sight, Volume},
        dashboard::escape,
        memo::Memo,
    },
};

mod world;

use world::{World, name, next_run, policy, run, time};

use crate::git::fixture::{WorkTree, git};

fn text(edit: &Edit, path: &str) -> String {
    String::from_utf8(edit.write[path].clone()).expect("text")
}

#[test]
fn golden() {
    let edit = World::troubled().documents(&BTreeMap::new());
    expect_file!["cases/status/README.md"].assert_eq(&text(&edit, "README.md"));
    expect_file!["cases/status/nightly.yaml"].assert_eq(&text(&edit, "status/shop/nightly.yaml"));
    expect_file!["cases/status/refused.yaml"].assert_eq(&text(&edit, "status/shop/refused.yaml"));
    expect_file!["cases/status/proof.yaml"].assert_eq(&text(&edit, "restores/shop/proof.yaml"));
    expect_file!["cases/status/inventory.json"].assert_eq(&text(&edit, "inventory.json"));
    expect_file!["cases/status/2026-11.jsonl"].assert_eq(&text(&edit, "runs/2026-11.jsonl"));
    assert_eq!(edit.remove, Vec::<String>::new());
}

#[test]
fn time_that_passes_changes_nothing() {
    let mut world = World::troubled();
    let before = world.documents(&BTreeMap::new()).write;
    // Up to the time at which the next run is overdue, which the dashboard says once.
    let mut dashboard = before["README.md"].clone();
    for (hours, is_overdue) in [(1, false), (22, false), (2, true), (24 * 400, true)] {
        world.now += SignedDuration::from_hours(hours);
        world.actual.observed_at = world.now;
        for policy in world.actual.policies.values_mut() {
            Arc::make_mut(policy).inventory.observed_at = world.now;
        }
        let again = world.documents(&before);
        let said = text(&again, "README.md");
        assert_eq!(said.contains("## Overdue"), is_overdue, "{said}");
        if !is_overdue || dashboard != before["README.md"] {
            assert_eq!(said, String::from_utf8_lossy(&dashboard));
        }
        dashboard = said.into_bytes();
        for (path, content) in again.write.iter().filter(|(path, _)| *path != "README.md") {
            assert_eq!(String::from_utf8_lossy(content), String::from_utf8_lossy(&before[path]), "{path}");
        }
        assert_eq!(again.remove, Vec::<String>::new());
    }
}

#[test]
fn what_is_overdue_and_what_is_not_as_asked_is_on_the_dashboard() {
    let overdue = |world: &World| {
        let page = text(&world.documents(&BTreeMap::new()), "README.md");
        let section = page.split("## Overdue\n\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        section.unwrap_or_default().to_owned()
    };
    let mut world = World::new();
    let before = world.documents(&BTreeMap::new()).write;
    // A run is due at 02:00; an hour of patience, and it is said.
    for (now, is_said) in [("2026-11-22T03:00:00Z", false), ("2026-11-22T03:00:01Z", true)] {
        world.now = time(now);
        let page = text(&world.documents(&before), "README.md");
        let said =
            "- [shop/nightly](status/shop/nightly.yaml): a run was due at 2026-11-22T02:00:00Z, and none has begun";
        assert_eq!(page.contains(said), is_said, "{now}: {page}");
    }
    world.desired.settings.freeze = true;
    assert!(!text(&world.documents(&before), "README.md").contains("## Overdue"), "frozen runs are not late");
    world.desired.settings.freeze = false;
    world.policy("shop/nightly").running = Some(RestorePointId("20261122-020000".to_owned()));
    assert!(!text(&world.documents(&before), "README.md").contains("## Overdue"), "it is under way");

    // With an RPO it is overdue as soon as that is over, whatever the schedule says.
    let mut world = World::new();
    let compiled = world.policy("shop/nightly").compiled.as_mut().expect("it is applied");
    Arc::make_mut(&mut compiled.document).spec.objectives = serde_yaml::from_str("{rpo: 90m}").expect("objectives");
    assert_eq!(overdue(&world), "");
    world.now = time("2026-11-21T04:00:00Z");
    let said = overdue(&world);
    assert!(said.contains("no run has succeeded since 2026-11-21T02:01:23Z; its RPO is 1h30m."), "{said}");

    // What nothing covers is listed where the engine can see it.
    assert!(!text(&world.documents(&BTreeMap::new()), "README.md").contains("## Not covered"));
    let volume = Volume {
        namespace: "shop".to_owned(),
        claim: "uploads".to_owned(),
        labels: BTreeMap::new(),
        workloads: BTreeSet::from(["Deployment/shop".to_owned()]),
        is_ignored: false,
    };
    world.sight = Some(Sight { volumes: vec![volume], ..Sight::default() });
    let page = text(&world.documents(&BTreeMap::new()), "README.md");
    let listed = "## Not covered by any policy\n\n- volume shop/uploads (mounted by Deployment/shop)\n";
    assert!(page.contains(listed) && page.contains("`mainstay.dev/ignore`"), "{page}");
    world.sight = None;

    // What was changed by hand is shown as long as it is not put back.
    let difference = "the CronJob's `schedule` is @hourly instead of 0 2 * * *".to_owned();
    world.plan.drift.push(Drift { policy: name("shop/nightly"), difference });
    let page = |world: &World| text(&world.documents(&BTreeMap::new()), "README.md");
    assert!(page(&world).contains("## Not as the documents ask\n\n- shop/nightly: the CronJob's"), "{}", page(&world));
    world.applied.done.push((name("shop/nightly"), Action::Update));
    assert!(!page(&world).contains("Not as the documents ask"), "{}", page(&world));
}

#[test]
fn a_run_under_way_is_not_written_and_its_end_is() {
    let mut world = World::new();
    let before = world.documents(&BTreeMap::new()).write;
    world.now = time("2026-11-22T02:00:30Z");
    let mut report = run("shop/nightly", "2026-11-22T02:00:00Z", Phase::Running, "");
    report.finished_at = None;
    world.policy("shop/nightly").last_run = Some(report);
    let under_way = world.documents(&before);
    assert_eq!(under_way.write, before);

    world.policy("shop/nightly").last_run =
        Some(run("shop/nightly", "2026-11-22T02:00:00Z", Phase::Failed, "full disk"));
    let ended = text(&world.documents(&before), "status/shop/nightly.yaml");
    assert!(ended.contains("nextRun: 2026-11-23T02:00:00Z"), "{ended}");
    assert!(ended.contains("reason: RunFailed"), "{ended}");
    // Ready changed just now; Stalled did not, and keeps its time.
    assert!(ended.contains("lastTransitionTime: 2026-11-22T02:00:30Z"), "{ended}");
    assert!(ended.contains("lastTransitionTime: 2026-11-21T03:00:00Z"), "{ended}");
}

#[test]
fn a_clock_that_went_back_is_said() {
    let mut world = World::new();
    let said = |world: &World| text(&world.documents(&BTreeMap::new()), "status/shop/nightly.yaml");
    for (now, is_ahead) in [("2026-11-21T01:59:30Z", false), ("2026-11-21T01:00:00Z", true)] {
        world.now = time(now);
        let status = said(&world);
        assert_eq!(status.contains("reason: ClockWentBack"), is_ahead, "{now}: {status}");
    }
    // A run by hand has no place in the schedule.
    world.policy("shop/nightly").last_run.as_mut().expect("a run").trigger = Trigger::Manual;
    assert!(!said(&world).contains("ClockWentBack"));
}

/// A run that succeeds does not make a repository whole that did not pass its check.
#[test]
fn a_repository_that_did_not_pass_its_check_needs_attention_until_it_does() {
    let mut world = World::new();
    world.policy("shop/nightly").failed_checks = vec![FailedCheck {
        place: 1,
        repository: "disk".to_owned(),
        at: time("2026-11-21T05:00:00Z"),
        problem: "pack 0123 is damaged (look at its storage)".to_owned(),
        read_data_percent: 5.0,
    }];
    let files = world.documents(&BTreeMap::new());
    let status = text(&files, "status/shop/nightly.yaml");
    for part in ["reason: CheckFailed", "--read-data 100%", "type: Stalled\n    status: 'True'"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let dashboard = text(&files, "README.md");
    for part in ["1 needs attention", "pack 0123 is damaged", "❌ Check failed"] {
        assert!(dashboard.contains(part), "{part}: {dashboard}");
    }
    world.policy("shop/nightly").failed_checks.clear();
    assert!(text(&world.documents(&files.write), "README.md").contains("nothing needs attention"));
}

#[test]
fn the_document_of_a_policy_that_is_gone_goes_and_those_of_others_stay() {
    let world = World::new();
    let mut before = world.documents(&BTreeMap::new()).write;
    for path in ["status/shop/gone.yaml", "status/notes.txt", "status/deep/er/x.yaml", "CNAME", "keys/offsite.age"] {
        before.insert(path.to_owned(), b"x".to_vec());
    }
    assert_eq!(world.documents(&before).remove, ["status/shop/gone.yaml"]);
}

#[test]
fn a_published_document_that_somebody_spoiled_is_written_anew() {
    let world = World::new();
    let spoiled = [
        ("status/shop/nightly.yaml".to_owned(), b"\xff: [".to_vec()),
        ("inventory.json".to_owned(), b"{".to_vec()),
        ("runs/2026-11.jsonl".to_owned(), b"junk\n\n".to_vec()),
        ("runs/2026-11-x.jsonl".to_owned(), b"junk".to_vec()),
    ];
    let edit = world.documents(&BTreeMap::from(spoiled));
    assert!(text(&edit, "status/shop/nightly.yaml").contains("kind: BackupPolicyStatus"));
    assert!(text(&edit, "inventory.json").contains("\"formatVersion\": 1"));
}

#[test]
fn text_from_documents_cannot_draw() {
    let cases = [
        ("plain words 1.2", "plain words 1.2"),
        ("| a | b |", "\\| a \\| b \\|"),
        ("line\n# heading", "line &#35; heading"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("[x](https://y)", "\\[x\\](https&#58;//y)"),
        ("@ops `code` *b* _i_ ~s~ !x \\", "&#64;ops \\`code\\` \\*b\\* \\_i\\_ \\~s\\~ \\!x \\\\"),
    ];
    for (input, expected) in cases {
        assert_eq!(escape(input), expected);
    }
    assert!(escape(&"x".repeat(10_000)).chars().count() < 600);
}

#[test]
fn a_turn_that_learned_nothing_commits_nothing() {
    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let mut world = World::troubled();
    let publish = |world: &World| {
        let options = PublishOptions {
            checkout: &checkout,
            branch: STATUS_BRANCH,
            author_name: "Mainstay",
            author_email: "mainstay@example.org",
            now: world.now,
            is_wanted: &|| true,
        };
        publish_status(
            &options,
            &world.input(&|policy| next_run(policy, world.now)),
            "status: first",
            &mut Memo::default(),
        )
        .expect("published")
    };
    assert!(matches!(publish(&world), Published::Committed(_)));
    world.now += SignedDuration::from_hours(20);
    world.actual.observed_at = world.now;
    assert_eq!(publish(&world), Published::Unchanged);
    assert_eq!(git(tree.path(), &["rev-list", "--count", STATUS_BRANCH]).trim(), "1");
}

/// With a memo, fewer files are written, and the branch says the same as without; whatever happens in between.
#[test]
fn a_memo_leaves_out_only_what_is_on_the_branch() {
    type Step = fn(&mut World);
    let steps: &[(&str, usize, Step)] = &[
        ("nothing", 0, |_| {}),
        // It is looked at anew, and the file says what it said.
        ("a run begins", 1, |world| world.policy("shop/nightly").running = Some(RestorePointId("x".to_owned()))),
        ("a point is held", 1, |world| world.policy("shop/nightly").inventory.points[0].held = true),
        ("a run fails", 1, |world| {
            let failed = run("shop/nightly", "2026-11-22T02:00:00Z", Phase::Failed, "no");
            world.policy("shop/nightly").last_run = Some(failed);
        }),
        ("a restore begins", 0, |world| {
            let (_, report) = world.actual.restores.first_key_value().expect("a restore");
            let begun = RestoreReport { phase: Phase::Running, ..report.clone() };
            world.actual.restores.insert((name("shop/another"), "beef".to_owned()), begun);
        }),
        ("a document changes", 1, |world| {
            world.desired.policies.insert(name("shop/new"), policy("shop/new", true));
        }),
        ("a change is refused", 1, |world| world.refuse("shop/unseen")),
        ("it is refused no more", 1, |world| {
            world.plan.refusals.retain(|one| one.change.policy != name("shop/unseen"))
        }),
        ("a file goes bad", 1, |world| {
            world.desired.frozen_files.insert(PathBuf::from("paused.backup.yaml"));
        }),
        ("a change could not be applied", 1, |world| {
            world.applied.failed.insert(name("shop/new"), "no".to_owned());
        }),
        ("a policy is new", 1, |world| world.add("shop/newer", false, None)),
        ("one is gone", 0, |world| {
            world.actual.policies.remove(&name("shop/newer"));
            world.desired.policies.remove(&name("shop/newer"));
        }),
    ];
    let mut world = World::troubled();
    let mut memo = Memo::default();
    let (mut with, mut without) = (BTreeMap::new(), BTreeMap::new());
    carry_out(&mut with, world.documents_after(&BTreeMap::new(), None, &mut memo));
    carry_out(&mut without, world.documents(&BTreeMap::new()));
    for (number, (what, statuses, step)) in steps.iter().enumerate() {
        memo.confirm(&number.to_string());
        step(&mut world);
        let edit = world.documents_after(&with, Some(&number.to_string()), &mut memo);
        assert_eq!(edit.write.keys().filter(|path| path.starts_with("status/")).count(), *statuses, "{what}");
        carry_out(&mut with, edit);
        let edit = world.documents(&without);
        carry_out(&mut without, edit);
        let differing: Vec<_> = without.keys().filter(|path| with.get(*path) != without.get(*path)).collect();
        assert!(with == without, "{what}: {differing:?}");
    }
}

/// It is worth nothing where another commit is, or where nobody said that what was made arrived.
#[test]
fn a_memo_is_believed_only_on_top_of_its_own_commit() {
    let world = World::troubled();
    let all = world.documents(&BTreeMap::new()).write;
    for (confirmed, there) in [(None, Some("1")), (Some("1"), Some("2")), (Some("1"), None), (None, None)] {
        let mut memo = Memo::default();
        world.documents_after(&BTreeMap::new(), None, &mut memo);
        if let Some(confirmed) = confirmed {
            memo.confirm(confirmed);
        }
        // The second time, what was made the first time did not arrive either.
        for _ in 0..2 {
            let write = world.documents_after(&all, there, &mut memo).write;
            let statuses = all.keys().filter(|path| path.starts_with("status/"));
            assert!(statuses.into_iter().all(|path| write.contains_key(path)), "{confirmed:?} {there:?}");
        }
    }
}

fn carry_out(files: &mut BTreeMap<String, Vec<u8>>, edit: Edit) {
    files.extend(edit.write);
    for path in edit.remove {
        files.remove(&path);
    }
}
