//! `mainstay apply`: plan, show, and carry out on the local engine, without a daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;

use super::{
    CommandResult, Exit, Failure,
    engine::{EngineName, cluster, failure, last_turn, store},
    frozen,
    plan::{inputs, print},
    run::asynchronous,
};
use crate::{
    apply::{Applied, apply},
    daemon::memory::Memory,
    engine::{Engine as _, local::LocalEngine},
    plan::{
        Plan, saved, text,
        used_up::{Outcome, UsedUp},
    },
};

/// The largest saved plan that is read.
const PLAN_BYTES: u64 = 256 << 20;

/// Carry out what a plan says, on the local engine.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    inputs: inputs::InputArguments,
    /// Carry out this plan, which `mainstay plan --out` wrote, and nothing that is not in it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Carry it out although everything is frozen (`Settings.freeze`)
    #[arg(long)]
    despite_freeze: bool,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { inputs, plan: saved_plan, despite_freeze } = arguments;
    if inputs.offline.is_some() || inputs.base.is_some() {
        return Err(Failure::new("`apply` compares with what is really there")
            .hint("leave out --offline and --base; `mainstay plan` takes them"));
    }
    let state_directory = inputs.state.directory()?;
    std::fs::create_dir_all(&state_directory).map_err(|error| {
        Failure::new(format!("cannot make the state directory {}", state_directory.display())).caused_by(error)
    })?;
    let freeze = if despite_freeze { inputs::Freeze::Overridden } else { inputs::Freeze::Holds };
    let planned = inputs::plan_under(&inputs, freeze)?;
    planned.report_findings();
    if let Some(file) = &saved_plan {
        refuse_stale(file, &planned.plan)?;
    }
    let inputs::Planned { plan, view, documents, .. } = &planned;
    let is_frozen = documents.desired.settings.freeze;
    if inputs.state.engine.engine == EngineName::Local {
        frozen::check_apply(&state_directory, is_frozen, despite_freeze)?;
    }
    print(&text::render(plan, view))?;
    if let (Some(place), false) = (&documents.desired.frozen_by, despite_freeze) {
        eprintln!("frozen by `freeze: true` in {place}: take it out, or apply all the same with --despite-freeze");
    }
    let now = inputs.now.unwrap_or_else(Timestamp::now);
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new("cannot start").caused_by(error))?;
    let applied = match inputs.state.engine.engine {
        EngineName::Local => {
            let engine = LocalEngine::open(&state_directory).map_err(|error| {
                Failure::new(format!("cannot use the state in {}", state_directory.display())).caused_by(error)
            })?;
            runtime.block_on(apply(plan, &engine, now))
        }
        EngineName::Kubernetes => runtime.block_on(async {
            let engine = cluster(&inputs.state.engine).await?;
            engine.ready().await.map_err(failure)?;
            let applied = apply(plan, &engine, now).await;
            // What was done becomes history at once; with nothing to tell, nothing is written.
            engine.history(0).await.map_err(failure)?;
            Ok::<_, Failure>(applied)
        })?,
    };
    let noted = note_consent(&inputs, &planned, &applied);
    // What failed comes first, whatever else went wrong.
    report(&applied)?;
    noted?;
    Ok(match (view.errored || documents.is_wrong(), plan.refusals.is_empty()) {
        (true, _) => Exit::Documents,
        (false, false) => Exit::Refused,
        (false, true) => Exit::Success,
    })
}

/// Notes which consent was carried out, where a daemon's turn notes it too: consent holds once. Nothing but that changes
/// in what a daemon has left, which may know other commits than this directory.
fn note_consent(inputs: &inputs::InputArguments, planned: &inputs::Planned, applied: &Applied) -> Result<(), Failure> {
    let inputs::Planned { plan, documents, approvals, consented_by, .. } = planned;
    let Some(head) = consented_by.as_ref().filter(|_| !approvals.is_empty()) else { return Ok(()) };
    let outcome = Outcome { desired: &documents.desired, plan, failed: &applied.failed };
    let noted = |memory: &Memory| match memory.used_up.with(approvals, outcome, head) {
        Some(used_up) => Memory { used_up, ..memory.clone() },
        None => Memory { consented: Some(head.clone()), used_up: UsedUp::default(), ..memory.clone() },
    };
    let cannot = || {
        Failure::new("it was carried out, but which consent is used up could not be noted")
            .hint("until it is, the same approvals count once more; mend it and apply again")
    };
    match inputs.state.engine.engine {
        EngineName::Local => {
            let directory = inputs.state.directory()?;
            // Read anew: a daemon may have ended a turn meanwhile.
            let memory = Memory::load(&directory).map_err(|error| cannot().caused_by(error))?;
            let noted = noted(&memory);
            if noted == memory { Ok(()) } else { noted.save(&directory).map_err(|error| cannot().caused_by(error)) }
        }
        EngineName::Kubernetes => asynchronous(async {
            let store = store(&inputs.state.engine).await?;
            let memory = last_turn(&store).await?;
            let noted = noted(&memory);
            if noted == memory {
                return Ok(());
            }
            let text = serde_json::to_string(&noted).map_err(|error| cannot().caused_by(error))?;
            store.set_memory(&text).await.map_err(|error| cannot().caused_by(error))
        }),
    }
}

/// A saved plan is carried out as it was reviewed, or not at all.
fn refuse_stale(file: &Path, fresh: &Plan) -> Result<(), Failure> {
    let cannot = || format!("cannot read the plan {}", file.display());
    let hint = "`mainstay plan --out FILE` writes one";
    let content = inputs::read_bounded(file, PLAN_BYTES);
    let content = content.map_err(|error| Failure::new(cannot()).caused_by(error).hint(hint))?;
    let reviewed = saved::load(&content).map_err(|error| Failure::new(cannot()).caused_by(error).hint(hint))?;
    let moved = saved::compare(&reviewed, fresh);
    if moved.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = moved.iter().map(|moved| format!("\n  {}: {}", moved.policy, moved.what)).collect();
    Err(Failure::new(format!(
        "the plan {} is stale; nothing was changed. What moved:{}",
        file.display(),
        list.concat()
    ))
    .hint("plan again, review, and apply that plan"))
}

fn report(applied: &Applied) -> Result<(), Failure> {
    let Applied { done, failed } = applied;
    if failed.is_empty() {
        return print(&format!("Applied: {}.\n", crate::plan::wording::count(done.len(), "change", "changes")));
    }
    let list: Vec<String> = failed.iter().map(|(policy, reason)| format!("\n  {policy}: {reason}")).collect();
    Err(Failure::new(format!("{} went through, {} did not:{}", done.len(), failed.len(), list.concat()))
        .hint("mend what is named and apply again; what went through stays"))
}
