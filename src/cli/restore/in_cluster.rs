//! `mainstay restore --engine kubernetes`: asks for a restore and follows it; in the pod of its Job, carries it out.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Arguments, choice, ended};
use crate::{
    cli::{CommandResult, Exit, Failure, display::second, engine, progress::Progress, run::stop_on_signals},
    engine::{
        EngineError,
        kubernetes::{
            lease::PodIdentity,
            movers,
            restoring::{self, Prepared, ask, download},
            run_now,
            site::{Site, SiteError},
            store::{RestoreRecord, Store},
        },
        local::runner::{Notice, Size},
        movers::Bounds,
    },
    policy::{
        PolicyName,
        document::restore::{Into, PointChoice, RestoreSpec},
    },
};

/// How often a restore that cannot reach the cluster begins anew, and how long it waits in between.
const MOST_TRIES: u32 = 40;
/// How long a pod that takes an archive may take to run.
const RECEIVED_WITHIN: Duration = Duration::from_secs(600);
/// See [`MOST_TRIES`].
const BETWEEN_TRIES: Duration = Duration::from_secs(15);

/// `OLD=NEW`, or one name for both.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if crate::policy::is_name(old) && crate::policy::is_name(new) => {
            Ok((old.to_owned(), new.to_owned()))
        }
        None if crate::policy::is_name(text) => Ok((text.to_owned(), text.to_owned())),
        Some(_) | None => Err(format!("`{text}` is not OLD=NEW, the names of two claims")),
    }
}

/// Carries the command out.
pub(super) async fn execute(arguments: Arguments) -> CommandResult {
    let client = run_now::client().await.map_err(engine::failure)?;
    let installation = arguments.state.engine.installation();
    if let (Some(document), Some(content)) = (&arguments.document, &arguments.content) {
        if !PodIdentity::own().is_pod() {
            return Err(Failure::new("a Restore document is carried out by the pod of its Job")
                .hint("the daemon starts it; leave --document out to restore by hand"));
        }
        let image = installation.image.clone().unwrap_or_default();
        let site = Site::new(client, &installation.namespace, &image, Some(stop_on_signals()?));
        return in_pod(&site, document, content).await;
    }
    by_hand(&Store::new(client, installation.namespace.clone()), arguments).await
}

