//! The words that all renderings of a plan share, so that text, comment and JSON never disagree.
//!
//! Pure.

use jiff::Timestamp;

use super::{Action, Change, Loss, Plan, Reach, fields, fields::FieldChange};
use crate::policy::{
    CompiledPolicy, PolicyName,
    document::{Source, backup_policy::Deletion, restore::PointChoice},
};

/// The longest value of a field that is shown; JSON has all of it.
const VALUE_CHARACTERS: usize = 100;
/// The longest sentence or path.
const SENTENCE_CHARACTERS: usize = 1000;

/// What a plan is shown with beyond itself.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What the documents were compared with, in words; shown at the top.
    pub compared_with: Option<String>,
    /// Arguments that `mainstay approve DIGEST` needs to see the same plan, such as ` --path backups`.
    pub approve_arguments: String,
    /// Whether something went wrong on the way: findings in documents.
    pub errored: bool,
}

/// The symbol of an action.
pub fn symbol(action: Action) -> &'static str {
    match action {
        Action::Create => "+",
        Action::Update => "~",
        Action::Delete => "-",
        Action::Restore => "←",
    }
}

/// `1 restore point`, `2 restore points`.
pub fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Bytes for people: `46.0 GiB`.
pub fn bytes(size_bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size_bytes < 1024 {
        return format!("{size_bytes} B");
    }
    let mut size = size_bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Text from a document, on one line and without control characters, so that it can neither break a layout nor steer
/// a terminal; cut where it is long.
pub fn plain(text: &str) -> String {
    cut(text, VALUE_CHARACTERS)
}

/// The same for whole sentences and paths, which may be longer.
pub fn plain_long(text: &str) -> String {
    cut(text, SENTENCE_CHARACTERS)
}

fn cut(text: &str, most: usize) -> String {
    let is_safe = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == most {
            shown.push('…');
            break;
        }
        match is_safe(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
    }
    shown
}

/// A changed field's values: `30 → 7`.
pub fn arrow(field: &FieldChange) -> String {
    let side = |value: &Option<String>| value.as_deref().map_or_else(|| "(absent)".to_owned(), plain);
    format!("{} → {}", side(&field.before), side(&field.after))
}

/// The command that approves.
pub fn approve_command(digest: &super::Digest, view: &View) -> String {
    format!("mainstay approve {digest}{}", view.approve_arguments)
}

/// `Plan: 1 to create, 0 to update, 0 to delete, 1 refused.`
pub fn summary(plan: &Plan) -> String {
    let of = |action| plan.changes.iter().filter(|change| change.action == action).count();
    let [create, update, delete, restore] = [Action::Create, Action::Update, Action::Delete, Action::Restore].map(of);
    let restores = if restore == 0 { String::new() } else { format!("{restore} to restore, ") };
    format!(
        "Plan: {create} to create, {update} to update, {delete} to delete, {restores}{} refused.",
        plan.refusals.len()
    )
}

/// `Restore points: 23 lost (46.0 GiB), oldest reachable A → B.`
pub fn losses_summary(plan: &Plan) -> String {
    if plan.losses.is_empty() {
        return "Restore points: 0 lost.".to_owned();
    }
    let reach = Reach {
        before: plan.reach.values().filter_map(|reach| reach.before).min(),
        after: plan.reach.values().filter_map(|reach| reach.after).min(),
    };
    format!(
        "Restore points: {} lost ({}), oldest reachable {}.",
        plan.losses.len(),
        bytes(size(&plan.losses)),
        way(reach)
    )
}

/// `A → B`.
pub fn way(reach: Reach) -> String {
    let side = |time: Option<Timestamp>| time.map_or_else(|| "none".to_owned(), |time| time.to_string());
    format!("{} → {}", side(reach.before), side(reach.after))
}

/// Bytes of losses together.
pub fn size<'a>(losses: impl IntoIterator<Item = &'a Loss>) -> u64 {
    losses.into_iter().fold(0, |sum, loss| sum.saturating_add(loss.size_bytes))
}

/// The restore points that a change takes back, if any.
pub fn taken_back(change: &Change) -> Option<String> {
    let points = count(change.taken_back.len(), "restore point", "restore points");
    (!change.taken_back.is_empty()).then(|| format!("takes back {points} that had expired"))
}

/// The losses that a change brings, in the order of the plan. The plan's losses are sorted by policy.
pub fn losses_of<'a>(plan: &'a Plan, change: &Change) -> &'a [Loss] {
    if change.losses.is_empty() {
        return &[];
    }
    let start = plan.losses.partition_point(|loss| loss.policy < change.policy);
    let end = plan.losses.partition_point(|loss| loss.policy <= change.policy);
    &plan.losses[start..end]
}

/// The fields that an update changes.
pub fn changed_fields(change: &Change) -> Vec<FieldChange> {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => fields::changed(before, after),
        (Some(_) | None, _) => Vec::new(),
    }
}

