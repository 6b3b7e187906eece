//! A plan as text, for a terminal and for the log of a build.
//!
//! Pure, and repeatable byte for byte: neither the time of day nor the width of a terminal gets in.

use std::fmt::Write as _;

use super::{
    Action, Change, Plan, Refusal,
    wording::{self, View},
};

/// Lost restore points that one change lists before it only counts them.
const LOSSES_SHOWN: usize = 10;
/// Drift lines before they are only counted.
const DRIFT_SHOWN: usize = 50;
/// Where the place of a document begins.
const PLACE_COLUMN: usize = 44;

/// Renders a plan.
pub fn render(plan: &Plan, view: &View) -> String {
    let mut text = String::new();
    write_to(&mut text, plan, view).expect("a String takes everything");
    text
}

fn write_to(text: &mut String, plan: &Plan, view: &View) -> std::fmt::Result {
    if let Some(compared_with) = &view.compared_with {
        writeln!(text, "{}\n", wording::plain_long(compared_with))?;
    }
    for (change, refusal) in entries(plan) {
        entry(text, plan, change, refusal, view)?;
        writeln!(text)?;
    }
    drift(text, plan)?;
    footer(text, plan, view)
}

/// Changes and refused changes together, by policy.
fn entries(plan: &Plan) -> Vec<(&Change, Option<&Refusal>)> {
    let mut entries: Vec<_> = plan.changes.iter().map(|change| (change, None)).collect();
    entries.extend(plan.refusals.iter().map(|refusal| (&refusal.change, Some(refusal))));
    entries.sort_by_key(|(change, _)| (&change.policy, change.action));
    entries
}

fn entry(text: &mut String, plan: &Plan, change: &Change, refusal: Option<&Refusal>, view: &View) -> std::fmt::Result {
    let title = format!("{} {}", wording::symbol(change.action), change.policy);
    match change.source.line {
        0 => writeln!(text, "{title}")?,
        _ => writeln!(text, "{title:<PLACE_COLUMN$}  {}", wording::plain_long(&change.source.to_string()))?,
    }
    details(text, change)?;
    if let Some(name) = wording::renamed_to(plan, change) {
        writeln!(
            text,
            "    it looks renamed: {name} begins without restore points, those of {} stay its own",
            change.policy
        )?;
    }
    if !change.next_runs.is_empty() && wording::moves_runs(change) {
        let times: Vec<String> = change.next_runs.iter().map(ToString::to_string).collect();
        writeln!(text, "    next runs: {}", times.join(", "))?;
    }
    losses(text, plan, change)?;
    if let Some(taken_back) = wording::taken_back(change) {
        writeln!(text, "    {taken_back}")?;
    }
    if let Some(refusal) = refusal {
        writeln!(text, "    ✗ refused: {}", wording::plain_long(&refusal.reason))?;
        if refusal.can_be_approved() {
            writeln!(text, "      to consent: {}", wording::approve_command(&refusal.digest, view))?;
        }
    }
    Ok(())
}

fn details(text: &mut String, change: &Change) -> std::fmt::Result {
    let rows: Vec<(String, String)> = match change.action {
        Action::Create => {
            change.after.iter().flat_map(wording::outline).map(|(label, value)| (label.to_owned(), value)).collect()
        }
        Action::Update if change.before.is_none() => {
            change.after.iter().flat_map(wording::outline).map(|(label, value)| (label.to_owned(), value)).collect()
        }
        Action::Update => {
            let fields = wording::changed_fields(change);
            fields.iter().map(|field| (wording::plain(&field.path), wording::arrow(field))).collect()
        }
        Action::Delete => return writeln!(text, "    {}", wording::removal(change)),
        Action::Restore => {
            let Some(restore) = &change.restore else { return Ok(()) };
            return writeln!(text, "    {}", wording::restoring(restore));
        }
    };
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for (label, value) in rows {
        writeln!(text, "    {label:<width$}  {}", wording::plain_long(&value))?;
    }
    Ok(())
}

fn losses(text: &mut String, plan: &Plan, change: &Change) -> std::fmt::Result {
    let losses = wording::losses_of(plan, change);
    if losses.is_empty() {
        return Ok(());
    }
    let points = wording::count(losses.len(), "restore point", "restore points");
    let reach = plan.reach.get(&change.policy).map(|reach| format!(", oldest reachable {}", wording::way(*reach)));
    writeln!(text, "    loses {points} ({}){}", wording::bytes(wording::size(losses)), reach.unwrap_or_default())?;
    let shown = &losses[..losses.len().min(LOSSES_SHOWN)];
    let width = shown.iter().map(|loss| wording::bytes(loss.size_bytes).len()).max().unwrap_or(0);
    for loss in shown {
        let (id, size) = (wording::plain(&loss.id.0), wording::bytes(loss.size_bytes));
        writeln!(text, "      - {id}  {}  {size:>width$}  {}", loss.time, wording::plain(&loss.reason))?;
    }
    if let [.., newest] = losses
        && losses.len() > LOSSES_SHOWN
    {
        writeln!(text, "      … and {} more, up to {}; -o json lists all", losses.len() - LOSSES_SHOWN, newest.time)?;
    }
    Ok(())
}

fn drift(text: &mut String, plan: &Plan) -> std::fmt::Result {
    if plan.drift.is_empty() {
        return Ok(());
    }
    writeln!(text, "Drift, not from the documents:")?;
    for drift in plan.drift.iter().take(DRIFT_SHOWN) {
        writeln!(text, "  {}: {}", drift.policy, wording::plain_long(&drift.difference))?;
    }
    if plan.drift.len() > DRIFT_SHOWN {
        writeln!(text, "  … and {} more; -o json lists all", plan.drift.len() - DRIFT_SHOWN)?;
    }
    writeln!(text)
}

fn footer(text: &mut String, plan: &Plan, view: &View) -> std::fmt::Result {
    if plan.changes.is_empty() && plan.refusals.is_empty() {
        writeln!(text, "Nothing to change.")?;
    }
    if plan.unchanged > 0 {
        writeln!(text, "{} unchanged.", wording::count(plan.unchanged, "policy", "policies"))?;
    }
    if !plan.frozen.is_empty() {
        let names: Vec<String> = plan.frozen.iter().take(DRIFT_SHOWN).map(ToString::to_string).collect();
        let more = if plan.frozen.len() > DRIFT_SHOWN { ", …" } else { "" };
        let policies = wording::count(plan.frozen.len(), "policy stays as it is", "policies stay as they are");
        writeln!(text, "{policies} until the findings are mended: {}{more}.", names.join(", "))?;
    }
    if plan.refusals.iter().filter(|refusal| refusal.can_be_approved()).count() > 1 {
        writeln!(text, "To consent to everything that is refused: {}", wording::approve_command(&plan.digest, view))?;
    }
    if !text.is_empty() && !text.ends_with("\n\n") {
        writeln!(text)?;
    }
    writeln!(text, "{}", wording::summary(plan))?;
    writeln!(text, "{}", wording::losses_summary(plan))
}
