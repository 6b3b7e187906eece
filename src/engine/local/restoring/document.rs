//! Restores that documents ask for, each in a process of its own: once for each document and content.
//!
//! The intent is in the state before the process exists, and the process claims it before it writes anything. Where a run
//! of the policy is under way, it waits for its end.

use std::process::Stdio;

use jiff::Timestamp;

use super::{
    RestoreRequest, carry_out, prepare,
    waiting::{self, Waited},
};
use crate::{
    actual::RestoreReport,
    engine::local::{
        context::{Context, WorkError},
        process::ProcessIdentity,
        state::restores::StoredRestore,
    },
    policy::{PolicyName, Restore},
    run::{Phase, to_millisecond},
};

/// Announces a Restore document and starts a process that carries it out; once for each document and content. `tell`
/// is called when that process has ended.
///
/// # Errors
/// The state cannot be written.
pub fn start_document(
    context: &Context,
    restore: &Restore,
    now: Timestamp,
    tell: impl FnOnce(PolicyName) + Send + 'static,
) -> Result<(), WorkError> {
    let content = restore.content_hash();
    let report = RestoreReport {
        restore_point: None,
        phase: Phase::Pending,
        started_at: to_millisecond(now),
        finished_at: None,
        message: "about to start".to_owned(),
        sources: Vec::new(),
    };
    let mut document = restore.document.clone();
    document.spec.policy = restore.policy.to_string();
    if !context.state.announce_restore(&restore.name, &content, &document, &report)? {
        return Ok(());
    }
    start_process(context, &restore.name, &content, report, now, tell)
}

/// Takes up the restores whose process was gone before it began: a daemon that died between its intent and the start.
/// With nothing to do it writes nothing.
///
/// # Errors
/// The state cannot be used.
pub fn take_up<T: FnOnce(PolicyName) + Send + 'static>(
    context: &Context,
    now: Timestamp,
    tell: impl Fn() -> T,
) -> Result<(), WorkError> {
    let own = context.state.own_process()?;
    for restore in context.state.restores_under_way()? {
        let StoredRestore { name, content, document: _, report, process } = restore;
        let waits = report.phase == Phase::Pending && !context.state.is_alive(&process);
        // Of two daemons one gets it.
        if waits && context.state.pass_restore(&name, &content, &process, &own)? {
            tracing::warn!(restore = %name, "the process of this restore was gone before it began; it is started again");
            start_process(context, &name, &content, report, now, tell())?;
        }
    }
    Ok(())
}

/// Starts the process of a restore that is announced by this one.
fn start_process(
    context: &Context,
    name: &PolicyName,
    content: &str,
    report: RestoreReport,
    now: Timestamp,
    tell: impl FnOnce(PolicyName) + Send + 'static,
) -> Result<(), WorkError> {
    use std::os::unix::process::CommandExt as _;
    let own = context.state.own_process()?;
    let child = std::process::Command::new(&context.program)
        .args(["restore", "--document", &name.to_string(), "--content", content, "--state"])
        .arg(context.state.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let failed = RestoreReport {
                phase: Phase::Failed,
                finished_at: Some(now),
                message: format!("the restore's process could not be started: {error}"),
                ..report
            };
            return Ok(context.state.update_restore(name, content, &failed, &own, now)?);
        }
    };
    // It names itself when it begins; until then it is known by this, so that one that ends before is noticed.
    context.state.pass_restore(name, content, &own, &ProcessIdentity::of_child(child.id()))?;
    let name = name.clone();
    std::thread::spawn(move || {
        let _ = child.wait();
        tell(name);
    });
    Ok(())
}

/// Carries an announced Restore document out, in its own process.
///
/// # Errors
/// It was not announced, or the state cannot be used.
pub async fn carry_out_document(
    context: &Context,
    name: &PolicyName,
    content: &str,
) -> Result<RestoreReport, WorkError> {
    let stored = context.state.restore(name, content)?.ok_or_else(|| {
        WorkError::Refused(format!("there is no restore {name} with this content in the state; apply its document"))
    })?;
    if stored.report.phase != Phase::Pending {
        return Ok(stored.report);
    }
    let mut turn = waiting::Turn::new(context, &stored);
    let own = context.state.own_process()?;
    let running = RestoreReport { phase: Phase::Running, message: "under way".to_owned(), ..stored.report.clone() };
    let report = loop {
        if !context.state.begin_restore(name, content, &running)? {
            // Another process was quicker; what it does is in the state.
            return Ok(context.state.restore(name, content)?.map_or(running, |restore| restore.report));
        }
        let error = match of_document(context, &stored).await {
            Ok(report) => break report,
            Err(error) => error,
        };
        match turn.wait(error, &running).await {
            Ok(Waited::Free) => {}
            Ok(Waited::Stopped(waiting)) => return Ok(waiting),
            Err(error) => {
                break RestoreReport {
                    phase: Phase::Failed,
                    finished_at: Some(to_millisecond(Timestamp::now())),
                    message: error.chain(),
                    ..running
                };
            }
        }
    };
    context.state.update_restore(name, content, &report, &own, Timestamp::now())?;
    Ok(report)
}

async fn of_document(context: &Context, stored: &StoredRestore) -> Result<RestoreReport, WorkError> {
    let spec = &stored.document.spec;
    let policy = spec.policy.parse().map_err(|error: crate::policy::PolicyNameError| {
        WorkError::Refused(format!("the Restore document names no policy: {error}"))
    })?;
    let request = RestoreRequest::from_document(policy, spec)?;
    let prepared = prepare(context, &request).await?;
    carry_out(context, prepared, &mut |_, _| ()).await
}
