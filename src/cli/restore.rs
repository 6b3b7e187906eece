//! `mainstay restore`: from a restore point to files and databases.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

mod in_cluster;

use super::{
    CommandResult, Exit, Failure, StateArguments,
    display::{files, second},
    engine::EngineName,
    progress::Progress,
    run::{asynchronous, failure, stop_on_signals},
};
use crate::{
    actual::RestoreReport,
    engine::local::{
        context::Context,
        restoring::{self, RestoreRequest, Target},
        runner::Size,
        state::State,
    },
    policy::{
        PolicyName,
        document::restore::{Existing, PointChoice},
    },
    run::Phase,
};

/// Restore from a restore point.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The policy, as [NAMESPACE/]NAME
    #[arg(required_unless_present = "document")]
    policy: Option<PolicyName>,
    /// The restore point's id, or `latest` [default: latest]
    #[arg(conflicts_with = "before")]
    point: Option<String>,
    /// The newest restore point before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    /// Only this source; may be repeated
    #[arg(long = "source", value_name = "NAME")]
    sources: Vec<String>,
    /// Only this table of a PostgreSQL dump; may be repeated
    #[arg(long = "table", value_name = "NAME", conflicts_with_all = ["into", "archive"])]
    tables: Vec<String>,
    /// From this repository [default: the first that has the restore point whole]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Below this directory; dumps arrive as files
    #[arg(long, value_name = "DIR", conflicts_with_all = ["in_place", "database"])]
    into: Option<PathBuf>,
    /// Where everything came from; asks for --yes
    #[arg(long, conflicts_with_all = ["database", "into_namespace"])]
    in_place: bool,
    /// Into this namespace (Kubernetes)
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "into")]
    into_namespace: Option<String>,
    /// Into another claim (Kubernetes); may be repeated. With --archive, the claim that it is unpacked into
    #[arg(long = "claim", value_name = "OLD=NEW", conflicts_with = "into", value_parser = in_cluster::pair)]
    claims: Vec<(String, String)>,
    /// Into this database on the same server
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// What to do where something exists already
    #[arg(long, value_enum, default_value_t = ExistingName::Fail)]
    existing: ExistingName,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
    /// Consent to writing over what is there
    #[arg(long)]
    yes: bool,
    /// Unpack this archive instead of a restore point: what `points download` wrote, or any tar.gz
    #[arg(long, value_name = "FILE.tar.gz", conflicts_with_all = ["point", "before", "sources", "database", "dry_run"])]
    archive: Option<PathBuf>,
    #[command(flatten)]
    state: StateArguments,
    /// Carry out an announced Restore document
    #[arg(long, value_name = "NAMESPACE/NAME", hide = true, requires = "content")]
    document: Option<PolicyName>,
    /// The content hash of that document
    #[arg(long, value_name = "HASH", hide = true)]
    content: Option<String>,
}

/// What to do where something exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExistingName {
    /// Refuse before anything is written.
    Fail,
    /// Overwrite what differs; leave the rest.
    Update,
}

impl ExistingName {
    fn value(self) -> Existing {
        match self {
            Self::Fail => Existing::Fail,
            Self::Update => Existing::Update,
        }
    }
}

fn choice(point: Option<String>, before: Option<Timestamp>) -> PointChoice {
    match (point, before) {
        (_, Some(before)) => PointChoice::Before { before },
        (Some(point), None) => PointChoice::Name(point),
        (None, None) => PointChoice::default(),
    }
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    if arguments.state.engine.engine == EngineName::Kubernetes {
        return asynchronous(in_cluster::execute(arguments));
    }
    if arguments.into_namespace.is_some() || !arguments.claims.is_empty() {
        return Err(Failure::new("claims and namespaces are where a cluster keeps its data")
            .hint("add --engine kubernetes, or name a directory with --into"));
    }
    let state = State::open(&arguments.state.directory()?)
        .map_err(|error| Failure::new("nothing was restored").caused_by(error))?;
    asynchronous(async move {
        let context = Context::new(Arc::new(state), Some(stop_on_signals()?));
        if let (Some(document), Some(content)) = (&arguments.document, &arguments.content) {
            return ended(&restoring::carry_out_document(&context, document, content).await.map_err(failure)?, false);
        }
        restore(&context, arguments).await
    })
}

