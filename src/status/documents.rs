//! `status/NAMESPACE/NAME.yaml`: all that is known of one policy. A boundary format (YAML).
//!
//! Pure. A run that is under way is not written: it would cost a commit at its beginning and one at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Published, StatusInput,
    conditions::{self, Condition, Health},
    memo::Known,
};
use crate::{
    actual::{ActualPolicy, ActualState, RestoreReport},
    forecast,
    git::Revision,
    policy::{
        PolicyName,
        document::{API_VERSION, DurationText},
    },
    restore_point::{RestorePoint, RestorePointId},
    retention::aside,
    run::{Phase, RunReport},
};

/// The first line of each file.
const HEADER: &str = "# Written by Mainstay; what is edited here is overwritten.\n";

/// How long an expired restore point can be taken back where the document does not say.
const DEFAULT_GRACE: DurationText = DurationText::from_seconds(24 * 3600);

/// The status of one policy, and how it is doing.
#[derive(Debug, Clone)]
pub struct PolicyStatus {
    /// Whose.
    pub name: PolicyName,
    /// How it is doing.
    pub health: Health,
    /// The document's content.
    pub status: Status,
}

/// What is published of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Ready, Reconciling, Stalled.
    pub conditions: Vec<Condition>,
    /// The commit whose document is in force. It changes when the policy does, not with each commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_revision: Option<Revision>,
    /// The content that is in force; another hash is another content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// Where the document stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its schedules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<String>,
    /// When it is due next, as it stood when a run last ended or the policy changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// The newest run that ended, with each of its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunReport>,
    /// When a run last succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// Bytes that a restore of the newest restore point writes.
    #[serde(default)]
    pub size_bytes: u64,
    /// All restore points, oldest first.
    #[serde(default)]
    pub restore_points: Vec<PointStatus>,
}

/// What is published of one restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PointStatus {
    /// Its id.
    pub id: RestorePointId,
    /// When it was captured.
    pub time: Timestamp,
    /// Bytes that a restore writes.
    pub size_bytes: u64,
    /// When it was last proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// Protected by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Made by somebody else; it stays until it is released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
    /// Since when no repository lists it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// When the rules let it go if runs go on as scheduled, seen from the newest restore point; none: not foreseeable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Since when the rules no longer keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_since: Option<Timestamp>,
    /// Until when it can be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_after: Option<Timestamp>,
}

/// The envelope, in the manner of the Kubernetes Resource Model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<S> {
    api_version: String,
    kind: String,
    metadata: Names,
    status: S,
}

#[derive(Debug, Serialize, Deserialize)]
struct Names {
    name: String,
    namespace: String,
}

#[derive(Debug, Serialize)]
struct RestoreStatus<'a> {
    /// Of the content that was asked for last: Ready, Reconciling, Stalled.
    conditions: Vec<Condition>,
    /// By the hash of the document's content.
    restores: BTreeMap<&'a str, &'a RestoreReport>,
}

impl PolicyStatus {
    /// Its file on the status branch.
    pub fn path(&self) -> String {
        path("status", &self.name)
    }

    /// The file's content.
    pub fn render(&self) -> Vec<u8> {
        render("BackupPolicyStatus", &self.name, &self.status)
    }
}

/// The status of every policy that is asked for, or of which something is left.
pub(super) fn policies(
    input: &StatusInput<'_>,
    published: &Published<'_>,
    known: Option<&Known>,
) -> BTreeMap<PolicyName, Arc<PolicyStatus>> {
    let is_left = |actual: &ActualPolicy| actual.compiled.is_some() || !actual.inventory.points.is_empty();
    let left = input.actual.policies.iter().filter(|(_, actual)| is_left(actual)).map(|(name, _)| name);
    let desired = input.desired.policies.keys().chain(&input.desired.frozen_policies);
    let names: BTreeSet<&PolicyName> = left.chain(desired).collect();
    let status = |name: &PolicyName| match known.and_then(|known| known.status(input, name)) {
        Some(known) => Arc::clone(known),
        None => Arc::new(policy(input, published, name)),
    };
    names.into_iter().map(|name| (name.clone(), status(name))).collect()
}

/// The documents for restores that ended, or that wait for something.
pub fn restores(actual: &ActualState) -> BTreeMap<String, Vec<u8>> {
    let mut by_name: BTreeMap<&PolicyName, BTreeMap<&str, &RestoreReport>> = BTreeMap::new();
    for ((name, content), report) in &actual.restores {
        if has_ended(report.phase) || report.waits_for().is_some() {
            by_name.entry(name).or_default().insert(content, report);
        }
    }
    by_name
        .into_iter()
        .map(|(name, restores)| {
            let newest = restores.values().max_by_key(|report| report.started_at);
            let conditions = newest.map(|report| conditions::of_restore(report)).unwrap_or_default();
            (path("restores", name), render("RestoreStatus", name, &RestoreStatus { conditions, restores }))
        })
        .collect()
}

