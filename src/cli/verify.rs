//! `mainstay verify`: the integrity of a policy's repositories.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::{
    CommandResult, Exit, Failure, StateArguments,
    engine::{self, EngineName},
    progress::Progress,
    run::{asynchronous, failure, stop_on_signals},
};
use crate::{
    engine::{
        kubernetes::run_now,
        local::{
            context::Context,
            movers::Bounds,
            runner::Size,
            state::State,
            verifying::{self, Verified},
        },
    },
    policy::PolicyName,
};

/// How long it may take.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// Check the integrity of a policy's repositories.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// Only this repository
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Share of the stored data to read back, such as `5%`; 0% looks at the structure only
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    read_data: f64,
    #[command(flatten)]
    state: StateArguments,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, repository, read_data, state } = arguments;
    if state.engine.engine == EngineName::Kubernetes {
        return asynchronous(in_cluster(policy, repository, read_data, state));
    }
    let directory = state.directory()?;
    let state = State::open(&directory).map_err(|error| Failure::new("nothing was verified").caused_by(error))?;
    asynchronous(async move {
        let context = Context::new(Arc::new(state), Some(stop_on_signals()?));
        let bounds = Bounds::within(LIMIT, context.stop.clone());
        let mut progress = Progress::new();
        let hear = |repository: &str, word| progress.word(repository, &word);
        let (only, now) = (repository.as_deref(), Timestamp::now());
        let results = verifying::verify(&context, &policy, only, read_data, now, &bounds, hear).await;
        progress.finish();
        told(&policy, results.map_err(failure)?).map_err(|NotPassed { what, hint }| Failure::new(what).hint(hint))?;
        Ok(Exit::Success)
    })
}

/// What did not pass, in words.
pub(super) struct NotPassed {
    /// What.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Prints what passed.
///
/// # Errors
/// Something did not.
pub(super) fn told(policy: &PolicyName, results: Vec<Verified>) -> Result<(), NotPassed> {
    let (mut failed, mut hint) = (Vec::new(), None);
    for result in results {
        match result.problem {
            None => println!(
                "{}: good, {} read back; {} restore points are verified",
                result.repository,
                Size(result.read_bytes),
                result.points.len()
            ),
            Some(problem) => {
                failed.push(format!("repository {}: {}", result.repository, problem.what));
                // What helps the first is done first.
                hint.get_or_insert(problem.hint);
            }
        }
    }
    match hint {
        None => Ok(()),
        Some(hint) => Err(NotPassed { what: format!("{policy} did not pass: {}", failed.join("; ")), hint }),
    }
}

/// Asks for it in the cluster, and follows it.
async fn in_cluster(
    policy: PolicyName,
    repository: Option<String>,
    read_data: f64,
    state: StateArguments,
) -> CommandResult {
    let store = engine::store(&state.engine).await?;
    let work = match repository {
        Some(repository) => format!("check {repository} {read_data}%"),
        None => format!("verify {read_data}%"),
    };
    let job = run_now::ask_work(&store, &policy, &work).await.map_err(engine::failure)?;
    run_now::follow(&store, &job, |line| println!("{line}")).await.map_err(engine::failure)?;
    match run_now::succeeded(&store, &job).await.map_err(engine::failure)? {
        true => Ok(Exit::Success),
        false => Err(Failure::new(format!("{policy} did not pass")).hint("the lines before this one say why")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    text.trim_end_matches('%')
        .parse::<f64>()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| format!("`{text}` is not a share; write a number from 0% to 100%"))
}
