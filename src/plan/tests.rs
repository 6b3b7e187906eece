//! Whole plans from documents and points, without files, git or engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Approvals, Digest, Effect, Plan, Reason, approval, diff, digest, markdown, saved, text, used_up, wording::View,
};
use crate::{
    actual::{ActualPolicy, ActualState},
    desired::DesiredState,
    policy::{
        PolicyName,
        load::{self, FileContent, ParseCache},
        validate::EngineKind,
    },
    restore_point::{Inventory, Part, RestorePoint, RestorePointId},
    retention::reach::decide_for,
};

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {name}}}\nspec:\n  repositories: \
         [disk]\n  sources: [{{name: files, paths: [/srv/{name}]}}]\n  {spec}\n"
    )
}

const DISK: &str = "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {name: disk}\nspec: {directory: \
                    /backup, password: {generate: true}}\n";

fn desired(documents: &[&str]) -> DesiredState {
    let content = FileContent { bytes: documents.join("---\n").into_bytes(), blob: None };
    let files = BTreeMap::from([("backup.yaml".into(), content)]);
    let loaded = load::load(&files, EngineKind::Local, &mut ParseCache::default());
    assert!(loaded.desired.frozen_files.is_empty(), "a document of this test is wrong");
    loaded.desired
}

/// One point a day, the newest at 02:00 today.
fn points(days: i64) -> Vec<RestorePoint> {
    let newest: Timestamp = "2026-11-20T02:00:00Z".parse().unwrap();
    let times = (0..days).rev().map(|day| newest - SignedDuration::from_hours(24 * day));
    let point = |time| RestorePoint {
        id: RestorePointId::from_time(time),
        time,
        size_bytes: 1 << 30,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    times.map(point).collect()
}

/// The state after these documents were applied, every policy with these points.
fn applied(desired: &DesiredState, points: &[RestorePoint]) -> ActualState {
    let policy = |policy: &crate::policy::Policy| ActualPolicy {
        compiled: Some(policy.compile(&desired.settings, None)),
        schedule: None,
        inventory: Inventory { observed_at: now(), complete: true, points: points.to_vec() },
        last_run: None,
        last_success: None,
        running: None,
        drift: None,
        failed_checks: Vec::new(),
    };
    ActualState {
        observed_at: now(),
        complete: true,
        policies: desired.policies.iter().map(|(name, wanted)| (name.clone(), Arc::new(policy(wanted)))).collect(),
        restores: BTreeMap::new(),
        foreign: BTreeMap::new(),
    }
}

fn plan(desired: &DesiredState, actual: &ActualState) -> Plan {
    diff::plan(desired, actual, &Approvals::default(), now())
}

fn name(name: &str) -> PolicyName {
    PolicyName::new("default", name)
}

/// What is there before an edit, and the edit.
fn edit(before: &str, after: &str, points: &[RestorePoint]) -> (DesiredState, ActualState) {
    (desired(&[&policy("a", after), DISK]), applied(&desired(&[&policy("a", before), DISK]), points))
}

fn effects(plan: &Plan) -> BTreeSet<Effect> {
    plan.refusals.iter().flat_map(|refusal| refusal.effects.clone()).collect()
}

#[test]
fn losses_are_what_the_old_rules_keep_and_the_new_ones_do_not() {
    for (before, after, days, lost) in [
        ("retention: {keepDaily: 30}", "retention: {keepDaily: 30}", 40, 0),
        ("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", 40, 23),
        ("retention: {keepDaily: 7}", "retention: {keepDaily: 30}", 40, 0),
        ("retention: {keepDaily: -1}", "retention: {keepDaily: 7}", 40, 33),
        ("retention: {keepDaily: 7}", "retention: {keepLast: 7}", 40, 0),
        ("retention: {keepWithin: 10d}", "retention: {keepWithin: 5d}", 40, 5),
        ("retention: {keepDaily: 30}", "retention: {keepDaily: 30}\n  suspend: true", 40, 0),
    ] {
        let (desired, actual) = edit(before, after, &points(days));
        let plan = plan(&desired, &actual);
        assert_eq!(plan.losses.len(), lost, "{before} → {after}");
        assert_eq!(plan.refusals.len(), usize::from(lost > 0), "{before} → {after}");
        let newest = points(days).pop().unwrap().id;
        assert!(plan.losses.iter().all(|loss| loss.id != newest), "the newest point is never lost by an edit");
    }
}

/// Points that expired yesterday can be taken back for six more days: an edit of the grace alone must not end that unseen.
#[test]
fn a_shorter_grace_loses_what_could_still_be_taken_back() {
    let mut points = points(10);
    for point in &mut points[..3] {
        point.expired_since = Some(now() - SignedDuration::from_hours(24));
    }
    for (before, after, lost) in [("7d", "7d", 0), ("7d", "2d", 0), ("7d", "24h", 3), ("7d", "0s", 3), ("1h", "0s", 0)]
    {
        let rules = |grace: &str| format!("retention: {{keepDaily: 7, grace: {grace}}}");
        let (desired, actual) = edit(&rules(before), &rules(after), &points);
        let plan = plan(&desired, &actual);
        assert_eq!((plan.losses.len(), plan.refusals.len()), (lost, usize::from(lost > 0)), "{before} → {after}");
    }
}

#[test]
fn applying_a_plan_leaves_nothing_to_do() {
    let (desired, _) = edit("", "retention: {keepDaily: 7}", &[]);
    let plan = plan(&desired, &applied(&desired, &points(40)));
    assert!(plan.changes.is_empty() && plan.refusals.is_empty() && plan.drift.is_empty());
    assert_eq!(plan.unchanged, 1);
}

#[test]
fn a_hand_that_changed_the_engine_is_drift_and_put_back() {
    let (desired, mut actual) = edit("retention: {keepDaily: 7}", "retention: {keepDaily: 7}", &points(3));
    let there = Arc::make_mut(actual.policies.get_mut(&name("a")).unwrap());
    let document = &mut there.compiled.as_mut().unwrap().document;
    Arc::make_mut(document).spec.retention.keep_daily = Some(30);
    let plan = plan(&desired, &actual);
    assert_eq!(plan.drift[0].difference, "retention.keepDaily is 30 instead of 7");
    assert_eq!(plan.changes[0].reason, Reason::Drifted);
}

#[test]
fn a_policy_made_again_does_not_expire_what_was_left_in_peace() {
    let (desired, mut actual) = edit("", "retention: {keepDaily: 7}", &points(10));
    Arc::make_mut(actual.policies.get_mut(&name("a")).unwrap()).compiled = None;
    let plan = plan(&desired, &actual);
    assert_eq!(plan.losses.len(), 3);
    assert_eq!(plan.refusals.len(), 1);
    assert_eq!(plan.losses[0].reason, "left in peace while its policy was removed");
}

#[test]
fn a_point_is_left_behind_only_if_every_copy_is() {
    let mut all = points(2);
    let part = |repository: &str| Part {
        source: "files".to_owned(),
        repository: repository.to_owned(),
        location: None,
        snapshot: String::new(),
        size_bytes: 0,
        added_bytes: 0,
        files: 0,
        unreadable: 0,
        duration_milliseconds: 0,
    };
    all[0].parts = vec![part("disk")];
    all[1].parts = vec![part("disk"), part("other")];
    let other = DISK.replace("name: disk", "name: other").replace("/backup", "/other");
    let both = policy("a", "retention: {keepDaily: 7}").replace("[disk]", "[disk, other]");
    let one = both.replace("[disk, other]", "[other]");
    let plan = plan(&desired(&[&one, &other]), &applied(&desired(&[&both, DISK, &other]), &all));
    assert_eq!(plan.losses.len(), 1);
    assert_eq!((&plan.losses[0].id, plan.losses[0].reason.as_str()), (&all[0].id, "left behind in repository disk"));
}

/// What somebody else made in a repository is lost by the edit that leaves the repository behind, and by nothing else.
#[test]
fn a_found_point_is_lost_where_the_plan_says_so_and_nowhere_else() {
    let mut all = points(4);
    all[0].found = true;
    let (wide, tight) = (policy("a", "retention: {keepLast: 4}"), policy("a", "retention: {keepLast: 1}"));
    let actual = applied(&desired(&[&wide, DISK]), &all);
    let ids = |plan: &Plan| plan.losses.iter().map(|loss| loss.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&plan(&desired(&[&tight, DISK]), &actual)), [all[1].id.clone(), all[2].id.clone()]);
    let moved = DISK.replace("/backup", "/elsewhere");
    assert_eq!(plan(&desired(&[&wide, &moved]), &actual).losses.len(), 4);
    // Found in a place that was left behind before: whoever made it may still be there.
    let part = Part {
        source: "files".to_owned(),
        repository: "left".to_owned(),
        location: None,
        snapshot: String::new(),
        size_bytes: 0,
        added_bytes: 0,
        files: 0,
        unreadable: 0,
        duration_milliseconds: 0,
    };
    all.iter_mut().for_each(|point| point.parts = vec![part.clone()]);
    let compiled = actual.policies[&name("a")].compiled.clone().unwrap();
    let kept = |points: &[RestorePoint]| -> Vec<String> {
        let decisions = decide_for(&compiled, points, now()).into_iter();
        decisions.map(|decision| decision.reasons.iter().map(ToString::to_string).collect()).collect()
    };
    assert_eq!(kept(&all), ["found, until it is released", "", "", "until there is another"]);
    all[3].found = true;
    assert_eq!(kept(&all)[2..], ["until there is another", "found, until it is released"]);
    // What is within reach was made by somebody else, so it does not count as another.
    all[1].parts = Vec::new();
    all[1].found = true;
    assert_eq!(kept(&all)[2], "until there is another");
}

