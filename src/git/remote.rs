//! A repository on another host: mirrored bare, fetched only when its branch moved, refused where its host key is not
//! known.
//!
//! libgit2 has no overall time limit; a transfer is ended after [`TRANSFER_LIMIT`] while bytes still come in, and a
//! caller that must not hang bounds the call itself.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use git2::{CertificateCheckStatus, Direction, ErrorClass, ErrorCode, FetchOptions, RemoteCallbacks, Repository};
use sha2::{Digest, Sha256};

use super::{
    GitError, Revision,
    credentials::{Credentials, Offer},
    known_hosts::{Host, HostKey, KnownHosts, Verdict},
    lock,
};

/// How long one fetch may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How much one fetch of references takes that anybody may write, such as the heads of change requests.
pub const FOREIGN_BYTES: usize = 256 << 20;

/// A repository on another host, and what opens it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its address. May hold a password: show [`Remote::place`] instead.
    pub url: String,
    /// What opens it.
    pub credentials: Credentials,
}

/// The path that a text names when it is not the address of another host.
pub fn local_path(text: &str) -> Option<PathBuf> {
    if let Some(path) = text.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    // `host:path`, as ssh takes it: a colon before the first slash.
    let is_remote = text.contains("://") || text.split('/').next().is_some_and(|first| first.contains(':'));
    (!is_remote).then(|| PathBuf::from(text))
}

