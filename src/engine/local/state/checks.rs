//! Checks that did not pass, kept with the policy until one passes.

use rusqlite::{OptionalExtension as _, params};

use super::{State, StateError, decode, encode};
use crate::{
    actual::checks::{self, FailedCheck},
    policy::PolicyName,
};

/// What version 4 of the schema added.
pub(super) const ADDED: &str = "ALTER TABLE policies ADD COLUMN failed_checks TEXT;";

/// Policies of an older version as this one reads them, for a state that must not be written to.
pub(super) const VIEW_OF_OLDER: &str =
    "CREATE TEMP VIEW policies AS SELECT *, NULL AS failed_checks FROM main.policies;";

impl State {
    /// Notes how a check of a place of a policy ended; see [`checks::note`].
    ///
    /// # Errors
    /// The state cannot be read or written.
    pub fn note_check(
        &self,
        policy: &PolicyName,
        place: i64,
        read_data_percent: f64,
        failed: Option<FailedCheck>,
    ) -> Result<(), StateError> {
        let name = policy.to_string();
        self.write("noting a check", |transaction| {
            let text: Option<Option<String>> = transaction
                .query_row("SELECT failed_checks FROM policies WHERE name = ?1", [&name], |row| row.get(0))
                .optional()?;
            // What cannot be read is written anew: the next check finds again what there is to find.
            let before = parse(text.flatten().as_deref(), &name).unwrap_or_default();
            let mut known = before.clone();
            checks::note(&mut known, place, read_data_percent, failed);
            if known != before {
                let text = (!known.is_empty()).then(|| encode(&known));
                transaction.execute("UPDATE policies SET failed_checks = ?2 WHERE name = ?1", params![name, text])?;
            }
            Ok(())
        })
    }
}

/// From the column.
pub(super) fn parse(text: Option<&str>, policy: &str) -> Result<Vec<FailedCheck>, StateError> {
    text.map_or_else(|| Ok(Vec::new()), |text| decode(|| format!("the checks of {policy}"), text))
}
