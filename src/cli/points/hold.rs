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
    restore_point::RestorePointId,
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
    let all_found = !held && matches!(&choice, PointChoice::Name(name) if name == "found");
    let chosen = |points: &[StoredPoint]| -> Result<Vec<RestorePointId>, Failure> {
        if all_found {
            return Ok(points.iter().filter(|one| one.point.found).map(|one| one.point.id.clone()).collect());
        }
        restoring::choose(policy, points, &choice).map(|chosen| vec![chosen.point.id.clone()]).map_err(failure)
    };
    let (points, not_done) = match state.engine.engine {
        EngineName::Local => {
            let engine = LocalEngine::open(&state.directory()?).map_err(wrap)?;
            let points = engine.context().state.points(policy).map_err(|error| wrap(error.into()))?;
            let points = chosen(&points)?;
            let mut not_done = Vec::new();
            for point in &points {
                if !engine.set_held(policy, point, held, now).map_err(wrap)? {
                    not_done.push(point.clone());
                }
            }
            (points, not_done)
        }
        EngineName::Kubernetes => asynchronous(async {
            let store = store(&state.engine).await?;
            let points = chosen(&store.points(policy).await.map_err(|error| wrap(error.into()))?.points)?;
            let change = |record: &mut PointsRecord| {
                let not_done = points.iter().filter(|point| !record.set_held(point, held, now)).cloned();
                not_done.collect::<Vec<_>>()
            };
            let not_done = store.change_points(policy, change).await.map_err(|error| wrap(error.into()))?;
            Ok((points, not_done))
        })?,
    };
    if let Some(point) = not_done.first() {
        return Err(Failure::new(format!("restore point {point} of {policy} is being forgotten just now"))
            .hint(format!("`mainstay points {policy}` lists what there is")));
    }
    for point in &points {
        match held {
            true => println!("restore point {point} of {policy} is held: nothing expires it"),
            false => println!("restore point {point} of {policy} is released: the rules apply to it again"),
        }
    }
    if points.is_empty() {
        println!("no restore point of {policy} was found that others made");
    }
    Ok(Exit::Success)
}
