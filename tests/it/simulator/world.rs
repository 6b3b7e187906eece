//! The world: an engine in memory, whose every call can fail before or after its effect, or die in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    actual::{ActualPolicy, ActualState, RestoreReport},
    engine::{Engine, EngineError, ScheduleTurn},
    plan::{Action, Effect, Plan},
    policy::{
        CompiledPolicy, EngineKind, PolicyName, Restore,
        document::{SettingsSpec, backup_policy::Deletion},
        load::{ParseCache, load},
    },
    restore_point::{Inventory, RestorePoint, RestorePointId},
    retention::{KeepRules, decide},
    run::{Phase, RunReport},
    status::ledger::{Event, EventKind},
    turn::Site,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    author::Author,
    branches::{Branches, Fingerprint},
    rules,
    run::Run,
};

/// The world, as the engine behind its trait.
pub struct World {
    state: Mutex<State>,
    /// The daemon's site in a world with git; none: no daemon has one open.
    pub site: Mutex<Option<Site>>,
}

/// Everything that is on disk, and what the judge remembers.
pub struct State {
    pub now: Timestamp,
    pub random: StdRng,
    /// Faults happen.
    pub faulty: bool,
    /// The daemon was killed in this turn: nothing it still does has an effect.
    pub killed: bool,
    pub stores: BTreeMap<PolicyName, Store>,
    pub restores: BTreeMap<(PolicyName, String), RestoreReport>,
    /// Those that the last observation told of: none of them is asked for again.
    pub seen_restores: BTreeSet<(PolicyName, String)>,
    /// Runs that were ever started: by policy and scheduled time.
    pub started: BTreeSet<(PolicyName, Timestamp)>,
    /// What the author ever consented to.
    pub consented: BTreeSet<Effect>,
    /// What of that still holds: consent holds once. In a world without git it is never used up.
    pub open_consent: BTreeSet<Effect>,
    /// The last plan that was made.
    pub plan: Option<Plan>,
    /// Calls that changed something or would have.
    pub writes: u64,
    /// What happened, as the engine numbers it.
    pub events: Vec<Event>,
    /// The runs that this process of the daemon has counted in its metrics.
    pub counted: BTreeSet<(PolicyName, RestorePointId)>,
    /// The git side; none: the documents come from memory.
    pub branches: Option<Branches>,
    /// The settings that the daemon was last told, by which it starts runs and cleans up.
    pub settings: SettingsSpec,
    /// This turn must change no policy: a freeze is in force, whatever can be read of it.
    pub frozen: bool,
    /// How many restore points the edits of this turn may take without consent.
    pub losses_allowed: usize,
    /// How many they could take before it, as the last turn left it that was noted; none: none was.
    pub losses_in_force: Option<usize>,
    /// Those that they took.
    pub taken: BTreeSet<Effect>,
    /// Why this turn must delete nothing.
    pub no_deletion: Option<&'static str>,
    /// The policies that have a document now.
    pub asked: BTreeSet<PolicyName>,
    /// Somebody else writes to the status branch while this turn is under way.
    pub meddles: bool,
    pub story: Vec<String>,
    broken: Option<String>,
}

/// What the engine keeps of one policy.
#[derive(Default)]
pub struct Store {
    pub compiled: Option<CompiledPolicy>,
    pub last_scheduled: Timestamp,
    pub points: Vec<RestorePoint>,
    pub run: Option<Run>,
    /// The workload is down.
    pub stopped: bool,
    /// The newest run that ended.
    pub last_run: Option<RunReport>,
    pub last_success: Option<Timestamp>,
}

impl Store {
    /// The rules that were applied.
    pub fn rules(&self) -> Option<KeepRules> {
        let spec = &self.compiled.as_ref()?.document.spec;
        Some(KeepRules { verified: spec.verify.is_some(), ..KeepRules::from(&spec.retention) })
    }

    /// Whether its restore points are verified.
    pub fn verifies(&self) -> bool {
        self.compiled.as_ref().is_some_and(|compiled| compiled.document.spec.verify.is_some())
    }

