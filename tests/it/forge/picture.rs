//! The README's second picture: the comment on a change request before and after its merge, as this program renders it.
//! `UPDATE_EXPECT=1 cargo test --test it picture` writes both blocks anew.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use jiff::Timestamp;
use mainstay::{
    actual::{ActualPolicy, ActualState},
    desired::DesiredState,
    forge::{
        comment::{self, Findings, MARKER, Outcome, Subject},
        consent::{Consent, Way},
        done::{TurnReport, done},
        memory::{Merged, Tracked},
    },
    git::Revision,
    plan::{Action, Approvals, diff},
    policy::{EngineKind, load},
    restore_point::{Inventory, RestorePoint, RestorePointId},
    status::ledger::{Event, EventKind},
};

use super::scene::policy;

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn desired(keep: u32) -> DesiredState {
    let files = BTreeMap::from([(
        "backup.yaml".into(),
        load::FileContent { bytes: policy("nightly", keep).into_bytes(), blob: None },
    )]);
    load::load(&files, EngineKind::Local, &mut load::ParseCache::default()).desired
}

fn point(day: u32, size_bytes: u64) -> RestorePoint {
    RestorePoint {
        id: RestorePointId(format!("202611{day}-020000")),
        time: time(&format!("2026-11-{day}T02:00:00Z")),
        size_bytes,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    }
}

/// What the engine has: `shop/nightly` as it was before the edit, with three restore points.
fn actual() -> ActualState {
    let before = desired(5);
    let observed_at = time("2026-11-20T12:00:00Z");
    let points = vec![point(18, 2_147_483_648), point(19, 2_155_872_256), point(20, 2_164_260_864)];
    let policies = before.policies.iter().map(|(name, wanted)| {
        let there = ActualPolicy {
            compiled: Some(wanted.compile(&before.settings, None)),
            schedule: None,
            inventory: Inventory { observed_at, complete: true, points: points.clone() },
            last_run: None,
            last_success: None,
            running: None,
            drift: None,
            failed_checks: Vec::new(),
        };
        (name.clone(), Arc::new(there))
    });
    ActualState {
        observed_at,
        complete: true,
        policies: policies.collect(),
        restores: BTreeMap::new(),
        foreign: BTreeMap::new(),
    }
}

/// The comment before the merge, and after it.
fn comments() -> [String; 2] {
    let (now, actual) = (time("2026-11-20T12:00:00Z"), actual());
    let head = Revision("1471c60c0b5a4e4bd6a5d2e1a3d0f7c8b9e0a1d2".to_owned());
    let plan =
        diff::plan(&DesiredState { revision: Some(head.clone()), ..desired(1) }, &actual, &Approvals::default(), now);
    let outcome = Outcome::Planned { plan: &plan, consents: &[], is_void: false };
    let before = comment::render(&Subject { head: &head, branch: "main" }, &outcome, &Findings::default());

    let name = plan.refusals[0].change.policy.clone();
    let consents =
        vec![Consent { effects: plan.refusals[0].effects.clone(), by: "bob".to_owned(), way: Way::Review(12) }];
    let policies = BTreeMap::from([(name.clone(), Action::Update)]);
    let tracked = Tracked { policies, consents, ..Tracked::default() };
    let commit = Revision("b64a9227d1c3e5f708192a3b4c5d6e7f8091a2b3".to_owned());
    let merged = Merged { commit: commit.clone(), seen_at: now, is_recorded: true };
    let report = TurnReport { revision: Some(commit.clone()), ..TurnReport::default() };
    let points = plan.refusals[0].change.losses.clone();
    let event = |sequence, kind| Event { sequence, at: time("2026-11-20T12:30:00Z"), policy: name.clone(), kind };
    let events = [
        event(1, EventKind::Applied { action: Action::Update, revision: Some(commit.clone()) }),
        event(2, EventKind::LostByEdit { points, revision: Some(commit), approval: None }),
    ];
    [before, done(&tracked, &merged, &report, &events, &actual, "main", now).body]
}

/// As a quotation, which forges and their kind show as they show the comment.
fn quoted(comment: &str) -> String {
    let shown = comment.strip_prefix(MARKER).expect("our mark").trim_start();
    shown.lines().map(|line| format!("> {line}").trim_end().to_owned() + "\n").collect()
}

#[test]
fn the_comments_in_the_readme_are_those_that_are_rendered() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut text = fs::read_to_string(&path).expect("the README");
    for (mark, comment) in
        ["<!-- comment: before the merge -->\n", "<!-- comment: after it -->\n"].iter().zip(comments())
    {
        let (before, rest) = text.split_once(mark).unwrap_or_else(|| panic!("the README has no {mark}"));
        let block: String =
            rest.lines().take_while(|line| line.starts_with('>')).map(|line| format!("{line}\n")).collect();
        let expected = quoted(&comment);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            text = format!("{before}{mark}{expected}{}", &rest[block.len()..]);
            fs::write(&path, &text).expect("the README can be written");
            continue;
        }
        assert_eq!(block, expected, "UPDATE_EXPECT=1 cargo test --test it picture writes it anew");
    }
}
