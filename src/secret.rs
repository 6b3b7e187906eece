//! Secrets: a value that neither prints nor reaches an error.

use std::{collections::BTreeSet, fmt, ops::Range};

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

/// What stands in the place of a secret.
const REDACTED: &str = "***";

/// What programs must not get unasked, and what must not be kept of what they say.
#[derive(Debug, Clone, Default)]
pub struct Confidential {
    variables: BTreeSet<String>,
    /// The longest first: one may be a part of another.
    values: Vec<Secret>,
}

impl Confidential {
    /// Environment variables that hold secrets, and secret values.
    pub fn new(variables: BTreeSet<String>, mut values: Vec<Secret>) -> Self {
        values.retain(|value| !value.expose().is_empty());
        values.sort_by(|one, other| (other.0.len(), &other.0).cmp(&(one.0.len(), &one.0)));
        values.dedup();
        Self { variables, values }
    }

    /// The environment variables that no program inherits.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// How much more than a tail must be read, so that no part of a secret at its beginning is taken for plain text.
    pub fn longest_bytes(&self) -> usize {
        self.values.first().map_or(0, |value| value.0.len())
    }

    /// A text without its secrets.
    pub fn redact(&self, text: &str) -> String {
        self.redact_tail(text, text.len())
    }

    /// The last bytes of a text without its secrets. A secret on the border is left out as a whole, if `text` reaches
    /// [`Confidential::longest_bytes`] further back.
    pub fn redact_tail(&self, text: &str, most_bytes: usize) -> String {
        let mut at = text.ceil_char_boundary(text.len().saturating_sub(most_bytes));
        let secrets = self.found_in(text);
        if let Some(on_the_border) = secrets.iter().find(|secret| secret.start < at && at < secret.end) {
            at = on_the_border.end;
        }
        let mut redacted = String::new();
        for Range { start, end } in secrets {
            if start < at {
                continue;
            }
            redacted.push_str(&text[at..start]);
            redacted.push_str(REDACTED);
            at = end;
        }
        redacted.push_str(&text[at..]);
        redacted
    }

    fn found_in(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(next) = text[at..].chars().next() {
            match self.values.iter().find(|value| text[at..].starts_with(value.expose())) {
                Some(value) => {
                    found.push(at..at + value.0.len());
                    at += value.0.len();
                }
                None => at += next.len_utf8(),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confidential(values: &[&str]) -> Confidential {
        Confidential::new(BTreeSet::new(), values.iter().map(|value| Secret::new(*value)).collect())
    }

    #[test]
    fn no_secret_is_left_in_a_text() {
        let confidential = confidential(&["tiger", "tiger-2", "", "größe"]);
        assert_eq!(
            confidential.redact("user scott, password tiger-2 or tiger; größe x"),
            "user scott, password *** or ***; *** x"
        );
        assert_eq!(confidential.redact("nothing"), "nothing");
    }

    #[test]
    fn no_part_of_a_secret_is_left_at_the_border_of_a_tail() {
        let confidential = confidential(&["correct horse"]);
        let text = "é the password correct horse is wrong";
        for most_bytes in 0..=text.len() {
            let tail = confidential.redact_tail(text, most_bytes);
            let whole = "é the password *** is wrong";
            assert!(whole.ends_with(&tail), "{most_bytes}: {tail}");
        }
        assert_eq!(confidential.redact_tail(text, 10), " is wrong");
        assert_eq!(confidential.redact_tail(text, 30), "assword *** is wrong");
    }
}