    /// Which points the applied rules keep; those of a withdrawn policy stay unless they are marked.
    pub fn kept(&self, now: Timestamp) -> Vec<bool> {
        match self.rules() {
            Some(rules) => decide(&rules, &self.points, now).into_iter().map(|decision| decision.keep).collect(),
            None => self.points.iter().map(|point| point.expired_since.is_none()).collect(),
        }
    }
}

/// What goes wrong at one call.
enum Fault {
    None,
    Before,
    After,
}

impl State {
    pub fn tell(&mut self, line: String) {
        let line = format!("{} {line}", self.now.strftime("%F %T"));
        self.story.push(line);
    }

    /// A promise is broken; the first one counts.
    pub fn broke(&mut self, promise: String) {
        self.tell(format!("BROKEN: {promise}"));
        self.broken.get_or_insert(promise);
    }

    /// Something that the ledger must hold exactly once.
    pub fn happened(&mut self, policy: &PolicyName, kind: EventKind) {
        let sequence = self.events.len() as u64 + 1;
        self.events.push(Event { sequence, at: self.now, policy: policy.clone(), kind });
    }

    /// Whether something of this likelihood goes wrong here.
    pub fn fails(&mut self, likelihood: f64) -> bool {
        self.faulty && self.random.random_bool(likelihood)
    }

    /// The boundary before a call: its fault, and perhaps the end of the daemon.
    fn boundary(&mut self, call: &str) -> Fault {
        if self.killed {
            return Fault::Before;
        }
        if !self.fails(0.12) {
            return Fault::None;
        }
        self.killed = self.random.random_bool(0.4);
        let before = self.random.random_bool(0.5);
        let how = if self.killed { "killed" } else { "failing" };
        self.tell(format!("daemon: {how} {} {call}", if before { "before" } else { "after" }));
        if before { Fault::Before } else { Fault::After }
    }

    /// A call with an effect, and what may go wrong around it.
    fn call(&mut self, call: String, effect: impl FnOnce(&mut Self)) -> Result<(), EngineError> {
        self.writes += 1;
        match self.boundary(&call) {
            Fault::Before => Err(transient(call)),
            Fault::After => {
                effect(self);
                Err(transient(call))
            }
            Fault::None => {
                effect(self);
                Ok(())
            }
        }
    }

    /// The judge of edits: what the former rules keep and the new ones let go needs consent.
    fn judge_edit(&mut self, name: &PolicyName, kept_before: &[bool]) {
        let now = self.now;
        let Some(store) = self.stores.get(name) else { return };
        let lost: Vec<Effect> = store
            .points
            .iter()
            .zip(kept_before.iter().zip(store.kept(now)))
            .filter(|(_, (before, after))| **before && !after)
            .map(|(point, _)| rules::loss(name, point))
            .collect();
        for effect in lost {
            self.judge_loss(effect);
        }
    }

    /// What may be lost without consent by a turn that is asked for this limit: a raise is no consent to itself.
    pub fn limit_losses(&mut self, asked: u32) {
        let asked = asked as usize;
        self.losses_allowed = self.losses_in_force.map_or(asked, |in_force| in_force.min(asked));
    }

    /// A turn was noted: from now on its limit is in force, a raise only if the turn left nothing undone of a policy.
    pub fn note_limit(&mut self, asked: u32, plan: &Plan, failed: &BTreeMap<PolicyName, String>) {
        let is_undone = !plan.frozen.is_empty()
            || !failed.is_empty()
            || plan.refusals.iter().any(|refusal| refusal.change.action != Action::Restore);
        self.losses_in_force = Some(if is_undone { self.losses_allowed } else { asked as usize });
    }

    /// The judge of losses: they are consented to, or no more than may be lost without that.
    fn judge_loss(&mut self, effect: Effect) {
        if self.open_consent.contains(&effect) || !self.taken.insert(effect.clone()) {
            return;
        }
        if self.taken.len() > self.losses_allowed {
            self.broke(format!("without consent: {effect:?}"));
        } else {
            self.tell(format!("within what may be lost: {effect:?}"));
        }
    }
}

