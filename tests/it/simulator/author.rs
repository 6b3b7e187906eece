//! The author: writes, changes, breaks, reverts and approves documents, as people do.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use jiff::{SignedDuration, tz::TimeZone};
use mainstay::{
    desired::DesiredState,
    git::Revision,
    plan::{Approvals, approval},
    policy::{
        Location, Policy, PolicyContent, PolicyName, Restore,
        document::{BackupPolicyDocument, RestoreDocument, SettingsSpec},
    },
    retention::KeepRules,
    schedule::Schedule,
};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use super::world::World;

/// What one commit asks for.
#[derive(Debug, Clone, Default)]
struct Tree {
    policies: BTreeMap<PolicyName, Value>,
    restores: BTreeMap<PolicyName, Value>,
    /// Policies whose document is broken.
    broken: BTreeSet<PolicyName>,
    /// The files cannot be believed: nothing may be deleted.
    vanished: bool,
    settings: SettingsSpec,
}

/// The history of the documents and of what was approved.
pub struct Author {
    history: Vec<Tree>,
    approvals: Approvals,
    /// Approves with the digest only, as a trailer does whose list was cut off.
    terse: bool,
}

const SCHEDULES: [&str; 6] = ["0 2 * * *", "30 2 * * *", "0 */6 * * *", "*/30 * * * *", "0 3 * * 0", "@hourly"];
const ZONES: [&str; 3] = ["UTC", "Europe/Berlin", "America/New_York"];

impl Author {
    pub fn new(random: &mut StdRng) -> Self {
        let mut tree = Tree::default();
        for number in 0..random.random_range(1..4) {
            tree.policies.insert(name(number), document(random, number));
        }
        Self { history: vec![tree], approvals: Approvals::default(), terse: random.random_bool(0.3) }
    }

    /// Makes the first commit.
    pub fn begin(&self, world: &World) {
        let documents = self.documents();
        if let Some(branches) = &mut world.state().branches {
            branches.commit(documents.as_ref(), "begin");
        }
    }

    fn head(&self) -> &Tree {
        self.history.last().expect("the history begins with a commit")
    }

    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// One commit, whatever it does.
    pub fn commit(&mut self, random: &mut StdRng, world: &World) {
        let mut tree = self.head().clone();
        let number = random.random_range(0..4);
        let name = name(number);
        // Files that vanished are noticed soon.
        if tree.vanished && random.random_bool(0.5) {
            tree.vanished = false;
        }
        let what = match random.random_range(0..23) {
            0..10 => {
                let edited = tree.policies.get_mut(&name);
                let Some(policy) = edited else { return };
                edit(random, policy)
            }
            10..12 => {
                tree.policies.remove(&name);
                "remove"
            }
            12..15 => {
                tree.policies.insert(name.clone(), document(random, number));
                "write"
            }
            15..17 => {
                tree = self.history[random.random_range(0..self.history.len())].clone();
                "revert to an earlier commit"
            }
            17 => {
                if !tree.broken.remove(&name) {
                    tree.broken.insert(name.clone());
                }
                "break or mend"
            }
            18 => {
                tree.vanished = !tree.vanished;
                "let files vanish or come back"
            }
            19..22 => {
                // A freeze is lifted sooner than it is put on.
                tree.settings.freeze = !tree.settings.freeze && random.random_bool(0.3);
                tree.settings.safety.losses = if random.random_bool(0.5) { random.random_range(1..3) } else { 0 };
                match tree.policies.get_mut(&name).filter(|_| random.random_bool(0.5)) {
                    Some(policy) => {
                        policy["spec"]["retention"] = retention(random);
                        "edit the settings and the retention of"
                    }
                    None => "edit the settings, not",
                }
            }
            _ => {
                let path = random.random_bool(0.5).then(|| json!({"path": "/restored"}));
                let mut spec = json!({"policy": name.to_string()});
                if let Some(path) = path {
                    spec["into"] = path;
                }
                tree.restores.insert(self::name(random.random_range(10..13)), spec);
                "ask for a restore"
            }
        };
        let mut state = world.state();
        state.tell(format!("commit: {what} {name}"));
        self.history.push(tree);
        let documents = self.documents();
        if let Some(branches) = &mut state.branches {
            if what.starts_with("revert") && random.random_bool(0.3) {
                branches.force_push(random, documents.as_ref());
                state.tell("author: force-pushes it".to_owned());
            } else {
                branches.commit(documents.as_ref(), what);
            }
        }
    }

