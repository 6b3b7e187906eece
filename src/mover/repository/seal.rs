//! Seals and opens what lies in a repository: AES-256 in counter mode, authenticated with Poly1305-AES.
//!
//! The format is that of <https://restic.readthedocs.io/en/stable/100_references.html>: nonce, cipher text,
//! authenticator, one after the other.

use aes256ctr_poly1305aes::{
    Aes256CtrPoly1305Aes, Key,
    aead::{AeadInPlace as _, Nonce, Tag},
};
use rustic_core::repofile::MasterKey;

/// Length of the nonce before the cipher text.
pub const NONCE_BYTES: usize = 16;
/// Length of the authenticator after it.
const TAG_BYTES: usize = 16;
/// By so much is something longer once it is sealed.
pub const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// What can go wrong with a seal.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key of the repository does not have 64 bytes.
    #[error("the key of the repository is none; put its directory `keys` back from a copy")]
    NoKey,
    /// It was too long to be sealed.
    #[error("the data is too long to be encrypted")]
    TooLong,
    /// It was changed, or it is sealed with another key.
    #[error("the data was changed since it was written")]
    Broken,
}

/// The key of a repository, ready for use. It has no useful `Debug`, so that it cannot be printed.
#[derive(Clone)]
pub struct Cipher(Aes256CtrPoly1305Aes);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Cipher")
    }
}

impl Cipher {
    /// From the key that the password opened.
    ///
    /// # Errors
    /// It does not have 64 bytes.
    pub fn new(key: &MasterKey) -> Result<Self, SealError> {
        let bytes = [key.encrypt.as_slice(), &key.mac.k, &key.mac.r].concat();
        let bytes = <&[u8; 64]>::try_from(bytes.as_slice()).map_err(|_| SealError::NoKey)?;
        Ok(Self::from_bytes(bytes))
    }

    /// From a derived key: that of the encryption and the two of the authenticator, one after the other.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        Self(Aes256CtrPoly1305Aes::new(Key::from_slice(bytes)))
    }

    /// Seals in place. The plain text of this length is in `buffer` after [`NONCE_BYTES`]; [`SEAL_BYTES`] more than its
    /// length are written, from the beginning.
    ///
    /// # Errors
    /// The buffer is too short, or the text too long.
    pub fn seal<'a>(&self, buffer: &'a mut [u8], length: usize) -> Result<&'a [u8], SealError> {
        let sealed = buffer.get_mut(..length + SEAL_BYTES).ok_or(SealError::TooLong)?;
        let (nonce, rest) = sealed.split_at_mut(NONCE_BYTES);
        let (text, tag) = rest.split_at_mut(length);
        nonce.copy_from_slice(&rand::random::<[u8; NONCE_BYTES]>());
        let nonce = Nonce::<Aes256CtrPoly1305Aes>::from_slice(nonce);
        let made = self.0.encrypt_in_place_detached(nonce, &[], text).map_err(|_| SealError::TooLong)?;
        tag.copy_from_slice(&made);
        Ok(sealed)
    }

    /// Seals a copy, and opens that again for proof.
    ///
    /// # Errors
    /// It is too long, or it does not open again.
    pub fn sealed(&self, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut buffer = vec![0; plain.len() + SEAL_BYTES];
        buffer[NONCE_BYTES..NONCE_BYTES + plain.len()].copy_from_slice(plain);
        self.seal(&mut buffer, plain.len())?;
        self.prove(plain, &buffer)?;
        Ok(buffer)
    }

    /// Whether something that is sealed opens to this.
    fn prove(&self, plain: &[u8], sealed: &[u8]) -> Result<(), SealError> {
        let mut copy = sealed.to_vec();
        if self.open(&mut copy)? == plain { Ok(()) } else { Err(SealError::Broken) }
    }

    /// Opens in place, and gives the plain text in it.
    ///
    /// # Errors
    /// It was changed.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a [u8], SealError> {
        let length = sealed.len().checked_sub(SEAL_BYTES).ok_or(SealError::Broken)?;
        let (nonce, rest) = sealed.split_at_mut(NONCE_BYTES);
        let (text, tag) = rest.split_at_mut(length);
        let nonce = Nonce::<Aes256CtrPoly1305Aes>::from_slice(nonce);
        let tag = Tag::<Aes256CtrPoly1305Aes>::from_slice(tag);
        self.0.decrypt_in_place_detached(nonce, &[], text, tag).map_err(|_| SealError::Broken)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_and_a_change_is_seen() {
        let cipher = Cipher::new(&MasterKey::default()).unwrap();
        for plain in [&b""[..], b"a", &[7; 100_000]] {
            let mut sealed = cipher.sealed(plain).unwrap();
            assert_eq!(sealed.len(), plain.len() + SEAL_BYTES);
            assert_eq!(cipher.open(&mut sealed.clone()).unwrap(), plain);
            let last = sealed.len() - 1;
            assert!(cipher.prove(plain, &sealed).is_ok() && cipher.prove(b"other", &sealed).is_err());
            sealed[last] ^= 1;
            assert!(cipher.prove(plain, &sealed).is_err());
            assert!(cipher.open(&mut sealed).is_err());
        }
        assert!(cipher.open(&mut [0; SEAL_BYTES - 1]).is_err());
    }
}
