//! Desired state: what the documents of one revision ask for.
//!
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{
    git::Revision,
    policy::{
        Location, Policy, PolicyName, RepositoryName, Restore,
        document::{RepositoryDocument, SettingsSpec},
    },
};

/// What the documents of one revision ask for. A policy of a file that could not be read is `frozen`: it is known by
/// name only, and nothing of it may be changed.
#[derive(Debug, Clone, Default)]
pub struct DesiredState {
    /// The commit; none: a plain directory.
    pub revision: Option<Revision>,
    /// Valid policies.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// Valid repositories.
    pub repositories: BTreeMap<RepositoryName, RepositoryDocument>,
    /// Valid restores.
    pub restores: BTreeMap<PolicyName, Restore>,
    /// The settings, or their defaults.
    pub settings: SettingsSpec,
    /// How many restore points could be lost without approval before these documents; none: nothing was applied before.
    pub losses_in_force: Option<u32>,
    /// Where `freeze: true` stands; none: nowhere.
    pub frozen_by: Option<Location>,
    /// Policies whose documents are wrong, by the name that could still be read.
    pub frozen_policies: BTreeSet<PolicyName>,
    /// Files with findings: policies that were last applied from one of these are frozen, too.
    pub frozen_files: BTreeSet<PathBuf>,
    /// Those of them of which nobody can tell which policies they hold: a policy that is nowhere else may be there.
    pub unknown_files: BTreeSet<PathBuf>,
    /// Nothing may be deleted, and why: the checkout is empty, the watched path vanished, the history was rewritten, or
    /// the settings cannot be read.
    pub deletion_blocked: Option<String>,
}

impl DesiredState {
    /// How many restore points may be lost without approval. A raise does not count for the edit that brings it: else
    /// it would be consent to itself.
    pub fn losses_allowed(&self) -> u32 {
        let asked = self.settings.safety.losses;
        self.losses_in_force.map_or(asked, |in_force| in_force.min(asked))
    }

    /// Whether a policy that was last applied from `file` is frozen by findings.
    pub fn is_frozen(&self, policy: &PolicyName, file: &std::path::Path) -> bool {
        self.frozen_policies.contains(policy) || self.frozen_files.contains(file)
    }
}
