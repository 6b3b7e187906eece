//! `mainstay status`: policies, their last and next runs, and what is wrong; or the offline inventory.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use jiff::{Timestamp, tz::TimeZone};

use super::{
    CommandResult, Exit, Failure, StateArguments,
    display::{files, second},
    engine::{EngineName, cluster, last_turn},
    run::asynchronous,
};
use crate::{
    actual::{ActualPolicy, ActualState, checks, inventory},
    daemon::memory::{Memory, Waiting},
    engine::{
        Engine as _,
        local::{LocalEngine, runner::Size},
    },
    policy::PolicyName,
    retention::remarks,
    run::Phase,
    schedule::{Schedule, next_runs},
};

/// Show policies, their last and next runs, and their conditions.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this policy, as [NAMESPACE/]NAME, with its last run source by source
    policy: Option<PolicyName>,
    #[command(flatten)]
    state: StateArguments,
    /// Form of the status
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write the inventory that `plan --offline` reads; needs `-o json`
    #[arg(long)]
    inventory: bool,
}

/// Form of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, state, output, inventory: wants_inventory } = arguments;
    if wants_inventory && output != Output::Json {
        return Err(Failure::new("--inventory is written as JSON only").hint("add -o json"));
    }
    let now = Timestamp::now();
    asynchronous(async move {
        let wrap = |error| Failure::new("the status cannot be read").caused_by(error);
        let (mut actual, memory, place) = match state.engine.engine {
            EngineName::Local => {
                let directory = state.directory()?;
                let engine = LocalEngine::open_read_only(&directory).map_err(wrap)?;
                let memory = Memory::load(&directory).map_err(|error| {
                    Failure::new("it cannot be told whether a change waits for consent").caused_by(error)
                })?;
                (engine.observe(now).await.map_err(wrap)?, memory, directory.display().to_string())
            }
            EngineName::Kubernetes => {
                let engine = cluster(&state.engine).await?;
                let actual = engine.observe(now).await.map_err(wrap)?;
                let memory = last_turn(engine.store()).await?;
                (actual, memory, format!("namespace {}", engine.store().namespace()))
            }
        };
        let mut waiting = memory.waiting;
        if let Some(policy) = &policy {
            actual.policies.retain(|name, _| name == policy);
            waiting.retain(|name, _| name == policy);
            if actual.policies.is_empty() {
                return Err(Failure::new(format!("there is no policy {policy} in {place}"))
                    .hint("`mainstay status` lists those that are; --state names another state"));
            }
        }
        match (output, wants_inventory) {
            (Output::Json, true) => print(&inventory::write(&actual)),
            (Output::Json, false) => print(&format!("{:#}\n", json(&actual, &waiting, now))),
            (Output::Text, _) => print(&text(&actual, &waiting, &place, now, policy.is_some())),
        }
        Ok(Exit::Success)
    })
}

/// Prints; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The changes that wait, by policy.
type AllWaiting = BTreeMap<PolicyName, Waiting>;

fn json(actual: &ActualState, waiting: &AllWaiting, now: Timestamp) -> serde_json::Value {
    let policies: serde_json::Map<String, serde_json::Value> = actual
        .policies
        .iter()
        .map(|(name, policy)| {
            let points = &policy.inventory.points;
            let (condition, message) = condition(policy, waiting.get(name), now);
            let value = serde_json::json!({
                "condition": condition,
                "message": message,
                "revision": policy.compiled.as_ref().and_then(|compiled| compiled.revision.clone()),
                "running": policy.running,
                "lastRun": policy.last_run,
                "lastSuccess": policy.last_success,
                "failedChecks": policy.failed_checks,
                "nextRun": next_run(policy, now),
                "restorePoints": points.len(),
                "remarks": remarks(name, points, now),
                "newest": points.last().map(|point| &point.id),
                "sizeBytes": points.last().map(|point| point.size_bytes),
                "inventory": {"observedAt": policy.inventory.observed_at, "complete": policy.inventory.complete},
            });
            (name.to_string(), value)
        })
        .collect();
    let restores: Vec<serde_json::Value> = actual
        .restores
        .iter()
        .map(|((name, content), report)| serde_json::json!({"name": name, "content": content, "report": report}))
        .collect();
    serde_json::json!({
        "formatVersion": 1, "observedAt": actual.observed_at, "complete": actual.complete,
        "policies": policies, "restores": restores,
    })
}

