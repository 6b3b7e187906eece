//! Turns of a world with git: the real turn, over the real checkout and write-back, between what others do to both
//! branches and crashes whose traces are put on disk as they would have been left.

use std::collections::BTreeMap;

use mainstay::{
    daemon::turns::GitClock,
    plan::Effect,
    turn::{Site, Turn, TurnError, turn as real_turn},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    author::Author,
    branches::{Branches, Left, Trouble},
    daemon::RUNTIME,
    world::{State, World},
};

/// One turn of the real daemon, and what hinders it.
pub fn turn(world: &World, author: &Author) {
    let mut site = world.site.lock().expect("no turn panics");
    let (trouble, before, now) = {
        let mut state = world.state();
        let (trouble, before) = prepare(&mut state, author);
        (trouble, before, state.now)
    };
    let result = one_turn(world, &mut site, now);
    let mut state = world.state();
    let State { branches, .. } = &mut *state;
    let Some(branches) = branches else { return };
    if let Some(trouble) = &trouble {
        branches.mend(trouble);
    }
    let has_published = branches.status() != before.status;
    match &result {
        Ok(turn) => note(&mut state, turn),
        Err(error) => {
            state.tell(format!("turn: {error}: {:?}", std::error::Error::source(error).map(ToString::to_string)))
        }
    }
    if has_published {
        state.tell("git: status published".to_owned());
    }
    let end = crash(&mut state, &before, has_published);
    if end != End::Alive {
        *site = None;
    }
    if let Ok(turn) = &result
        && end != End::Forgotten
        && state.no_deletion.is_none()
    {
        // Of what is settled, consent is used up, whatever becomes of the rest.
        let is_settled = is_settled(turn);
        state.open_consent.retain(|effect| !is_settled && is_held_back(turn, effect));
    }
    let remembered = state.branches.as_ref().and_then(Branches::remembered_losses);
    if let (Ok(turn), Some(remembered)) = (&result, remembered)
        && end != End::Forgotten
    {
        match trouble.is_none() && author.is_readable() {
            true => state.note_limit(author.settings().safety.losses, &turn.plan, &turn.applied.failed),
            // Which settings the turn went by is its own affair: they are former ones.
            false => state.losses_in_force = Some(remembered),
        }
    }
    judge_ledger(&mut state);
    if result.is_ok_and(|turn| turn.published.is_ok()) && !state.faulty {
        drop(state);
        second_turn(world, &mut site, now);
    }
}

/// What goes wrong in this turn, what must not happen in it, and what the daemon has left before it.
fn prepare(state: &mut State, author: &Author) -> (Option<Trouble>, Left) {
    let has_trouble = state.fails(0.2);
    state.meddles = state.fails(0.25);
    let mut random = StdRng::seed_from_u64(state.random.random());
    let weather = state.faulty.then(|| random.random());
    let branches = state.branches.as_ref().expect("a world with git");
    branches.weather(weather);
    let before = branches.left();
    let follows = branches.follows_applied();
    let trouble = if has_trouble { branches.trouble(&mut random) } else { None };
    state.no_deletion = match &trouble {
        Some(Trouble::Away) => Some("the repository is away"),
        Some(Trouble::BranchGone { .. }) => Some("the branch is gone"),
        Some(Trouble::Unreadable { .. }) | None if !follows => Some("the history was rewritten"),
        Some(Trouble::Unreadable { .. }) | None if author.documents().is_none() => Some("the documents vanished"),
        Some(Trouble::Unreadable { .. }) | None => None,
    };
    let what = match &trouble {
        Some(Trouble::Away) => "git: the repository is away",
        Some(Trouble::BranchGone { .. }) => "git: the branch is gone",
        Some(Trouble::Unreadable { .. }) => "git: an object cannot be read",
        None => "git: all is there",
    };
    state.tell(what.to_owned());
    state.asked = author.policies();
    // Of settings that cannot be read, the last ones stay in force.
    let is_readable = trouble.is_none() && author.documents().is_some();
    let (freeze, losses) = (author.settings().freeze, author.settings().safety.losses);
    state.frozen = freeze && (is_readable || state.frozen);
    state.limit_losses(losses);
    if let (false, Some(in_force)) = (is_readable, state.losses_in_force) {
        state.losses_allowed = in_force;
    }
    state.taken.clear();
    (trouble, before)
}

