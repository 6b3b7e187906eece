//! `mainstay points show`: one restore point with all its parts.

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};

use crate::{
    cli::display::second,
    cli::{
        CommandResult, Exit, Failure, StateArguments,
        engine::{self, EngineName},
        run::{asynchronous, failure},
    },
    engine::local::{restoring, runner, state::State},
    policy::{PolicyName, document::restore::PointChoice},
};

/// Show one restore point with all its parts.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// The restore point's id, or `latest`
    #[arg(default_value = "latest")]
    point: String,
    #[command(flatten)]
    state: StateArguments,
    /// Form of what is shown
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Form of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, point, state, output } = arguments;
    let wrap = |error| Failure::new(format!("the restore points of {policy} cannot be read")).caused_by(error);
    let points = match state.engine.engine {
        EngineName::Local => {
            let state = State::open_read_only(&state.directory()?).map_err(wrap)?;
            if state.policy(&policy).map_err(wrap)?.is_none() {
                return Err(failure(runner::no_such_policy(&policy)));
            }
            state.points(&policy).map_err(wrap)?
        }
        EngineName::Kubernetes => asynchronous(async {
            let store = engine::store(&state.engine).await?;
            Ok(store.points(&policy).await.map_err(|error| engine::failure(error.into()))?.points)
        })?,
    };
    let point = restoring::choose(&policy, &points, &PointChoice::Name(point)).map_err(failure)?.clone().into_point();
    if output == Output::Json {
        let mut json = serde_json::json!({"formatVersion": 1, "policy": policy});
        let fields = serde_json::to_value(&point);
        if let (Some(object), Ok(serde_json::Value::Object(fields))) = (json.as_object_mut(), fields) {
            object.extend(fields);
        }
        println!("{json:#}");
        return Ok(Exit::Success);
    }
    println!("restore point {} of {policy}", point.id);
    println!("  captured  {}", second(point.time));
    println!("  size      {}", runner::Size(point.size_bytes));
    match point.verified_at {
        Some(at) => println!("  verified  {}", second(at)),
        None => println!("  verified  never; `mainstay verify {policy}` does it"),
    }
    if point.held {
        println!("  held      nothing expires it until `mainstay points release {policy} {}`", point.id);
    }
    if let Some(since) = point.expired_since {
        println!("  expired   since {}; a cleanup forgets it after the grace time", second(since));
    }
    let mut table = Table::new();
    let header = ["SOURCE", "REPOSITORY", "FILES", "UNREADABLE", "SIZE", "NEW", "SNAPSHOT"];
    table.load_style(presets::NOTHING).set_header(header);
    for part in &point.parts {
        table.add_row([
            part.source.clone(),
            part.repository.clone(),
            part.files.to_string(),
            part.unreadable.to_string(),
            runner::Size(part.size_bytes).to_string(),
            runner::Size(part.added_bytes).to_string(),
            part.snapshot.get(..12).unwrap_or(&part.snapshot).to_owned(),
        ]);
    }
    println!("{}", table.trim_fmt());
    Ok(Exit::Success)
}
