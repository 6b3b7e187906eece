//! `README.md`: what a person reads on the forge. Problems first, then what waits for consent, then all policies.
//!
//! Pure. Everything that comes from a document or a program is escaped: a policy cannot draw on its own dashboard.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    StatusInput,
    conditions::{Health, sentence},
    coverage,
    documents::PolicyStatus,
    overdue::overdue,
};
use crate::{
    plan::Refusal,
    policy::PolicyName,
    run::{Phase, RunReport},
};

/// Rows of the table; forges stop rendering large files.
const ROWS_LIMIT: usize = 500;
/// Entries of each list.
const ENTRIES_LIMIT: usize = 50;
/// Characters that are shown of one text.
const TEXT_LIMIT: usize = 500;

/// The dashboard.
pub fn render(input: &StatusInput<'_>, policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) -> String {
    let mut page = String::new();
    title(&mut page, input, policies);
    list(&mut page, "Problems", input.problems);
    list(&mut page, "Findings in the documents", input.findings);
    refusals(&mut page, input);
    attention(&mut page, policies);
    late(&mut page, input, policies);
    drift(&mut page, input);
    uncovered(&mut page, input);
    table(&mut page, policies);
    page.push_str(
        "\n---\nWritten by Mainstay; what is edited here is overwritten. Details: `status/`, what happened: `runs/`, \
         for `plan --offline`: `inventory.json`.\n",
    );
    page
}

