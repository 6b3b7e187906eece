//! `mainstay points download`: a restore point in a new file.

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use crate::{
    cli::{
        CommandResult, Exit, Failure, StateArguments,
        engine::{self, EngineName},
        progress::Progress,
        run::{asynchronous, failure, stop_on_signals},
    },
    engine::{
        download::Downloaded,
        kubernetes::{
            restoring::{
                ask,
                download::{self, DownloadRequest},
            },
            site::Site,
        },
        local::{context::Context, restoring, runner::Size, state::State},
    },
    policy::{PolicyName, document::restore::PointChoice},
};

/// Write a restore point into a new file: files as tar.gz, a dump as it is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    policy: PolicyName,
    /// The restore point's id, or `latest`
    #[arg(default_value = "latest")]
    point: String,
    /// The source; may be left out where the restore point has only one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// One file of the source, where it holds several dumps
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// The file to write; it must not exist [default: named after the policy, the restore point and the source]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    state: StateArguments,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { policy, point, source, file, output, state } = arguments;
    if state.engine.engine == EngineName::Kubernetes {
        let request = DownloadRequest { policy, point: PointChoice::Name(point), source, file, output };
        return asynchronous(in_cluster(request, state));
    }
    let directory = state.directory()?;
    let state = State::open(&directory).map_err(|error| Failure::new("nothing was downloaded").caused_by(error))?;
    asynchronous(async move {
        let context = Context::new(Arc::new(state), Some(stop_on_signals()?));
        let mut progress = Progress::new();
        let choice = PointChoice::Name(point);
        let mut hear = |source: &str, word| progress.word(source, &word);
        let downloaded = restoring::download(&context, &policy, &choice, source, file, output, &mut hear).await;
        progress.finish();
        told(downloaded.map_err(failure)?)
    })
}

/// The file comes out of the cluster.
async fn in_cluster(request: DownloadRequest, state: StateArguments) -> CommandResult {
    let store = engine::store(&state.engine).await?;
    let installation = state.engine.installation();
    let installation = ask::installation_of(&store, &request.policy, installation).await.map_err(engine::failure)?;
    let image = installation.image.unwrap_or_default();
    let site = Site::new(store.client().clone(), store.namespace(), &image, Some(stop_on_signals()?));
    let mut progress = Progress::new();
    let downloaded = download::download(&site, request, &mut |source, word| progress.word(source, &word)).await;
    progress.finish();
    told(downloaded.map_err(|error| Failure::new(error.chain()))?)
}

fn told(downloaded: Downloaded) -> CommandResult {
    let Downloaded { file, size_bytes, hint } = downloaded;
    println!("wrote {} ({})", file.display(), Size(size_bytes));
    if let Some(hint) = hint {
        println!("{hint}");
    }
    Ok(Exit::Success)
}
