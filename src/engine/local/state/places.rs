//! Places: where a policy's restore points are, one for each repository that it ever had.
//!
//! A place is never removed while the policy is known: a policy that is deleted and made anew gets a fresh suffix, so a
//! fresh place, and its old restore points stay listed, restorable and subject to the rules at the old one.

use rand::RngExt as _;
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::{State, StateError, decode, encode};
use crate::{
    policy::{
        CompiledPolicy, PolicyName,
        document::{RepositoryDocument, repository::Layout},
    },
    restore_point::MakerId,
    retention::reach::location,
};

/// What the suffix of a place consists of.
const SUFFIX: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// How long it is.
const SUFFIX_LENGTH: usize = 5;

/// Where a policy's restore points are, or were, in one repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// Number of the place.
    pub id: i64,
    /// The name of the Repository document.
    pub repository: String,
    /// The Repository document as it was applied last.
    pub document: RepositoryDocument,
    /// Path below the repository's own place; empty: that place itself.
    pub path: String,
    /// Whether new restore points go there.
    pub current: bool,
    /// Whether the restic-format repository was made.
    pub initialised: bool,
}

impl PlaceRecord {
    /// What the names of all places begin with that were ever made beside this one for a policy.
    pub fn prefix(policy: &PolicyName) -> String {
        format!("{}-{}-", policy.namespace(), policy.name())
    }

    /// The paths of those among these names that another state made for the policy: their suffixes are like ours.
    pub fn former_paths(&self, policy: &PolicyName, names: &[String]) -> Vec<String> {
        let Some((cluster, own)) = self.path.rsplit_once('/') else { return Vec::new() };
        let prefix = Self::prefix(policy);
        let is_suffix = |text: &str| text.len() == SUFFIX_LENGTH && text.bytes().all(|one| SUFFIX.contains(&one));
        let of_policy = |name: &&String| *name != own && name.strip_prefix(&prefix).is_some_and(is_suffix);
        names.iter().filter(of_policy).map(|name| format!("{cluster}/{name}")).collect()
    }

    /// Why no repository is made here beside those at `paths`, none of which the password opens.
    pub fn unopened(&self, paths: &[String]) -> String {
        format!(
            "repository {} holds what was captured before for this policy, in {}, and its password does not open it; put \
             the former password back (a generated one is in `keys` of the former state directory, or in the former \
             Secret). If it is lost for ever, move what is there away. If another host or cluster made it, give this one \
             a name of its own with `Settings.cluster`",
            self.repository,
            paths.join(", ")
        )
    }

    /// Where it is, as [`crate::retention::reach`] tells places apart.
    pub fn location(&self) -> String {
        // The path of a policy's own place begins with the name that its host had then.
        let cluster = self.path.split('/').next().unwrap_or_default();
        location(&self.document, cluster)
    }
}

/// What tells one place from another: a change of anything else (the password, the maintenance) keeps the place.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlaceKey(String);

impl PlaceKey {
    fn new(document: &RepositoryDocument, cluster: &str) -> Self {
        let spec = &document.spec;
        let s3 = spec.s3.as_ref().map(|s3| (&s3.endpoint, &s3.bucket, &s3.prefix));
        let layout = (spec.layout == Layout::PerPolicy).then_some(cluster);
        Self(encode(&(&spec.directory, s3, layout)))
    }
}