/// Text from a document or a program as Markdown that shows it and nothing else; one line, cut where it is too long.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (count, character) in text.chars().enumerate() {
        if count == TEXT_LIMIT {
            escaped.push('…');
            break;
        }
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            // A mention would notify somebody, a number would link somewhere: neither was meant.
            '@' => escaped.push_str("&#64;"),
            '#' => escaped.push_str("&#35;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            // Forges link bare addresses.
            ':' if escaped.ends_with("http") || escaped.ends_with("https") => escaped.push_str("&#58;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

fn title(page: &mut String, input: &StatusInput<'_>, policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) {
    let cluster = input.desired.settings.cluster.as_deref().unwrap_or("local");
    let bad = policies.values().filter(|policy| policy.health.needs_attention()).count();
    let points: usize = policies.values().map(|policy| policy.status.restore_points.len()).sum();
    let state = match bad {
        0 => "nothing needs attention".to_owned(),
        1 => "1 needs attention".to_owned(),
        bad => format!("{bad} need attention"),
    };
    put(page, format_args!("# Backups of {}\n\n", escape(cluster)));
    put(page, format_args!("**{}, {state}**, {}.", count(policies.len(), "policy", "policies"), points_text(points)));
    if let Some(revision) = &input.desired.revision {
        put(page, format_args!(" As of commit `{}`.", revision.short()));
    }
    page.push('\n');
    if input.desired.settings.freeze {
        page.push_str("\n**Frozen** by the settings: nothing is changed and no scheduled run starts.\n");
    }
    if let Some(reason) = &input.desired.deletion_blocked {
        put(page, format_args!("\nNothing is deleted: {}\n", sentence(&escape(reason))));
    }
}

fn list(page: &mut String, heading: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    put(page, format_args!("\n## {heading}\n\n"));
    for entry in entries.iter().take(ENTRIES_LIMIT) {
        put(page, format_args!("- {}\n", escape(entry)));
    }
    more(page, entries.len(), ENTRIES_LIMIT);
}

fn refusals(page: &mut String, input: &StatusInput<'_>) {
    let refusals: &[Refusal] = input.plan.map_or(&[], |plan| &plan.refusals);
    if refusals.is_empty() {
        return;
    }
    page.push_str("\n## Refused changes\n\nThese policies keep what they have until someone consents or mends them.\n");
    for refusal in refusals.iter().take(ENTRIES_LIMIT) {
        let Refusal { change, reason, effects, digest } = refusal;
        put(
            page,
            format_args!("\n- **{}** ({}): {}", change.policy, escape(&change.source.to_string()), escape(reason)),
        );
        if effects.is_empty() {
            page.push('\n');
        } else {
            let losses = change.losses.len();
            if losses > 0 {
                put(page, format_args!(". It would lose {}", points_text(losses)));
            }
            let arguments = input.approve_arguments;
            put(page, format_args!(". To consent:\n\n  ```sh\n  mainstay approve {}{arguments}\n  ```\n", digest.0));
        }
    }
    more(page, refusals.len(), ENTRIES_LIMIT);
}

fn attention(page: &mut String, policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) {
    let bad: Vec<&PolicyStatus> = sorted(policies)
        .into_iter()
        // What is refused has its own section above.
        .filter(|policy| policy.health.needs_attention() && !matches!(policy.health, Health::Refused | Health::Held))
        .collect();
    if bad.is_empty() {
        return;
    }
    page.push_str("\n## Needs attention\n\n");
    for policy in bad.iter().take(ENTRIES_LIMIT) {
        let message = policy.status.conditions.first().map_or("", |condition| &condition.message);
        put(page, format_args!("- {}: {}\n", link(policy), escape(message)));
    }
    more(page, bad.len(), ENTRIES_LIMIT);
}

fn late(page: &mut String, input: &StatusInput<'_>, policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) {
    let late = policies.values().filter_map(|policy| Some((policy, overdue(input, policy)?)));
    let late: Vec<(&Arc<PolicyStatus>, String)> = late.collect();
    if late.is_empty() {
        return;
    }
    page.push_str("\n## Overdue\n\n");
    for (policy, why) in late.iter().take(ENTRIES_LIMIT) {
        put(page, format_args!("- {}: {}\n", link(policy), sentence(&escape(why))));
    }
    more(page, late.len(), ENTRIES_LIMIT);
}

/// What is not as the documents ask, and stays so: what this turn put back is no news any more.
fn drift(page: &mut String, input: &StatusInput<'_>) {
    let is_put_back = |policy: &PolicyName| input.applied.done.iter().any(|(done, _)| done == policy);
    // What a removed document left behind is in the table, and is as it should be.
    let is_withdrawn =
        |policy: &PolicyName| input.actual.policies.get(policy).is_some_and(|there| there.compiled.is_none());
    let drift = input.plan.iter().flat_map(|plan| &plan.drift);
    let entries: Vec<String> = drift
        .filter(|drift| !is_put_back(&drift.policy) && !is_withdrawn(&drift.policy))
        .map(|drift| format!("{}: {}", drift.policy, drift.difference))
        .collect();
    list(page, "Not as the documents ask", &entries);
}

fn uncovered(page: &mut String, input: &StatusInput<'_>) {
    let Some(sight) = input.sight else { return };
    let applied = input.actual.policies.values().filter_map(|there| there.compiled.as_ref());
    let uncovered = coverage::uncovered(sight, applied);
    list(page, "Not covered by any policy", &uncovered);
    if !uncovered.is_empty() {
        page.push_str("\nThe annotation `mainstay.dev/ignore` on a claim or a workload takes it off this list.\n");
    }
}

fn table(page: &mut String, policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) {
    if policies.is_empty() {
        page.push_str("\nThere is no policy yet.\n");
        return;
    }
    page.push_str(
        "\n## Policies\n\n| Policy | Condition | Last run | Result | Restore points | Size | Next run |\n\
         | --- | --- | --- | --- | ---: | ---: | --- |\n",
    );
    for policy in sorted(policies).into_iter().take(ROWS_LIMIT) {
        let status = &policy.status;
        let run = status.last_run.as_ref();
        let next = match policy.health {
            Health::Suspended => "suspended".to_owned(),
            Health::Withdrawn => "withdrawn".to_owned(),
            Health::Broken
            | Health::Damaged
            | Health::Failed
            | Health::Ahead
            | Health::Refused
            | Health::Held
            | Health::Unseen
            | Health::Waiting
            | Health::Good => status.next_run.map_or_else(|| "–".to_owned(), time),
        };
        put(
            page,
            format_args!(
                "| {} | {} | {} | {} | {} | {} | {next} |\n",
                link(policy),
                condition(policy.health),
                run.map_or_else(|| "–".to_owned(), |run| time(run.started_at)),
                run.map_or_else(|| "–".to_owned(), result),
                status.restore_points.len(),
                if status.restore_points.is_empty() { "–".to_owned() } else { size(status.size_bytes) },
            ),
        );
    }
    more(page, policies.len(), ROWS_LIMIT);
}

/// Worst first, then by name.
fn sorted(policies: &BTreeMap<PolicyName, Arc<PolicyStatus>>) -> Vec<&PolicyStatus> {
    let mut sorted: Vec<&PolicyStatus> = policies.values().map(AsRef::as_ref).collect();
    sorted.sort_by_key(|policy| policy.health);
    sorted
}

fn condition(health: Health) -> &'static str {
    match health {
        Health::Broken => "❌ Stalled",
        Health::Damaged => "❌ Check failed",
        Health::Failed => "❌ Run failed",
        Health::Ahead => "⚠️ Clock went back",
        Health::Refused => "⚠️ Waits for consent",
        Health::Held => "⚠️ Held back",
        Health::Unseen => "⚠️ Not readable",
        Health::Waiting => "⏳ Not run yet",
        Health::Good => "✅ Ready",
        Health::Suspended => "⏸️ Suspended",
        Health::Withdrawn => "Withdrawn",
    }
}

fn result(run: &RunReport) -> String {
    let seconds = run.finished_at.map(|end| end.duration_since(run.started_at).as_secs().max(0));
    let unreadable: u64 = run.sources.iter().map(|source| source.unreadable).sum();
    let mut text = match run.phase {
        Phase::Succeeded => "succeeded".to_owned(),
        Phase::Failed => "failed".to_owned(),
        Phase::Pending | Phase::Running => "under way".to_owned(),
    };
    if let Some(seconds) = seconds {
        put(&mut text, format_args!(" in {}", duration(seconds)));
    }
    if unreadable > 0 {
        put(&mut text, format_args!(", {unreadable} files unreadable"));
    }
    text
}

fn link(policy: &PolicyStatus) -> String {
    // Names are lower-case letters, digits and `-`: nothing to escape.
    format!("[{}]({})", policy.name, policy.path())
}

fn time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600.. => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn points_text(points: usize) -> String {
    count(points, "restore point", "restore points")
}

fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

fn more(page: &mut String, all: usize, limit: usize) {
    if all > limit {
        put(page, format_args!("\n… and {} more; see `status/`.\n", all - limit));
    }
}

fn put(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    page.write_fmt(arguments).expect("a String takes everything");
}
