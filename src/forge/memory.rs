//! What is remembered of a forge from look to look, also over a restart: a JSON file in the state directory. The turn
//! reads the consent of merged change requests from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CheckState,
    consent::{Consent, Shown, Way},
};
use crate::{
    git::{GitError, Revision, checkout::is_descendant, history::is_within},
    plan::{Action, Approvals, used_up::UsedUp},
    policy::PolicyName,
};

mod bounds;

pub use bounds::{FILE_BYTES, KEPT_BYTES};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "forge.json";
/// A larger file is not ours.
const LONGEST_BYTES: u64 = 64 << 20;
/// How many versions of our comment are remembered for each change request.
const SHOWN_LIMIT: usize = 16;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgeMemory {
    /// The forge and repository that all of it is about, as an address; of another one nothing is believed.
    pub place: String,
    /// Change requests by their numbers: those that are open, and those that were merged and are not done with.
    pub requests: BTreeMap<u64, Tracked>,
    /// Change requests that are open no longer, and are listened to for a while, so that whoever asks for something there
    /// gets an answer.
    #[serde(default)]
    pub ended: BTreeMap<u64, Ended>,
    /// The commit of the watched branch up to which looks have judged whose messages count; none: none yet.
    #[serde(default)]
    pub judged: Option<Revision>,
    /// Commits up to there with approvals that count. Those that a fork brought are not among them, whichever way they
    /// were merged. What is missing here counts for nothing, so that nothing which is lost or left out becomes trusted.
    #[serde(default)]
    pub trusted: BTreeSet<Revision>,
    /// What hinders the work with the forge, for the dashboard.
    pub problem: Option<String>,
}

/// A change request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracked {
    /// What was planned last; none: nothing yet.
    pub planned: Option<Planned>,
    /// The `updated_at` at which comments and reviews were read last.
    pub read_at: Option<Timestamp>,
    /// Our comment.
    pub comment: Option<u64>,
    /// Hash of what it says.
    pub said: String,
    /// The check that was set last.
    pub check: Option<CheckSaid>,
    /// What our comment asked consent for, oldest first.
    pub shown: Vec<Shown>,
    /// Consent that counts.
    pub consents: Vec<Consent>,
    /// Approvals that a push made worthless.
    pub void: BTreeSet<Way>,
    /// Comments that were answered or need no answer.
    pub answered: BTreeSet<u64>,
    /// Answers that the forge has not taken yet, by the comments that they answer.
    pub unsaid: BTreeMap<u64, String>,
    /// Whether what it asks for was too much to be remembered: there is no consent here until another plan is shown.
    pub is_cut: bool,
    /// Policies that its plan changes, and how.
    pub policies: BTreeMap<PolicyName, Action>,
    /// The head that those are of; none: no plan of it could be made.
    pub policies_of: Option<Revision>,
    /// The head that was too large to be fetched.
    pub too_large: Option<Revision>,
    /// Whether nobody can tell which policies the merge changed.
    pub is_unknown: bool,
    /// The newest event when it was planned last.
    pub sequence: u64,
    /// Whether it comes from another repository.
    pub is_fork: bool,
    /// Its page.
    pub page: String,
    /// How far it is after it was merged.
    pub merged: Option<Merged>,
}

/// A change request that is open no longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// When that was seen.
    pub seen_at: Timestamp,
    /// The `updated_at` at which comments were read last since then.
    pub read_at: Option<Timestamp>,
    /// Comments that were answered, before or since.
    #[serde(default)]
    pub answered: BTreeSet<u64>,
}

/// What a plan was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// The commit that is proposed.
    pub head: Revision,
    /// The one that it was merged into.
    pub base: Revision,
    /// When.
    pub at: Timestamp,
}

/// A check as it was set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckSaid {
    /// On which commit.
    pub revision: Revision,
    /// How it stood.
    pub state: CheckState,
    /// Why.
    pub summary: String,
}

/// A change request that was merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Merged {
    /// The commit that brought it to the watched branch.
    pub commit: Revision,
    /// When that was seen.
    pub seen_at: Timestamp,
    /// Whether who consented is in the history of the engine.
    pub is_recorded: bool,
}

impl ForgeMemory {
    /// Reads what the last look left; nothing there is an empty memory.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn load(state_directory: &Path) -> io::Result<Self> {
        let path = state_directory.join(FILE_NAME);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > LONGEST_BYTES => {
                return Err(io::Error::other(format!(
                    "{} is larger than anything that Mainstay writes",
                    path.display()
                )));
            }
            Ok(_) => {}
        }
        Ok(serde_json::from_slice(&fs::read(&path)?)?)
    }

    /// Reads what the last look left; where there is no file, takes what a turn kept of it.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn load_or(state_directory: &Path, kept: Option<&Self>) -> io::Result<Self> {
        let found = Self::load(state_directory)?;
        Ok(if found == Self::default() { kept.cloned().unwrap_or_default() } else { found })
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, state_directory: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(state_directory)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(state_directory.join(FILE_NAME))?;
        Ok(())
    }

    /// What was consented to on change requests that are merged into `head`, as far as it is not used up: that of those
    /// merged up to `consented` is, and `used_up` says what else is.
    ///
    /// # Errors
    /// The repository is damaged.
    pub fn approvals(
        &self,
        repository: &git2::Repository,
        head: &Revision,
        consented: Option<&Revision>,
        used_up: &UsedUp,
    ) -> Result<Approvals, GitError> {
        let mut approvals = Approvals::default();
        for tracked in self.requests.values() {
            let Some(merged) = tracked.merged.as_ref().filter(|_| !tracked.consents.is_empty()) else { continue };
            if !is_descendant(repository, head, &merged.commit)? {
                continue;
            }
            if consented.map_or(Ok(false), |consented| is_within(repository, consented, &merged.commit))? {
                continue;
            }
            let given = Approvals { effects: super::consent::effects(&tracked.consents), ..Approvals::default() };
            approvals.extend(used_up.rest(given, |used| is_within(repository, used, &merged.commit))?);
        }
        Ok(approvals)
    }
}

impl Tracked {
    /// Remembers what our comment says now.
    pub fn show(&mut self, shown: Shown) {
        if let Some(last) = self.shown.last()
            && last.head == shown.head
            && last.effects == shown.effects
        {
            return;
        }
        self.shown.push(shown);
        self.is_cut = false;
        let beyond = self.shown.len().saturating_sub(SHOWN_LIMIT);
        self.shown.drain(..beyond);
    }
}