    /// The files that the newest commit holds; none: their directory vanished.
    pub fn documents(&self) -> Option<BTreeMap<PathBuf, String>> {
        let tree = self.head();
        if tree.vanished {
            return None;
        }
        let store = json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "here"},
            "spec": {"directory": "/backup/here", "password": {"generate": true}}
        });
        let file = |name: &str| PathBuf::from(format!("{name}.backup.yaml"));
        let settings = json!({
            "apiVersion": "mainstay.dev/v1alpha1", "kind": "Settings", "metadata": {"name": "settings"},
            "spec": {"freeze": tree.settings.freeze, "safety": {"losses": tree.settings.safety.losses}}
        });
        let mut files = BTreeMap::from([(file("store"), store.to_string()), (file("settings"), settings.to_string())]);
        for (name, policy) in &tree.policies {
            let end = if tree.broken.contains(name) { "\n[" } else { "" };
            files.insert(file(name.name()), format!("{policy}{end}"));
        }
        for (name, spec) in &tree.restores {
            let restore = json!({
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Restore",
                "metadata": {"name": name.name(), "namespace": name.namespace()}, "spec": spec
            });
            files.insert(file(name.name()), restore.to_string());
        }
        Some(files)
    }

    /// Whether every document of the newest commit can be read.
    pub fn is_readable(&self) -> bool {
        !self.head().vanished && self.head().broken.is_empty()
    }

    /// The settings of the newest commit.
    pub fn settings(&self) -> &SettingsSpec {
        &self.head().settings
    }

    /// The policies that have a document, good or broken.
    pub fn policies(&self) -> BTreeSet<PolicyName> {
        self.head().policies.keys().cloned().collect()
    }

    /// Consents to one refusal of the last plan, if there is one that can be consented to.
    pub fn approve(&mut self, random: &mut StdRng, world: &World) {
        let mut state = world.state();
        let Some(plan) = &state.plan else { return };
        let open: Vec<_> = plan.refusals.iter().filter(|refusal| refusal.can_be_approved()).collect();
        if open.is_empty() {
            return;
        }
        let refusal = open[random.random_range(0..open.len())].clone();
        let documents = self.documents();
        let trailers = match self.terse {
            true => format!("{}: {}\n", approval::APPROVE, refusal.digest),
            false => approval::trailers(&refusal.digest, &refusal.effects),
        };
        if let Some(branches) = &mut state.branches {
            branches.commit(documents.as_ref(), &format!("consent\n\n{trailers}"));
        }
        if self.terse {
            self.approvals.digests.insert(refusal.digest);
        } else {
            self.approvals.effects.extend(refusal.effects.iter().cloned());
        }
        state.tell(format!("author: approves {:?}", refusal.effects));
        state.open_consent.extend(refusal.effects.iter().cloned());
        state.consented.extend(refusal.effects);
    }

    /// Mends every document, so that the world can come to rest.
    pub fn mend(&mut self, world: &World) {
        let mut tree = self.head().clone();
        tree.broken.clear();
        tree.vanished = false;
        tree.settings.freeze = false;
        self.history.push(tree);
        let documents = self.documents();
        if let Some(branches) = &mut world.state().branches {
            branches.merge_abandoned(documents.as_ref());
        }
    }

    /// What the newest commit asks for, without git.
    pub fn desired(&self) -> DesiredState {
        let tree = self.head();
        let mut desired = DesiredState {
            revision: Some(Revision(format!("{:040x}", self.history.len()))),
            frozen_policies: tree.broken.clone(),
            settings: tree.settings.clone(),
            ..DesiredState::default()
        };
        if tree.vanished {
            desired.deletion_blocked = Some("the watched path vanished".to_owned());
            return desired;
        }
        for (name, document) in tree.policies.iter().filter(|(name, _)| !tree.broken.contains(*name)) {
            desired.policies.insert(name.clone(), policy(name, document));
        }
        for (name, spec) in &tree.restores {
            let document = json!({
                "apiVersion": "mainstay.dev/v1alpha1", "kind": "Restore", "metadata": {"name": name.name()}, "spec": spec
            });
            let document: RestoreDocument = serde_json::from_value(document).expect("the author's restores are good");
            let policy = document.spec.policy.parse().expect("a name");
            let restore = Restore { name: name.clone(), policy, location: place(name), document };
            desired.restores.insert(name.clone(), restore);
        }
        desired
    }
}

