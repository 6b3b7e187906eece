//! A world for the status: policies in every condition.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use mainstay::{
    actual::{ActualPolicy, ActualState, RestoreReport},
    apply::Applied,
    desired::DesiredState,
    git::Revision,
    plan::{Action, Change, Digest, Effect, Plan, Reason, Refusal},
    policy::{Location, Policy, PolicyContent, PolicyName, document::BackupPolicyDocument},
    restore_point::{Inventory, RestorePoint, RestorePointId},
    retention::KeepRules,
    run::{Phase, RunReport, SourceReport, Trigger},
    schedule::{self, Schedule},
    status::{
        self, Edit, StatusInput,
        coverage::Sight,
        ledger::{Event, EventKind},
        memo::Memo,
    },
};

/// A world of policies in every condition.
pub struct World {
    pub desired: DesiredState,
    pub actual: ActualState,
    pub applied: Applied,
    pub plan: Plan,
    pub findings: Vec<String>,
    pub problems: Vec<String>,
    pub events: Vec<Event>,
    pub sight: Option<Sight>,
    pub now: Timestamp,
}

pub fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

pub fn name(text: &str) -> PolicyName {
    text.parse().expect("a name")
}

pub fn policy(policy_name: &str, suspend: bool) -> Policy {
    let policy_name = name(policy_name);
    let document = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {}, namespace: {}}}\n\
         spec: {{schedule: '0 2 * * *', suspend: {suspend}, repositories: [offsite], sources: []}}",
        policy_name.name(),
        policy_name.namespace()
    );
    let document: BackupPolicyDocument = serde_yaml::from_str(&document).expect("a document");
    let content = PolicyContent {
        location: Location { file: PathBuf::from(format!("{}.backup.yaml", policy_name.name())), line: 3, column: 1 },
        name: policy_name,
        schedules: vec![Schedule::parse("0 2 * * *", &TimeZone::UTC).expect("a schedule")],
        time_zone: TimeZone::UTC,
        jitter: SignedDuration::ZERO,
        deadline: None,
        suspend,
        rules: KeepRules::from(&document.spec.retention),
        grace: SignedDuration::from_hours(24),
        cleanup: None,
        document: Arc::new(document),
    };
    Policy { content: Arc::new(content), repositories: Vec::new() }
}

pub fn run(policy: &str, at: &str, phase: Phase, message: &str) -> RunReport {
    let start = time(at);
    RunReport {
        policy: name(policy),
        id: RestorePointId::from_time(start),
        trigger: Trigger::Schedule,
        scheduled_at: start,
        started_at: start,
        finished_at: Some(start + SignedDuration::from_secs(83)),
        phase,
        failed_after_record: false,
        interrupted: false,
        message: message.to_owned(),
        sources: vec![SourceReport {
            source: "files".to_owned(),
            repository: "offsite".to_owned(),
            phase,
            size_bytes: 5_000_000,
            added_bytes: 1_000,
            files: 42,
            unreadable: 2,
            duration_milliseconds: 80_500,
            snapshot: None,
            message: None,
        }],
    }
}

pub fn point(at: &str, size_bytes: u64) -> RestorePoint {
    RestorePoint {
        id: RestorePointId::from_time(time(at)),
        time: time(at),
        size_bytes,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    }
}

impl World {
    pub fn new() -> Self {
        let revision = Revision("0123456789abcdef0123456789abcdef01234567".to_owned());
        let mut world = Self {
            desired: DesiredState { revision: Some(revision.clone()), ..DesiredState::default() },
            actual: ActualState {
                observed_at: time("2026-11-21T03:00:00Z"),
                complete: true,
                policies: BTreeMap::new(),
                restores: BTreeMap::new(),
                foreign: BTreeMap::new(),
            },
            applied: Applied::default(),
            plan: Plan {
                revision: Some(revision),
                observed_at: time("2026-11-21T03:00:00Z"),
                now: time("2026-11-21T03:00:00Z"),
                changes: Vec::new(),
                unchanged: 0,
                drift: Vec::new(),
                losses: Vec::new(),
                reach: BTreeMap::new(),
                refusals: Vec::new(),
                frozen: BTreeSet::new(),
                digest: Digest(String::new()),
            },
            findings: Vec::new(),
            problems: Vec::new(),
            events: Vec::new(),
            sight: None,
            now: time("2026-11-21T03:00:00Z"),
        };
        world.add("shop/nightly", false, Some((Phase::Succeeded, "2 files could not be read.")));
        world.desired.settings.cluster = Some("home".to_owned());
        world
    }

    pub fn add(&mut self, policy_name: &str, suspend: bool, run_ended: Option<(Phase, &str)>) {
        let policy = policy(policy_name, suspend);
        let points = match run_ended {
            Some(_) => vec![point("2026-11-20T02:00:00Z", 4_000_000), point("2026-11-21T02:00:00Z", 5_000_000)],
            None => Vec::new(),
        };
        let actual = ActualPolicy {
            compiled: Some(policy.compile(&self.desired.settings, Some("89abcdef89abcdef89abcdef89abcdef89abcdef"))),
            schedule: None,
            inventory: Inventory { observed_at: self.actual.observed_at, complete: true, points },
            last_run: run_ended.map(|(phase, message)| run(policy_name, "2026-11-21T02:00:00Z", phase, message)),
            last_success: run_ended.map(|_| time("2026-11-21T02:01:23Z")),
            running: None,
            drift: None,
            failed_checks: Vec::new(),
        };
        self.actual.policies.insert(name(policy_name), Arc::new(actual));
        self.desired.policies.insert(name(policy_name), policy);
    }

