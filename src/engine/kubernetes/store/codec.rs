//! How a record lies in a ConfigMap: JSON under `record.json`, or the same with gzip under `record.json.gz` where it is
//! large. A ConfigMap holds 1 MiB.
//!
//! Pure. A boundary format.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use serde::{Serialize, de::DeserializeOwned};

/// Key of a record as it is.
const PLAIN: &str = "record.json";
/// Key of a packed record.
const PACKED: &str = "record.json.gz";
/// From here on a record is packed.
const PACK_FROM_BYTES: usize = 256 * 1024;
/// The most that a record may take. The API server refuses more than 1 MiB, all fields together.
pub const LONGEST_BYTES: usize = 900 * 1024;
/// The most that a packed record may unpack to.
const UNPACKED_BYTES: u64 = 64 << 20;

/// Why a ConfigMap holds no record.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Neither key is there.
    #[error("it has neither `{PLAIN}` nor `{PACKED}`")]
    Empty,
    /// It cannot be unpacked.
    #[error("it cannot be unpacked")]
    Unpack(#[source] std::io::Error),
    /// It unpacks to more than anything that we write.
    #[error("it unpacks to more than {UNPACKED_BYTES} bytes")]
    TooLong,
    /// It cannot be packed.
    #[error("it cannot be packed")]
    Pack(#[source] std::io::Error),
    /// It does not fit into a ConfigMap.
    #[error("its {bytes} bytes do not fit into a ConfigMap")]
    Full {
        /// How many, packed.
        bytes: usize,
    },
    /// It is not what it should be.
    #[error("it cannot be read")]
    Decode(#[source] serde_json::Error),
    /// It cannot be written as JSON.
    #[error("it cannot be written")]
    Encode(#[source] serde_json::Error),
}

/// Puts a record into a ConfigMap, in the place of the one that is there.
///
/// # Errors
/// It does not fit.
pub fn write<T: Serialize>(map: &mut ConfigMap, record: &T) -> Result<(), CodecError> {
    let text = serde_json::to_string(record).map_err(CodecError::Encode)?;
    if text.len() < PACK_FROM_BYTES {
        map.data = Some(BTreeMap::from([(PLAIN.to_owned(), text)]));
        map.binary_data = None;
        return Ok(());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).map_err(CodecError::Pack)?;
    let packed = encoder.finish().map_err(CodecError::Pack)?;
    // It is sent as base64, which counts.
    if packed.len() / 3 * 4 > LONGEST_BYTES {
        return Err(CodecError::Full { bytes: packed.len() });
    }
    map.data = None;
    map.binary_data = Some(BTreeMap::from([(PACKED.to_owned(), ByteString(packed))]));
    Ok(())
}

/// The record in a ConfigMap.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn read<T: DeserializeOwned>(map: &ConfigMap) -> Result<T, CodecError> {
    if let Some(text) = map.data.as_ref().and_then(|data| data.get(PLAIN)) {
        return serde_json::from_str(text).map_err(CodecError::Decode);
    }
    let packed = map.binary_data.as_ref().and_then(|data| data.get(PACKED)).ok_or(CodecError::Empty)?;
    let mut text = Vec::new();
    GzDecoder::new(packed.0.as_slice()).take(UNPACKED_BYTES + 1).read_to_end(&mut text).map_err(CodecError::Unpack)?;
    if text.len() as u64 > UNPACKED_BYTES {
        return Err(CodecError::TooLong);
    }
    serde_json::from_slice(&text).map_err(CodecError::Decode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_record_is_packed_and_read_back() {
        for count in [10, 50_000] {
            let record: Vec<String> = (0..count).map(|number| format!("restore point {number}")).collect();
            let mut map = ConfigMap::default();
            write(&mut map, &record).unwrap();
            assert_eq!(map.binary_data.is_some(), count > 10);
            assert_eq!(read::<Vec<String>>(&map).unwrap(), record);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_what_was_there() {
        let mut map = ConfigMap::default();
        write(&mut map, &"before").unwrap();
        let noise: Vec<u64> = (0..200_000).map(|_| rand::random()).collect();
        assert!(matches!(write(&mut map, &noise), Err(CodecError::Full { .. })));
        assert_eq!(read::<String>(&map).unwrap(), "before");
    }

    #[test]
    fn what_someone_else_wrote_is_an_error() {
        assert!(matches!(read::<String>(&ConfigMap::default()), Err(CodecError::Empty)));
        let map =
            ConfigMap { data: Some(BTreeMap::from([(PLAIN.to_owned(), "{".to_owned())])), ..ConfigMap::default() };
        assert!(matches!(read::<String>(&map), Err(CodecError::Decode(_))));
    }
}
