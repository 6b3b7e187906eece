//! The digest: what a person approves. A hash over sorted, typed effects, never over rendered text, so that a change
//! of wording or of the order in which things are found never asks for consent twice.
//!
//! Pure. The layout of the hashed bytes is a contract with commits that were already written: a change of it needs
//! another version byte.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::{Digest, Effect};

/// First byte of what is hashed.
const VERSION: u8 = 1;

/// The digest of a set of effects: SHA-256 over the version, then each effect in order as a tag and its fields, each
/// field led by its length in 8 bytes, so that no two different sets give the same bytes.
pub fn of(effects: &BTreeSet<Effect>) -> Digest {
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    let mut field = |tag: &[u8], fields: [&str; 2]| {
        hash.update(tag);
        for text in fields {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
    };
    for effect in effects {
        match effect {
            Effect::Lose { policy, point } => field(b"L", [&policy.to_string(), &point.0]),
            Effect::RestoreInPlace { restore, content } => field(b"R", [&restore.to_string(), content]),
        }
    }
    Digest(hex::encode(hash.finalize()))
}

impl Digest {
    /// Whether a text is the full form of a digest: 64 lower-case hex digits.
    pub fn is_digest(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::PolicyName, restore_point::RestorePointId};

    fn lose(policy: &str, point: &str) -> Effect {
        Effect::Lose { policy: policy.parse::<PolicyName>().unwrap(), point: RestorePointId(point.to_owned()) }
    }

    #[test]
    fn the_bytes_never_change() {
        // These two are in people's commits: a new value here means that approvals already given stop counting.
        let effects = BTreeSet::from([
            lose("shop/nightly", "20261101-020000"),
            Effect::RestoreInPlace { restore: PolicyName::new("shop", "undo"), content: "ab".to_owned() },
        ]);
        expect_test::expect!["aadd7f7f48c61ae78a3c4cd6ff8dd8de79a8fb62ed0fdfd89ed6ce82ab2fb1ff"]
            .assert_eq(&of(&effects).0);
        expect_test::expect!["4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a"]
            .assert_eq(&of(&BTreeSet::new()).0);
    }

    #[test]
    fn different_sets_differ_and_order_does_not_matter() {
        let one = BTreeSet::from([lose("a/b", "1"), lose("a/b", "2")]);
        let other = BTreeSet::from([lose("a/b", "2"), lose("a/b", "1")]);
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&one), of(&BTreeSet::from([lose("a/b", "12")])));
        assert_ne!(of(&BTreeSet::from([lose("a/b", "1")])), of(&BTreeSet::from([lose("a/b1", "")])));
    }
}