/// In the pod of its Job.
async fn in_pod(site: &Site, document: &PolicyName, content: &str) -> CommandResult {
    let mut tries = 0;
    loop {
        let mut progress = Progress::new();
        let result = restoring::carry_out(site, document, content, &mut |notice| match notice {
            Notice::Step(step) => progress.step(&step),
            Notice::Word(subject, word) => progress.word(&subject, &word),
        })
        .await;
        progress.finish();
        match result {
            Ok(report) => return ended(&report, false),
            Err(error) if error.may_pass() && tries < MOST_TRIES => {
                tries += 1;
                tracing::warn!(restore = %document, "the restore waits for the cluster: {}", error.chain());
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(error) => return Err(Failure::new(error.chain())),
        }
    }
}

/// For a person: the same as a Restore document would do.
async fn by_hand(store: &Store, arguments: Arguments) -> CommandResult {
    let installation = arguments.state.engine.installation();
    let Arguments {
        policy,
        point,
        before,
        sources,
        tables,
        repository,
        into,
        in_place,
        into_namespace,
        claims,
        database,
        existing,
        archive,
        ..
    } = arguments;
    let Some(policy) = policy else { return Err(Failure::new("name the policy whose restore point is used")) };
    if into.is_some() {
        return Err(Failure::new("a cluster has no directory to restore into")
            .hint("name claims with --claim OLD=NEW, or download the files with `mainstay points download`"));
    }
    let upload = match (&archive, claims.as_slice()) {
        (None, _) => None,
        (Some(_), [(_, claim)]) => Some(claim.clone()),
        (Some(_), _) => {
            return Err(Failure::new("the claim that the archive is unpacked into is not said")
                .hint("name it with --claim NAME; with --in-place its volume is replaced by a new one"));
        }
    };
    if in_place && upload.is_none() && !claims.is_empty() {
        return Err(Failure::new("--in-place puts everything where it came from, and --claim elsewhere")
            .hint("say one of them"));
    }
    let elsewhere = into_namespace.is_some() || !claims.is_empty() || database.is_some();
    let into = match (in_place, elsewhere) {
        (true, _) => None,
        (false, true) => Some(Into {
            path: None,
            database: database.clone(),
            namespace: into_namespace.clone(),
            claims: claims.iter().cloned().collect(),
        }),
        (false, false) => {
            return Err(Failure::new("where to restore to is not said").hint(
                "--claim OLD=NEW writes into another claim, --into-namespace NAMESPACE elsewhere, --database NAME into \
                 another database, --in-place where everything came from",
            ));
        }
    };
    let spec = RestoreSpec {
        policy: policy.to_string(),
        repository: repository.clone(),
        restore_point: choice(point.clone(), before),
        sources: sources.clone(),
        tables,
        into,
        existing: existing.value(),
    };
    // It only looks: neither an image nor a signal is needed for that.
    let site = Site::new(store.client().clone(), store.namespace(), "", None);
    let prepared = restoring::prepare(&site, &policy, &spec, upload.as_deref()).await.map_err(failure)?;
    show(&policy, &prepared);
    if arguments.dry_run {
        println!("nothing was written");
        return Ok(Exit::Success);
    }
    if in_place && !arguments.yes {
        return Err(Failure::new(format!("this replaces what {policy} protects"))
            .hint("look at it first with --dry-run, then say --yes")
            .exit(crate::cli::Exit::Refused));
    }
    let installation = ask::installation_of(store, &policy, installation).await.map_err(engine::failure)?;
    let now = Timestamp::now();
    let content = serde_json::to_vec(&(&policy, &spec, now))
        .map_err(|error| Failure::new("the restore cannot be written down").caused_by(error))?;
    let content = hex::encode(Sha256::digest(content));
    // The point that was shown is the one that is meant, even if a run records another one meanwhile.
    let restore_point = match &prepared.point {
        Some(point) => PointChoice::Name(point.point.id.0.clone()),
        None => spec.restore_point.clone(),
    };
    let spec = RestoreSpec { restore_point, ..spec };
    let record = RestoreRecord { upload, ..ask::record(&policy, &content, &policy, &spec, now) };
    store.announce_restore(&record).await.map_err(|error| engine::failure(error.into()))?;
    let (job, manifest) = ask::job(&record, &installation);
    ask::start(store, &job, &manifest).await.map_err(engine::failure)?;
    eprintln!("Job {job} in namespace {} carries it out", store.namespace());
    if let Some(archive) = &archive {
        send(&site, &record, &job, archive).await?;
    }
    run_now::follow(store, &job, |line| eprintln!("{line}")).await.map_err(engine::failure)?;
    ended(&ask::ending(store, &policy, &content).await.map_err(engine::failure)?, false)
}

/// Sends the archive as soon as somebody waits for it.
async fn send(site: &Site, record: &RestoreRecord, job: &str, archive: &Path) -> Result<(), Failure> {
    let (namespace, receiver) = ask::receiver(record);
    let bounds = Bounds::within(RECEIVED_WITHIN, None);
    let pod = tokio::select! {
        pod = movers::running_pod(site.client(), &namespace, &receiver, &bounds) => {
            pod.map_err(|error| Failure::new("nobody takes the archive").caused_by(error))?
        }
        // It was refused before anything was made: the log says why.
        ended = run_now::succeeded_within(&site.store, job, RECEIVED_WITHIN) => {
            ended.map_err(engine::failure)?;
            return Ok(());
        }
    };
    let bytes = download::upload(site, &namespace, &pod, archive).await.map_err(|error| Failure::new(error.chain()))?;
    eprintln!("{} arrived ({})", archive.display(), Size(bytes));
    Ok(())
}

fn show(policy: &PolicyName, prepared: &Prepared) {
    let size: u64 = prepared.items.iter().map(|item| item.part.size_bytes).sum();
    if let Some(point) = &prepared.point {
        println!("restore point {} of {policy}, captured {}, {}", point.point.id, second(point.point.time), Size(size));
    }
    for item in &prepared.items {
        println!("  {} ← {}: {}", item.part.source, item.part.repository, item.told());
    }
    for workload in &prepared.workloads {
        println!("  {workload} is scaled to 0 meanwhile");
    }
}

fn failure(error: SiteError) -> Failure {
    match error.may_pass() {
        true => engine::failure(EngineError::Transient {
            operation: "looking at the cluster".to_owned(),
            source: error.into(),
        }),
        false => Failure::new(error.chain()),
    }
}
