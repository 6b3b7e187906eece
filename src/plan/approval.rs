//! Approvals in commit messages: what `mainstay approve` writes, and what the walk over the history reads back.
//!
//! Pure. An approval is one line `Mainstay-Approve: DIGEST`, followed by one line `Mainstay-Effect: …` for each effect,
//! so that what is left of it can still be carried out after something else has changed. The lines count wherever they
//! stand at the beginning of a line, not only in the last paragraph: forges that squash commits move them.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::{Approvals, Digest, Effect, digest};
use crate::{
    policy::{PolicyName, PolicyNameError},
    restore_point::RestorePointId,
};

/// Trailer that names the digest.
pub const APPROVE: &str = "Mainstay-Approve";
/// Trailer that names one effect.
pub const EFFECT: &str = "Mainstay-Effect";
/// With more effects than this, only the digest is written: a commit message is read as a whole by many programs.
pub const EFFECTS_LISTED: usize = 5000;
/// How much of a commit message is read.
const MESSAGE_BYTES: usize = 4 << 20;

/// An effect that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// Neither `lose POLICY POINT` nor `restore NAME HASH`.
    #[error("`{0}` is not an effect; write `lose NAMESPACE/NAME POINT` or `restore NAMESPACE/NAME HASH`")]
    Malformed(String),
    /// Its name is not one.
    #[error("the effect `{effect}` names no policy")]
    Name {
        /// As it was written.
        effect: String,
        /// Why.
        #[source]
        source: PolicyNameError,
    },
}

impl fmt::Display for Effect {
    /// The canonical form, as it stands in a trailer.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lose { policy, point } => write!(formatter, "lose {policy} {point}"),
            Self::RestoreInPlace { restore, content } => write!(formatter, "restore {restore} {content}"),
        }
    }
}

impl FromStr for Effect {
    type Err = EffectError;

    fn from_str(text: &str) -> Result<Self, EffectError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [verb, name, object] = words[..] else { return Err(EffectError::Malformed(text.to_owned())) };
        let name: PolicyName = name.parse().map_err(|source| EffectError::Name { effect: text.to_owned(), source })?;
        match verb {
            "lose" => Ok(Self::Lose { policy: name, point: RestorePointId(object.to_owned()) }),
            "restore" => Ok(Self::RestoreInPlace { restore: name, content: object.to_owned() }),
            _ => Err(EffectError::Malformed(text.to_owned())),
        }
    }
}

/// The trailers that consent to these effects, one a line. `approved` is the digest that was asked for, which differs
/// from that of the effects where some of a plan's effects are approved already.
pub fn trailers(approved: &Digest, effects: &BTreeSet<Effect>) -> String {
    if effects.len() > EFFECTS_LISTED {
        return format!("{APPROVE}: {approved}\n");
    }
    let mut text = format!("{APPROVE}: {}\n", digest::of(effects));
    for effect in effects {
        text.push_str(&format!("{EFFECT}: {effect}\n"));
    }
    text
}

/// Everything that one commit message consents to. Listed effects count only if the digest above them is theirs, and
/// then in the place of the digest; a list that was edited or cut off leaves the bare digest.
pub fn parse_message(message: &str) -> Approvals {
    let mut approvals = Approvals::default();
    let mut open: Option<(Digest, BTreeSet<Effect>)> = None;
    let end = (0..=MESSAGE_BYTES.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    for line in message[..end].lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if key.eq_ignore_ascii_case(APPROVE) {
            close(open.take(), &mut approvals);
            open = Digest::is_digest(value).then(|| (Digest(value.to_owned()), BTreeSet::new()));
        } else if key.eq_ignore_ascii_case(EFFECT)
            && let Some((_, effects)) = &mut open
            && let Ok(effect) = value.parse()
        {
            effects.insert(effect);
        }
    }
    close(open, &mut approvals);
    approvals
}

fn close(open: Option<(Digest, BTreeSet<Effect>)>, approvals: &mut Approvals) {
    let Some((approved, effects)) = open else { return };
    if !effects.is_empty() && digest::of(&effects) == approved {
        approvals.effects.extend(effects);
    } else {
        approvals.digests.insert(approved);
    }
}

impl Approvals {
    /// Whether it consents to nothing.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.digests.is_empty()
    }

    /// Adds everything that the other one consents to.
    pub fn extend(&mut self, other: Self) {
        let Self { effects, digests } = other;
        self.effects.extend(effects);
        self.digests.extend(digests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects() -> BTreeSet<Effect> {
        ["lose shop/nightly 20261101-020000", "lose shop/nightly 20261102-020000", "restore shop/undo 0aff"]
            .map(|text| text.parse().unwrap())
            .into()
    }

    fn trailers(effects: &BTreeSet<Effect>) -> String {
        super::trailers(&digest::of(effects), effects)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let message = format!("shop: approve\n\nbecause\n\n{}", trailers(&effects()));
        let approvals = parse_message(&message);
        assert_eq!(approvals.effects, effects());
        assert!(approvals.digests.is_empty(), "what is listed is used up one by one");
    }

    #[test]
    fn a_list_that_was_tampered_with_leaves_only_the_digest() {
        for (find, replace) in [("20261102", "20261103"), ("lose shop/nightly 20261101", "lose shop/other 20261101")] {
            let approvals = parse_message(&trailers(&effects()).replace(find, replace));
            assert!(approvals.effects.is_empty(), "{find}");
            assert_eq!(approvals.digests.len(), 1);
        }
    }

    #[test]
    fn several_approvals_in_a_squashed_message_all_count() {
        let first = BTreeSet::from(["lose a/b 1".parse().unwrap()]);
        let second = BTreeSet::from(["lose a/b 2".parse().unwrap()]);
        let message = format!("squash\n\n* one\n{}\n* two\n{}\ndone", trailers(&first), trailers(&second));
        assert_eq!(parse_message(&message).effects.len(), 2);
    }

    #[test]
    fn what_is_not_an_approval_counts_for_nothing() {
        for message in [
            "",
            "Mainstay-Approve:",
            "Mainstay-Approve: abc",
            "Mainstay-Effect: lose a/b 1",
            "say Mainstay-Approve: 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
            "> Mainstay-Approve: 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
        ] {
            let approvals = parse_message(message);
            assert!(approvals.effects.is_empty() && approvals.digests.is_empty(), "{message}");
        }
    }
}