/// A repository that is gone for ever can be left behind by consent, but no rule gets tighter unseen.
#[test]
fn what_cannot_be_seen_is_left_behind_by_consent() {
    let before = policy("a", "retention: {keepDaily: 7}");
    let other = DISK.replace("name: disk", "name: other").replace("/backup", "/other");
    let moved = before.replace("[disk]", "[other]");
    let unseen = |known: &[RestorePoint]| {
        let mut actual = applied(&desired(&[&before, DISK]), known);
        actual.policies.values_mut().for_each(|policy| std::sync::Arc::make_mut(policy).inventory.complete = false);
        actual
    };
    let left = plan(&desired(&[&moved, &other]), &unseen(&points(3)));
    let [refusal] = left.refusals.as_slice() else { panic!("{:?}", left.refusals) };
    assert!(refusal.can_be_approved() && refusal.effects.len() == 3, "{refusal:?}");
    let approvals = Approvals { digests: BTreeSet::from([refusal.digest.clone()]), ..Approvals::default() };
    let again = diff::plan(&desired(&[&moved, &other]), &unseen(&points(3)), &approvals, now());
    assert_eq!((again.changes.len(), again.changes[0].losses.len()), (1, 3));
    // Nothing is known: what is there nobody can consent to.
    let unknown = plan(&desired(&[&moved, &other]), &unseen(&[]));
    assert!(!unknown.refusals[0].can_be_approved(), "{unknown:?}");
    let tighter = moved.replace("keepDaily: 7", "keepDaily: 5");
    assert!(!plan(&desired(&[&tighter, &other]), &unseen(&points(3))).refusals[0].can_be_approved());
}

