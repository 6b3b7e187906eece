//! The record of one policy's restore points: what its repositories were seen to hold, marks and holds, where it all
//! is, and what is known of its runs.
//!
//! Pure. A boundary format (JSON). Everything that must be true together is in this one record, so that one
//! compare-and-swap changes all of it or nothing.

use std::{collections::BTreeMap, slice};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    actual::{RestoreReport, checks::FailedCheck},
    engine::kubernetes::manifests::claim::ClaimShape,
    engine::local::{
        inventory::Merged,
        state::{places::PlaceRecord, points::StoredPoint},
    },
    policy::{
        CompiledPolicy, PolicyName,
        document::{RepositoryDocument, repository::Layout},
    },
    restore_point::{Inventory, MakerId, RestorePoint, RestorePointId},
    retention::reach::decide_for,
    run::{Phase, RunReport, to_millisecond},
    status::ledger::EventKind,
};

/// How many events wait at most for the daemon. Older ones make way: it was away for very long.
const MOST_WAITING: usize = 200;

/// What is known of one policy besides its document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PointsRecord {
    /// Whose it is.
    pub policy: PolicyName,
    /// When its repositories were last looked at; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// Whether all of them answered.
    pub complete: bool,
    /// The restore points, oldest first.
    #[serde(default)]
    pub points: Vec<StoredPoint>,
    /// Where they are: the current places first, then former ones.
    #[serde(default)]
    pub places: Vec<PlaceRecord>,
    /// Who makes snapshots for this record; none: nothing was made yet by a version that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<MakerId>,
    /// What the claims were like when they were captured last, by name: what a restore makes anew is like them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, ClaimShape>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RestorePointId>,
    /// The newest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunReport>,
    /// When a run last succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// The places whose newest check did not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_checks: Vec<FailedCheck>,
    /// What was applied last of a policy that was withdrawn: cleanups of what it left go by its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Box<CompiledPolicy>>,
    /// What happened and is not in the history yet. The daemon takes it from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<WaitingEvent>,
}

/// Something that happened, before it has its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The Restore document that it is about; none: the policy itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<PolicyName>,
}

impl WaitingEvent {
    /// Whom it is about.
    pub fn subject<'a>(&'a self, policy: &'a PolicyName) -> &'a PolicyName {
        self.restore.as_ref().unwrap_or(policy)
    }
}

impl PointsRecord {
    /// Of a policy that never ran.
    pub fn new(policy: &PolicyName) -> Self {
        Self {
            policy: policy.clone(),
            observed_at: None,
            complete: true,
            points: Vec::new(),
            places: Vec::new(),
            maker: None,
            claims: BTreeMap::new(),
            running: None,
            last_run: None,
            last_success: None,
            failed_checks: Vec::new(),
            withdrawn: None,
            events: Vec::new(),
        }
    }

    /// The inventory as it is planned with. A policy that never looked at its repositories never wrote to them either.
    pub fn inventory(&self, now: Timestamp) -> Inventory {
        Inventory {
            observed_at: self.observed_at.unwrap_or(now),
            complete: self.complete,
            points: self.points.iter().map(|stored| self.located(stored)).collect(),
        }
    }

    /// The checks that did not pass, of places that still matter: new restore points go there, or some are there.
    pub fn failed_checks(&self) -> Vec<FailedCheck> {
        let is_current = |place: i64| self.places.iter().any(|known| known.id == place && known.current);
        let holds = |place: i64| self.points.iter().any(|point| point.parts.iter().any(|part| part.place == place));
        let matters = |check: &&FailedCheck| is_current(check.place) || holds(check.place);
        self.failed_checks.iter().filter(matters).cloned().collect()
    }

    /// A restore point whose parts say where they are.
    fn located(&self, stored: &StoredPoint) -> RestorePoint {
        let mut stored = stored.clone();
        for part in &mut stored.parts {
            let place = self.places.iter().find(|place| place.id == part.place);
            part.part.location = place.map(PlaceRecord::location).or(part.part.location.take());
        }
        stored.into_point()
    }

