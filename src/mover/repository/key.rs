//! The key of a new repository, sealed with its password.
//!
//! The format is that of <https://restic.readthedocs.io/en/stable/100_references.html>. rustic_core would make it, too,
//! but so that every job that opens the repository needs 128 MiB for it, and twice the time.

use rustic_core::repofile::{KeyFile, MasterKey};
use scrypt::Params;

use super::seal::{Cipher, SealError};

/// How hard a password is to guess, see RFC 7914. restic calibrates to 60 MiB and half a second, which gives N = 2^15 at
/// most, and a p that depends on what else the machine does just then (N = 2^12, p = 3 on a busy one). This is the same
/// everywhere: 64 MiB for each guess. By the measure of the scrypt paper, memory times time, it is worth N = 2^15 with
/// p = 4, and takes half the time of that.
const LOG_N: u8 = 16;
const R: u32 = 8;
const P: u32 = 1;
/// restic takes no other length.
const SALT_BYTES: usize = 64;

/// A key that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Something is wrong with the parameters of the derivation.
    #[error("cannot derive a key from the password of the repository")]
    Derive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be written as JSON.
    #[error("cannot write the key of the repository as JSON")]
    Json(#[from] serde_json::Error),
    /// It cannot be sealed.
    #[error("cannot seal the key of the repository")]
    Seal(#[from] SealError),
}

/// The content of the key file from which this password opens this key.
///
/// # Errors
/// Only if a library behaves unlike its description.
pub fn sealed(key: &MasterKey, password: &str) -> Result<Vec<u8>, KeyError> {
    let salt = rand::random::<[u8; SALT_BYTES]>();
    let parameters = Params::new(LOG_N, R, P).map_err(|error| KeyError::Derive(error.into()))?;
    let mut derived = [0; 64];
    scrypt::scrypt(password.as_bytes(), &salt, &parameters, &mut derived)
        .map_err(|error| KeyError::Derive(error.into()))?;
    let data = Cipher::from_bytes(&derived).sealed(&serde_json::to_vec(key)?)?;
    let file = KeyFile {
        hostname: None,
        username: None,
        created: None,
        kdf: "scrypt".to_owned(),
        n: 1 << LOG_N,
        r: R,
        p: P,
        data,
        salt: salt.to_vec(),
    };
    Ok(serde_json::to_vec(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_opens_the_key() {
        let file = sealed(&MasterKey::new(), "right").unwrap();
        let file: KeyFile = serde_json::from_slice(&file).unwrap();
        assert!(file.key_from_password(&"right").is_ok());
        assert!(file.key_from_password(&"wrong").is_err());
    }

    #[test]
    fn a_guess_takes_twice_the_memory_that_restic_asks_for_at_most() {
        let file: KeyFile = serde_json::from_slice(&sealed(&MasterKey::new(), "right").unwrap()).unwrap();
        assert_eq!(128 * u64::from(file.n) * u64::from(file.r), 64 << 20);
        assert_eq!((file.kdf.as_str(), file.salt.len()), ("scrypt", SALT_BYTES));
    }
}