async fn restore(context: &Context, arguments: Arguments) -> CommandResult {
    let Arguments {
        policy,
        point,
        before,
        sources,
        tables,
        repository,
        into,
        in_place,
        database,
        existing,
        dry_run,
        yes,
        ..
    } = arguments;
    let Some(policy) = policy else { return Err(Failure::new("name the policy whose restore point is used")) };
    let target = match (into, in_place, database) {
        (Some(directory), _, _) => Target::Directory(
            std::path::absolute(&directory)
                .map_err(|error| Failure::new(format!("cannot use --into {}", directory.display())).caused_by(error))?,
        ),
        (None, true, _) => Target::InPlace,
        (None, false, Some(database)) => Target::Database(database),
        (None, false, None) => {
            return Err(Failure::new("where to restore to is not said")
                .hint("--into DIR writes below a directory, --in-place where everything came from, --database NAME into another database"));
        }
    };
    let existing = existing.value();
    let point = choice(point, before);
    if let Some(archive) = &arguments.archive {
        return unpack(archive, &target, existing);
    }
    let request =
        RestoreRequest { policy: policy.clone(), point, repository, sources, tables, target, existing, dry_run };
    let prepared = restoring::prepare(context, &request).await.map_err(failure)?;
    let what = format!(
        "restore point {} of {policy}, captured {}, {}",
        prepared.point,
        second(prepared.time),
        Size(prepared.size_bytes)
    );
    if request.target == Target::InPlace && !yes && !dry_run {
        return Err(Failure::new(format!("this writes over what {policy} protects, with {what}"))
            .hint("look at it first with --dry-run, then say --yes")
            .exit(Exit::Refused));
    }
    eprintln!("{what}");
    let mut progress = Progress::new();
    let report = restoring::carry_out(context, prepared, &mut |source, word| progress.word(source, &word)).await;
    progress.finish();
    ended(&report.map_err(failure)?, dry_run)
}

/// How it ended. `dry_run`: nothing was written, and each source says what would be.
fn ended(report: &RestoreReport, dry_run: bool) -> CommandResult {
    for source in &report.sources {
        // What made the restore fail is said once, at the end.
        let message = source.message.as_ref().filter(|message| !report.message.contains(message.as_str()));
        let note = message.map_or(String::new(), |message| format!(" ({message})"));
        let phase = match (source.phase, dry_run) {
            (Phase::Succeeded, true) => "would write".to_owned(),
            (phase, _) => format!("{phase:?}").to_lowercase(),
        };
        println!(
            "  {phase:<11} {} ← {}: {}, {}{note}",
            source.source,
            source.repository,
            files(source.files),
            Size(source.size_bytes)
        );
    }
    match report.phase {
        Phase::Succeeded => {
            println!("{}", report.message);
            Ok(Exit::Success)
        }
        Phase::Pending | Phase::Running | Phase::Failed => Err(Failure::new(report.message.clone())),
    }
}

/// Unpacks an archive below a directory.
fn unpack(archive: &std::path::Path, target: &Target, existing: Existing) -> CommandResult {
    let Target::Directory(directory) = target else {
        return Err(Failure::new(format!("{} is unpacked below a directory only", archive.display()))
            .hint("name it with --into DIR, and move the files where they belong"));
    };
    crate::mover::archive::unpack(archive, directory, existing == Existing::Update).map_err(|error| {
        Failure::new(format!("{} was not unpacked into {}", archive.display(), directory.display())).caused_by(error)
    })?;
    println!("unpacked {} into {}", archive.display(), directory.display());
    Ok(Exit::Success)
}
