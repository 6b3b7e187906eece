//! Writes the lengths of captured streams into the tree that names them.
//!
//! The length of a stream is known only at its end, when rustic_core has already written the tree with the length 0.
//! restic's `restore` trusts that number and would write an empty file. So the one small tree of such a snapshot is
//! written once more, by hand: a pack with one blob, and an index that names it. The format is that of
//! <https://restic.readthedocs.io/en/stable/100_references.html>.

use std::collections::BTreeMap;

use aes256ctr_poly1305aes::{
    Aes256CtrPoly1305Aes, Key,
    aead::{AeadInPlace as _, Nonce},
};
use bytes::Bytes;
use rustic_core::{
    FileType, Id, TreeId, WriteBackend as _,
    repofile::{MasterKey, Tree},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::backend::Backend;
use crate::mover::job::{Failure, FailureKind};

/// The type of an uncompressed tree blob in the header of a pack.
const TREE: u8 = 1;

/// Writes `tree` with the given lengths, and returns the id of the new tree.
///
/// # Errors
/// The store refuses.
pub fn write(
    backend: &Backend,
    key: &MasterKey,
    mut tree: Tree,
    lengths: &BTreeMap<String, u64>,
) -> Result<TreeId, Failure> {
    for node in &mut tree.nodes {
        if let Some(length) = lengths.get(node.name().to_string_lossy().as_ref()) {
            node.meta.size = *length;
        }
    }
    let internal =
        |what: &str| Failure::new(FailureKind::Other, format!("cannot write the lengths of streams: {what}"));
    let (blob, id) = tree.serialize().map_err(|error| internal(&error.to_string()))?;

    let mut pack = seal(key, &blob).ok_or_else(|| internal("encryption failed"))?;
    let blob_length = u32::try_from(pack.len()).map_err(|_| internal("the tree is too large"))?;
    let mut header = vec![TREE];
    header.extend(blob_length.to_le_bytes());
    header.extend(hex::decode(id.to_hex().as_str()).map_err(|error| internal(&error.to_string()))?);
    let header = seal(key, &header).ok_or_else(|| internal("encryption failed"))?;
    pack.extend(&header);
    pack.extend(u32::try_from(header.len()).map_err(|_| internal("the header is too large"))?.to_le_bytes());
    let pack_id = save(backend, FileType::Pack, pack)?;

    let index = json!({"packs": [{
        "id": pack_id.to_hex().as_str(),
        "blobs": [{"id": id.to_hex().as_str(), "type": "tree", "offset": 0, "length": blob_length}],
    }]});
    let index = seal(key, index.to_string().as_bytes()).ok_or_else(|| internal("encryption failed"))?;
    save(backend, FileType::Index, index)?;
    Ok(id)
}

fn save(backend: &Backend, tpe: FileType, content: Vec<u8>) -> Result<Id, Failure> {
    let id: Id = hex::encode(Sha256::digest(&content))
        .parse()
        .map_err(|_| Failure::new(FailureKind::Other, "a hash is no id"))?;
    backend
        .write_bytes(tpe, &id, false, Bytes::from(content).into())
        .map_err(|error| super::backend::failure(&error, backend.failure()))?;
    Ok(id)
}

/// Nonce, cipher text and authenticator, one after the other.
fn seal(key: &MasterKey, plain: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(&key.encrypt);
    bytes.extend(&key.mac.k);
    bytes.extend(&key.mac.r);
    if bytes.len() != 64 {
        return None;
    }
    let cipher = Aes256CtrPoly1305Aes::new(Key::from_slice(&bytes));
    let nonce: [u8; 16] = rand::random();
    let mut sealed = nonce.to_vec();
    sealed.extend(plain);
    let nonce = Nonce::<Aes256CtrPoly1305Aes>::from_slice(&nonce);
    let tag = cipher.encrypt_in_place_detached(nonce, &[], &mut sealed[16..]).ok()?;
    sealed.extend(tag);
    Some(sealed)
}
