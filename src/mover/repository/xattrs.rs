//! Extended attributes of files, links not followed.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The attributes of a file, in the type that rustic_core keeps them in. It does not export the name of that type, so
/// they are made through its JSON form.
///
/// # Errors
/// They cannot be read. A file system without attributes is no error.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(T::default()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names {
        // One that was removed in between is none.
        if let Some(value) = xattr::get(path, &name)? {
            attributes.push(json!({"name": name.to_string_lossy(), "value": BASE64_STANDARD.encode(value)}));
        }
    }
    if attributes.is_empty() {
        return Ok(T::default());
    }
    Ok(serde_json::from_value(attributes.into())?)
}

/// Sets attributes as they were captured.
///
/// # Errors
/// The first one that could not be set.
pub fn write<'a>(path: &Path, attributes: impl Iterator<Item = (&'a str, &'a [u8])>) -> io::Result<()> {
    for (name, value) in attributes {
        xattr::set(path, OsStr::new(name), value)?;
    }
    Ok(())
}