fn policy(input: &StatusInput<'_>, published: &Published<'_>, name: &PolicyName) -> PolicyStatus {
    let before = read(published, name);
    let actual = input.actual.policies.get(name);
    let compiled = actual.and_then(|actual| actual.compiled.as_ref());
    let before_run = || before.as_ref().and_then(|status| status.last_run.clone());
    let ended = actual.and_then(|actual| actual.last_run.clone()).filter(|run| has_ended(run.phase));
    let last_run = ended.or_else(before_run);
    let (health, message) = conditions::judge(input, name, last_run.as_ref());
    let before_conditions = before.as_ref().map_or(&[][..], |status| &status.conditions);
    let grace = compiled.and_then(|compiled| compiled.document.spec.retention.grace);
    let spec_hash = compiled.map(|compiled| compiled.spec_hash.clone());
    let points = actual.map_or(&[][..], |actual| &actual.inventory.points);

    // The next run changes as time passes. It is worked out anew only when something happened: another content, a run
    // that ended, or a pause; so an idle turn finds nothing to write.
    let next_run = match input.desired.policies.get(name).filter(|policy| !policy.suspend) {
        None => None,
        Some(policy) => {
            let id = |run: &Option<RunReport>| run.as_ref().map(|run| run.id.clone());
            let same = |status: &&Status| status.spec_hash == spec_hash && id(&status.last_run) == id(&last_run);
            let kept = before.as_ref().filter(same).and_then(|status| status.next_run);
            kept.or_else(|| (input.next_run)(policy))
        }
    };
    let mut restore_points: Vec<PointStatus> = points.iter().map(|point| point_status(point, grace)).collect();
    // Foreseeing is the dear part, and ten thousand policies are usual: what did not change is taken from before.
    let same_points = |status: &&Status| {
        let bare = status.restore_points.iter().map(|point| PointStatus { expires_at: None, ..point.clone() });
        status.spec_hash == spec_hash && bare.eq(restore_points.iter().cloned())
    };
    match before.as_ref().filter(same_points) {
        Some(status) => restore_points.clone_from(&status.restore_points),
        None => foresee(input, name, points, &mut restore_points),
    }
    let status = Status {
        conditions: conditions::conditions(health, &message, before_conditions, input.now),
        observed_revision: compiled.and_then(|compiled| compiled.revision.clone()).map(Revision),
        spec_hash,
        source: compiled.map(|compiled| compiled.source.file.display().to_string()),
        schedules: compiled.map_or_else(
            || actual.and_then(|actual| actual.schedule.clone()).into_iter().collect(),
            |compiled| compiled.document.spec.schedule.as_slice().to_vec(),
        ),
        next_run,
        last_run,
        last_success: actual.and_then(|actual| actual.last_success),
        size_bytes: points.last().map_or(0, |point| point.size_bytes),
        restore_points,
    };
    PolicyStatus { name: name.clone(), health, status }
}

fn point_status(point: &RestorePoint, grace: Option<DurationText>) -> PointStatus {
    let RestorePoint { id, time, size_bytes, verified_at, held, found, missing_since, expired_since, parts: _ } = point;
    let grace = grace.unwrap_or(DEFAULT_GRACE).duration();
    PointStatus {
        id: id.clone(),
        time: *time,
        size_bytes: *size_bytes,
        verified_at: *verified_at,
        held: *held,
        found: *found,
        missing_since: *missing_since,
        expires_at: None,
        expired_since: *expired_since,
        forgotten_after: expired_since.and_then(|since| since.checked_add(grace).ok()),
    }
}

/// Fills in when each restore point expires. Seen from the newest one, not from now: the answer moves only when a run or
/// an edit moves it.
fn foresee(input: &StatusInput<'_>, name: &PolicyName, points: &[RestorePoint], statuses: &mut [PointStatus]) {
    let is_in_force = |policy: &&crate::policy::Policy| {
        let compiled = input.actual.policies.get(name).and_then(|actual| actual.compiled.as_ref());
        // A change that is refused is not what the engine goes by.
        compiled.is_some_and(|compiled| compiled.document == policy.document) && !policy.suspend
    };
    let Some(policy) = input.desired.policies.get(name).filter(is_in_force) else { return };
    let takes_part = |point: &&RestorePoint| aside(point, input.now).is_none();
    let Some(newest) = points.iter().filter(takes_part).map(|point| point.time).max() else { return };
    let times = forecast::expires_at(&policy.rules, points, &policy.schedules, newest);
    for (status, time) in statuses.iter_mut().zip(times) {
        status.expires_at = time.filter(|_| status.expired_since.is_none());
    }
}

/// What is published of a policy. A file that somebody edited until it reads no more is written anew.
fn read(published: &Published<'_>, name: &PolicyName) -> Option<Status> {
    let bytes = (published.read)(&path("status", name))?;
    serde_yaml::from_slice::<Envelope<Status>>(&bytes).ok().map(|envelope| envelope.status)
}

fn render<S: Serialize>(kind: &str, name: &PolicyName, status: &S) -> Vec<u8> {
    let envelope = Envelope {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        metadata: Names { name: name.name().to_owned(), namespace: name.namespace().to_owned() },
        status,
    };
    let text = serde_yaml::to_string(&envelope).expect("a status holds only strings, numbers and string-keyed maps");
    format!("{HEADER}{text}").into_bytes()
}

fn path(directory: &str, name: &PolicyName) -> String {
    format!("{directory}/{}/{}.yaml", name.namespace(), name.name())
}

fn has_ended(phase: Phase) -> bool {
    match phase {
        Phase::Succeeded | Phase::Failed => true,
        Phase::Pending | Phase::Running => false,
    }
}