impl Remote {
    /// The address without user name and password, for people.
    pub fn place(&self) -> String {
        match self.url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                format!("{scheme}://{host}/{path}")
            }
            None => self.url.clone(),
        }
    }

    /// Opens the bare mirror of this address, or makes it.
    pub(super) fn open_mirror(&self, cache: &Path) -> Result<Repository, GitError> {
        let name = hex::encode(&Sha256::digest(self.place())[..8]);
        let path = cache.join(format!("{name}.git"));
        std::fs::create_dir_all(cache).map_err(|source| GitError::Cache { path: cache.to_owned(), source })?;
        if let Ok(repository) = Repository::open_bare(&path) {
            return Ok(repository);
        }
        // What is there is no repository (a crash while it was made): it is only a copy, so it is made anew.
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(GitError::Cache { path, source });
            }
            Ok(()) | Err(_) => {}
        }
        Repository::init_bare(&path)
            .map_err(|source| GitError::Read { operation: format!("making the mirror {}", path.display()), source })
    }

    /// Brings the branch into the mirror; asks only where it is when it did not move.
    pub(super) fn fetch_branch(&self, mirror: &Repository, branch: &str) -> Result<Revision, GitError> {
        match self.fetch(mirror, branch)? {
            Fetched::Tip(id) => Ok(id.into()),
            Fetched::Empty => Err(GitError::Empty { place: self.place(), branch: branch.to_owned() }),
            Fetched::Missing(found) => {
                Err(GitError::BranchMissing { place: self.place(), branch: branch.to_owned(), found })
            }
        }
    }

    /// The tip of a branch over there, with its objects in the mirror.
    pub(super) fn fetch(&self, mirror: &Repository, branch: &str) -> Result<Fetched, GitError> {
        let session = Session::new(self)?;
        let fail = |error| session.explain(self, error);
        let mut remote = mirror.remote_anonymous(&self.url).map_err(fail)?;
        let mut connection =
            remote.connect_auth(Direction::Fetch, Some(session.callbacks()), Some(proxy())).map_err(fail)?;
        let name = format!("refs/heads/{branch}");
        let heads = connection.list().map_err(fail)?;
        if heads.is_empty() {
            return Ok(Fetched::Empty);
        }
        let Some(tip) = heads.iter().find(|head| head.name() == name).map(git2::RemoteHead::oid) else {
            let names = heads.iter().filter_map(|head| head.name().strip_prefix("refs/heads/"));
            return Ok(Fetched::Missing(names.take(10).map(str::to_owned).collect()));
        };
        let local = fetched(branch);
        if mirror.refname_to_id(&local).ok() != Some(tip) {
            let mut options = FetchOptions::new();
            options.remote_callbacks(session.callbacks()).proxy_options(proxy());
            options.download_tags(git2::AutotagOption::None);
            let refspec = format!("+{name}:{local}");
            connection.remote().download(&[&refspec], Some(&mut options)).map_err(fail)?;
            // The reference keeps the objects from garbage collection, and tells the next call that nothing moved.
            lock::past_abandoned(mirror, &local, || mirror.reference(&local, tip, true, "fetched"))
                .map_err(|source| GitError::Read { operation: format!("writing {local} of the mirror"), source })?;
        }
        Ok(Fetched::Tip(tip))
    }

    /// Brings references of any kind into the mirror, in one exchange: each from its name over there to its name here.
    /// Gives where they are over there; one that is not there is left out.
    ///
    /// # Errors
    /// The remote cannot be used, or sends more than `most_bytes`, which are usually [`FOREIGN_BYTES`].
    pub fn fetch_references(
        &self,
        mirror: &Repository,
        names: &[(String, String)],
        most_bytes: usize,
    ) -> Result<BTreeMap<String, git2::Oid>, GitError> {
        let session = Session::new(self)?;
        let fail = |error| session.explain(self, error);
        let mut remote = mirror.remote_anonymous(&self.url).map_err(fail)?;
        let mut connection =
            remote.connect_auth(Direction::Fetch, Some(session.callbacks()), Some(proxy())).map_err(fail)?;
        let heads = connection.list().map_err(fail)?;
        let there: BTreeMap<String, git2::Oid> = heads
            .iter()
            .filter(|head| names.iter().any(|(name, _)| name == head.name()))
            .map(|head| (head.name().to_owned(), head.oid()))
            .collect();
        let moved: Vec<&(String, String)> = names
            .iter()
            .filter(|(name, local)| there.get(name).is_some_and(|tip| mirror.refname_to_id(local).ok() != Some(*tip)))
            .collect();
        if moved.is_empty() {
            return Ok(there);
        }
        let mut callbacks = session.callbacks();
        let end = session.timed_out_at;
        let is_too_large = Rc::new(Cell::new(false));
        let seen = Rc::clone(&is_too_large);
        callbacks.transfer_progress(move |progress| {
            seen.set(progress.received_bytes() > most_bytes);
            Instant::now() < end && !seen.get()
        });
        let mut options = FetchOptions::new();
        options.remote_callbacks(callbacks).proxy_options(proxy()).download_tags(git2::AutotagOption::None);
        let refspecs: Vec<String> = moved.iter().map(|(name, local)| format!("+{name}:{local}")).collect();
        connection.remote().download(&refspecs, Some(&mut options)).map_err(|error| match is_too_large.get() {
            // Tried again it would be as large.
            true => {
                let what = moved.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                GitError::TransferTooLarge { url: self.place(), what, limit_bytes: most_bytes }
            }
            false => fail(error),
        })?;
        for (name, local) in moved {
            if let Some(tip) = there.get(name) {
                mirror
                    .reference(local, *tip, true, "fetched")
                    .map_err(|source| GitError::Read { operation: format!("writing {local} of the mirror"), source })?;
            }
        }
        Ok(there)
    }

    /// Pushes a commit to a branch over there, without force.
    pub(super) fn push(&self, mirror: &Repository, commit: git2::Oid, branch: &str) -> Result<Pushed, GitError> {
        let session = Session::new(self)?;
        let outgoing = format!("refs/mainstay/outgoing/{commit}");
        let write = |source| GitError::Read { operation: format!("writing {outgoing} of the mirror"), source };
        mirror.reference(&outgoing, commit, true, "outgoing").map_err(write)?;
        let rejected = Rc::new(RefCell::new(None));
        let outcome = {
            let mut callbacks = session.callbacks();
            let seen = Rc::clone(&rejected);
            callbacks.push_update_reference(move |_, status| {
                *seen.borrow_mut() = status.map(str::to_owned);
                Ok(())
            });
            let mut options = git2::PushOptions::new();
            options.remote_callbacks(callbacks).proxy_options(proxy());
            mirror
                .remote_anonymous(&self.url)
                .and_then(|mut remote| remote.push(&[format!("{outgoing}:refs/heads/{branch}")], Some(&mut options)))
        };
        // One that stays behind after a crash costs nothing.
        let _ = mirror.find_reference(&outgoing).and_then(|mut reference| reference.delete());
        match outcome {
            Ok(()) => {
                if let Some(reason) = rejected.borrow_mut().take() {
                    return Ok(Pushed::Rejected(reason));
                }
                // The next fetch need not bring back what has just gone there.
                let local = fetched(branch);
                lock::past_abandoned(mirror, &local, || mirror.reference(&local, commit, true, "pushed"))
                    .map_err(|source| GitError::Read { operation: format!("writing {local} of the mirror"), source })?;
                Ok(Pushed::Accepted)
            }
            Err(error) if error.code() == ErrorCode::NotFastForward => Ok(Pushed::Rejected(error.message().to_owned())),
            Err(error) => Err(session.explain(self, error)),
        }
    }

    /// Host and port of an ssh address.
    fn host(&self, name: &str) -> Host {
        let port = self
            .url
            .split_once("://")
            .and_then(|(_, rest)| rest.split('/').next())
            .and_then(|authority| authority.rsplit_once(':'))
            .and_then(|(_, port)| port.parse().ok());
        Host { name: name.to_owned(), port: port.unwrap_or(22) }
    }
}

/// What a fetch found.
pub(super) enum Fetched {
    /// The branch is there, at this commit.
    Tip(git2::Oid),
    /// The repository has no branch at all.
    Empty,
    /// The branch is not there; these are (at most ten).
    Missing(Vec<String>),
}

/// How a push ended when the other side answered.
pub(super) enum Pushed {
    /// The branch is at the commit now.
    Accepted,
    /// The branch moved meanwhile, or a rule over there forbids it; what the other side says.
    Rejected(String),
}

/// One exchange with a host: what was offered, and what was wrong with its key.
struct Session {
    offer: Rc<RefCell<Offer>>,
    refused: Rc<RefCell<Option<GitError>>>,
    timed_out_at: Instant,
    remote: Remote,
}