    /// Takes back the marks of points that the rules of a policy keep, which is what a reverted edit does.
    pub fn take_back(&mut self, policy: &CompiledPolicy, now: Timestamp) {
        let marked = |stored: &StoredPoint| stored.point.expired_since.is_some() && !stored.forgetting;
        if !self.points.iter().any(marked) {
            return;
        }
        let points = self.inventory(now).points;
        let decisions = decide_for(policy, &points, now);
        let kept = points.iter().zip(decisions).filter(|(_, decision)| decision.is_kept_by_rules());
        let kept: Vec<RestorePointId> = kept.map(|(point, _)| point.id.clone()).collect();
        let points = self.unmark(&kept);
        if !points.is_empty() {
            self.add_event(now, EventKind::TakenBack { points });
        }
    }

    /// One restore point.
    pub fn point(&self, id: &RestorePointId) -> Option<&RestorePoint> {
        self.points.iter().map(|stored| &stored.point).find(|point| point.id == *id)
    }

    /// Notes that something happened.
    pub fn add_event(&mut self, at: Timestamp, kind: EventKind) {
        self.wait(WaitingEvent { at, kind, restore: None });
    }

    /// Notes that a restore of this policy's points has ended.
    pub fn restore_ended(&mut self, restore: &PolicyName, report: &RestoreReport, at: Timestamp) {
        let kind = EventKind::RestoreEnded(Box::new(report.clone()));
        self.wait(WaitingEvent { at, kind, restore: Some(restore.clone()) });
    }

