//! `mainstay points hold`: no rule, no edit and no cleanup takes the restore point away until it is released.

use clap::Args;
use jiff::Timestamp;

use crate::{
    cli::{
        CommandResult, Exit, Failure, StateArguments,
        engine::{EngineName, store},
        run::{asynchronous, failure},
    },
    engine::{
        EngineError,
        kubernetes::store::PointsRecord,
        local::{LocalEngine, restoring, state::points::StoredPoint},
    },
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
    let wrap =
        |error: EngineError| Failure::new(format!("the restore points of {policy} stay as they are")).caused_by(error);
    let now = Timestamp::now();
    let choice = PointChoice::Name(point);
    let chosen = |points: &[StoredPoint]| {
        restoring::choose(policy, points, &choice).map(|chosen| chosen.point.id.clone()).map_err(failure)
    };
    let (point, is_done) = match state.engine.engine {
        EngineName::Local => {
            let engine = LocalEngine::open(&state.directory()?).map_err(wrap)?;
            let points = engine.context().state.points(policy).map_err(|error| wrap(error.into()))?;
            let point = chosen(&points)?;
            let is_done = engine.set_held(policy, &point, held, now).map_err(wrap)?;
            (point, is_done)
        }
        EngineName::Kubernetes => asynchronous(async {
            let store = store(&state.engine).await?;
            let point = chosen(&store.points(policy).await.map_err(|error| wrap(error.into()))?.points)?;
            let change = |record: &mut PointsRecord| record.set_held(&point, held, now);
            let is_done = store.change_points(policy, change).await.map_err(|error| wrap(error.into()))?;
            Ok((point, is_done))
        })?,
    };
    if !is_done {
        return Err(Failure::new(format!("restore point {point} of {policy} is being forgotten just now"))
            .hint(format!("`mainstay points {policy}` lists what there is")));
    }
    match held {
        true => println!("restore point {point} of {policy} is held: nothing expires it"),
        false => println!("restore point {point} of {policy} is released: the rules apply to it again"),
    }
    Ok(Exit::Success)
}