#[test]
fn a_reverted_edit_says_what_it_takes_back() {
    let mut all = points(3);
    all[0].expired_since = Some(now() - SignedDuration::from_hours(2));
    all[1].expired_since = Some(now() - SignedDuration::from_hours(2));
    let (tight, wide) = (policy("a", "retention: {keepLast: 1}"), policy("a", "retention: {keepLast: 2}"));
    let plan = plan(&desired(&[&wide, DISK]), &applied(&desired(&[&tight, DISK]), &all));
    assert_eq!(plan.changes[0].taken_back, [all[1].id.clone()]);
    let text = text::render(&plan, &View::default());
    assert!(text.contains("takes back 1 restore point that had expired"), "{text}");
    assert!(markdown::render(&plan, &View::default()).contains("takes back 1 restore point"), "{text}");
}

#[test]
fn an_approval_holds_for_what_it_names_and_for_less() {
    let (desired, actual) = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", &points(10));
    let refused = plan(&desired, &actual);
    let consent = |approvals| diff::plan(&desired, &actual, &approvals, now());
    let all = effects(&refused);
    let fewer: BTreeSet<Effect> = all.iter().skip(1).cloned().collect();
    let more: BTreeSet<Effect> = all.iter().cloned().chain(["lose default/b 1".parse().unwrap()]).collect();
    let listed = |effects: &BTreeSet<Effect>| Approvals { effects: effects.clone(), digests: BTreeSet::new() };
    let bare = |digest: &Digest| Approvals { effects: BTreeSet::new(), digests: [digest.clone()].into() };
    for (what, approvals, goes_ahead) in [
        ("nothing", Approvals::default(), false),
        ("its effects", listed(&all), true),
        ("its effects and more", listed(&more), true),
        ("some of its effects", listed(&fewer), false),
        ("its digest", bare(&refused.refusals[0].digest), true),
        ("the digest of the plan", bare(&refused.digest), true),
        ("another digest", bare(&digest::of(&fewer)), false),
        ("the digest of nothing", bare(&digest::of(&BTreeSet::new())), false),
        ("a commit", approval::parse_message(&approval::trailers(&refused.digest, &all)), true),
    ] {
        let plan = consent(approvals);
        assert_eq!((plan.changes.len(), plan.refusals.len()), (goes_ahead.into(), (!goes_ahead).into()), "{what}");
        assert_eq!(plan.digest, refused.digest, "{what}");
        // What the ledger will name.
        assert!(plan.changes.iter().all(|change| change.approval == Some(digest::of(&all))), "{what}");
    }
}

