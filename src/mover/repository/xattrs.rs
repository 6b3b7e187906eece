//! Extended attributes of files, links not followed.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::Path,
};

use super::node::Attribute;

/// The attributes of a file.
///
/// # Errors
/// They cannot be read. A file system without attributes is no error.
pub fn read(path: &Path) -> io::Result<Vec<Attribute>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names {
        // One that was removed in between is none.
        if let Some(value) = xattr::get(path, &name)? {
            attributes.push(Attribute::new(&name, &value));
        }
    }
    Ok(attributes)
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
