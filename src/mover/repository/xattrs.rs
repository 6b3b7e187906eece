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

/// Sets attributes as they were captured: all that can be, also where one cannot, for instance because only root may.
///
/// # Errors
/// The first one that could not be set.
pub fn write<'a>(path: &Path, attributes: impl Iterator<Item = (&'a str, &'a [u8])>) -> io::Result<()> {
    let mut all = Ok(());
    for (name, value) in attributes {
        let set = xattr::set(path, OsStr::new(name), value);
        all = all.and(set.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}"))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_set_does_not_keep_the_others_from_being_set() {
        // Beside the tests: a file system in memory may have no attributes for users.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(program.parent().unwrap()).unwrap();
        let attributes: [(&str, &[u8]); 3] = [("user.a", b"1"), ("nowhere.b", b"2"), ("user.c", b"3")];
        let result = write(file.path(), attributes.into_iter());
        assert!(result.unwrap_err().to_string().starts_with("nowhere.b: "));
        let names: Vec<String> = read(file.path()).unwrap().iter().map(|attribute| attribute.name.clone()).collect();
        assert!(names.contains(&"user.a".to_owned()) && names.contains(&"user.c".to_owned()), "{names:?}");
    }
}
