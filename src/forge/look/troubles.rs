//! What goes wrong in a look with one change request must not hold up the others: it is noted, and tried again.

use super::LookError;

/// With more of them in one look, something is wrong with the whole, and the look ends.
const TROUBLES_LIMIT: usize = 20;

/// What went wrong so far.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The first, in words.
    pub first: Option<String>,
    count: usize,
}

impl Troubles {
    /// Takes a result: none where it is the trouble of `what` only.
    ///
    /// # Errors
    /// It concerns everything, or there were too many.
    pub(super) fn note<T>(&mut self, what: &str, result: Result<T, LookError>) -> Result<Option<T>, LookError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_of_one() && self.count < TROUBLES_LIMIT => {
                let reason = crate::engine::chain(&error);
                tracing::warn!(what, reason, "cannot be looked at; it is tried again");
                self.count += 1;
                self.first.get_or_insert(format!("{what}: {reason}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