    pub fn policy(&mut self, policy_name: &str) -> &mut ActualPolicy {
        Arc::make_mut(self.actual.policies.get_mut(&name(policy_name)).expect("a policy"))
    }

    pub fn refuse(&mut self, policy_name: &str) {
        let lost = RestorePointId("20261120-020000".to_owned());
        let effect = Effect::Lose { policy: name(policy_name), point: lost.clone() };
        let after = self.desired.policies[&name(policy_name)].compile(&self.desired.settings, None);
        self.plan.refusals.push(Refusal {
            change: Change {
                policy: name(policy_name),
                action: Action::Update,
                reason: Reason::DocumentChanged(vec!["retention.keepDaily".to_owned()]),
                before: None,
                source: after.source.clone(),
                after: Some(after),
                restore: None,
                next_runs: Vec::new(),
                losses: vec![lost],
                taken_back: Vec::new(),
                approval: None,
            },
            reason: "1 restore point would be lost by `keepDaily 7 → 1`".to_owned(),
            effects: [effect].into(),
            digest: Digest("5f70bf18a086007016e948b04aed3b82103a36be".to_owned()),
        });
    }

    /// A world with something of everything.
    pub fn troubled() -> Self {
        let mut world = Self::new();
        world.add("shop/broken", false, None);
        world.desired.frozen_files.insert(PathBuf::from("broken.backup.yaml"));
        world.add("shop/failed", false, Some((Phase::Failed, "cannot reach <db> | see *log*\n@ops https://x.org")));
        world.add("shop/new", false, None);
        world.add("shop/paused", true, Some((Phase::Succeeded, "")));
        world.add("shop/refused", false, Some((Phase::Succeeded, "")));
        world.refuse("shop/refused");
        world.add("shop/unseen", false, Some((Phase::Succeeded, "")));
        world.policy("shop/unseen").inventory.complete = false;
        world.add("shop/withdrawn", false, Some((Phase::Succeeded, "")));
        world.policy("shop/withdrawn").compiled = None;
        world.desired.policies.remove(&name("shop/withdrawn"));
        let nightly = world.policy("shop/nightly");
        nightly.inventory.points[0].expired_since = Some(time("2026-11-21T02:01:23Z"));
        nightly.inventory.points[1].held = true;
        world.findings.push("broken.backup.yaml:7:5: unknown field `keepDayly`".to_owned());
        world
            .problems
            .push("https://git.example.org/ cannot be reached; backups go on, and it is tried again".to_owned());
        let report = RestoreReport {
            restore_point: Some(RestorePointId("20261120-020000".to_owned())),
            phase: Phase::Succeeded,
            started_at: time("2026-11-21T02:30:00Z"),
            finished_at: Some(time("2026-11-21T02:31:00Z")),
            message: "Restored 42 files into /srv/proof.".to_owned(),
            sources: Vec::new(),
        };
        world.actual.restores.insert((name("shop/proof"), "c0ffee".to_owned()), report);
        world.events.push(Event {
            sequence: 1,
            at: time("2026-11-21T02:01:23Z"),
            policy: name("shop/nightly"),
            kind: EventKind::Expired { points: vec![RestorePointId("20261120-020000".to_owned())] },
        });
        world
    }

    pub fn input<'a>(&'a self, next_run: &'a dyn Fn(&Policy) -> Option<Timestamp>) -> StatusInput<'a> {
        StatusInput {
            desired: &self.desired,
            plan: Some(&self.plan),
            applied: &self.applied,
            sight: self.sight.as_ref(),
            actual: &self.actual,
            findings: &self.findings,
            problems: &self.problems,
            events: &self.events,
            last_published: None,
            approve_arguments: "",
            next_run,
            now: self.now,
        }
    }

    /// What this world publishes on top of what there is.
    pub fn documents(&self, before: &BTreeMap<String, Vec<u8>>) -> Edit {
        self.documents_after(before, None, &mut Memo::default())
    }

    /// The same without what the memo knows to be there.
    pub fn documents_after(&self, before: &BTreeMap<String, Vec<u8>>, commit: Option<&str>, memo: &mut Memo) -> Edit {
        let next_run = |policy: &Policy| next_run(policy, self.now);
        let read = |path: &str| before.get(path).cloned();
        let list = |directory: &str| before.keys().filter(|path| path.starts_with(directory)).cloned().collect();
        let published = status::Published { read: &read, list: &list };
        status::documents_after(&self.input(&next_run), &published, commit, memo)
    }
}

pub fn next_run(policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    schedule::next_runs(&policy.schedules, now, 1).first().copied()
}