fn name(number: u32) -> PolicyName {
    PolicyName::new("shop", &format!("p{number}"))
}

fn place(name: &PolicyName) -> Location {
    Location { file: PathBuf::from(format!("{}.backup.yaml", name.name())), line: 1, column: 1 }
}

fn document(random: &mut StdRng, number: u32) -> Value {
    let sources: Vec<Value> = (0..random.random_range(1..3))
        .map(|source| json!({"name": format!("s{source}"), "paths": [format!("/srv/{source}")]}))
        .collect();
    let mut document = json!({
        "apiVersion": "mainstay.dev/v1alpha1",
        "kind": "BackupPolicy",
        "metadata": {"name": format!("p{number}"), "namespace": "shop"},
        "spec": {
            "schedule": SCHEDULES[random.random_range(0..SCHEDULES.len())],
            "timeZone": ZONES[random.random_range(0..ZONES.len())],
            "repositories": ["here"],
            "sources": sources,
            "retention": retention(random),
        }
    });
    let spec = &mut document["spec"];
    if random.random_bool(0.5) {
        spec["consistency"] = json!("Cold");
        spec["quiesce"] = json!({"stop": ["stop"], "start": ["start"]});
    }
    if random.random_bool(0.3) {
        spec["jitter"] = json!("20m");
    }
    if random.random_bool(0.3) {
        spec["deadline"] = json!("2h");
    }
    if random.random_bool(0.4) {
        spec["deletion"] = json!("Confirm");
    }
    if random.random_bool(0.4) {
        spec["verify"] = json!({});
    }
    document
}

fn retention(random: &mut StdRng) -> Value {
    let mut retention = json!({"keepLast": random.random_range(1..6)});
    if random.random_bool(0.5) {
        retention["keepDaily"] = json!(random.random_range(1..5));
    }
    if random.random_bool(0.2) {
        retention["keepMonthly"] = json!(-1);
    }
    if random.random_bool(0.3) {
        retention["keepWithin"] = json!(["6h", "2d", "1mo"][random.random_range(0..3)]);
    }
    if random.random_bool(0.4) {
        retention["grace"] = json!(["1h", "12h", "3d"][random.random_range(0..3)]);
    }
    retention
}

fn edit(random: &mut StdRng, document: &mut Value) -> &'static str {
    let spec = &mut document["spec"];
    match random.random_range(0..11) {
        0..6 => {
            spec["retention"] = retention(random);
            "edit the retention of"
        }
        6..8 => {
            spec["schedule"] = json!(SCHEDULES[random.random_range(0..SCHEDULES.len())]);
            "edit the schedule of"
        }
        8 => {
            spec["suspend"] = json!(!spec["suspend"].as_bool().unwrap_or(false));
            "suspend or resume"
        }
        9 => {
            let fields = spec.as_object_mut().expect("a policy has fields");
            if fields.remove("verify").is_none() {
                fields.insert("verify".to_owned(), json!({}));
            }
            "verify or not"
        }
        _ => {
            spec["deletion"] = json!(if random.random_bool(0.5) { "Confirm" } else { "Retain" });
            "edit the deletion of"
        }
    }
}

fn policy(name: &PolicyName, document: &Value) -> Policy {
    let document: BackupPolicyDocument =
        serde_json::from_value(document.clone()).expect("the author's policies are good");
    let spec = &document.spec;
    let time_zone = TimeZone::get(&spec.time_zone).expect("the author writes known zones");
    let schedules = spec.schedule.as_slice().iter();
    let content = PolicyContent {
        name: name.clone(),
        location: place(name),
        schedules: schedules
            .map(|text| Schedule::parse(text, &time_zone).expect("the author writes good ones"))
            .collect(),
        time_zone,
        jitter: spec.jitter.map_or(SignedDuration::ZERO, |jitter| jitter.duration()),
        deadline: spec.deadline.map(|deadline| deadline.duration()),
        suspend: spec.suspend,
        rules: KeepRules { verified: spec.verify.is_some(), ..KeepRules::from(&spec.retention) },
        grace: spec.retention.grace.map_or(SignedDuration::from_hours(24), |grace| grace.duration()),
        cleanup: None,
        document: Arc::new(document),
    };
    Policy { content: Arc::new(content), repositories: Vec::new() }
}
