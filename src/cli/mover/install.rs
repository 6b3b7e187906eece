//! `mainstay mover install`: the program copies itself. It must not need any other program, nor a known place of its own.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use crate::{
    cli::{CommandResult, Exit, Failure},
    mover::authorities,
};

/// The running program, whatever it is called and even if its file was replaced or deleted meanwhile.
const OURSELVES: &str = "/proc/self/exe";

/// Copies the program to the path, or into it where it is a folder, and the authorities that it trusts beside it. The copy appears complete or not at all, so that a
/// container that is started again finds either nothing or a good program.
///
/// # Errors
/// The folder is missing, full or not ours to write.
pub fn install(path: &Path) -> CommandResult {
    let file = if path.is_dir() { path.join("mainstay") } else { path.to_owned() };
    copy(&file).map(|()| Exit::Success).map_err(|error| {
        Failure::new(format!("cannot install the mover as {}", file.display()))
            .caused_by(error)
            .hint("the folder must be there, and writable for the user of this container; it is usually an emptyDir")
    })
}

fn copy(file: &Path) -> io::Result<()> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::File::open(authorities::OF_IMAGE) {
        Ok(bundle) => whole(folder, bundle, 0o644, &folder.join(authorities::CARRIED))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Whoever the other container runs as must be able to start it.
    whole(folder, fs::File::open(OURSELVES)?, 0o755, file)
}

/// Writes a file so that it is there whole, or not at all.
fn whole(folder: &Path, mut content: fs::File, mode: u32, file: &Path) -> io::Result<()> {
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut content, &mut part)?;
    part.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    part.persist(file)?;
    Ok(())
}
