//! What the judge of the simulator knows by itself, without the code that it judges.

use mainstay::{plan::Effect, policy::PolicyName, restore_point::RestorePoint};

/// The newest restore point of a policy.
pub fn newest(points: &[RestorePoint]) -> Option<&RestorePoint> {
    points.iter().max_by_key(|point| (point.time, &point.id))
}

/// The newest restore point of a policy that was verified.
pub fn newest_verified(points: &[RestorePoint]) -> Option<&RestorePoint> {
    points.iter().filter(|point| point.verified_at.is_some()).max_by_key(|point| (point.time, &point.id))
}

/// The effect that must be consented to before an edit takes this point.
pub fn loss(policy: &PolicyName, point: &RestorePoint) -> Effect {
    Effect::Lose { policy: policy.clone(), point: point.id.clone() }
}
