//! The index: what the watches have told, and the observation that follows from it.
//!
//! Pure; `watch` fills it. A policy is judged anew only when one of its objects changed, so an observation in which
//! nothing is new costs a copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::CronJob, core::v1::ConfigMap};
use kube::core::ObjectMeta;
use serde_json::Value;

use self::collection::Collection;
use super::{
    labels::{self, Kind},
    manifests::{
        compare,
        policy::{self, Installation, Sort},
    },
    names,
    store::{History, PointsRecord, RestoreRecord, codec},
};
use crate::{
    actual::{ActualPolicy, ActualState},
    policy::{CompiledPolicy, PolicyName},
    restore_point::Inventory,
};

pub mod collection;

/// After an error of a watch, what is known may be old for this long. A watch that still fails says so more often.
const DOUBT: SignedDuration = SignedDuration::from_secs(60);

/// What the watches have told.
#[derive(Debug)]
pub struct Index {
    installation: Installation,
    /// ConfigMaps of ours, by name.
    pub maps: Collection<Map>,
    /// CronJobs of ours, by name.
    pub jobs: Collection<Job>,
    /// ConfigMaps that are not ours: the policy that may adopt each.
    pub foreign_maps: Collection<Option<String>>,
    /// CronJobs that are not ours.
    pub foreign_jobs: Collection<Option<String>>,
    /// What was made of each policy the last time.
    judged: BTreeMap<PolicyName, Arc<ActualPolicy>>,
    /// What restores waited for the last time, by the names of their ConfigMaps.
    waiting: BTreeMap<String, String>,
    failed_at: Option<(Timestamp, String)>,
}

/// A ConfigMap of ours.
#[derive(Debug, Clone)]
pub struct Map {
    /// Whose.
    pub policy: Option<PolicyName>,
    /// What is in it; the text says why it cannot be read.
    pub content: Result<Content, String>,
    /// Labels and annotations, and whatever else can be compared.
    comparable: Arc<str>,
}

/// What a ConfigMap of ours holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// A compiled policy.
    Policy(Arc<CompiledPolicy>),
    /// The restore points of a policy.
    Points(Arc<PointsRecord>),
    /// A restore.
    Restore(Arc<RestoreRecord>),
    /// The history.
    History(Arc<History>),
}

/// A CronJob of ours, as JSON: a parsed one takes several times as much.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whose.
    pub policy: Option<PolicyName>,
    text: Arc<str>,
}

impl Map {
    /// Reads a ConfigMap.
    pub fn read(map: &ConfigMap) -> Self {
        let metadata = &map.metadata;
        let kind = metadata.labels.as_ref().and_then(|labels| labels.get(labels::KIND)).map(String::as_str);
        let failed = |error: codec::CodecError| crate::engine::chain(&error);
        let content = match kind {
            Some(kind) if kind == Kind::Policy.text() => {
                codec::read(map).map(|policy| Content::Policy(Arc::new(policy))).map_err(failed)
            }
            Some(kind) if kind == Kind::Points.text() => {
                codec::read(map).map(|points| Content::Points(Arc::new(points))).map_err(failed)
            }
            Some(kind) if kind == Kind::History.text() => {
                codec::read(map).map(|history| Content::History(Arc::new(history))).map_err(failed)
            }
            Some(kind) if kind == Kind::Restore.text() => {
                codec::read(map).map(|restore| Content::Restore(Arc::new(restore))).map_err(failed)
            }
            _ => Err("its label does not say what it is".to_owned()),
        };
        let comparable = match &content {
            // Records are not compared: whoever writes them writes them whole.
            Ok(Content::Points(_) | Content::Restore(_) | Content::History(_)) => String::new(),
            Ok(Content::Policy(_)) | Err(_) => {
                serde_json::json!({"metadata": marks(metadata), "data": map.data}).to_string()
            }
        };
        Self { policy: policy::policy_of(metadata.annotations.as_ref()), content, comparable: comparable.into() }
    }
}

impl Job {
    /// Reads a CronJob.
    pub fn read(job: &CronJob) -> Self {
        let text = serde_json::json!({"metadata": marks(&job.metadata), "spec": job.spec}).to_string();
        Self { policy: policy::policy_of(job.metadata.annotations.as_ref()), text: text.into() }
    }

