//! The daemon of the simulated world: the real plan, apply and schedule.

use std::sync::LazyLock;

use jiff::{SignedDuration, tz::TimeZone};
use mainstay::{
    apply::apply,
    engine::Engine as _,
    plan::{diff, used_up::Outcome},
    policy::PolicyName,
    restore_point::RestorePointId,
    retention::{self, Sweep},
    run::machine::{Journal, Shape},
    schedule::{Due, Schedule, due},
    status::ledger::EventKind,
};
use tokio::runtime::{Builder, Runtime};

use super::{
    author::Author,
    rules,
    run::Run,
    site,
    world::{State, World},
};

/// One turn. In a world with git it is the real one, in another its middle: observe, plan, apply. A kill ends it at any
/// call; nothing is kept in memory then.
pub fn turn(world: &World, author: &Author) {
    world.state().killed = false;
    if world.state().branches.is_some() {
        return site::turn(world, author);
    }
    RUNTIME.block_on(async {
        let now = world.state().now;
        let Ok(actual) = world.observe(now).await else { return };
        let mut desired = author.desired();
        desired.losses_in_force = world.state().losses_in_force.map(|losses| losses as u32);
        let plan = diff::plan(&desired, &actual, author.approvals(), now);
        {
            let mut state = world.state();
            state.frozen = desired.settings.freeze;
            state.limit_losses(desired.settings.safety.losses);
            state.taken.clear();
            state.settings = desired.settings.clone();
            for refusal in &plan.refusals {
                state.tell(format!("plan: refused {}: {}", refusal.change.policy, refusal.reason));
            }
            state.plan = Some(plan.clone());
        }
        let applied = apply(&plan, world, now).await;
        let mut state = world.state();
        if !state.killed {
            let outcome = Outcome { desired: &desired, plan: &plan, failed: &applied.failed };
            let in_force = outcome.losses_in_force() as usize;
            state.note_limit(desired.settings.safety.losses, &plan, &applied.failed);
            let by_right = state.losses_in_force;
            if by_right != Some(in_force) {
                state.broke(format!("{in_force} may be lost from now on, by right {by_right:?}"));
            }
        }
    });
}

/// What the turns of all worlds run in: the real turn hands its thread over while it blocks on git.
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"));

/// Starts every policy that is due and has no run under way.
pub fn start_due(world: &World) {
    let mut state = world.state();
    if state.settings.freeze {
        return;
    }
    let names: Vec<PolicyName> = state.stores.keys().cloned().collect();
    for name in names {
        start_if_due(&mut state, &name);
    }
}

fn start_if_due(state: &mut State, name: &PolicyName) {
    let now = state.now;
    let Some(store) = state.stores.get_mut(name).filter(|store| store.run.is_none()) else { return };
    let Some(spec) = store.compiled.as_ref().map(|compiled| &compiled.document.spec) else { return };
    if spec.suspend {
        return;
    }
    let zone = TimeZone::get(&spec.time_zone).expect("the author writes known zones");
    let schedules: Vec<Schedule> = spec
        .schedule
        .as_slice()
        .iter()
        .map(|expression| Schedule::parse(expression, &zone).expect("the author writes good schedules"))
        .collect();
    let jitter = spec.jitter.map_or(SignedDuration::ZERO, |jitter| jitter.duration());
    let deadline = spec.deadline.map(|deadline| deadline.duration());
    let cold = spec.consistency == mainstay::policy::document::backup_policy::Consistency::Cold;
    let shape =
        Shape { hooks_before: 1, cold, captures: spec.sources.len(), hooks_after: 1, copies: usize::from(cold) };
    match due(&schedules, jitter, deadline, name, store.last_scheduled, now) {
        Due::NotYet { .. } => {}
        Due::Skipped { scheduled, .. } => {
            store.last_scheduled = scheduled;
            state.writes += 1;
        }
        Due::Now { scheduled, .. } => {
            // One transaction: what was started and how far the schedule got.
            store.last_scheduled = scheduled;
            store.run = Some(Run {
                scheduled,
                shape,
                journal: Journal::default(),
                captured: std::collections::BTreeSet::new(),
                recorded: false,
                is_alive: true,
            });
            state.writes += 1;
            state.tell(format!("run {name}: starts for {scheduled}"));
            if scheduled > now {
                state.broke(format!("{name}: starts before its time {scheduled}"));
            }
            if !state.started.insert((name.clone(), scheduled)) {
                state.broke(format!("{name}: a second run for {scheduled}"));
            }
        }
    }
}