/// Whether the times at which a policy runs are other than before.
pub fn moves_runs(change: &Change) -> bool {
    let timing = |policy: &CompiledPolicy| {
        let spec = &policy.document.spec;
        (spec.schedule.clone(), spec.time_zone.clone(), spec.suspend)
    };
    change.before.as_ref().map(timing) != change.after.as_ref().map(timing)
}

/// A new policy in a few lines: label and value.
pub fn outline(policy: &CompiledPolicy) -> Vec<(&'static str, String)> {
    let spec = &policy.document.spec;
    let mut schedule = format!("{} ({})", spec.schedule.as_slice().join(", "), spec.time_zone);
    if let Some(jitter) = spec.jitter {
        schedule.push_str(&format!(", spread over {jitter}"));
    }
    if spec.suspend {
        schedule.push_str(", suspended");
    }
    let sources: Vec<String> =
        spec.sources.iter().map(|source| format!("{} ({})", source.name, source_kind(source))).collect();
    vec![
        ("schedule", schedule),
        ("sources", sources.join(", ")),
        ("repositories", spec.repositories.join(", ")),
        ("keeps", keep_rules(policy)),
    ]
}

fn keep_rules(policy: &CompiledPolicy) -> String {
    let retention = &policy.document.spec.retention;
    let counts = [
        ("last", retention.keep_last),
        ("hourly", retention.keep_hourly),
        ("daily", retention.keep_daily),
        ("weekly", retention.keep_weekly),
        ("monthly", retention.keep_monthly),
        ("yearly", retention.keep_yearly),
    ];
    let mut rules: Vec<String> = counts
        .into_iter()
        .filter_map(|(name, count)| count.filter(|count| *count != 0).map(|count| (name, count)))
        .map(|(name, count)| if count < 0 { format!("all {name}") } else { format!("{count} {name}") })
        .collect();
    rules.extend(retention.keep_within.map(|within| format!("all within {within}")));
    rules.join(", ")
}

fn source_kind(source: &Source) -> &'static str {
    let kinds = [
        (source.paths.is_some(), "paths"),
        (source.volumes.is_some(), "volumes"),
        (source.postgres.is_some(), "postgres"),
        (source.mysql.is_some(), "mysql"),
        (source.mariadb.is_some(), "mariadb"),
        (source.galera.is_some(), "galera"),
        (source.resources.is_some(), "resources"),
        (source.command.is_some(), "command"),
    ];
    kinds.into_iter().find_map(|(is_it, kind)| is_it.then_some(kind)).unwrap_or("nothing")
}

/// What a removal does, in a sentence.
pub fn removal(change: &Change) -> &'static str {
    match change.before.as_ref().map(|before| before.document.spec.deletion) {
        Some(Deletion::Retain) => "document removed: its schedule stops, its restore points stay (deletion: Retain)",
        Some(Deletion::Confirm) => {
            "document removed: its schedule stops, its restore points expire (deletion: Confirm)"
        }
        None => {
            "document removed: its schedule stops; its restore points stay unless the document said `deletion: Confirm` \
             (not known here: name what it is compared with by --base)"
        }
    }
}

/// The new policy that a removed one seems to have become: the same document under another name.
pub fn renamed_to<'a>(plan: &'a Plan, change: &Change) -> Option<&'a PolicyName> {
    // Each removal is compared with each new policy, so an edit of thousands is left alone.
    const CHANGES_COMPARED: usize = 200;
    let before = change.before.as_ref().filter(|_| change.action == Action::Delete)?;
    let refused = plan.refusals.iter().map(|refusal| &refusal.change);
    let same = |after: &CompiledPolicy| {
        after.document.spec == before.document.spec && after.repositories == before.repositories
    };
    let all = plan.changes.iter().chain(refused);
    if plan.changes.len() + plan.refusals.len() > CHANGES_COMPARED {
        return None;
    }
    all.filter(|other| other.action == Action::Create)
        .find(|other| other.after.as_ref().is_some_and(same))
        .map(|other| &other.policy)
}

/// What a restore does, in a sentence.
pub fn restoring(restore: &crate::policy::Restore) -> String {
    let spec = &restore.document.spec;
    let point = match &spec.restore_point {
        PointChoice::Name(name) => plain(name),
        PointChoice::Before { before } => format!("the newest before {before}"),
    };
    let sources = match spec.sources.as_slice() {
        [] => "all sources".to_owned(),
        some => plain(&some.join(", ")),
    };
    let into = spec.into.as_ref().map(|into| {
        [&into.path, &into.database, &into.namespace]
            .into_iter()
            .flatten()
            .map(|place| plain(place))
            .collect::<Vec<_>>()
    });
    let into = match into {
        None => "in place".to_owned(),
        Some(places) if places.is_empty() => "into other claims".to_owned(),
        Some(places) => format!("into {}", places.join(", ")),
    };
    format!("restores {} from {point}: {sources}, {into}", restore.policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (size, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (49_392_123_904, "46.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(size), shown, "{size}");
        }
    }

    #[test]
    fn text_from_documents_cannot_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(plain(&"x".repeat(500)).chars().count(), VALUE_CHARACTERS + 1);
    }
}
