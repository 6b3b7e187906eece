//! Apply: a plan becomes calls to the engine. Create before delete; the first error of a policy ends only that policy.

use std::collections::BTreeMap;

use crate::{plan::Action, policy::PolicyName};

/// What was carried out.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// What went through.
    pub done: Vec<(PolicyName, Action)>,
    /// What did not, and why, in words.
    pub failed: BTreeMap<PolicyName, String>,
}
