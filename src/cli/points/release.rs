//! `mainstay points release`: the rules apply to a held restore point again.

use clap::Args;

use super::hold::set_held;
use crate::{
    cli::{CommandResult, StateArguments},
    policy::PolicyName,
};

/// Take the protection of a restore point away.
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
    set_held(&policy, point, &state, false)
}
