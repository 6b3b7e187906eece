//! Repositories: from a stored place to what a mover needs to open it. Secrets are read here, from files and the
//! environment, and go nowhere but into [`Secret`].

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    engine::local::state::{make_private_directory, places::PlaceRecord},
    mover::job::{Place, RepositoryAccess},
    policy::{
        PolicyName,
        document::{SecretReference, repository::Password},
        is_name,
    },
    secret::Secret,
};

/// The longest value that is read from a file.
const LONGEST_SECRET_BYTES: u64 = 64 * 1024;
/// Random bytes of a generated password; written as hex digits.
const GENERATED_BYTES: usize = 32;

/// Why a repository's place or secrets could not be made out.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A file with a secret cannot be read or made.
    #[error("{what} cannot be read from {}; check that the file is there and that this user may read it", path.display())]
    File {
        /// Which secret of which repository or source.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file with a secret is empty, not text, or far too long.
    #[error("{what} in {} is empty, longer than 64 KiB or not text; write the value into that file", path.display())]
    Content {
        /// Which secret.
        what: String,
        /// The file.
        path: PathBuf,
    },
    /// A generated password is gone, and a repository needs it.
    #[error(
        "{what} was generated into {}, and the file is gone; put it back from a copy: no other password opens the \
         repository",
        path.display()
    )]
    Lost {
        /// Which secret of which repository.
        what: String,
        /// The file.
        path: PathBuf,
    },
    /// An environment variable is not set.
    #[error("{what} is not there: the environment variable {variable} is not set for this process")]
    Environment {
        /// Which secret.
        what: String,
        /// The variable.
        variable: String,
    },
    /// What is asked for needs another engine.
    #[error("{what} needs the kubernetes engine; on one host name a `file` or an `env`")]
    NotHere {
        /// What.
        what: String,
    },
    /// The document names no place that this engine can write to.
    #[error("repository {name} names neither a `directory` nor `s3`; give it one of the two")]
    NoPlace {
        /// The repository.
        name: String,
    },
}

/// What opens the repository of a place. A password that is to be generated is made now, once.
///
/// # Errors
/// A secret is not there, or the document needs another engine.
pub fn access(place: &PlaceRecord, state_directory: &Path) -> Result<RepositoryAccess, RepositoryError> {
    let spec = &place.document.spec;
    let name = &place.repository;
    let location = if let Some(directory) = &spec.directory {
        Place::Directory(Path::new(directory).join(&place.path))
    } else if let Some(s3) = &spec.s3 {
        let parts = [s3.prefix.as_deref().unwrap_or_default().trim_matches('/'), &place.path];
        Place::S3 {
            endpoint: s3.endpoint.clone(),
            bucket: s3.bucket.clone(),
            prefix: parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
            region: s3.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            access_key_id: resolve(&format!("the access key id of repository {name}"), &s3.access_key_id)?,
            secret_access_key: resolve(&format!("the secret access key of repository {name}"), &s3.secret_access_key)?,
            certificate_authority: s3.certificate_authority.clone().map(PathBuf::from),
        }
    } else {
        return Err(RepositoryError::NoPlace { name: name.clone() });
    };
    Ok(RepositoryAccess {
        name: name.clone(),
        place: location,
        password: password(name, &spec.password, state_directory, place.initialised)?,
    })
}

/// The lease that maintenance of a place takes: the same for every policy that shares the repository.
pub fn maintenance_lease(place: &PlaceRecord) -> String {
    format!("maintenance:{}", key(place))
}

/// The lease that a prune of a place takes besides. Nobody captures there meanwhile.
pub fn prune_lease(place: &PlaceRecord) -> String {
    format!("prune:{}", key(place))
}

/// The lease that a run of a policy takes while it captures into a place: what it relies on must not be pruned.
pub fn capture_lease(place: &PlaceRecord, policy: &PolicyName) -> String {
    format!("{}{policy}", capture_leases(place))
}

/// What the names of the leases of all captures into a place begin with.
pub fn capture_leases(place: &PlaceRecord) -> String {
    format!("capture:{} by ", key(place))
}

/// What tells one restic-format repository from another.
fn key(place: &PlaceRecord) -> String {
    let spec = &place.document.spec;
    let base = match (&spec.directory, &spec.s3) {
        (Some(directory), _) => directory.clone(),
        (None, Some(s3)) => format!("{}/{}/{}", s3.endpoint, s3.bucket, s3.prefix.as_deref().unwrap_or_default()),
        (None, None) => place.repository.clone(),
    };
    format!("{base}/{}", place.path)
}

/// The value of a reference.
///
/// # Errors
/// It is not there.
pub fn resolve(what: &str, reference: &SecretReference) -> Result<Secret, RepositoryError> {
    match reference {
        SecretReference { file: Some(file), .. } => read_secret(what, Path::new(file)),
        SecretReference { env: Some(variable), .. } => environment(what, variable),
        SecretReference { secret: _, key: _, file: None, env: None } => {
            Err(RepositoryError::NotHere { what: what.to_owned() })
        }
    }
}