#[test]
fn what_may_be_lost_without_approval_was_approved_by_nobody() {
    let (mut desired, actual) = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", &points(10));
    desired.settings.safety.losses = 3;
    let plan = plan(&desired, &actual);
    assert_eq!((plan.changes.len(), plan.losses.len(), &plan.changes[0].approval), (1, 3, &None));
}

#[test]
fn a_raise_of_the_limit_is_no_consent_to_what_came_with_it() {
    let (mut desired, actual) = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", &points(10));
    for (in_force, asked, refused) in [
        (
            Some(0),
            100,
            Some(
                "0 may be lost without approval (safety.losses; the 100 of this edit count once nothing is held back)",
            ),
        ),
        (Some(100), 0, Some("0 may be lost without approval (safety.losses)")),
        (Some(2), 2, Some("2 may be lost without approval (safety.losses)")),
        (Some(3), 100, None),
        (None, 100, None),
    ] {
        (desired.losses_in_force, desired.settings.safety.losses) = (in_force, asked);
        let plan = plan(&desired, &actual);
        let reason = plan.refusals.first().map(|refusal| refusal.reason.as_str());
        assert_eq!(
            reason,
            refused.map(|limit| format!("loses 3 restore points; {limit}")).as_deref(),
            "{in_force:?} → {asked}"
        );
    }
}

#[test]
fn a_raise_of_the_limit_counts_once_nothing_is_left_that_it_would_let_through() {
    let (mut desired, actual) = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", &points(10));
    let in_force = |desired: &DesiredState, plan: &Plan| {
        used_up::Outcome { desired, plan, failed: &BTreeMap::new() }.losses_in_force()
    };
    (desired.losses_in_force, desired.settings.safety.losses) = (Some(0), 100);
    let refused = plan(&desired, &actual);
    assert_eq!(in_force(&desired, &refused), 0);
    let failed = BTreeMap::from([(name("a"), "no room".to_owned())]);
    let approvals = Approvals { effects: effects(&refused), digests: BTreeSet::new() };
    let approved = diff::plan(&desired, &actual, &approvals, now());
    assert_eq!(used_up::Outcome { desired: &desired, plan: &approved, failed: &failed }.losses_in_force(), 0);
    assert_eq!(in_force(&desired, &approved), 100);
    // A freeze or a broken document holds the loss back as well, and ends some day.
    desired.settings.freeze = true;
    assert_eq!(in_force(&desired, &plan(&desired, &actual)), 0);
    desired.settings.freeze = false;
    desired.frozen_policies.insert(name("a"));
    assert_eq!(in_force(&desired, &plan(&desired, &actual)), 0);
    // A lower limit counts at once, whatever is refused.
    desired.frozen_policies.clear();
    (desired.losses_in_force, desired.settings.safety.losses) = (Some(100), 2);
    assert_eq!(in_force(&desired, &plan(&desired, &actual)), 2);
}

