//! Runs: the real machine over a journal, in a process that can die before and after every side effect.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mainstay::{
    policy::PolicyName,
    restore_point::{RestorePoint, RestorePointId},
    run::{
        Phase, RunReport, Trigger,
        machine::{Ending, Journal, Next, Outcome, Shape, Step, next},
    },
    status::ledger::EventKind,
};
use rand::RngExt as _;

use super::{
    daemon,
    world::{State, World},
};

/// A run under way: its journal is on disk; `is_alive` is its process.
pub struct Run {
    pub scheduled: Timestamp,
    pub shape: Shape,
    pub journal: Journal,
    /// The captures that are really in the repositories.
    pub captured: BTreeSet<usize>,
    /// Whether its restore point really came to be. A loss that was approved may take it before the run is over.
    pub recorded: bool,
    pub is_alive: bool,
}

/// One run gets one step further, or is taken up after its process died.
pub fn advance(world: &World) {
    let mut state = world.state();
    let running: Vec<PolicyName> =
        state.stores.iter().filter(|(_, store)| store.run.is_some()).map(|(name, _)| name.clone()).collect();
    if running.is_empty() {
        return;
    }
    let name = running[state.random.random_range(0..running.len())].clone();
    let Some(mut run) = state.stores.get_mut(&name).and_then(|store| store.run.take()) else { return };
    if run.is_alive {
        if one_step(&mut state, &name, &mut run) {
            return;
        }
    } else {
        run.journal.interrupt();
        run.is_alive = true;
    }
    if let Some(store) = state.stores.get_mut(&name) {
        store.run = Some(run);
    }
}

/// What the machine asks for next. True: the run is over.
fn one_step(state: &mut State, name: &PolicyName, run: &mut Run) -> bool {
    let step = match next(&run.shape, &run.journal) {
        Next::Do(step) => step,
        Next::End(ending) => {
            end(state, name, run, &ending);
            return true;
        }
    };
    run.journal.intend(step);
    if state.fails(0.03) {
        run.is_alive = false;
        state.tell(format!("run {name}: killed before {step:?}"));
        return false;
    }
    let outcome = carry_out(state, name, run, step);
    if state.fails(0.03) {
        run.is_alive = false;
        state.tell(format!("run {name}: killed after {step:?}"));
        return false;
    }
    run.journal.conclude(outcome);
    false
}

/// The side effect of a step. One that fails may have happened all the same.
fn carry_out(state: &mut State, name: &PolicyName, run: &mut Run, step: Step) -> Outcome {
    let fails = state.fails(0.06);
    let happens = !fails || state.random.random_bool(0.5);
    match step {
        Step::HookBefore(_) | Step::HookAfter(_) | Step::Copy(_) => {}
        Step::Stop | Step::Start if happens => {
            if let Some(store) = state.stores.get_mut(name) {
                store.stopped = step == Step::Stop;
            }
        }
        Step::Stop | Step::Start => {}
        Step::Capture(index) => {
            if run.shape.cold && state.stores.get(name).is_some_and(|store| !store.stopped) {
                state.broke(format!("{name}: captures while its workload runs"));
            }
            // A capture that fails is not in the repository: the mover saves nothing then.
            if !fails {
                run.captured.insert(index);
            }
        }
        Step::Check => {
            if run.captured.len() != run.shape.captures {
                return Outcome::Failed("the repository lacks a capture".to_owned());
            }
        }
        Step::Record if happens => record(state, name, run),
        Step::Record => {}
        Step::Cleanup if happens => daemon::sweep_policy(state, name),
        Step::Cleanup => {}
    }
    if fails { Outcome::Failed(format!("{step:?} failed")) } else { Outcome::Done }
}

fn record(state: &mut State, name: &PolicyName, run: &mut Run) {
    if run.captured.len() != run.shape.captures {
        state.broke(format!("{name}: a restore point lacks a capture"));
    }
    let id = RestorePointId::from_time(run.scheduled);
    let time = state.now;
    let Some(store) = state.stores.get_mut(name) else { return };
    run.recorded = true;
    if store.points.iter().any(|point| point.id == id) {
        return;
    }
    let point = RestorePoint {
        id: id.clone(),
        time,
        size_bytes: 1,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    store.points.push(point);
    state.tell(format!("run {name}: recorded {id}"));
}

/// A run is over: what it says must be true.
fn end(state: &mut State, name: &PolicyName, run: &Run, ending: &Ending) {
    let id = RestorePointId::from_time(run.scheduled);
    let now = state.now;
    let Some(store) = state.stores.get_mut(name) else { return };
    let (phase, message) = match ending {
        Ending::Succeeded { remarks } => (Phase::Succeeded, remarks.join("; ")),
        Ending::Failed { reason, recorded: _, interrupted: _ } => (Phase::Failed, reason.clone()),
    };
    if phase == Phase::Succeeded {
        store.last_success = Some(now);
    }
    let report = RunReport {
        policy: name.clone(),
        id: id.clone(),
        trigger: Trigger::Schedule,
        scheduled_at: run.scheduled,
        started_at: run.scheduled,
        finished_at: Some(now),
        phase,
        failed_after_record: false,
        interrupted: false,
        message,
        sources: Vec::new(),
    };
    store.last_run = Some(report.clone());
    let stopped = store.stopped;
    state.happened(name, EventKind::RunEnded(Box::new(report)));
    match ending {
        Ending::Succeeded { .. } if stopped => state.broke(format!("{name}: succeeds and leaves its workload down")),
        Ending::Succeeded { .. } | Ending::Failed { recorded: true, .. } if !run.recorded => {
            state.broke(format!("{name}: says that it recorded {id}, which never came to be"));
        }
        Ending::Succeeded { .. } | Ending::Failed { .. } => state.tell(format!("run {name}: {ending:?}")),
    }
}

/// The guard wakes workloads whose run is gone.
pub fn guard(world: &World) {
    let mut state = world.state();
    let asleep: Vec<PolicyName> = state
        .stores
        .iter()
        .filter(|(_, store)| store.stopped && store.run.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    for name in asleep {
        if !state.fails(0.3)
            && let Some(store) = state.stores.get_mut(&name)
        {
            store.stopped = false;
            state.tell(format!("guard: started {name}"));
        }
    }
}