fn text(actual: &ActualState, waiting: &AllWaiting, place: &str, now: Timestamp, with_sources: bool) -> String {
    if actual.policies.is_empty() && actual.restores.is_empty() {
        return format!(
            "There is no policy yet in {place}; --state names another state. \
             `mainstay init` writes a first document, `mainstay apply` or a daemon applies it.\n"
        );
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "POLICY",
        "CONDITION",
        "LAST SUCCESS",
        "POINTS",
        "NEWEST",
        "SIZE",
        "NEXT RUN",
    ]);
    let mut messages = String::new();
    for (name, policy) in &actual.policies {
        let (condition, message) = condition(policy, waiting.get(name), now);
        let newest = policy.inventory.points.last();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.add_row([
            name.to_string(),
            condition.to_owned(),
            or_dash(policy.last_success.map(second)),
            policy.inventory.points.len().to_string(),
            or_dash(newest.map(|point| point.id.to_string())),
            or_dash(newest.map(|point| Size(point.size_bytes).to_string())),
            or_dash(next_run(policy, now).map(second)),
        ]);
        if condition != "Ready" {
            messages.push_str(&format!("{name}: {message}\n"));
        }
        let remarks = remarks(name, &policy.inventory.points, now);
        if !remarks.is_empty() {
            messages.push_str(&format!("{name}: {remarks}\n"));
        }
        for source in policy.last_run.iter().filter(|_| with_sources).flat_map(|run| &run.sources) {
            let note = source.message.as_ref().map_or(String::new(), |message| format!(" ({message})"));
            messages.push_str(&format!(
                "  {:<10} {} → {}: {}, {} unreadable, {}, {} new, snapshot {}{note}\n",
                format!("{:?}", source.phase).to_lowercase(),
                source.source,
                source.repository,
                files(source.files),
                source.unreadable,
                Size(source.size_bytes),
                Size(source.added_bytes),
                source.snapshot.as_deref().and_then(|id| id.get(..12)).unwrap_or("-"),
            ));
        }
    }
    for (name, waiting) in waiting.iter().filter(|(name, waiting)| is_new(actual, name, waiting)) {
        messages.push_str(&format!("{name}: {}\n", waiting.message));
    }
    for ((name, _), report) in &actual.restores {
        messages.push_str(&format!("restore {name}: {:?}: {}\n", report.phase, report.message));
    }
    let separator = if messages.is_empty() { "" } else { "\n" };
    format!("{}\n{separator}{messages}", table.trim_fmt())
}

/// Whether a policy waits that there is not yet.
fn is_new(actual: &ActualState, name: &PolicyName, waiting: &Waiting) -> bool {
    waiting.in_force.is_none() && !actual.policies.contains_key(name)
}

/// The condition of a policy, and why.
fn condition(policy: &ActualPolicy, waiting: Option<&Waiting>, now: Timestamp) -> (&'static str, String) {
    let in_force = policy.compiled.as_ref().map(|compiled| &compiled.spec_hash);
    if let Some(waiting) = waiting.filter(|waiting| waiting.in_force.as_ref() == in_force) {
        return ("Refused", waiting.message.clone());
    }
    let Some(compiled) = &policy.compiled else {
        return ("Withdrawn", "its document is gone; its restore points stay".to_owned());
    };
    if let Some(running) = &policy.running {
        return ("Running", format!("run {running} is under way"));
    }
    if let Some(message) = checks::message(&policy.failed_checks, &compiled.name) {
        return ("Stalled", message);
    }
    match &policy.last_run {
        Some(run) if run.phase == Phase::Failed => ("Failed", run.message.clone()),
        _ if !policy.inventory.complete => {
            ("Unknown", "not every repository could be seen; nothing expires".to_owned())
        }
        _ if compiled.document.spec.suspend => ("Suspended", "its document says `suspend: true`".to_owned()),
        Some(run) => ("Ready", run.message.clone()),
        None => match next_run(policy, now) {
            Some(next) => (
                "Waiting",
                format!("it has not run yet; a daemon runs it at {}, `mainstay run` does it now", second(next)),
            ),
            None => ("Waiting", "it has not run yet; `mainstay run` does it now".to_owned()),
        },
    }
}

fn next_run(policy: &ActualPolicy, now: Timestamp) -> Option<Timestamp> {
    let spec = &policy.compiled.as_ref()?.document.spec;
    if spec.suspend {
        return None;
    }
    let zone = TimeZone::get(&spec.time_zone).ok()?;
    let schedules: Vec<Schedule> =
        spec.schedule.as_slice().iter().filter_map(|expression| Schedule::parse(expression, &zone).ok()).collect();
    next_runs(&schedules, now, 1).first().copied()
}
