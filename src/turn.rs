//! ONE turn: what git asks for and what the engine has become a plan, the plan becomes calls, the calls a status.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::block_in_place;

use crate::{
    actual::ActualState,
    apply::{Applied, apply},
    daemon::memory::MemoryError,
    engine::{Engine, EngineError},
    git::GitError,
    plan::{Plan, diff::plan, used_up::Outcome},
};

pub mod site;

pub use site::{Learned, Site, SiteOptions};

/// What a turn did.
#[derive(Debug)]
pub struct Turn {
    /// What was planned.
    pub plan: Plan,
    /// What the engine has after it.
    pub actual: ActualState,
    /// How many findings the documents have.
    pub findings: usize,
    /// What was carried out.
    pub applied: Applied,
    /// Whether the status arrived; else why not, in words. The next turn tries again.
    pub published: Result<(), String>,
    /// How long it took until the plan was there.
    pub planning: Duration,
    /// The newest event that it saw; what comes later is for the next turn.
    pub newest_sequence: u64,
}

/// Why a turn changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The documents could not be read.
    #[error("the watched repository cannot be read")]
    Git(#[from] GitError),
    /// Git did not answer in time, and another turn took over.
    #[error("git did not answer in time")]
    GivenUp,
    /// The engine could not be observed.
    #[error("the engine cannot be observed")]
    Engine(#[from] EngineError),
    /// What the last turn left could not be read or written.
    #[error("the memory of the last turn cannot be used")]
    Memory(#[from] MemoryError),
}

/// One pass: fetch, load, observe, plan, apply, write back.
///
/// # Errors
/// Nothing was changed: the documents, the engine or the memory could not be read.
pub async fn turn<E: Engine>(site: &mut Site, engine: &E, now: Timestamp) -> Result<Turn, TurnError> {
    let began = Instant::now();
    let fetched = block_in_place(|| site.fetch())?;
    let (loaded, approvals) = block_in_place(|| site.load(fetched))?;
    let before = engine.observe(now).await?;
    let plan = plan(&loaded.desired, &before, &approvals, now);
    let planning = began.elapsed();
    let applied = apply(&plan, engine, now).await;
    let actual = if applied.done.is_empty() { before } else { engine.observe(now).await? };
    // With the newest one that was published: a ledger without it was set back.
    let events = engine.history(site.published_sequence().saturating_sub(1)).await?;
    let sight = engine.sight(now).await;
    let learned = Learned { plan: &plan, applied: &applied, actual: &actual, sight: sight.as_deref(), events: &events };
    let published = block_in_place(|| site.publish(&loaded, &learned, now))?;
    let outcome = Outcome { desired: &loaded.desired, plan: &plan, failed: &applied.failed };
    block_in_place(|| site.remember(outcome, &approvals, &events, published.is_ok()))?;
    let findings = loaded.findings.len();
    drop(loaded);
    block_in_place(|| site.share(&actual, !applied.done.is_empty()));
    Ok(Turn {
        findings,
        newest_sequence: site.seen_sequence(),
        planning,
        plan,
        actual,
        applied,
        published: published.map_err(|error| crate::engine::chain(&error)),
    })
}
