//! `mainstay run --engine kubernetes` in the pod of a Job: the run itself.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;

use super::{Arguments, MAINTENANCE, ended, stop_on_signals};
use crate::{
    cli::{
        CommandResult, Exit, Failure,
        progress::Progress,
        verify::{self, NotPassed},
    },
    engine::{
        EngineError,
        kubernetes::{
            cleanup::{self, Extent},
            labels::{CRON_SCHEDULED_AT, SCHEDULED_AT},
            names, run_now,
            runner::{
                self,
                admission::{self, Admission},
            },
            site::{Site, SiteError},
            verifying,
        },
        local::runner::{Notice, RunEnd, RunRequest, Size},
        movers::Bounds,
    },
    policy::PolicyName,
    run::{Phase, Trigger},
};

/// How often a run that cannot reach the cluster begins anew, and how long it waits in between.
const MOST_TRIES: u32 = 40;
/// See [`MOST_TRIES`].
const BETWEEN_TRIES: Duration = Duration::from_secs(15);

/// Carries the command out.
pub(super) async fn execute(arguments: &Arguments) -> CommandResult {
    let cannot = |error: EngineError| Failure::new("the run did not begin").caused_by(error);
    let client = run_now::client().await.map_err(cannot)?;
    let installation = arguments.state.engine.installation();
    let Some(image) = &installation.image else {
        return Err(Failure::new("the image of movers is not known")
            .hint("set MAINSTAY_IMAGE in the pod; a CronJob that Mainstay made has it"));
    };
    let site = Site::new(client, &installation.namespace, image, Some(stop_on_signals()?));
    if let Some(work) = &arguments.only {
        return other_work(&site, &arguments.policy, work).await.map_err(failure);
    }
    let mut tries = 0;
    loop {
        match run(&site, arguments).await {
            Ok(exit) => return exit,
            Err(error) if error.may_pass() && tries < MOST_TRIES => {
                tries += 1;
                tracing::warn!(policy = %arguments.policy, "the run waits for the cluster: {}", error.chain());
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(error) => return Err(failure(error)),
        }
    }
}

async fn run(site: &Site, arguments: &Arguments) -> Result<CommandResult, SiteError> {
    let job = variable("MAINSTAY_JOB");
    let mut request = RunRequest {
        policy: arguments.policy.clone(),
        scheduled_at: arguments.scheduled,
        trigger: arguments.trigger.into(),
    };
    if let Some(job) = &job {
        let jobs: Api<Job> = Api::namespaced(site.client().clone(), site.store.namespace());
        let found = jobs.get_opt(job).await.map_err(|error| SiteError::cluster(format!("reading Job {job}"), error))?;
        if let Some((at, trigger)) = found.as_ref().and_then(|job| due(job, request.trigger)) {
            request.scheduled_at = request.scheduled_at.or(Some(at));
            request.trigger = trigger;
        }
    }
    let mut progress = Progress::new();
    let mut notice = |notice| match notice {
        Notice::Step(step) => progress.step(&step),
        Notice::Word(subject, word) => progress.word(&subject, &word),
    };
    let slot = match admission::admit(site, &request, &mut notice).await? {
        Admission::Admitted(slot) => slot,
        Admission::Refused(reason) => {
            println!("{reason}");
            return Ok(Ok(Exit::Success));
        }
    };
    let end = runner::run(site, &request, job, &mut notice).await;
    if let Some(slot) = slot
        && let Err(error) = slot.release().await
    {
        tracing::debug!("a part of the budget was not given back; it ends with this pod: {error}");
    }
    let end = end?;
    progress.finish();
    Ok(match end {
        RunEnd::Ended(report) => ended(&report),
        RunEnd::Past(id) => {
            println!("run {id} of {} was carried out already, long ago; nothing was started", arguments.policy);
            Ok(Exit::Success)
        }
        RunEnd::Adopted(report) => match report.phase {
            Phase::Pending | Phase::Running => {
                println!("run {} of {} is under way already; nothing was started", report.id, report.policy);
                Ok(Exit::Success)
            }
            // The pod before this one did it, or was led to its end just now.
            Phase::Succeeded | Phase::Failed => ended(&report),
        },
    })
}

/// What a Job's run is for. A second pod of a Job gives the same answer, so it finds the run of the first.
fn due(job: &Job, asked: Trigger) -> Option<(Timestamp, Trigger)> {
    let annotation = |key: &str| job.metadata.annotations.as_ref()?.get(key)?.parse::<Timestamp>().ok();
    if let Some(at) = annotation(SCHEDULED_AT) {
        return Some((at, asked));
    }
    if let Some(at) = annotation(CRON_SCHEDULED_AT) {
        return Some((at, Trigger::Schedule));
    }
    Some((job.metadata.creation_timestamp.as_ref()?.0, Trigger::Manual))
}

/// Work besides runs.
async fn other_work(site: &Site, policy: &PolicyName, work: &str) -> Result<Exit, SiteError> {
    let now = Timestamp::now();
    let bounds = Bounds::within(MAINTENANCE, site.stop.clone());
    let (kind, repository) = work.split_once(' ').unwrap_or((work, ""));
    // A cleanup and a run of one policy would each act on what the other is about to change.
    let lease = loop {
        match site.leases.take(&names::policy_lease(policy), &site.pod, Timestamp::now()).await? {
            Ok(lease) => break lease,
            Err(_) if tokio::time::Instant::now() < bounds.deadline => tokio::time::sleep(BETWEEN_TRIES).await,
            Err(holder) => return Err(SiteError::Refused(format!("{policy} is in use by {holder}"))),
        }
    };
    let result = match kind {
        "cleanup" => cleanup::clean(site, policy, Extent::Whole, now, &bounds).await.map(|cleaned| {
            for reason in &cleaned.held_up {
                tracing::warn!(%policy, "{reason}");
            }
            println!(
                "{policy}: {} marked, {} taken back, {} forgotten, {} freed",
                cleaned.marked.len(),
                cleaned.taken_back.len(),
                cleaned.forgotten.len(),
                Size(cleaned.freed_bytes)
            );
        }),
        "prune" => prune(site, policy, repository, now, &bounds).await,
        // `verify [SHARE]` and `check REPOSITORY [SHARE]`.
        "verify" | "check" => {
            let mut words = repository.split_whitespace();
            let only = if kind == "check" { words.next() } else { None };
            let results = verifying::verify(site, policy, only, words.next(), now, &bounds).await;
            results.and_then(|results| {
                let refused = |NotPassed { what, hint }| SiteError::Refused(format!("{what} ({hint})"));
                verify::told(policy, results).map_err(refused)
            })
        }
        other => Err(SiteError::Refused(format!(
            "there is no work `{other}`; it is cleanup, verify, `prune REPOSITORY` or `check REPOSITORY`"
        ))),
    };
    if let Err(error) = lease.release().await {
        tracing::debug!(%policy, "a lease was not given back; it ends with this pod: {error}");
    }
    result.map(|()| Exit::Success)
}

async fn prune(
    site: &Site,
    policy: &PolicyName,
    repository: &str,
    now: Timestamp,
    bounds: &Bounds,
) -> Result<(), SiteError> {
    for place in site.store.points(policy).await?.places {
        if place.repository == repository && place.initialised {
            cleanup::prune(site, &place, now, bounds).await?;
        }
    }
    Ok(())
}

fn failure(error: SiteError) -> Failure {
    Failure::new(error.chain())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
