//! What was done after a change request was merged: the last words of our comment, and the check on the merged commit.
//!
//! Pure. The check ends only when everything that the change request asked for is settled.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, Unit};

use super::{
    APPLY_CHECK, COMMENT_CHARACTERS, Check, CheckState,
    comment::{self, MARKER},
    consent,
    memory::{Merged, Tracked},
};
use crate::{
    actual::ActualState,
    git::{Revision, writeback::STATUS_BRANCH},
    plan::{
        Action,
        losses::DEFAULT_GRACE,
        markdown::{cell, code},
        wording,
    },
    policy::PolicyName,
    run::Phase,
    status::ledger::{Event, EventKind},
};

/// How long the first run of a new policy is waited for before nothing more is said.
const FIRST_RUN_WITHIN: SignedDuration = SignedDuration::from_hours(7 * 24);
/// What remains of the forge's limit for everything beside the table.
const FRAME_CHARACTERS: usize = 4_000;
/// What is told of one policy.
const WORDS_LIMIT: usize = 12;

/// What a turn came to, as far as change requests care.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TurnReport {
    /// Which turn of this process it was.
    pub number: u64,
    /// The commit that was planned.
    pub revision: Option<Revision>,
    /// What a safety rail holds back, and why.
    pub refused: BTreeMap<PolicyName, String>,
    /// What did not go through, and why.
    pub failed: BTreeMap<PolicyName, String>,
    /// What stays as it is because of findings.
    pub frozen: BTreeSet<PolicyName>,
}

/// How it stands with a merged change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The comment.
    pub body: String,
    /// The check on the merged commit.
    pub check: Check,
    /// Whether nothing more is to be said.
    pub is_over: bool,
}

/// How one policy stands.
struct Row {
    state: CheckState,
    words: Vec<String>,
    /// Whether something of it is still to be told.
    is_waited_for: bool,
}

/// What to say of a change request that was merged. `events` are those since it was planned last; `actual` is what the
/// engine has after the turn.
pub fn done(
    tracked: &Tracked,
    merged: &Merged,
    report: &TurnReport,
    events: &[Event],
    actual: &ActualState,
    branch: &str,
    now: Timestamp,
) -> Done {
    let is_late = now.duration_since(merged.seen_at) > FIRST_RUN_WITHIN;
    let rows: BTreeMap<&PolicyName, (Action, Row)> = tracked
        .policies
        .iter()
        .map(|(name, action)| (name, (*action, row(name, *action, report, events, actual))))
        .collect();
    let count = |state| rows.values().filter(|(_, row)| row.state == state).count();
    let (held, failed, pending) =
        (count(CheckState::ApprovalNeeded), count(CheckState::Failure), count(CheckState::Pending));
    let policies = |count| wording::count(count, "policy", "policies");
    let is_any_held = !(report.refused.is_empty() && report.failed.is_empty() && report.frozen.is_empty());
    let (state, title, summary) = match (held, failed, pending) {
        // Nobody knows any more which policies are its own.
        _ if tracked.is_cut && is_any_held => (
            CheckState::Failure,
            "merged",
            format!("too much to be listed here; {STATUS_BRANCH} tells what is held back"),
        ),
        _ if tracked.is_cut => {
            (CheckState::Success, "merged", format!("too much to be listed here; {STATUS_BRANCH} tells what was done"))
        }
        _ if tracked.is_unknown && is_any_held => (
            CheckState::Failure,
            "merged",
            format!("it was merged before it was planned; {STATUS_BRANCH} tells what is held back"),
        ),
        _ if tracked.is_unknown => {
            (CheckState::Success, "merged", "it was merged before it was planned; nothing is held back".to_owned())
        }
        (0, 0, 0) if rows.is_empty() => (CheckState::Success, "merged", "nothing to apply".to_owned()),
        (0, 0, 0) => (CheckState::Success, "applied", format!("{} applied", policies(rows.len()))),
        (0, 0, pending) => (CheckState::Pending, "being applied", format!("{} on the way", policies(pending))),
        (0, failed, _) => (CheckState::Failure, "not applied", format!("{} did not go through", policies(failed))),
        (held, _, _) => {
            (CheckState::ApprovalNeeded, "held back", format!("{} held back by a safety rail", policies(held)))
        }
    };
    let mut body = format!("{MARKER}\n### Mainstay: {title}\n\n");
    if !rows.is_empty() {
        body.push_str(&table(&rows, COMMENT_CHARACTERS - FRAME_CHARACTERS));
        body.push('\n');
    }
    body.push_str(&format!("**{}.**\n", sentence(&summary)));
    if !tracked.consents.is_empty() {
        body.push_str(&format!("\nConsent was given by {}.\n", code(&consent::names(&tracked.consents))));
    }
    body.push_str(&format!("\n---\nMerged into {} as {}.\n", code(branch), code(merged.commit.short())));
    let is_waited_for = !is_late && rows.values().any(|(_, row)| row.is_waited_for);
    let is_over = state == CheckState::Success && !is_waited_for;
    let check = Check { name: APPLY_CHECK, state, summary: comment::cut(&summary), annotations: Vec::new() };
    Done { body, check, is_over }
}

