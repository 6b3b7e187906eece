//! Whether a file holds what a snapshot says: by its content, not by its size and time. Rot changes neither of the two.
//!
//! Only the file is read: the repository's index knows the hash of each part of it.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::mover::{
    job::Failure,
    repository::{Content, OpenSnapshot},
};

/// A part is hashed in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Whether the file at `path` has exactly this content. One that cannot be read to its end has not.
///
/// # Errors
/// The repository's index does not know a part.
pub fn has_content(snapshot: &OpenSnapshot, content: &Content, path: &Path) -> Result<bool, Failure> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let Ok(mut file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return Ok(false) };
    let mut piece = vec![0; PIECE_BYTES];
    for sum in snapshot.sums(content) {
        let (wanted, length_bytes) = sum?;
        match hash(&mut file, length_bytes, &mut piece) {
            Ok(found) if found == wanted => {}
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(matches!(file.read(&mut piece), Ok(0)))
}

/// The hash of the next bytes as hex digits.
fn hash(file: &mut impl io::Read, length_bytes: u64, piece: &mut [u8]) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut left = length_bytes;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut piece[..most])?;
        hasher.update(&piece[..most]);
        left -= most as u64;
    }
    Ok(hex::encode(hasher.finalize()))
}