/// Where a password that is generated without a named file is kept.
pub fn generated_password_file(state_directory: &Path, repository: &str) -> PathBuf {
    state_directory.join("keys").join(format!("{repository}.password"))
}

/// The password that was generated for a repository without a named file; none: it was not.
pub fn generated_password(state_directory: &Path, repository: &str) -> Option<Secret> {
    let path = generated_password_file(state_directory, repository);
    is_name(repository).then(|| read_secret("a password", &path).ok()).flatten()
}

/// `is_used`: a repository was made with it, so that none is generated in its place.
fn password(
    repository: &str,
    password: &Password,
    state_directory: &Path,
    is_used: bool,
) -> Result<Secret, RepositoryError> {
    let what = format!("the password of repository {repository}");
    let generate = |path: &Path| match path.exists() || !is_used {
        true => generate_once(&what, path),
        false => Err(RepositoryError::Lost { what: what.clone(), path: path.to_owned() }),
    };
    match password {
        Password { file: Some(file), generate: false, .. } => read_secret(&what, Path::new(file)),
        Password { file: Some(file), generate: true, .. } => generate(Path::new(file)),
        Password { env: Some(variable), file: None, .. } => environment(&what, variable),
        // The name becomes a file name, so it must not lead out of the directory.
        Password { secret: None, env: None, file: None, generate: true, .. } if is_name(repository) => {
            generate(&generated_password_file(state_directory, repository))
        }
        Password { file: None, env: None, .. } => Err(RepositoryError::NotHere { what }),
    }
}

fn environment(what: &str, variable: &str) -> Result<Secret, RepositoryError> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
        .map(Secret::new)
        .ok_or_else(|| RepositoryError::Environment { what: what.to_owned(), variable: variable.to_owned() })
}

/// Reads a secret file; one newline at its end is not part of the value.
fn read_secret(what: &str, path: &Path) -> Result<Secret, RepositoryError> {
    let file_error = |source| RepositoryError::File { what: what.to_owned(), path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(file_error)?;
    let content = || RepositoryError::Content { what: what.to_owned(), path: path.to_owned() };
    if bytes.len() as u64 > LONGEST_SECRET_BYTES {
        return Err(content());
    }
    let text = String::from_utf8(bytes).map_err(|_| content())?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() { Err(content()) } else { Ok(Secret::new(value)) }
}

/// Reads a password, or makes it where there is none. Two processes that do this at once agree: the file appears whole
/// and only once.
fn generate_once(what: &str, path: &Path) -> Result<Secret, RepositoryError> {
    let file_error = |source| RepositoryError::File { what: what.to_owned(), path: path.to_owned(), source };
    if !path.exists() {
        let directory = path.parent().unwrap_or(Path::new("/"));
        make_private_directory(directory).map_err(file_error)?;
        let draft = directory.join(format!(".password-{:016x}", rand::random::<u64>()));
        let made = write_draft(&draft).and_then(|()| match fs::hard_link(&draft, path) {
            // Another process was quicker: its password counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.and_then(|()| File::open(directory)?.sync_all()),
        });
        let _ = fs::remove_file(&draft);
        made.map_err(file_error)?;
    }
    read_secret(what, path)
}

fn write_draft(draft: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    let random: [u8; GENERATED_BYTES] = rand::random();
    writeln!(file, "{}", hex::encode(random))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let asked = Password { generate: true, ..Password::default() };
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (directory, asked) = (directory.path().to_owned(), asked.clone());
                std::thread::spawn(move || password("offsite", &asked, &directory, false).unwrap().expose().to_owned())
            })
            .collect();
        let passwords: std::collections::BTreeSet<String> =
            threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(passwords.len(), 1);
        assert_eq!(passwords.first().unwrap().len(), 2 * GENERATED_BYTES);
        let file = generated_password_file(directory.path(), "offsite");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn secrets_that_are_not_there_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        let reference = |file: &Path| SecretReference {
            secret: None,
            key: None,
            file: Some(file.display().to_string()),
            env: None,
        };
        let missing = resolve("the key", &reference(&directory.path().join("none"))).unwrap_err().to_string();
        assert!(missing.starts_with("the key cannot be read from "), "{missing}");
        assert!(matches!(resolve("the key", &reference(&empty)), Err(RepositoryError::Content { .. })));
        let escaping = Password { generate: true, ..Password::default() };
        assert!(password("../outside", &escaping, directory.path(), false).is_err());
        fs::write(&empty, "value\r\n").unwrap();
        assert_eq!(resolve("the key", &reference(&empty)).unwrap().expose(), "value");
    }
}