/// What was done, one policy a line, in no more than this many characters. What needs attention comes first.
fn table(rows: &BTreeMap<&PolicyName, (Action, Row)>, most_characters: usize) -> String {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by_key(|(_, (_, row))| row.state == CheckState::Success);
    let mut text = "| | policy | what was done |\n| --- | --- | --- |\n".to_owned();
    let mut characters = text.chars().count();
    let mut shown = 0;
    for (name, (action, row)) in sorted {
        let mut words = row.words.iter().take(WORDS_LIMIT).cloned().collect::<Vec<_>>().join("<br>");
        if row.words.len() > WORDS_LIMIT {
            words.push_str("<br>…");
        }
        let line = format!("| {} | {} | {words} |\n", cell(wording::symbol(*action)), cell(&name.to_string()));
        characters += line.chars().count();
        if characters > most_characters {
            break;
        }
        text.push_str(&line);
        shown += 1;
    }
    if shown < rows.len() {
        let rest = wording::count(rows.len() - shown, "more policy does", "more policies do");
        text.push_str(&format!("\n{rest} not fit here; the dashboard on the branch `{STATUS_BRANCH}` has them all.\n"));
    }
    text
}

fn row(name: &PolicyName, action: Action, report: &TurnReport, events: &[Event], actual: &ActualState) -> Row {
    let with = |state, words: String| Row { state, words: vec![words], is_waited_for: true };
    if let Some(why) = report.refused.get(name) {
        return with(CheckState::ApprovalNeeded, format!("held back: {}", cell(why)));
    }
    if let Some(why) = report.failed.get(name) {
        return with(CheckState::Failure, format!("not applied, and tried again: {}", cell(why)));
    }
    if report.frozen.contains(name) {
        return with(CheckState::Failure, "stays as it is until the findings in the documents are mended".to_owned());
    }
    let mut row = Row { state: CheckState::Success, words: Vec::new(), is_waited_for: false };
    let own = || events.iter().filter(|event| event.policy == *name);
    // What was done comes before what it lost, whichever was written down first.
    let is_applied = |event: &&Event| matches!(event.kind, EventKind::Applied { .. });
    for event in own().filter(is_applied).chain(own().filter(|event| !is_applied(event))) {
        row.words.extend(told(event, actual));
    }
    match action {
        Action::Restore => restored(name, actual, &mut row),
        Action::Create => first_run(name, actual, &mut row),
        Action::Update | Action::Delete => {}
    }
    if row.words.is_empty() {
        row.words.push("as it was asked for already".to_owned());
    }
    row
}

