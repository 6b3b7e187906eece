//! Which restore points a policy reaches, and what its rules say of all of them.
//!
//! Pure, and the only place where this is decided: the plan counts losses with it, the engine marks and forgets with it.
//! The rules count only points that the policy can still restore from: those with a part at a place that it writes to
//! now. A point that lies nowhere but where the policy once wrote takes up no count of any rule, and no rule keeps it:
//! its loss was in the plan of the edit that left it behind.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{Decision, KeepReason, KeepRules, Sweep, aside, decide, newest_first, sweep_by};
use crate::{
    policy::{
        CompiledPolicy,
        document::{
            RepositoryDocument,
            repository::{Layout, RepositorySpec},
        },
    },
    restore_point::{Part, RestorePoint, VOLUME_SNAPSHOT},
};

/// Hex digits of a location.
const LOCATION_DIGITS: usize = 16;

/// The places that a policy writes to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Location by name of the repository.
    places: BTreeMap<String, String>,
}

impl Reach {
    /// Of a policy.
    pub fn of(policy: &CompiledPolicy) -> Self {
        let place =
            |document: &RepositoryDocument| (document.metadata.name.clone(), location(document, &policy.cluster));
        Self { places: policy.repositories.iter().map(AsRef::as_ref).map(place).collect() }
    }

    /// Whether a policy writes to a repository at this location.
    pub fn holds_place(&self, repository: &str, location: &str) -> bool {
        self.places.get(repository).is_some_and(|here| here == location)
    }

    /// Whether a point can be restored from these places. One that names no parts (that of an offline inventory) is in
    /// all repositories of its policy.
    pub fn holds(&self, point: &RestorePoint) -> bool {
        point.parts.is_empty() || point.parts.iter().any(|part| self.holds_part(part))
    }

    /// A part that does not say where it is, is where the repository of its name is. A volume snapshot is in no
    /// repository, and always within reach.
    fn holds_part(&self, part: &Part) -> bool {
        if part.repository == VOLUME_SNAPSHOT {
            return true;
        }
        let here = self.places.get(&part.repository);
        here.is_some_and(|here| part.location.as_ref().is_none_or(|location| location == here))
    }
}

/// What tells one place of a repository from another, as hex digits: a change of anything else (the password, the
/// maintenance) leaves it where it is.
pub fn location(repository: &RepositoryDocument, cluster: &str) -> String {
    let RepositorySpec { directory, nfs, s3, rest, layout, password: _, escrow: _, maintenance: _ } = &repository.spec;
    let s3 = s3.as_ref().map(|s3| (&s3.endpoint, &s3.bucket, &s3.prefix));
    let cluster = match layout {
        Layout::PerPolicy => Some(cluster),
        Layout::Shared => None,
    };
    let text = serde_json::to_string(&(directory, nfs, s3, rest, cluster)).expect("documents are plain data");
    let mut digits = hex::encode(Sha256::digest(text));
    digits.truncate(LOCATION_DIGITS);
    digits
}

/// The rules of a policy, with what `verify` adds to them.
pub fn rules_of(policy: &CompiledPolicy) -> KeepRules {
    let spec = &policy.document.spec;
    KeepRules { verified: spec.verify.is_some(), ..KeepRules::from(&spec.retention) }
}

/// What the rules of a policy say of its points at `now`, in the order of `points`. While none is within reach, the
/// newest of all is the last resort and stays.
pub fn decide_for(policy: &CompiledPolicy, points: &[RestorePoint], now: Timestamp) -> Vec<Decision> {
    let (reach, rules) = (Reach::of(policy), rules_of(policy));
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..points.len()).partition(|index| reach.holds(&points[*index]));
    if outside.is_empty() {
        return decide(&rules, points, now);
    }
    let reached: Vec<RestorePoint> = inside.iter().map(|index| points[*index].clone()).collect();
    let mut decisions = vec![Decision { keep: false, reasons: Vec::new() }; points.len()];
    for (index, decision) in inside.iter().zip(decide(&rules, &reached, now)) {
        decisions[*index] = decision;
    }
    let mut keep = |index: usize, reason: KeepReason| {
        decisions[index].keep = true;
        decisions[index].reasons.push(reason);
    };
    for index in outside {
        if points[index].held {
            keep(index, KeepReason::Held);
        }
        // Somebody else may still write there; the plan of the edit that left it behind did not know of it.
        if points[index].found {
            keep(index, KeepReason::Found);
        }
    }
    let takes_part = |point: &RestorePoint| aside(point, now).is_none();
    if !reached.iter().any(takes_part)
        && let Some(newest) = newest_first(points).into_iter().find(|index| takes_part(&points[*index]))
    {
        keep(newest, KeepReason::LastResort);
    }
    decisions
}

/// What cleanup does to the points of a policy at `now`.
pub fn sweep_for(policy: &CompiledPolicy, grace: SignedDuration, points: &[RestorePoint], now: Timestamp) -> Sweep {
    sweep_by(decide_for(policy, points, now), grace, points, now)
}