    /// As JSON.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

fn marks(metadata: &ObjectMeta) -> Value {
    serde_json::json!({
        "name": metadata.name,
        "namespace": metadata.namespace,
        "labels": metadata.labels,
        "annotations": metadata.annotations,
    })
}

impl Index {
    /// Of one installation, before anything was told.
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            maps: Collection::default(),
            jobs: Collection::default(),
            foreign_maps: Collection::default(),
            foreign_jobs: Collection::default(),
            judged: BTreeMap::new(),
            waiting: BTreeMap::new(),
            failed_at: None,
        }
    }

    /// What every manifest has in common.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Freezes everything, or thaws it. Every policy is judged anew if that changes something.
    pub fn set_frozen(&mut self, frozen: bool) {
        if self.installation.frozen != frozen {
            self.installation.frozen = frozen;
            self.judged.clear();
        }
    }

    /// Whether every watch has told everything once.
    pub fn is_ready(&self) -> bool {
        self.maps.is_ready() && self.jobs.is_ready() && self.foreign_maps.is_ready() && self.foreign_jobs.is_ready()
    }

    /// Notes that a watch failed.
    pub fn failed(&mut self, now: Timestamp, reason: String) {
        self.failed_at = Some((now, reason));
    }

    /// The last failure of a watch.
    pub fn failure(&self) -> Option<&str> {
        self.failed_at.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// Judges what changed since the last time. True: some of it is not as it was applied, or a restore waits for something
    /// else than before, and a turn should look.
    pub fn judge(&mut self, now: Timestamp) -> bool {
        let mut changed: BTreeSet<PolicyName> = self.maps.take_changed(|map| map.policy.clone());
        changed.extend(self.jobs.take_changed(|job| job.policy.clone()));
        let foreign = self.foreign_maps.take_any_changed() | self.foreign_jobs.take_any_changed();
        if self.judged.is_empty() {
            changed.extend(self.maps.values().filter_map(|map| map.policy.clone()));
            changed.extend(self.jobs.values().filter_map(|job| job.policy.clone()));
        }
        let jobs = self.jobs_by_policy(&changed);
        let mut is_surprising = foreign;
        if !changed.is_empty() {
            let waiting = self.waiting_restores();
            is_surprising |= waiting != self.waiting;
            self.waiting = waiting;
        }
        for name in changed {
            let jobs = jobs.get(&name).map_or(&[][..], Vec::as_slice);
            match self.judge_policy(&name, jobs, now) {
                Some(policy) => {
                    let was = self.judged.get(&name).and_then(|known| known.drift.clone());
                    is_surprising |= policy.drift.is_some() && policy.drift != was;
                    self.judged.insert(name, Arc::new(policy));
                }
                None => is_surprising |= self.judged.remove(&name).is_some(),
            }
        }
        is_surprising
    }

    fn waiting_restores(&self) -> BTreeMap<String, String> {
        let waiting = self.maps.iter().filter_map(|(name, map)| match &map.content {
            Ok(Content::Restore(restore)) => Some((name.clone(), restore.report.waits_for()?.to_owned())),
            Ok(Content::Policy(_) | Content::Points(_) | Content::History(_)) | Err(_) => None,
        });
        waiting.collect()
    }

    /// The observation.
    pub fn observe(&mut self, now: Timestamp) -> ActualState {
        self.judge(now);
        let damaged = self.maps.values().any(|map| map.content.is_err() && map.policy.is_none());
        let doubtful = self.failed_at.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < DOUBT);

        let restores = self.maps.values().filter_map(|map| match (&map.policy, &map.content) {
            (Some(name), Ok(Content::Restore(restore))) => {
                Some(((name.clone(), restore.content.clone()), restore.report.clone()))
            }
            _ => None,
        });
        ActualState {
            observed_at: now,
            complete: self.is_ready() && !doubtful && !damaged,
            policies: self.judged.clone(),
            restores: restores.collect(),
            foreign: self.foreign(),
        }
    }

    /// Names of objects that are not ours, with who may adopt each.
    fn foreign(&self) -> BTreeMap<String, Option<String>> {
        let maps = self.foreign_maps.iter().map(|(name, adopt)| (Sort::ConfigMap, name, adopt));
        let jobs = self.foreign_jobs.iter().map(|(name, adopt)| (Sort::CronJob, name, adopt));
        maps.chain(jobs).map(|(sort, name, adopt)| (format!("{} {name}", sort.text()), adopt.clone())).collect()
    }

    /// The compiled policy that was applied.
    pub fn compiled(&self, policy: &PolicyName) -> Option<Arc<CompiledPolicy>> {
        match &self.maps.get(&names::policy_map(policy))?.content {
            Ok(Content::Policy(compiled)) => Some(Arc::clone(compiled)),
            Ok(Content::Points(_) | Content::Restore(_) | Content::History(_)) | Err(_) => None,
        }
    }

    /// The namespaces of all policies that are applied or have restore points.
    pub fn namespaces(&self) -> BTreeSet<String> {
        let policies = self.maps.values().filter_map(|map| match &map.content {
            Ok(Content::Policy(compiled)) => Some(&compiled.name),
            Ok(Content::Points(record)) => Some(&record.policy),
            Ok(Content::Restore(..) | Content::History(_)) | Err(_) => None,
        });
        policies.map(|policy| policy.namespace().to_owned()).collect()
    }

    /// What is known of a policy's restore points.
    pub fn points(&self, policy: &PolicyName) -> Option<Arc<PointsRecord>> {
        match &self.maps.get(&names::points_map(policy))?.content {
            Ok(Content::Points(points)) => Some(Arc::clone(points)),
            Ok(Content::Policy(_) | Content::Restore(_) | Content::History(_)) | Err(_) => None,
        }
    }

    /// All records of restore points.
    pub fn all_points(&self) -> impl Iterator<Item = &Arc<PointsRecord>> {
        self.maps.values().filter_map(|map| match &map.content {
            Ok(Content::Points(points)) => Some(points),
            Ok(Content::Policy(_) | Content::Restore(_) | Content::History(_)) | Err(_) => None,
        })
    }

    /// The restores that have not ended.
    pub fn restores_under_way(&self) -> impl Iterator<Item = &Arc<RestoreRecord>> {
        let all = self.maps.values().filter_map(|map| match &map.content {
            Ok(Content::Restore(restore)) => Some(restore),
            Ok(Content::Policy(_) | Content::Points(_) | Content::History(_)) | Err(_) => None,
        });
        all.filter(|restore| restore.report.finished_at.is_none())
    }

    /// The history that is stored.
    pub fn history(&self) -> Option<Arc<History>> {
        match &self.maps.get(names::HISTORY)?.content {
            Ok(Content::History(history)) => Some(Arc::clone(history)),
            Ok(Content::Policy(_) | Content::Points(_) | Content::Restore(_)) | Err(_) => None,
        }
    }

    /// The objects of a policy that were applied, sorts and names.
    pub fn objects_of(&self, policy: &PolicyName) -> Vec<(Sort, String)> {
        let jobs = self.jobs.iter().filter(|(_, job)| job.policy.as_ref() == Some(policy));
        let map = names::policy_map(policy);
        let map = self.maps.get(&map).map(|_| (Sort::ConfigMap, map.clone()));
        jobs.map(|(name, _)| (Sort::CronJob, name.clone())).chain(map).collect()
    }

    /// The policies with a CronJob that does not say whether everything is frozen, as it should.
    pub fn frozen_otherwise(&self, frozen: bool) -> Vec<Arc<CompiledPolicy>> {
        let mark = format!("\"{}\"", labels::FROZEN);
        let others = self.jobs.values().filter(|job| job.text.contains(&mark) != frozen);
        let names: BTreeSet<&PolicyName> = others.filter_map(|job| job.policy.as_ref()).collect();
        names.into_iter().filter_map(|name| self.compiled(name)).collect()
    }

    /// Whether an object is there exactly as a manifest has it.
    pub fn is_as(&self, manifest: &policy::Manifest) -> bool {
        let observed = match manifest.sort {
            Sort::ConfigMap => self.maps.get(&manifest.name).map(|map| parse(&map.comparable)),
            Sort::CronJob => self.jobs.get(&manifest.name).map(Job::value),
        };
        observed.is_some_and(|observed| compare::difference(&compared(&manifest.content), &observed).is_none())
    }

    fn jobs_by_policy(&self, changed: &BTreeSet<PolicyName>) -> BTreeMap<PolicyName, Vec<(String, Job)>> {
        let mut jobs: BTreeMap<PolicyName, Vec<(String, Job)>> = BTreeMap::new();
        if changed.is_empty() {
            return jobs;
        }
        for (name, job) in self.jobs.iter() {
            if let Some(policy) = job.policy.as_ref().filter(|policy| changed.contains(policy)) {
                jobs.entry(policy.clone()).or_default().push((name.clone(), job.clone()));
            }
        }
        jobs
    }

    /// What there is of one policy; none: nothing.
    fn judge_policy(&self, name: &PolicyName, jobs: &[(String, Job)], now: Timestamp) -> Option<ActualPolicy> {
        let map = self.maps.get(&names::policy_map(name));
        let points_map = self.maps.get(&names::points_map(name));
        let compiled = self.compiled(name);
        let points = self.points(name);
        let unreadable = |map: Option<&Map>| map.and_then(|map| map.content.as_ref().err().cloned());
        let drift = match (&compiled, unreadable(map)) {
            (Some(compiled), _) => self.drift(compiled, jobs),
            (None, Some(reason)) => Some(format!("ConfigMap {} cannot be read: {reason}", names::policy_map(name))),
            (None, None) if jobs.is_empty() => None,
            (None, None) => Some(format!("ConfigMap {} is gone", names::policy_map(name))),
        };
        let is_unknown = points_map.is_some() && points.is_none();
        let inventory = match (&points, is_unknown) {
            (Some(points), _) => points.inventory(now),
            (None, true) => Inventory::unknown(),
            // It never ran: there is nothing, and that is known since then.
            (None, false) => Inventory::empty(now),
        };
        let running = points.as_ref().and_then(|points| points.running.clone());
        let is_empty = inventory.points.is_empty() && running.is_none() && !is_unknown;
        if compiled.is_none() && drift.is_none() && is_empty {
            return None;
        }
        Some(ActualPolicy {
            // Without its ConfigMap only the schedule of its CronJobs is known.
            schedule: (compiled.is_none() && drift.is_some()).then(|| schedule_of(jobs)),
            compiled: compiled.map(|compiled| (*compiled).clone()),
            inventory,
            last_run: points.as_ref().and_then(|points| points.last_run.clone()),
            last_success: points.as_ref().and_then(|points| points.last_success),
            running,
            drift,
            failed_checks: points.as_ref().map_or_else(Vec::new, |points| points.failed_checks()),
        })
    }

    /// What is not as it was applied.
    fn drift(&self, compiled: &CompiledPolicy, jobs: &[(String, Job)]) -> Option<String> {
        let observed_jobs: BTreeMap<&str, Value> =
            jobs.iter().map(|(name, job)| (name.as_str(), job.value())).collect();
        let seen = observed_jobs.values().next();
        let installation = match seen {
            Some(seen) => compare::installation_as_seen(&self.installation, seen),
            None => self.installation.clone(),
        };
        let mut wanted = BTreeSet::new();
        let mut differences = Vec::new();
        for manifest in policy::of(compiled, &installation) {
            let (sort, name) = (manifest.sort.text(), &manifest.name);
            let observed = match manifest.sort {
                Sort::ConfigMap => self.maps.get(name).map(|map| parse(&map.comparable)),
                Sort::CronJob => observed_jobs.get(name.as_str()).cloned(),
            };
            match observed {
                None => differences.push(format!("{sort} {name} is gone")),
                Some(observed) => differences.extend(
                    compare::difference(&compared(&manifest.content), &observed)
                        .map(|difference| format!("{sort} {name}: {difference}")),
                ),
            }
            wanted.insert(manifest.name);
        }
        for (name, _) in jobs.iter().filter(|(name, _)| !wanted.contains(name)) {
            differences.push(format!("CronJob {name} is left over"));
        }
        (!differences.is_empty()).then(|| differences.join("; "))
    }
}

/// Only what a watch keeps can be compared.
fn compared(manifest: &Value) -> Value {
    let keys = ["metadata", "spec", "data"];
    keys.iter().filter_map(|key| Some(((*key).to_owned(), manifest.get(key)?.clone()))).collect()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The schedules of a policy's runs, as its CronJobs have them.
fn schedule_of(jobs: &[(String, Job)]) -> String {
    let runs = jobs.iter().filter(|(name, _)| {
        name.rsplit_once('-').is_some_and(|(_, suffix)| suffix.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let schedules = runs.filter_map(|(_, job)| Some(job.value().pointer("/spec/schedule")?.as_str()?.to_owned()));
    schedules.collect::<Vec<_>>().join(", ")
}
