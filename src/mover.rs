//! The mover: what a Job's process executes. It moves bytes between sources and a restic-format repository.
//!
//! It runs as a process of its own (`mainstay mover`), because rustic_core cannot be cancelled: a time limit ends the
//! process. The job arrives as JSON on standard input, so that no secret is ever in an argument vector; events leave as
//! JSON lines on standard output.
//!
//! Reading order: [`job`] is the contract; `store` keeps files, `repository` gives them meaning (and alone imports
//! rustic_core); `stream` and `walk` read sources; `capture`, `restore` and [`archive`] are the work; [`dump`] says how
//! databases are dumped. It must not decide anything: what to keep, and when, is the run's business.

use std::{panic::AssertUnwindSafe, sync::mpsc};

pub mod archive;
pub mod authorities;
mod capture;
mod draft;
pub mod dump;
mod failure;
pub mod job;
mod look;
pub mod parcel;
mod progress;
mod repository;
mod restore;
mod store;
mod stream;
mod walk;

pub use look::look;
pub use stream::watch;

use job::{Event, Failure, FailureKind, Job, Outcome, Task};
use progress::{Reporter, Untold};
use repository::{Conditions, Repository};
use store::Store;

/// Events that wait to be told; more progress than this is told late.
const WAITING_EVENTS: usize = 64;

/// Carries a job out, and tells meanwhile how far it is. `Done` and `Failed` are left to the caller.
///
/// # Errors
/// The job failed; nothing counts. Never panics: a panic of a library is a failure, too.
pub fn execute(job: Job, events: &mut dyn FnMut(Event)) -> Result<Outcome, Failure> {
    let (sender, receiver) = mpsc::sync_channel(WAITING_EVENTS);
    let untold = Untold::default();
    let reporter = Reporter::new(sender, untold.clone());
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| carry_out(job, reporter.clone())));
            reporter.finish();
            result
        });
        // Ends when the worker and all that it started have dropped their ends.
        progress::drain(&receiver, &untold, events);
        match worker.join() {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) | Err(panic) => Err(Failure::new(
                FailureKind::Other,
                format!("the mover met a condition that it does not know: {}", words_of(panic.as_ref())),
            )),
        }
    })
}

fn carry_out(job: Job, reporter: Reporter) -> Result<Outcome, Failure> {
    let Job { repository: access, cache_directory, bandwidth_bytes_per_second, task } = job;
    let conditions = Conditions { cache_directory, bandwidth_bytes_per_second, reporter };
    if let Task::Initialise = task {
        return Repository::initialise(&access, conditions).map(Outcome::Initialised);
    }
    if let Task::Beside { prefix } = &task {
        let beside = Store::at(&access.place).and_then(|store| store.beside(prefix));
        return beside.map(Outcome::Beside).map_err(|error| error.failure());
    }
    let repository = Repository::open(&access, conditions)?;
    match task {
        Task::Initialise => Ok(Outcome::Initialised(false)),
        Task::Beside { prefix: _ } => Ok(Outcome::Nothing),
        Task::Capture { label, time, input } => capture::capture(repository, &label, time, input),
        Task::List { policy } => {
            let mut snapshots = repository.list()?;
            snapshots.retain(|snapshot| policy.as_ref().is_none_or(|policy| snapshot.label.policy == *policy));
            Ok(Outcome::Listed(snapshots))
        }
        Task::Forget { snapshots } => repository.forget(&snapshots).map(Outcome::Forgotten),
        Task::Prune => repository.prune().map(|freed_bytes| Outcome::Pruned { freed_bytes }),
        Task::Check { read_data_percent } => {
            repository.check(read_data_percent).map(|read_bytes| Outcome::Checked { read_bytes })
        }
        Task::RestoreFiles { snapshot, into, paths, overwrite, dry_run } => {
            let request = restore::Request { into, paths, overwrite, dry_run };
            restore::files(&repository.snapshot(&snapshot)?, &request)
        }
        Task::RestoreStream { snapshot, file_name, program, guard } => {
            if let Some(guard) = guard {
                restore::check_empty(&guard)?;
            }
            restore::stream(&repository.snapshot(&snapshot)?, &file_name, &program)
        }
        Task::Download { snapshot, file_name, output } => {
            archive::download(&repository.snapshot(&snapshot)?, file_name.as_deref(), &output)
        }
        Task::Send { snapshot, file_name } => archive::send(&repository.snapshot(&snapshot)?, file_name.as_deref()),
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}