#[test]
fn the_digest_of_the_plan_lifts_all_and_that_of_a_refusal_only_it() {
    let before = desired(&[&policy("a", "retention: {keepDaily: 9}"), &policy("b", "retention: {keepDaily: 9}"), DISK]);
    let after = desired(&[&policy("a", "retention: {keepDaily: 7}"), &policy("b", "retention: {keepDaily: 7}"), DISK]);
    let actual = applied(&before, &points(9));
    let refused = plan(&after, &actual);
    assert_eq!(refused.refusals.len(), 2);
    for (digest, left) in [(&refused.refusals[0].digest, 1), (&refused.digest, 0)] {
        let approvals = Approvals { effects: BTreeSet::new(), digests: [digest.clone()].into() };
        assert_eq!(diff::plan(&after, &actual, &approvals, now()).refusals.len(), left);
    }
}

#[test]
fn removal_with_confirm_needs_consent_whatever_the_budget() {
    let before = desired(&[&policy("a", "deletion: Confirm"), DISK]);
    let mut after = desired(&[DISK]);
    after.settings.safety.losses = 1000;
    let mut all = points(4);
    all[0].held = true;
    all[1].found = true;
    let refused = plan(&after, &applied(&before, &all));
    assert_eq!(refused.refusals.len(), 1);
    assert_eq!(refused.losses.len(), 2, "a held point stays, and so does one that somebody else made");
    after.deletion_blocked = Some("history was rewritten".to_owned());
    let blocked = plan(&after, &applied(&before, &all));
    assert!(!blocked.refusals[0].can_be_approved());
}

#[test]
fn nothing_is_lost_while_deletion_is_blocked() {
    let (mut desired, actual) = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 7}", &points(10));
    desired.settings.safety.losses = 1000;
    assert_eq!(plan(&desired, &actual).changes.len(), 1);
    desired.deletion_blocked = Some("history was rewritten".to_owned());
    let blocked = plan(&desired, &actual);
    assert_eq!((blocked.changes.len(), blocked.refusals[0].can_be_approved()), (0, false));
}

#[test]
fn a_saved_plan_names_what_moved() {
    let (desired, actual) =
        edit("retention: {keepDaily: 30}", "retention: {keepDaily: 30}\n  suspend: true", &points(5));
    let kept = saved::load(saved::save(&plan(&desired, &actual)).as_bytes()).unwrap();
    assert_eq!(saved::compare(&kept, &plan(&desired, &actual)), []);
    let moved = |desired: &DesiredState, actual: &ActualState| {
        saved::compare(&kept, &plan(desired, actual)).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let other = edit("retention: {keepDaily: 30}", "retention: {keepDaily: 40}", &points(5)).0;
    expect_test::expect!["default/a: its document is another than when the plan was saved"]
        .assert_eq(&moved(&other, &actual));
    let elsewhere = edit("retention: {keepDaily: 20}", "", &points(5)).1;
    expect_test::expect!["default/a: what the engine has is another than when the plan was saved"]
        .assert_eq(&moved(&desired, &elsewhere));
    expect_test::expect!["default/a: there is nothing to update any more"]
        .assert_eq(&moved(&desired, &applied(&desired, &points(5))));
    let mut frozen = desired.clone();
    frozen.settings.freeze = true;
    expect_test::expect![
        "default/a: to update it is refused now: frozen: Settings.freeze is true; nothing is changed until it is taken out"
    ]
    .assert_eq(&moved(&frozen, &actual));
    for wrong in ["", "{}", r#"{"formatVersion":9}"#] {
        assert!(saved::load(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn a_comment_is_cut_by_item_and_keeps_its_summary() {
    let names: Vec<String> = (0..400).map(|number| format!("policy-{number:03}")).collect();
    let documents = |spec: &str| {
        let texts: Vec<String> = names.iter().map(|name| policy(name, spec)).collect();
        desired(&texts.iter().map(String::as_str).chain([DISK]).collect::<Vec<_>>())
    };
    let actual = applied(&documents("retention: {keepDaily: 30}"), &points(30));
    let plan = plan(&documents("retention: {keepDaily: 7}"), &actual);
    assert_eq!(plan.losses.len(), 400 * 23);
    let comment = markdown::render(&plan, &View::default());
    assert!(comment.len() < 65_536, "{}", comment.len());
    assert!(comment.contains("Restore points: 9200 lost") && comment.contains("more restore points"), "{comment}");
    assert!(comment.ends_with("Plan: 0 to create, 0 to update, 0 to delete, 400 refused. 0 policies unchanged.\n"));
    assert!(text::render(&plan, &View::default()).contains("To consent to everything that is refused"));
}
