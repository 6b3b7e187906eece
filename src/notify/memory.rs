//! What was told to whom, also over a restart: a JSON file in the state directory. Without it everything that is wrong
//! is told once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::judge::Trouble;
use crate::{policy::PolicyName, restore_point::RestorePointId};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "notifications.json";
/// A larger file is not ours.
const LONGEST_BYTES: u64 = 64 << 20;

/// What was told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NotifyMemory {
    /// When each policy was seen first.
    pub seen_since: BTreeMap<PolicyName, Timestamp>,
    /// By the receiver's name.
    pub receivers: BTreeMap<String, Told>,
}

/// What one receiver was told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// What it knows to be wrong.
    pub troubles: BTreeMap<PolicyName, BTreeSet<Trouble>>,
    /// Runs whose start it knows.
    pub started: BTreeMap<PolicyName, RestorePointId>,
    /// The newest event that it was told of; none: it is new, and what happened before it is not told.
    pub sequence: Option<u64>,
}

impl NotifyMemory {
    /// Reads what was told; nothing there is an empty memory.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn load(state_directory: &Path) -> io::Result<Self> {
        let path = state_directory.join(FILE_NAME);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
            Ok(metadata) if metadata.len() > LONGEST_BYTES => {
                Err(io::Error::other(format!("{} is larger than anything that Mainstay writes", path.display())))
            }
            Ok(_) => Ok(serde_json::from_slice(&fs::read(&path)?)?),
        }
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, state_directory: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(state_directory)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.as_file().sync_all()?;
        file.persist(state_directory.join(FILE_NAME))?;
        Ok(())
    }
}
