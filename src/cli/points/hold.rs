//! `mainstay points hold`: no rule, no edit and no cleanup takes the restore point away until it is released.

use clap::Args;
use jiff::Timestamp;

use crate::{
    cli::{CommandResult, Exit, Failure, StateArguments, run::failure},
    engine::local::{LocalEngine, restoring},
    policy::{PolicyName, document::restore::PointChoice},
};

/// Protect a restore point from expiry.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// The restore point's id, or `latest`
    point: String,
    #[command(flatten)]
    state: StateArguments,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, point, state } = arguments;
    set_held(&policy, point, &state, true)
}

/// Holds or releases.
pub(super) fn set_held(policy: &PolicyName, point: String, state: &StateArguments, held: bool) -> CommandResult {
    let wrap = |error| Failure::new(format!("the restore points of {policy} stay as they are")).caused_by(error);
    let engine = LocalEngine::open(&state.directory()?).map_err(wrap)?;
    let points = engine.context().state.points(policy).map_err(|error| wrap(error.into()))?;
    let point = restoring::choose(policy, &points, &PointChoice::Name(point)).map_err(failure)?.point.id.clone();
    if !engine.set_held(policy, &point, held, Timestamp::now()).map_err(wrap)? {
        return Err(Failure::new(format!("restore point {point} of {policy} is being forgotten just now"))
            .hint(format!("`mainstay points {policy}` lists what there is")));
    }
    match held {
        true => println!("restore point {point} of {policy} is held: nothing expires it"),
        false => println!("restore point {point} of {policy} is released: the rules apply to it again"),
    }
    Ok(Exit::Success)
}
