//! What the daemon remembers from turn to turn, also over a restart: a small JSON file in the state directory.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    forge::memory::ForgeMemory,
    git::Revision,
    plan::used_up::UsedUp,
    policy::{Location, PolicyName, document::SettingsSpec},
};

/// Name of the file in the state directory.
const FILE_NAME: &str = "last-turn.json";
/// A larger file is not ours.
const LONGEST_BYTES: u64 = 1 << 20;

/// The file stays small, however many changes are refused at once.
pub const MOST_WAITING: usize = 100;

/// What the last turn that went through has left.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The commit that was applied last. A head that does not descend from it means a rewritten history.
    pub applied: Option<Revision>,
    /// The settings that were in force, so that a freeze also holds while git cannot be read. A raise of `safety.losses`
    /// is in them once nothing is left that it would let through.
    pub settings: SettingsSpec,
    /// Where `freeze: true` stands in the documents, for whoever is stopped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_by: Option<Location>,
    /// The commit at which everything that was asked for was carried out, and nothing was left to approve: the consent
    /// in it and before it is used up. Were it to hold for ever, a loss that was taken back could happen again unseen.
    #[serde(default)]
    pub consented: Option<Revision>,
    /// The changes that wait for consent, or for something to be mended: the first [`MOST_WAITING`] by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<PolicyName, Waiting>,
    /// What is used up of the consent in later commits, while something else was left to approve, to mend or to do.
    #[serde(default, skip_serializing_if = "UsedUp::is_empty")]
    pub used_up: UsedUp,
    /// What is remembered of the forge, where the state directory may not outlive the daemon; see [`ForgeMemory::kept`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge: Option<ForgeMemory>,
    /// Number of the newest ledger event that is in the status branch.
    pub published_sequence: u64,
}

/// A change that a safety rail blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Hash of the policy that is in force instead; none: there is none. With another one in force nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// Why it waits, and how to consent.
    pub message: String,
}

/// Why the memory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}")]
pub struct MemoryError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Memory {
    /// The file in a state directory.
    pub fn file(state_directory: &Path) -> PathBuf {
        state_directory.join(FILE_NAME)
    }

    /// How many restore points may be lost without approval, whatever the next commit says; none: nothing was applied
    /// yet, and the first commit says it.
    pub fn losses_in_force(&self) -> Option<u32> {
        self.applied.as_ref().map(|_| self.settings.safety.losses)
    }

    /// Reads what the last turn left; nothing there is an empty memory.
    ///
    /// # Errors
    /// The file is there but cannot be read. Then nothing may be concluded: an empty memory would accept a rewritten
    /// history.
    pub fn load(state_directory: &Path) -> Result<Self, MemoryError> {
        let path = state_directory.join(FILE_NAME);
        let failed = |source| MemoryError { operation: "read", path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > LONGEST_BYTES => {
                return Err(failed(io::Error::other("it is larger than anything that Mainstay writes")));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, state_directory: &Path) -> Result<(), MemoryError> {
        let path = state_directory.join(FILE_NAME);
        let failed = |source| MemoryError { operation: "write", path: path.clone(), source };
        // Without spaces: it has to fit into one object of a cluster.
        let bytes = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(state_directory).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_memory_is_an_error_and_not_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Memory::load(directory.path()).unwrap(), Memory::default());
        let memory = Memory { applied: Some(Revision("a".repeat(40))), ..Memory::default() };
        memory.save(directory.path()).unwrap();
        assert_eq!(Memory::load(directory.path()).unwrap(), memory);
        fs::write(directory.path().join(FILE_NAME), "{").unwrap();
        assert!(Memory::load(directory.path()).is_err());
    }
}
