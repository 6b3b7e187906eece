//! `inventory.json`: the restore points of all policies, in the format that `plan --offline` reads, so that a plan in
//! CI needs no credentials. A boundary format (JSON, `formatVersion` 1).
//!
//! Pure. The time of observation moves only when something else does: looking again is not news.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Published;
use crate::{
    actual::{ActualPolicy, ActualState},
    policy::PolicyName,
    restore_point::RestorePointId,
};

/// The file on the status branch.
pub const PATH: &str = "inventory.json";

/// One observation of everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfflineInventory {
    /// Always 1.
    pub format_version: u32,
    /// When it was made.
    pub observed_at: Timestamp,
    /// Whether everything could be seen.
    pub complete: bool,
    /// By `NAMESPACE/NAME`.
    pub policies: BTreeMap<PolicyName, OfflinePolicy>,
}

/// What is known of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfflinePolicy {
    /// Its schedule; several are joined by `; `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Oldest first.
    pub restore_points: Vec<OfflinePoint>,
}

/// One restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfflinePoint {
    /// Unique in its policy.
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
}

/// The inventory of an observation.
pub fn offline(actual: &ActualState) -> OfflineInventory {
    OfflineInventory {
        format_version: 1,
        observed_at: actual.observed_at,
        complete: actual.complete && actual.policies.values().all(|policy| policy.inventory.complete),
        policies: actual.policies.iter().map(|(name, policy)| (name.clone(), offline_policy(policy))).collect(),
    }
}

/// The file's content; the time of the one that is published stays when nothing else differs.
pub fn render(actual: &ActualState, published: &Published<'_>) -> Vec<u8> {
    let mut inventory = offline(actual);
    let before = (published.read)(PATH).and_then(|bytes| serde_json::from_slice::<OfflineInventory>(&bytes).ok());
    if let Some(before) = before {
        let moved = OfflineInventory { observed_at: before.observed_at, ..inventory.clone() };
        if moved == before {
            inventory = before;
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&inventory).expect("an inventory holds only plain data");
    bytes.push(b'\n');
    bytes
}

fn offline_policy(policy: &ActualPolicy) -> OfflinePolicy {
    let compiled = policy.compiled.as_ref().map(|compiled| compiled.document.spec.schedule.as_slice().join("; "));
    OfflinePolicy {
        schedule: compiled.or_else(|| policy.schedule.clone()),
        restore_points: policy
            .inventory
            .points
            .iter()
            .map(|point| OfflinePoint {
                id: point.id.clone(),
                time: point.time,
                size_bytes: point.size_bytes,
                verified_at: point.verified_at,
                held: point.held,
            })
            .collect(),
    }
}