fn one_turn(world: &World, site: &mut Option<Site>, now: jiff::Timestamp) -> Result<Turn, TurnError> {
    let options = world.state().branches.as_ref().expect("a world with git").site_options();
    let mut open = match site.take() {
        Some(open) => open,
        None => {
            world.state().counted.clear();
            Site::new(options, GitClock::default(), None)?
        }
    };
    let result = RUNTIME.block_on(real_turn(&mut open, world, now));
    for run in open.ended_runs() {
        let mut state = world.state();
        if !state.counted.insert((run.policy.clone(), run.id.clone())) {
            state.broke(format!("{}: run {} is counted twice", run.policy, run.id));
        }
    }
    *site = Some(open);
    result
}

fn note(state: &mut State, turn: &Turn) {
    for refusal in &turn.plan.refusals {
        state.tell(format!("plan: refused {}: {}", refusal.change.policy, refusal.reason));
    }
    if let Err(reason) = &turn.published {
        state.tell(format!("turn: not published: {reason}"));
    }
    state.plan = Some(turn.plan.clone());
}

/// Whether everything that was asked for was carried out and nothing is left to approve: consent is used up then.
fn is_settled(turn: &Turn) -> bool {
    turn.plan.refusals.is_empty() && turn.plan.frozen.is_empty() && turn.applied.failed.is_empty()
}

/// Whether something did not go through that this consents to; of a restore that cannot be read nobody can tell.
fn is_held_back(turn: &Turn, effect: &Effect) -> bool {
    let (name, is_restore) = match effect {
        Effect::Lose { policy, .. } => (policy, false),
        Effect::RestoreInPlace { restore, .. } => (restore, true),
    };
    let is_refused = turn.plan.refusals.iter().any(|refusal| refusal.change.policy == *name);
    let is_frozen = turn.plan.frozen.contains(name) || (is_restore && !turn.plan.frozen.is_empty());
    is_refused || is_frozen || turn.applied.failed.contains_key(name)
}

/// What became of the daemon after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Alive,
    /// It died, and everything that the turn wrote is there.
    Dead,
    /// It died before the turn was noted.
    Forgotten,
}

/// Whether the daemon dies in this turn or after it. What it had not written yet is taken off the disk again.
fn crash(state: &mut State, before: &Left, has_published: bool) -> End {
    if state.killed {
        return End::Dead;
    }
    if !state.fails(0.15) {
        return End::Alive;
    }
    let kind = state.random.random_range(0..3);
    let branches = state.branches.as_ref().expect("a world with git");
    let (what, end) = match kind {
        0 if has_published && !state.meddles => {
            branches.forget_push(before);
            ("before its push", End::Forgotten)
        }
        1 => {
            branches.forget_turn(before);
            ("before it noted what it published", End::Forgotten)
        }
        _ => ("after its turn", End::Dead),
    };
    state.tell(format!("daemon: killed {what}"));
    end
}

/// A turn that follows on one that went through, with nothing in between: its own status must not move it.
fn second_turn(world: &World, site: &mut Option<Site>, now: jiff::Timestamp) {
    let written = world.written();
    let result = one_turn(world, site, now);
    let mut state = world.state();
    match result {
        Ok(turn) if !turn.plan.changes.is_empty() => {
            state.broke(format!("a status commit causes changes: {:?}", turn.plan.changes));
        }
        Ok(_) => {}
        Err(error) => state.broke(format!("a turn without any fault fails: {error}")),
    }
    drop(state);
    if world.written() != written {
        world.state().broke("a turn after a turn writes something".to_owned());
    }
}

/// The ledger's chain is whole, and no event is in it twice.
fn judge_ledger(state: &mut State) {
    let Some(branches) = &state.branches else { return };
    let events = match branches.ledger() {
        Ok(events) => events,
        Err(broken) => return state.broke(format!("the ledger is broken: {broken}")),
    };
    let mut times = BTreeMap::new();
    for event in &events {
        *times.entry((event.policy.clone(), event.sequence)).or_insert(0) += 1;
    }
    if let Some((event, times)) = times.iter().find(|(_, times)| **times > 1) {
        state.broke(format!("the ledger has {event:?} {times} times"));
    }
}

/// Everything that happened is in the ledger.
pub fn ledger_is_complete(world: &World) -> Result<(), String> {
    let state = world.state();
    let Some(branches) = &state.branches else { return Ok(()) };
    let ledger = branches.ledger()?;
    match state.events.iter().find(|event| !ledger.contains(event)) {
        Some(event) => Err(format!("the ledger never gets {event:?}")),
        None => Ok(()),
    }
}
