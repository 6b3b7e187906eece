//! `mainstay points list`: restore points, with what keeps each and when the rules of the documents let it go.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    actual::ActualPolicy,
    cli::{
        CommandResult, Exit, Failure, StateArguments,
        display::second,
        plan::{inputs, print},
    },
    forecast,
    plan::wording,
    policy::{CompiledPolicy, Policy, PolicyName, validate},
    restore_point::RestorePoint,
    retention::reach::{Reach, decide_for},
};

/// List restore points, with what keeps each and when it goes.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only this policy's: NAMESPACE/NAME, or NAME in the namespace `default`
    policy: Option<PolicyName>,
    /// Directory of the documents, whose rules are applied
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Take what is there from this file, which `mainstay status -o json --inventory` wrote
    #[arg(long, value_name = "INVENTORY.json")]
    offline: Option<PathBuf>,
    /// Apply the rules as if it were this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
    #[command(flatten)]
    state: StateArguments,
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Form of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A restore point with what the rules say of it.
struct Listed {
    policy: PolicyName,
    point: RestorePoint,
    kept: bool,
    reasons: Vec<String>,
    expires_at: Option<Timestamp>,
    /// Until when it can be taken back, if it is marked as expired.
    gone_after: Option<Timestamp>,
}

/// Carries the command out.
pub fn execute(arguments: ListArguments) -> CommandResult {
    let ListArguments { policy: wanted, path, offline, now, state, output } = arguments;
    let now = now.unwrap_or_else(Timestamp::now);
    let inputs = inputs::InputArguments { path, base: None, head: None, offline, now: Some(now), state };
    let documents = inputs::documents(&inputs)?;
    let actual = inputs::actual(&inputs, now)?;
    if let Some(wanted) = &wanted
        && !actual.policies.contains_key(wanted)
        && !documents.desired.policies.contains_key(wanted)
    {
        return Err(Failure::new(format!("there is no policy {wanted}")).hint("`mainstay points` lists those of all"));
    }
    let mut listed = Vec::new();
    for (name, there) in &actual.policies {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        match documents.desired.policies.get(name) {
            Some(policy) => {
                let compiled = policy.compile(&documents.desired.settings, None);
                listed.extend(under_rules(policy, &compiled, there, now));
            }
            None => listed.extend(without_document(name, there, now)),
        }
    }
    match output {
        Output::Json => print(&format!("{:#}\n", Value::Array(listed.iter().map(json).collect())))?,
        Output::Text => print(&text(&listed))?,
    }
    documents.report_findings();
    Ok(if documents.is_wrong() { Exit::Documents } else { Exit::Success })
}

fn under_rules(policy: &Policy, compiled: &CompiledPolicy, there: &ActualPolicy, now: Timestamp) -> Vec<Listed> {
    let (points, reach) = (&there.inventory.points, Reach::of(compiled));
    // A suspended policy makes no new points, and only new ones push old ones out.
    let schedules = if policy.suspend { &[][..] } else { &policy.schedules };
    let reached: Vec<RestorePoint> = points.iter().filter(|point| reach.holds(point)).cloned().collect();
    let mut expiries = forecast::expires_at(&policy.rules, &reached, schedules, now).into_iter();
    let listed = points.iter().zip(decide_for(compiled, points, now)).map(|(point, decision)| Listed {
        policy: policy.name.clone(),
        point: point.clone(),
        kept: decision.keep,
        reasons: decision.reasons.iter().map(ToString::to_string).collect(),
        expires_at: match reach.holds(point) {
            true => expiries.next().flatten(),
            // Left behind: nothing that is scheduled changes what becomes of it.
            false => (!decision.keep).then(|| point.expired_since.unwrap_or(now)),
        },
        gone_after: point.expired_since.and_then(|since| since.checked_add(policy.grace).ok()),
    });
    listed.collect()
}

/// Points of a policy that has no document here. What was applied last still holds, if it is known; a policy that was
/// removed keeps all of its points.
fn without_document(name: &PolicyName, there: &ActualPolicy, now: Timestamp) -> Vec<Listed> {
    if let Some(compiled) = &there.compiled
        && let Ok(policy) = validate::policy_of(compiled)
    {
        return under_rules(&policy, compiled, there, now);
    }
    let listed = there.inventory.points.iter().map(|point| Listed {
        policy: name.clone(),
        point: point.clone(),
        kept: point.expired_since.is_none(),
        reasons: point.expired_since.is_none().then(|| "no document".to_owned()).into_iter().collect(),
        expires_at: point.expired_since,
        gone_after: None,
    });
    listed.collect()
}

fn json(listed: &Listed) -> Value {
    let Listed { policy, point, kept, reasons, expires_at, gone_after: _ } = listed;
    json!({
        "policy": policy,
        "id": point.id,
        "time": point.time,
        "sizeBytes": point.size_bytes,
        "held": point.held,
        "found": point.found,
        "missingSince": point.missing_since,
        "verifiedAt": point.verified_at,
        "kept": kept,
        "reasons": reasons,
        "expiresAt": expires_at,
    })
}

fn text(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "There are no restore points yet.\n".to_owned();
    }
    let mut text = String::new();
    let width = listed.iter().map(|listed| listed.point.id.0.chars().count()).max().unwrap_or(0);
    for group in listed.chunk_by(|one, other| one.policy == other.policy) {
        let size = group.iter().fold(0_u64, |sum, listed| sum.saturating_add(listed.point.size_bytes));
        let points = wording::count(group.len(), "restore point", "restore points");
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{}  {points}, {}", group[0].policy, wording::bytes(size));
        for Listed { policy: _, point, kept, reasons, expires_at, gone_after } in group {
            let state = match (kept, expires_at) {
                (true, Some(time)) => format!("until {}  {}", second(*time), reasons.join(", ")),
                (true, None) => format!("kept  {}", reasons.join(", ")),
                (false, _) => match (point.expired_since, gone_after) {
                    (Some(_), Some(time)) => format!("expired, gone after {}", second(*time)),
                    (Some(_), None) => "expired".to_owned(),
                    // Perhaps for ever: the documents may hold an edit that is refused.
                    (None, _) => "not marked, but no rule of the documents keeps it".to_owned(),
                },
            };
            let (id, size) = (wording::plain(&point.id.0), wording::bytes(point.size_bytes));
            let _ = writeln!(text, "  {id:<width$}  {}  {size:>10}  {state}", second(point.time));
        }
    }
    text
}
