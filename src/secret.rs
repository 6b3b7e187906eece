//! Secrets: a value that neither prints nor reaches an error.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret text. `Debug` hides it and there is no `Display`. It serialises in one place only: the job that a mover
/// reads on its standard input.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value. Whoever calls this sees to it that it goes no further.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}
