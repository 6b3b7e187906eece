//! Documents that several owners share: serde writes and reads them as the document itself.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes the document.
///
/// # Errors
/// Those of the format.
pub fn serialize<T: Serialize, S: Serializer>(document: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    document.as_ref().serialize(serializer)
}

/// Reads a document that nobody shares yet.
///
/// # Errors
/// Those of the format.
pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<T>, D::Error> {
    T::deserialize(deserializer).map(Arc::new)
}

/// The same for a list of documents.
pub mod list {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the documents.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<T: Serialize, S: Serializer>(documents: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(documents.iter().map(Arc::as_ref))
    }

    /// Reads documents that nobody shares yet.
    ///
    /// # Errors
    /// Those of the format.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}