/// Makes the places of a policy current, inside the transaction that stores the policy.
pub(super) fn put(transaction: &Transaction<'_>, policy: &CompiledPolicy) -> Result<(), rusqlite::Error> {
    let name = policy.name.to_string();
    let mut kept = Vec::new();
    for document in policy.repositories.iter().map(AsRef::as_ref) {
        let repository = &document.metadata.name;
        let key = PlaceKey::new(document, &policy.cluster).0;
        let shared = document.spec.layout == Layout::Shared;
        let mut statement = transaction.prepare_cached(
            "SELECT id FROM places WHERE policy = ?1 AND repository = ?2 AND location = ?3 AND (current = 1 OR ?4) \
             ORDER BY id DESC LIMIT 1",
        )?;
        let found = statement.query_map(params![name, repository, key, shared], |row| row.get::<_, i64>(0))?.next();
        let id = match found.transpose()? {
            Some(id) => {
                transaction.execute(
                    "UPDATE places SET document = ?1, current = 1 WHERE id = ?2",
                    params![encode(document), id],
                )?;
                id
            }
            None => {
                let path = if shared { String::new() } else { fresh_path(policy) };
                transaction.execute(
                    "INSERT INTO places (policy, repository, location, document, path, current, initialised) \
                     VALUES (?1, ?2, ?3, ?4, ?5, 1, 0)",
                    params![name, repository, key, encode(document), path],
                )?;
                transaction.last_insert_rowid()
            }
        };
        // Former places of the same repository are opened with the newest password and keys.
        transaction.execute(
            "UPDATE places SET document = ?1 WHERE policy = ?2 AND repository = ?3 AND location = ?4",
            params![encode(document), name, repository, key],
        )?;
        kept.push(id);
    }
    let others = kept.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    transaction
        .execute(&format!("UPDATE places SET current = 0 WHERE policy = ?1 AND id NOT IN ({others})"), [name])?;
    Ok(())
}

/// Makes no place of a policy current.
pub(super) fn withdraw(transaction: &Transaction<'_>, policy: &PolicyName) -> Result<(), rusqlite::Error> {
    transaction.execute("UPDATE places SET current = 0 WHERE policy = ?1", [policy.to_string()])?;
    Ok(())
}

impl State {
    /// The places of a policy: the current ones first, in the order of its document; then former ones.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn places(&self, policy: &PolicyName) -> Result<Vec<PlaceRecord>, StateError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT id, repository, document, path, current, initialised FROM places WHERE policy = ?1 \
                 ORDER BY current DESC, id",
            )
            .map_err(StateError::query("reading places"))?;
        let rows = statement
            .query_map([policy.to_string()], |row| {
                let document: String = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, document, row.get(3)?, row.get(4)?, row.get(5)?))
            })
            .map_err(StateError::query("reading places"))?;
        let mut places = Vec::new();
        for row in rows {
            let (id, repository, document, path, current, initialised) =
                row.map_err(StateError::query("reading places"))?;
            let document = decode(|| format!("a repository of {policy}"), &document)?;
            places.push(PlaceRecord { id, repository, document, path, current, initialised });
        }
        Ok(places)
    }

    /// Adds places that another state made for the same policy beside one of this state: former ones, whose repositories
    /// are there. Those that are known already stay as they are. Returns the new ones.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn add_former_places(&self, place: i64, paths: &[String]) -> Result<Vec<i64>, StateError> {
        self.write("adding places", |transaction| {
            let mut added = Vec::new();
            for path in paths {
                let changed = transaction.execute(
                    "INSERT INTO places (policy, repository, location, document, path, current, initialised) \
                     SELECT policy, repository, location, document, ?2, 0, 1 FROM places AS beside WHERE id = ?1 \
                     AND NOT EXISTS (SELECT 1 FROM places WHERE policy = beside.policy \
                     AND repository = beside.repository AND location = beside.location AND path = ?2)",
                    params![place, path],
                )?;
                if changed > 0 {
                    added.push(transaction.last_insert_rowid());
                }
            }
            Ok(added)
        })
    }

    /// Remembers that the restic-format repository of a place was made: from now on a missing one is a failure.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_initialised(&self, place: i64) -> Result<(), StateError> {
        self.write("writing a place", |transaction| {
            transaction.execute("UPDATE places SET initialised = 1 WHERE id = ?1", [place])?;
            Ok(())
        })
    }
}

/// `{cluster}/{namespace}-{policy}-{suffix}` with five random letters and digits.
fn fresh_path(policy: &CompiledPolicy) -> String {
    format!("{}/{}{}", policy.cluster, PlaceRecord::prefix(&policy.name), fresh_suffix())
}

/// Five random letters and digits.
pub fn fresh_suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX[random.random_range(0..SUFFIX.len())])).collect()
}

/// Random, to be made once for each installation.
pub fn fresh_maker() -> MakerId {
    MakerId(format!("{:016x}", rand::random::<u64>()))
}