impl State {
    /// The judge of deletions: a policy goes only if the documents are known, and do not ask for it.
    fn judge_deletion(&mut self, policy: &PolicyName) {
        if self.branches.is_none() {
            return;
        }
        if let Some(why) = self.no_deletion {
            self.broke(format!("{policy}: withdrawn although {why}"));
        }
        if self.asked.contains(policy) {
            self.broke(format!("{policy}: withdrawn although its document is there"));
        }
    }
}

impl State {
    /// The judge of freezes.
    fn judge_freeze(&mut self, policy: &PolicyName) {
        if self.frozen {
            self.broke(format!("{policy}: changed while everything is frozen"));
        }
    }
}

fn transient(operation: String) -> EngineError {
    EngineError::Transient { operation, source: "the simulated world".into() }
}

impl World {
    pub fn new(seed: u64, branches: Option<Branches>) -> Self {
        let state = State {
            now: "2026-01-05T12:00:00Z".parse().unwrap(),
            random: StdRng::seed_from_u64(seed ^ 0x5eed),
            faulty: true,
            killed: false,
            stores: BTreeMap::new(),
            restores: BTreeMap::new(),
            seen_restores: BTreeSet::new(),
            started: BTreeSet::new(),
            consented: BTreeSet::new(),
            open_consent: BTreeSet::new(),
            plan: None,
            writes: 0,
            events: Vec::new(),
            counted: BTreeSet::new(),
            branches,
            settings: SettingsSpec::default(),
            frozen: false,
            losses_allowed: 0,
            losses_in_force: None,
            taken: BTreeSet::new(),
            no_deletion: None,
            asked: BTreeSet::new(),
            meddles: false,
            story: Vec::new(),
            broken: None,
        };
        Self { state: Mutex::new(state), site: Mutex::new(None) }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn broken(&self) -> Option<String> {
        self.state().broken.clone()
    }

    pub fn story(&self) -> Vec<String> {
        self.state().story.clone()
    }

    /// What tells whether anything was written: calls to the engine, and every file of git and of the daemon.
    pub fn written(&self) -> (u64, Option<Fingerprint>) {
        let state = self.state();
        (state.writes, state.branches.as_ref().map(Branches::fingerprint))
    }

    pub fn end_faults(&self) {
        let mut state = self.state();
        state.tell("faults end".to_owned());
        state.faulty = false;
    }

    /// Time passes; now and then the clock jumps, forth or back.
    pub fn clock(&self, random: &mut StdRng) {
        let minutes = match random.random_range(0..20) {
            0 => -random.random_range(1..5000),
            1 => random.random_range(1..60_000),
            2..8 => random.random_range(1..90),
            _ => random.random_range(60..3000),
        };
        self.pass(minutes);
    }

    /// The clock moves.
    pub fn pass(&self, minutes: i64) {
        let mut state = self.state();
        state.now += SignedDuration::from_mins(minutes);
        state.tell(format!("clock: {minutes} min"));
    }

    /// Somebody protects a restore point, or lets go of one.
    pub fn hold_or_release(&self, random: &mut StdRng) {
        let mut state = self.state();
        let mut points: Vec<&mut RestorePoint> =
            state.stores.values_mut().flat_map(|store| &mut store.points).collect();
        if !points.is_empty() {
            let index = random.random_range(0..points.len());
            points[index].held = !points[index].held;
        }
    }

    /// Restore points of a policy that asks for it are verified, some of them.
    pub fn verify(&self, random: &mut StdRng) {
        let mut state = self.state();
        let now = state.now;
        let stores = state.stores.iter_mut().filter(|(_, store)| store.verifies());
        let points: Vec<(&PolicyName, &mut RestorePoint)> = stores
            .flat_map(|(name, store)| store.points.iter_mut().map(move |point| (name, point)))
            .filter(|_| random.random_bool(0.3))
            .collect();
        let mut verified = Vec::new();
        for (name, point) in points {
            point.verified_at = Some(now);
            verified.push(format!("{name}: verified {}", point.id));
        }
        verified.into_iter().for_each(|line| state.tell(line));
    }

    /// Whether the world is as the author asks, with nothing under way and no workload down.
    pub fn rests(&self, author: &Author) -> Result<(), String> {
        let state = self.state();
        for (name, store) in &state.stores {
            if store.stopped {
                return Err(format!("{name}: its workload stays down"));
            }
            if store.run.is_some() {
                return Err(format!("{name}: its run never ends"));
            }
        }
        let plan = state.plan.as_ref().ok_or("no turn ever made a plan")?;
        if !plan.changes.is_empty() {
            return Err(format!("the plan never comes to rest: {:?}", plan.changes));
        }
        let refused: BTreeSet<&PolicyName> = plan.refusals.iter().map(|refusal| &refusal.change.policy).collect();
        let desired = match &state.branches {
            Some(branches) => load(&branches.documents(), EngineKind::Local, &mut ParseCache::default()).desired,
            None => author.desired(),
        };
        let names: BTreeSet<&PolicyName> = desired.policies.keys().chain(state.stores.keys()).collect();
        for name in names.into_iter().filter(|name| !refused.contains(name)) {
            let asked = desired.policies.get(name).map(|policy| policy.compile(&desired.settings, None).spec_hash);
            let there = state.stores.get(name).and_then(|store| store.compiled.as_ref());
            if asked != there.map(|compiled| compiled.spec_hash.clone()) {
                return Err(format!("{name}: asked for {asked:?}, there is {there:?}"));
            }
        }
        Ok(())
    }
}

impl Engine for World {
    async fn observe(&self, now: Timestamp) -> Result<ActualState, EngineError> {
        let mut state = self.state();
        state.seen_restores.clear();
        if let Fault::Before | Fault::After = state.boundary("observe") {
            return Err(transient("observe".to_owned()));
        }
        let mut complete = true;
        let mut policies = BTreeMap::new();
        let names: Vec<PolicyName> = state.stores.keys().cloned().collect();
        for name in names {
            // Some of the world cannot be seen, and the observation says so.
            if state.fails(0.03) {
                complete = false;
                continue;
            }
            let is_readable = !state.fails(0.08);
            let Some(store) = state.stores.get(&name) else { continue };
            let seen = if is_readable { store.points.len() } else { store.points.len() / 2 };
            let mut points = store.points[..seen].to_vec();
            points.sort_by_key(|point| point.time);
            policies.insert(
                name,
                std::sync::Arc::new(ActualPolicy {
                    compiled: store.compiled.clone(),
                    schedule: None,
                    inventory: Inventory { observed_at: now, complete: is_readable, points },
                    last_run: store.last_run.clone(),
                    last_success: store.last_success,
                    running: store.run.as_ref().map(|run| RestorePointId::from_time(run.scheduled)),
                    drift: None,
                    failed_checks: Vec::new(),
                }),
            );
        }
        state.seen_restores = state.restores.keys().cloned().collect();
        Ok(ActualState {
            observed_at: now,
            complete,
            policies,
            restores: state.restores.clone(),
            foreign: BTreeMap::new(),
        })
    }

