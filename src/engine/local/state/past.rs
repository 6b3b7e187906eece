//! Past runs: those whose reports were dropped. Only their ids are kept, so that no scheduled time starts a run twice,
//! however many runs came after it and whatever the clock does.

use rusqlite::{Transaction, params};

use super::{State, StateError};
use crate::{
    policy::PolicyName,
    restore_point::RestorePointId,
    run::{RunReport, Trigger},
};

/// How many ended runs of a policy are remembered with their reports.
const MOST_RUNS: usize = 200;
/// Of how many runs more only the ids are remembered. What is older than all of these counts as run, whether it was or
/// not: no scheduled time that lies so far back may start anything.
const MOST_PAST_RUNS: usize = 1000;

/// The ids of runs whose reports were dropped. An id is the scheduled time, and their order is that of the times.
pub(super) const PAST_RUNS: &str = "
CREATE TABLE past_runs (policy TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (policy, id)) STRICT, WITHOUT ROWID;
";

impl State {
    /// Whether a run has this id, or ever had.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn is_taken(&self, policy: &PolicyName, id: &RestorePointId) -> Result<bool, StateError> {
        self.connection()
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM runs WHERE policy = ?1 AND id = ?2) \
                 OR EXISTS (SELECT 1 FROM past_runs WHERE policy = ?1 AND id = ?2)",
                params![policy.to_string(), id.0],
                |row| row.get(0),
            )
            .map_err(StateError::query("reading runs"))
    }
}

/// Keeps the reports of the newest runs, and only the ids of those before.
pub(super) fn drop_old(transaction: &Transaction<'_>, policy: &str) -> Result<(), rusqlite::Error> {
    let old = "policy = ?1 AND (phase = 'Succeeded' OR swept = 1) AND id NOT IN \
               (SELECT id FROM runs WHERE policy = ?1 ORDER BY started_at DESC LIMIT ?2)";
    transaction.execute(
        &format!("INSERT OR IGNORE INTO past_runs (policy, id) SELECT policy, id FROM runs WHERE {old}"),
        params![policy, MOST_RUNS as i64],
    )?;
    let dropped = transaction.execute(&format!("DELETE FROM runs WHERE {old}"), params![policy, MOST_RUNS as i64])?;
    if dropped == 0 {
        return Ok(());
    }
    // The oldest of those that stay is the mark up to which everything counts as run. It never goes back: what is added
    // below it makes no difference.
    transaction.execute(
        "DELETE FROM past_runs WHERE policy = ?1 AND id NOT IN \
         (SELECT id FROM past_runs WHERE policy = ?1 ORDER BY id DESC LIMIT ?2)",
        params![policy, MOST_PAST_RUNS as i64 + 1],
    )?;
    Ok(())
}

/// Whether the scheduled time of a run was dealt with by one whose report was dropped. A run for now, asked for by hand,
/// is for no scheduled time; a clock that was set back must not forbid it.
pub(super) fn is_past(transaction: &Transaction<'_>, report: &RunReport) -> Result<bool, rusqlite::Error> {
    let RunReport { policy, id, scheduled_at, started_at, trigger, .. } = report;
    if *trigger == Trigger::Manual && scheduled_at >= started_at {
        return Ok(false);
    }
    transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM past_runs WHERE policy = ?1 AND id = ?2) \
         OR ?2 <= COALESCE((SELECT id FROM past_runs WHERE policy = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?3), '')",
        params![policy.to_string(), id.0, MOST_PAST_RUNS as i64],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::{engine::local::state::runs::Begun, run::Phase};

    /// A run of the scheduled time that lies this many hours after the first.
    fn report(hour: i64, trigger: Trigger) -> RunReport {
        let scheduled_at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour);
        RunReport {
            policy: PolicyName::new("shop", "nightly"),
            id: RestorePointId::from_time(scheduled_at),
            trigger,
            scheduled_at,
            started_at: scheduled_at,
            finished_at: None,
            phase: Phase::Succeeded,
            failed_after_record: false,
            interrupted: false,
            message: String::new(),
            sources: Vec::new(),
        }
    }

    fn begin(state: &State, hour: i64, trigger: Trigger) -> Begun {
        let pending = RunReport { phase: Phase::Running, ..report(hour, trigger) };
        state.begin_run(&pending).unwrap()
    }

    #[test]
    fn a_scheduled_time_runs_once_however_many_runs_come_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        for hour in 0..=MOST_RUNS as i64 {
            assert!(matches!(begin(&state, hour, Trigger::Schedule), Begun::Ours), "{hour}");
            state.end_run(&report(hour, Trigger::Schedule), Timestamp::UNIX_EPOCH).unwrap();
        }
        assert_eq!(state.runs(&report(0, Trigger::Schedule).policy).unwrap().len(), MOST_RUNS);
        assert!(matches!(begin(&state, 1, Trigger::Schedule), Begun::Theirs(_)));
        assert!(matches!(begin(&state, 0, Trigger::Schedule), Begun::Past));
        assert!(!state.announce_run(&report(0, Trigger::CatchUp)).unwrap());
        let RunReport { policy, id, .. } = report(0, Trigger::Manual);
        assert!(state.is_taken(&policy, &id).unwrap(), "its restore point may be there");
        // A run for now is for no scheduled time, wherever the clock was set to.
        assert!(matches!(begin(&state, 0, Trigger::Manual), Begun::Ours));
    }

    #[test]
    fn what_lies_further_back_than_is_remembered_counts_as_run_and_what_is_ahead_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let policy = report(0, Trigger::Schedule).policy;
        // Every second hour, and at last one of a clock that was far ahead.
        let far = 100_000;
        let hours = (0..=MOST_PAST_RUNS as i64 + 1).map(|run| 10 + 2 * run).chain([far]);
        state
            .write("test", |transaction| {
                for hour in hours {
                    let id = report(hour, Trigger::Schedule).id.0;
                    transaction.execute("INSERT INTO past_runs VALUES (?1, ?2)", params![policy.to_string(), id])?;
                }
                Ok(())
            })
            .unwrap();
        for (hour, is_past) in [(0, true), (10, true), (11, true), (14, true), (15, false), (16, true), (far, true)] {
            let begun = begin(&state, hour, Trigger::Schedule);
            assert_eq!(matches!(begun, Begun::Past), is_past, "{hour}: {begun:?}");
        }
        assert!(matches!(begin(&state, far - 1, Trigger::Schedule), Begun::Ours), "the clock was set right");
    }
}