/// Cleanup of every policy.
pub fn clean_up(world: &World) {
    let mut state = world.state();
    let names: Vec<PolicyName> = state.stores.keys().cloned().collect();
    for name in names {
        sweep_policy(&mut state, &name);
    }
}

/// Marks, takes marks back and forgets; may be cut off between any two points.
pub fn sweep_policy(state: &mut State, name: &PolicyName) {
    let now = state.now;
    if state.settings.freeze {
        return;
    }
    let Some(store) = state.stores.get(name) else { return };
    let spec = store.compiled.as_ref().map(|compiled| &compiled.document.spec);
    let grace =
        spec.and_then(|spec| spec.retention.grace).map_or(SignedDuration::from_hours(24), |grace| grace.duration());
    let Sweep { mark, unmark, forget } = match store.rules() {
        Some(rules) => retention::sweep(&rules, grace, &store.points, now),
        // Withdrawn: nothing expires any more but what an approved deletion has marked.
        None => Sweep { forget: expired(&store.points, grace, now), ..Sweep::default() },
    };
    for (ids, since) in [(mark, Some(now)), (unmark, None)] {
        for id in ids {
            if state.fails(0.02) {
                return;
            }
            state.writes += 1;
            let Some(store) = state.stores.get_mut(name) else { return };
            for point in store.points.iter_mut().filter(|point| point.id == id) {
                point.expired_since = since;
            }
            let points = vec![id];
            let kind = since.map_or_else(
                || EventKind::TakenBack { points: points.clone() },
                |_| EventKind::Expired { points: points.clone() },
            );
            state.happened(name, kind);
        }
    }
    for id in forget {
        if state.fails(0.02) {
            return;
        }
        forget_point(state, name, &id, grace);
    }
}

fn expired(
    points: &[mainstay::restore_point::RestorePoint],
    grace: SignedDuration,
    now: jiff::Timestamp,
) -> Vec<RestorePointId> {
    let is_over = |since: jiff::Timestamp| since <= now && now.duration_since(since) >= grace;
    points
        .iter()
        .filter(|point| !point.held && point.expired_since.is_some_and(is_over))
        .map(|point| point.id.clone())
        .collect()
}

/// A point leaves the index, before the eyes of the judge.
fn forget_point(state: &mut State, name: &PolicyName, id: &RestorePointId, grace: SignedDuration) {
    let now = state.now;
    let Some(store) = state.stores.get_mut(name) else { return };
    let Some(index) = store.points.iter().position(|point| point.id == *id) else { return };
    let point = store.points[index].clone();
    let is_newest = rules::newest(&store.points).is_some_and(|newest| newest.id == point.id);
    let is_kept = store.kept(now).get(index).copied().unwrap_or(false);
    let is_proven =
        store.verifies() && rules::newest_verified(&store.points).is_some_and(|newest| newest.id == point.id);
    store.points.remove(index);
    state.writes += 1;
    state.happened(name, EventKind::Forgotten { points: vec![id.clone()] });
    state.tell(format!("cleanup {name}: forgets {id}"));
    if is_newest && !state.consented.contains(&rules::loss(name, &point)) {
        state.broke(format!("{name}: the newest restore point {id} is gone"));
    }
    if is_proven {
        state.broke(format!("{name}: {id} is gone, the newest that was verified"));
    }
    if is_kept {
        state.broke(format!("{name}: the applied rules keep {id}, and it is gone"));
    }
    if point.held {
        state.broke(format!("{name}: {id} was held and is gone"));
    }
    if point.expired_since.is_none_or(|since| since > now || now.duration_since(since) < grace) {
        state.broke(format!("{name}: {id} is gone before its grace is over"));
    }
}