    async fn put(&self, policy: &CompiledPolicy) -> Result<(), EngineError> {
        self.state().call(format!("put {}", policy.name), |state| {
            let now = state.now;
            let store = state.stores.entry(policy.name.clone()).or_default();
            let kept_before = store.kept(now);
            let is_same_schedule = store.compiled.as_ref().is_some_and(|before| {
                before.document.spec.schedule == policy.document.spec.schedule
                    && before.document.spec.time_zone == policy.document.spec.time_zone
            });
            if !is_same_schedule {
                store.last_scheduled = store.last_scheduled.max(now);
            }
            store.compiled = Some(policy.clone());
            state.tell(format!("put {}", policy.name));
            state.judge_freeze(&policy.name);
            state.judge_edit(&policy.name, &kept_before);
        })
    }

    async fn withdraw(&self, policy: &PolicyName) -> Result<(), EngineError> {
        self.state().call(format!("withdraw {policy}"), |state| {
            let Some(store) = state.stores.get_mut(policy) else { return };
            let before = store.compiled.take();
            // Nobody marks anything of a policy that is gone: what its end was to take must be marked by now, however
            // often the daemon died on the way here.
            let was_there = before.is_some();
            let is_for_good = before.is_some_and(|before| before.document.spec.deletion == Deletion::Confirm)
                && !store.points.is_empty();
            let left = store.points.iter().find(|point| !point.held && point.expired_since.is_none());
            let left = left.filter(|_| is_for_good).map(|point| point.id.clone());
            if was_there {
                state.judge_deletion(policy);
                state.judge_freeze(policy);
            }
            state.tell(format!("withdraw {policy}{}", if is_for_good { " for good" } else { "" }));
            if let Some(id) = left {
                state.broke(format!("{policy}: deletion: Confirm leaves {id} behind"));
            }
        })
    }