    fn wait(&mut self, event: WaitingEvent) {
        if self.events.len() >= MOST_WAITING {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    /// Stores what an observation found. Marks, holds and proofs stay as they are now, even if another process changed them
    /// since the observation began, and so does a point that came to be meanwhile.
    pub fn set_inventory(&mut self, observed_at: Timestamp, complete: bool, merged: &Merged) {
        let Merged { seen, fresh, missing, gone, leftovers: _ } = merged;
        self.observed_at = Some(observed_at);
        self.complete = complete;
        let ids = |points: &[StoredPoint]| points.iter().map(|stored| stored.point.id.clone()).collect::<Vec<_>>();
        let mut found = ids(fresh);
        found.retain(|id| self.point(id).is_none());
        for point in seen.iter().chain(fresh) {
            self.put_point(point);
        }
        let returned = self.change(&ids(seen), |stored| stored.point.missing_since.take().is_some());
        let vanished = self.change(&ids(missing), |stored| {
            let is_new = stored.point.missing_since.is_none();
            stored.point.missing_since.get_or_insert(to_millisecond(observed_at));
            is_new
        });
        let mut gone = ids(gone);
        // One that was held meanwhile stays.
        gone.retain(|id| self.points.iter().any(|one| one.point.id == *id && (!one.point.held || one.forgetting)));
        let forgotten = self.change(&gone, |stored| stored.forgetting);
        let given_up: Vec<RestorePointId> = gone.iter().filter(|id| !forgotten.contains(id)).cloned().collect();
        self.points.retain(|stored| !gone.contains(&stored.point.id));
        let mut tell = |points: Vec<RestorePointId>, kind: fn(Vec<RestorePointId>) -> EventKind| {
            if !points.is_empty() {
                self.add_event(observed_at, kind(points));
            }
        };
        tell(returned, |points| EventKind::Returned { points });
        tell(vanished, |points| EventKind::Missing { points });
        tell(found, |points| EventKind::Found { points });
        tell(forgotten, |points| EventKind::Forgotten { points });
        tell(given_up, |points| EventKind::GivenUp { points });
    }

    /// Records the restore point of a run: only now it exists.
    pub fn record_point(&mut self, point: &StoredPoint) {
        self.put_point(point);
        self.change(slice::from_ref(&point.point.id), |stored| {
            (stored.point.found, stored.point.missing_since) = (false, None);
            true
        });
    }

    /// Marks points as expired; those that are marked or held stay as they are. One that was found and is lost by an edit
    /// that a person has seen is like any other from then on. Returns which were marked.
    pub fn mark(&mut self, ids: &[RestorePointId], now: Timestamp) -> Vec<RestorePointId> {
        self.change(ids, |stored| {
            let is_free = stored.point.expired_since.is_none() && !stored.point.held;
            if is_free {
                stored.point.expired_since = Some(to_millisecond(now));
                stored.point.found = false;
            }
            is_free
        })
    }

    /// Takes marks back, except of points that a cleanup has begun to forget. Returns which were marked.
    pub fn unmark(&mut self, ids: &[RestorePointId]) -> Vec<RestorePointId> {
        self.change(ids, |stored| !stored.forgetting && stored.point.expired_since.take().is_some())
    }

    /// Notes that a cleanup begins to forget points. Returns those that still may be: one that was held meanwhile stays.
    pub fn set_forgetting(&mut self, ids: &[RestorePointId]) -> Vec<RestorePointId> {
        self.change(ids, |stored| {
            let is_free = !stored.point.held && stored.point.expired_since.is_some();
            stored.forgetting |= is_free;
            is_free
        })
    }

    /// Removes points that were forgotten, and says so.
    pub fn remove(&mut self, ids: &[RestorePointId], now: Timestamp) {
        let before = self.points.len();
        self.points.retain(|stored| !ids.contains(&stored.point.id));
        if self.points.len() < before {
            self.add_event(now, EventKind::Forgotten { points: ids.to_vec() });
        }
    }

    /// Notes that points were proven.
    pub fn set_verified(&mut self, ids: &[RestorePointId], now: Timestamp) {
        self.change(ids, |stored| {
            stored.point.verified_at = Some(to_millisecond(now));
            true
        });
    }

    /// Holds a point, or releases it, from being found as well; both take its mark away, so that its grace time begins
    /// anew. False: there is no such point, or a cleanup has begun to forget it.
    pub fn set_held(&mut self, id: &RestorePointId, held: bool, now: Timestamp) -> bool {
        let Some(stored) = self.points.iter_mut().find(|stored| stored.point.id == *id && !stored.forgetting) else {
            return false;
        };
        let is_released = stored.point.found && !held;
        if stored.point.held != held || is_released {
            (stored.point.held, stored.point.found) = (held, stored.point.found && held);
            stored.point.expired_since = None;
            let kind = if held { EventKind::Held(id.clone()) } else { EventKind::Released(id.clone()) };
            self.add_event(now, kind);
        }
        true
    }

    /// Makes the places of what is applied current, and the others former ones. A policy that was withdrawn, or moved
    /// elsewhere, gets a fresh place with `fresh_suffix`; what is at the old one stays listed and restorable.
    pub fn settle_places(&mut self, policy: &CompiledPolicy, mut fresh_suffix: impl FnMut() -> String) {
        let mut kept = Vec::new();
        for document in policy.repositories.iter().map(AsRef::as_ref) {
            let shared = document.spec.layout == Layout::Shared;
            let here = |place: &PlaceRecord| is_same_place(place, document, &policy.cluster);
            let found =
                self.places.iter().filter(|place| (place.current || shared) && here(place)).map(|place| place.id);
            let id = found.max().unwrap_or_else(|| {
                let id = self.places.iter().map(|place| place.id).max().unwrap_or(0) + 1;
                let path = match shared {
                    true => String::new(),
                    false => format!("{}/{}{}", policy.cluster, PlaceRecord::prefix(&policy.name), fresh_suffix()),
                };
                self.places.push(PlaceRecord {
                    id,
                    repository: document.metadata.name.clone(),
                    document: document.clone(),
                    path,
                    current: true,
                    initialised: false,
                });
                id
            });
            // Former places of the same repository are opened with the newest password and keys.
            for place in self.places.iter_mut().filter(|place| is_same_place(place, document, &policy.cluster)) {
                place.document = document.clone();
            }
            kept.push(id);
        }
        for place in &mut self.places {
            place.current = kept.contains(&place.id);
        }
        self.places.sort_by_key(|place| (!place.current, place.id));
        self.withdrawn = None;
    }

    /// Adds places that another record of the same policy had beside one of this one: former ones, whose repositories are
    /// there. Returns the new ones.
    pub fn add_former_places(&mut self, beside: i64, paths: &[String]) -> Vec<i64> {
        let Some(beside) = self.places.iter().find(|place| place.id == beside).cloned() else { return Vec::new() };
        let mut added = Vec::new();
        for path in paths {
            let is_known = |place: &PlaceRecord| place.path == *path && place.repository == beside.repository;
            if !self.places.iter().any(is_known) {
                let id = self.places.iter().map(|place| place.id).max().unwrap_or(0) + 1;
                let former =
                    PlaceRecord { id, path: path.clone(), current: false, initialised: true, ..beside.clone() };
                self.places.push(former);
                added.push(id);
            }
        }
        added
    }

    /// Remembers that the restic-format repository of a place was made: from now on a missing one is a failure.
    pub fn set_initialised(&mut self, place: i64) {
        for place in self.places.iter_mut().filter(|known| known.id == place) {
            place.initialised = true;
        }
    }

    /// Notes that the policy was withdrawn: no more runs, its points stay.
    pub fn withdraw(&mut self, policy: &CompiledPolicy) {
        for place in &mut self.places {
            place.current = false;
        }
        self.withdrawn = Some(Box::new(policy.clone()));
    }

    /// Notes that a run has begun, or how far it is.
    pub fn run_goes_on(&mut self, report: &RunReport) {
        self.running = Some(report.id.clone());
        self.last_run = Some(report.clone());
    }

    /// Notes that a run has ended, once: another process may have ended it already, and told so.
    pub fn run_ended(&mut self, report: &RunReport, now: Timestamp) {
        let is_known = |event: &WaitingEvent| event.kind.ended_run().is_some_and(|ended| ended.id == report.id);
        let has_ended = |last: &RunReport| last.id == report.id && last.finished_at.is_some();
        if self.last_run.as_ref().is_some_and(has_ended) || self.events.iter().any(is_known) {
            return;
        }
        if self.running.as_ref() == Some(&report.id) {
            self.running = None;
        }
        if self.last_run.as_ref().is_none_or(|last| last.started_at <= report.started_at) {
            self.last_run = Some(report.clone());
        }
        if report.phase == Phase::Succeeded {
            self.last_success = self.last_success.max(report.finished_at.or(Some(now)));
        }
        self.add_event(now, EventKind::RunEnded(Box::new(report.clone())));
    }

    /// Adds a point, or replaces what was observed of it.
    fn put_point(&mut self, point: &StoredPoint) {
        match self.points.iter_mut().find(|stored| stored.point.id == point.point.id) {
            Some(stored) => {
                stored.point.size_bytes = point.point.size_bytes;
                stored.parts.clone_from(&point.parts);
            }
            None => self.points.push(point.clone()),
        }
        self.points.sort_by(|one, other| (one.point.time, &one.point.id).cmp(&(other.point.time, &other.point.id)));
    }

    fn change(
        &mut self,
        ids: &[RestorePointId],
        mut change: impl FnMut(&mut StoredPoint) -> bool,
    ) -> Vec<RestorePointId> {
        let named = self.points.iter_mut().filter(|stored| ids.contains(&stored.point.id));
        named.filter_map(|stored| change(stored).then(|| stored.point.id.clone())).collect()
    }
}

/// Whether a place is the one that a document names: a change of anything else (the password, the maintenance) keeps it.
fn is_same_place(place: &PlaceRecord, document: &RepositoryDocument, cluster: &str) -> bool {
    let (one, other) = (&place.document.spec, &document.spec);
    let s3 = |spec: &crate::policy::document::repository::RepositorySpec| {
        spec.s3.as_ref().map(|s3| (s3.endpoint.clone(), s3.bucket.clone(), s3.prefix.clone()))
    };
    let is_own = other.layout == Layout::Shared
        || place.path.rsplit_once('/').is_some_and(|(of_cluster, _)| of_cluster == cluster);
    place.repository == document.metadata.name
        && one.layout == other.layout
        && one.directory == other.directory
        && one.nfs == other.nfs
        && s3(one) == s3(other)
        && is_own
}

#[cfg(test)]
mod tests;