/// One event in words; none: it is not of the kind that an edit brings.
fn told(event: &Event, actual: &ActualState) -> Option<String> {
    Some(match &event.kind {
        EventKind::Applied { action: Action::Create, .. } => "created".to_owned(),
        EventKind::Applied { action: Action::Update, .. } => "updated".to_owned(),
        EventKind::Applied { action: Action::Delete, .. } => "its schedule was stopped".to_owned(),
        EventKind::LostByEdit { points, .. } => {
            let grace = actual
                .policies
                .get(&event.policy)
                .and_then(|there| there.compiled.as_ref())
                .and_then(|compiled| compiled.document.spec.retention.grace)
                .unwrap_or(DEFAULT_GRACE);
            let until = event.at.checked_add(grace.duration()).unwrap_or(event.at);
            let until = until.round(Unit::Second).unwrap_or(until);
            let points = wording::count(points.len(), "restore point is", "restore points are");
            format!("{points} marked as expired; until {until} reverting this merge takes them back")
        }
        EventKind::TakenBack { points } => {
            format!("{} taken back", wording::count(points.len(), "restore point was", "restore points were"))
        }
        EventKind::Applied { action: Action::Restore, .. }
        | EventKind::Approved { .. }
        | EventKind::RunEnded(_)
        | EventKind::Skipped { .. }
        | EventKind::RestoreEnded(_)
        | EventKind::Expired { .. }
        | EventKind::Forgotten { .. }
        | EventKind::Found { .. }
        | EventKind::Missing { .. }
        | EventKind::Returned { .. }
        | EventKind::GivenUp { .. }
        | EventKind::Verified { .. }
        | EventKind::Held(_)
        | EventKind::Released(_) => return None,
    })
}

fn restored(name: &PolicyName, actual: &ActualState, row: &mut Row) {
    let report = actual.restores.iter().filter(|((restore, _), _)| restore == name).map(|(_, report)| report);
    let Some(report) = report.max_by_key(|report| report.started_at) else {
        row.state = CheckState::Pending;
        row.words.push("about to be carried out".to_owned());
        return;
    };
    let said = cell(&report.message);
    match report.phase {
        Phase::Pending | Phase::Running => {
            row.state = CheckState::Pending;
            row.words.push(format!("under way: {said}"));
        }
        Phase::Succeeded => row.words.push(format!("restored: {said}")),
        Phase::Failed => {
            row.state = CheckState::Failure;
            row.words.push(format!("the restore failed: {said}"));
        }
    }
}