    async fn expire(&self, policy: &PolicyName, points: &[RestorePointId], now: Timestamp) -> Result<(), EngineError> {
        self.state().call(format!("expire {policy}"), |state| {
            for id in points {
                state.judge_loss(Effect::Lose { policy: policy.clone(), point: id.clone() });
            }
            if let Some(why) = state.no_deletion {
                state.broke(format!("{policy}: {points:?} expire although {why}"));
            }
            state.judge_freeze(policy);
            let Some(store) = state.stores.get_mut(policy) else { return };
            for point in store.points.iter_mut().filter(|point| points.contains(&point.id)) {
                point.expired_since.get_or_insert(now);
            }
            state.tell(format!("expire {policy} {points:?}"));
        })
    }

    async fn restore(&self, restore: &Restore, now: Timestamp) -> Result<(), EngineError> {
        let content = restore.content_hash();
        self.state().call(format!("restore {}", restore.name), |state| {
            let effect = Effect::RestoreInPlace { restore: restore.name.clone(), content: content.clone() };
            if restore.is_in_place() && !state.open_consent.contains(&effect) {
                state.broke(format!("{}: overwrites without consent", restore.name));
            }
            let report = RestoreReport {
                restore_point: None,
                phase: Phase::Succeeded,
                started_at: now,
                finished_at: Some(now),
                message: String::new(),
                sources: Vec::new(),
            };
            let asked = (restore.name.clone(), content);
            if state.seen_restores.contains(&asked) {
                state.broke(format!("{}: restored again by a turn that has seen its report", restore.name));
            }
            // A second start by a turn that has not adopts the first.
            state.restores.entry(asked).or_insert(report);
            state.tell(format!("restore {}", restore.name));
        })
    }

    async fn record(&self, policy: &PolicyName, kind: EventKind, _: Timestamp) -> Result<(), EngineError> {
        self.state().call(format!("record {policy}"), |state| {
            state.tell(format!("record {policy} {kind:?}"));
            state.happened(policy, kind);
        })
    }

    async fn history(&self, after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        let mut state = self.state();
        let fault = state.boundary("history");
        let State { branches, random, meddles, .. } = &mut *state;
        if let Some(branches) = branches.as_ref().filter(|_| *meddles) {
            let what = branches.meddle(random);
            state.tell(format!("git: {what}"));
        }
        match fault {
            Fault::Before | Fault::After => Err(transient("history".to_owned())),
            Fault::None => Ok(state.events.iter().filter(|event| event.sequence > after_sequence).cloned().collect()),
        }
    }

    fn newest_sequence(&self) -> Result<u64, EngineError> {
        Ok(self.state().events.len() as u64)
    }

    // The simulated daemon starts runs by itself, see `daemon`.
    async fn schedule_turn(&self, _: Timestamp, settings: &SettingsSpec) -> Result<ScheduleTurn, EngineError> {
        self.state().settings = settings.clone();
        Ok(ScheduleTurn::default())
    }

    async fn recover(&self, _: Timestamp) -> Result<(), EngineError> {
        Ok(())
    }
}
