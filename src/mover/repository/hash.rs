//! The SHA-256 by which a repository names everything in it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// The hash of a blob, a tree or a file of the repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl std::fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.hex())
    }
}

impl Hash {
    /// The hash of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// 64 hex digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl From<rustic_core::Id> for Hash {
    fn from(id: rustic_core::Id) -> Self {
        let mut bytes = [0; 32];
        // An id always has 64 hex digits.
        let _ = hex::decode_to_slice(id.to_hex().as_str(), &mut bytes);
        Self(bytes)
    }
}

impl From<Hash> for rustic_core::Id {
    fn from(hash: Hash) -> Self {
        Self::new(hash.0)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&digits).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = Hash;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("64 hex digits")
            }

            fn visit_str<E: de::Error>(self, digits: &str) -> Result<Hash, E> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(digits, &mut bytes).map_err(E::custom)?;
                Ok(Hash(bytes))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}