impl Session {
    fn new(remote: &Remote) -> Result<Self, GitError> {
        Ok(Self {
            offer: Offer::read(&remote.credentials)?,
            refused: Rc::default(),
            timed_out_at: Instant::now() + TRANSFER_LIMIT,
            remote: remote.clone(),
        })
    }

    fn callbacks(&self) -> RemoteCallbacks<'static> {
        let mut callbacks = RemoteCallbacks::new();
        let offer = Rc::clone(&self.offer);
        callbacks.credentials(move |_, username, allowed| offer.borrow_mut().answer(username, allowed));
        let refused = Rc::clone(&self.refused);
        let remote = self.remote.clone();
        callbacks.certificate_check(move |certificate, name| {
            let Some(key) = certificate.as_hostkey().and_then(git2::cert::CertHostkey::hostkey) else {
                // Certificates of https are checked by libgit2 against the system's authorities.
                return Ok(CertificateCheckStatus::CertificatePassthrough);
            };
            match check_host_key(&remote, name, HostKey { bytes: key.to_vec() }) {
                Ok(()) => Ok(CertificateCheckStatus::CertificateOk),
                Err(error) => {
                    *refused.borrow_mut() = Some(error);
                    Err(git2::Error::new(ErrorCode::Certificate, ErrorClass::Ssh, "the host key was refused"))
                }
            }
        });
        let end = self.timed_out_at;
        callbacks.transfer_progress(move |_| Instant::now() < end);
        callbacks
    }

    /// Turns libgit2's error into a condition.
    fn explain(&self, remote: &Remote, source: git2::Error) -> GitError {
        if let Some(refused) = self.refused.borrow_mut().take() {
            return refused;
        }
        let url = remote.place();
        // 401 and 403 arrive as plain HTTP errors where the server asks for no (more) credentials.
        let status = |code: &str| source.class() == ErrorClass::Http && source.message().contains(code);
        if self.offer.borrow().is_exhausted() || source.code() == ErrorCode::Auth || status("401") || status("403") {
            return GitError::AuthenticationFailed { url, hint: self.offer.borrow().hint(), source };
        }
        if source.code() == ErrorCode::NotFound || status("404") {
            return GitError::RepositoryMissing { place: url, source };
        }
        // OpenSSL's verdict arrives as a plain error of its class.
        let is_untrusted = source.class() == ErrorClass::Ssl && source.message().contains("certificate");
        if source.code() == ErrorCode::Certificate || is_untrusted {
            return GitError::CertificateInvalid { url, source };
        }
        GitError::Unreachable { url, source }
    }
}

fn check_host_key(remote: &Remote, name: &str, key: HostKey) -> Result<(), GitError> {
    let known = KnownHosts::read(remote.credentials.known_hosts.as_deref());
    let host = remote.host(name);
    let (algorithm, fingerprint) = (key.algorithm().to_owned(), key.fingerprint());
    match known.verdict(&host, &key) {
        Verdict::Known => Ok(()),
        Verdict::Unknown => {
            Err(GitError::HostKeyUnknown { host: host.to_string(), algorithm, fingerprint, file: known.file })
        }
        Verdict::Changed => {
            Err(GitError::HostKeyChanged { host: host.to_string(), algorithm, fingerprint, file: known.file })
        }
    }
}

/// Where the mirror keeps what a branch over there was last known to be.
fn fetched(branch: &str) -> String {
    format!("refs/mainstay/fetched/{branch}")
}

fn proxy() -> git2::ProxyOptions<'static> {
    let mut options = git2::ProxyOptions::new();
    options.auto();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths_are_told_apart() {
        let cases = [
            ("/srv/git/policies.git", Some("/srv/git/policies.git")),
            ("policies", Some("policies")),
            ("./a:b/c", Some("./a:b/c")),
            ("file:///srv/policies", Some("/srv/policies")),
            ("https://git.example.org/policies.git", None),
            ("ssh://git@git.example.org:2222/policies.git", None),
            ("git@git.example.org:policies.git", None),
        ];
        for (text, expected) in cases {
            assert_eq!(local_path(text), expected.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn messages_show_no_password() {
        let remote = |url: &str| Remote { url: url.to_owned(), credentials: Credentials::default() };
        assert_eq!(remote("https://me:hunter2@example.org/p.git").place(), "https://example.org/p.git");
        assert_eq!(remote("https://example.org").place(), "https://example.org/");
        assert_eq!(remote("git@example.org:p.git").place(), "git@example.org:p.git");
    }

    #[test]
    fn the_port_is_that_of_the_address() {
        let host = |url: &str| {
            Remote { url: url.to_owned(), credentials: Credentials::default() }.host("example.org").to_string()
        };
        assert_eq!(host("ssh://git@example.org:2222/p.git"), "[example.org]:2222");
        assert_eq!(host("ssh://git@example.org/p.git"), "example.org");
        assert_eq!(host("git@example.org:p.git"), "example.org");
    }
}
