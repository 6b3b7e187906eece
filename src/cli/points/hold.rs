//! `mainstay points hold`: no rule, no edit and no cleanup takes the restore point away until it is released.

use clap::Args;
use jiff::Timestamp;

use crate::{
    cli::{CommandResult, Exit, Failure, StateArguments},
    engine::local::LocalEngine,
    policy::PolicyName,
    restore_point::RestorePointId,
};

/// Protect a restore point from expiry.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// The restore point's id
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
    let point = RestorePointId(point);
    let wrap = |error| Failure::new(format!("restore point {point} of {policy} stays as it is")).caused_by(error);
    let engine = LocalEngine::open(&state.directory()?).map_err(wrap)?;
    if !engine.set_held(policy, &point, held, Timestamp::now()).map_err(wrap)? {
        return Err(Failure::new(format!("{policy} has no restore point {point}, or it is being forgotten just now"))
            .hint(format!("`mainstay points {policy}` lists what there is")));
    }
    match held {
        true => println!("restore point {point} of {policy} is held: nothing expires it"),
        false => println!("restore point {point} of {policy} is released: the rules apply to it again"),
    }
    Ok(Exit::Success)
}
