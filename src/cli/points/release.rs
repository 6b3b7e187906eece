//! `mainstay points release`: the rules apply to a held or found restore point again.

use clap::Args;

use super::hold::set_held;
use crate::{
    cli::{CommandResult, StateArguments},
    policy::PolicyName,
};

/// Take the protection of a restore point away: that of `hold`, or that of one which was found
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// The restore point's id, `latest`, or `found`: all that were found and that others made
    point: String,
    #[command(flatten)]
    state: StateArguments,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, point, state } = arguments;
    set_held(&policy, point, &state, false)
}