fn first_run(name: &PolicyName, actual: &ActualState, row: &mut Row) {
    let run = actual.policies.get(name).and_then(|there| there.last_run.as_ref());
    match run {
        None => {
            row.is_waited_for = true;
            row.words.push("its first run is still to come".to_owned());
        }
        Some(run) => match run.phase {
            Phase::Pending | Phase::Running => {
                row.is_waited_for = true;
                row.words.push(format!("its first run is under way since {}", run.started_at));
            }
            Phase::Succeeded => row.words.push(format!("its first run succeeded: {}", cell(&run.message))),
            Phase::Failed => row.words.push(format!("its first run failed: {}", cell(&run.message))),
        },
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PolicyName {
        text.parse().unwrap()
    }

    fn said(policies: &[(&str, Action)], report: &TurnReport, events: &[Event]) -> Done {
        let tracked = Tracked {
            policies: policies.iter().map(|(policy, action)| (name(policy), *action)).collect(),
            ..Tracked::default()
        };
        let merged = Merged { commit: Revision("c".repeat(40)), seen_at: Timestamp::UNIX_EPOCH, is_recorded: true };
        let actual = ActualState {
            observed_at: Timestamp::UNIX_EPOCH,
            complete: true,
            policies: BTreeMap::new(),
            restores: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        done(&tracked, &merged, report, events, &actual, "main", Timestamp::UNIX_EPOCH)
    }

    fn event(policy: &str, kind: EventKind) -> Event {
        Event { sequence: 1, at: Timestamp::UNIX_EPOCH, policy: name(policy), kind }
    }

    #[test]
    fn what_was_lost_says_how_long_it_can_be_taken_back() {
        let points = vec![crate::restore_point::RestorePointId("1".to_owned())];
        let lost = EventKind::LostByEdit { points, revision: None, approval: None };
        let events = [
            event("shop/nightly", EventKind::Applied { action: Action::Update, revision: None }),
            event("shop/nightly", lost),
            event("shop/other", EventKind::Applied { action: Action::Delete, revision: None }),
        ];
        let done = said(&[("shop/nightly", Action::Update)], &TurnReport::default(), &events);
        assert!(done.body.contains("updated<br>1 restore point is marked as expired; until 1970-01-02T00:00:00Z"));
        assert!(!done.body.contains("shop/other") && !done.body.contains("stopped"), "{}", done.body);
        assert_eq!((done.check.state, done.is_over), (CheckState::Success, true));
    }

    #[test]
    fn the_check_ends_only_when_all_is_settled() {
        let two = [("a/a", Action::Update), ("b/b", Action::Update)];
        let why = |policy: &str| BTreeMap::from([(name(policy), "because | `x`".to_owned())]);
        let held = TurnReport { refused: why("a/a"), ..TurnReport::default() };
        let failed = TurnReport { failed: why("a/a"), ..TurnReport::default() };
        let elsewhere = TurnReport { failed: why("c/c"), ..TurnReport::default() };
        let frozen = TurnReport { frozen: BTreeSet::from([name("b/b")]), ..TurnReport::default() };
        for (report, state, title) in [
            (&held, CheckState::ApprovalNeeded, "held back"),
            (&failed, CheckState::Failure, "not applied"),
            (&frozen, CheckState::Failure, "not applied"),
            (&elsewhere, CheckState::Success, "applied"),
        ] {
            let done = said(&two, report, &[]);
            assert_eq!((done.check.state, done.is_over), (state, state == CheckState::Success));
            assert!(done.body.contains(&format!("### Mainstay: {title}\n")), "{}", done.body);
        }
        assert!(said(&two, &held, &[]).body.contains("`` because \\| `x` ``"), "nothing breaks the table");
    }

    #[test]
    fn the_largest_answer_fits_and_says_where_the_rest_is() {
        let names: Vec<String> = (0..3000).map(|number| format!("shop/policy-{number:04}")).collect();
        let policies: Vec<(&str, Action)> = names.iter().map(|name| (name.as_str(), Action::Update)).collect();
        let failed = names.iter().skip(2990).map(|policy| (name(policy), "`| é".repeat(1000))).collect();
        let done = said(&policies, &TurnReport { failed, ..TurnReport::default() }, &[]);
        let characters = done.body.chars().count();
        assert!((50_000..COMMENT_CHARACTERS).contains(&characters), "{characters}");
        assert!(done.body.contains("not fit here; the dashboard on the branch `mainstay/status` has them all."));
        assert!(done.body.contains("`shop/policy-2999`"), "what failed comes first");
        assert!(done.body.contains("**10 policies did not go through.**") && done.body.ends_with("`cccccccc`.\n"));
    }

    #[test]
    fn a_restore_and_a_first_run_are_waited_for() {
        let restore = said(&[("shop/undo", Action::Restore)], &TurnReport::default(), &[]);
        assert_eq!((restore.check.state, restore.is_over), (CheckState::Pending, false));
        let created = said(&[("shop/new", Action::Create)], &TurnReport::default(), &[]);
        assert_eq!((created.check.state, created.is_over), (CheckState::Success, false));
        assert!(created.body.contains("its first run is still to come"), "{}", created.body);
        let nothing = said(&[], &TurnReport::default(), &[]);
        assert!(nothing.is_over && nothing.body.contains("Nothing to apply"), "{}", nothing.body);
    }
}
