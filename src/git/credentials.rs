//! Credentials of a remote: a token for https, a key or an agent for ssh. Read anew for each connection, so that a
//! rotated token is taken up without a restart.

use std::{cell::RefCell, io::Read, path::PathBuf, rc::Rc};

use git2::{Cred, CredentialType};

use super::GitError;
use crate::secret::Secret;

/// The largest token or passphrase that is read from a file.
const SECRET_LIMIT_BYTES: u64 = 64 * 1024;

/// What opens a remote repository. Everything is optional: a public https address needs nothing.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// User name; default: that of the address, else `git` for ssh and `oauth2` for https.
    pub username: Option<String>,
    /// Access token or password for https.
    pub token: Option<SecretSource>,
    /// Private key file for ssh; default: the agent.
    pub ssh_key: Option<PathBuf>,
    /// Passphrase of that key.
    pub ssh_passphrase: Option<SecretSource>,
    /// The known_hosts file; default: the user's, then the system's.
    pub known_hosts: Option<PathBuf>,
}

/// Where a secret text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; a trailing newline does not count.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

impl SecretSource {
    /// Reads it. `purpose` is for the message only.
    ///
    /// # Errors
    /// It is not there, not readable, or empty.
    pub fn read(&self, purpose: &str) -> Result<Secret, GitError> {
        let (what, text) = match self {
            Self::File(path) => {
                let what = format!("{purpose} in the file {}", path.display());
                let mut text = String::new();
                std::fs::File::open(path)
                    .and_then(|file| file.take(SECRET_LIMIT_BYTES).read_to_string(&mut text))
                    .map_err(|source| GitError::Credential { what: what.clone(), source: Some(source) })?;
                (what, text)
            }
            Self::Environment(name) => {
                (format!("{purpose} in the environment variable {name}"), std::env::var(name).unwrap_or_default())
            }
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(GitError::Credential { what, source: None });
        }
        Ok(Secret::new(text))
    }
}

/// The secrets of one connection, and which of them were offered already. libgit2 asks again and again as long as the
/// other side refuses; each credential is offered once, so a bad one ends in an error and not in a loop.
#[derive(Debug)]
pub(super) struct Offer {
    username: Option<String>,
    token: Option<Secret>,
    ssh_key: Option<PathBuf>,
    ssh_passphrase: Option<Secret>,
    tried: Tried,
}

/// What was offered in a connection.
#[derive(Debug, Default, Clone, Copy)]
struct Tried {
    username: bool,
    ssh_key: bool,
    agent: bool,
    token: bool,
    exhausted: bool,
}

impl Offer {
    /// Reads what the credentials name.
    pub(super) fn read(credentials: &Credentials) -> Result<Rc<RefCell<Self>>, GitError> {
        let read = |source: &Option<SecretSource>, purpose: &str| {
            source.as_ref().map(|source| source.read(purpose)).transpose()
        };
        Ok(Rc::new(RefCell::new(Self {
            username: credentials.username.clone(),
            token: read(&credentials.token, "access token")?,
            ssh_key: credentials.ssh_key.clone(),
            ssh_passphrase: read(&credentials.ssh_passphrase, "passphrase of the SSH key")?,
            tried: Tried::default(),
        })))
    }

    /// Answers libgit2's question for a credential of one of the `allowed` types.
    pub(super) fn answer(
        &mut self,
        username_in_url: Option<&str>,
        allowed: CredentialType,
    ) -> Result<Cred, git2::Error> {
        // The order matters: an ssh server that also takes passwords must be asked with the key first.
        let user = self.username.as_deref().or(username_in_url);
        let ssh_user = user.unwrap_or("git");
        if allowed.is_ssh_key() {
            if let Some(key) = self.ssh_key.as_deref().filter(|_| !self.tried.ssh_key) {
                self.tried.ssh_key = true;
                return Cred::ssh_key(ssh_user, None, key, self.ssh_passphrase.as_ref().map(Secret::expose));
            }
            if self.ssh_key.is_none() && !self.tried.agent {
                self.tried.agent = true;
                return Cred::ssh_key_from_agent(ssh_user);
            }
        }
        if allowed.is_username() && !self.tried.username {
            self.tried.username = true;
            return Cred::username(ssh_user);
        }
        if allowed.is_user_pass_plaintext()
            && let Some(token) = self.token.as_ref().filter(|_| !self.tried.token)
        {
            self.tried.token = true;
            return Cred::userpass_plaintext(user.unwrap_or("oauth2"), token.expose());
        }
        self.tried.exhausted = true;
        Err(git2::Error::new(
            git2::ErrorCode::Auth,
            git2::ErrorClass::Callback,
            "every credential that we have was refused",
        ))
    }

    /// Whether the other side wanted more than there is.
    pub(super) fn is_exhausted(&self) -> bool {
        self.tried.exhausted
    }

    /// What was tried, and what to give.
    pub(super) fn hint(&self) -> String {
        let Tried { token, ssh_key, agent, username: _, exhausted: _ } = self.tried;
        match (token, ssh_key, agent) {
            (true, _, _) => "check that the token is valid and may read this repository".to_owned(),
            (_, true, _) => "check that the SSH key is allowed there, and its passphrase".to_owned(),
            (_, _, true) => "the SSH agent has no key that is allowed there; name a key file".to_owned(),
            (false, false, false) => "give a token (in a file or an environment variable) or an SSH key".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_is_offered_once_only() {
        let mut offer = Offer {
            username: None,
            token: Some(Secret::new("hunter2")),
            ssh_key: None,
            ssh_passphrase: None,
            tried: Tried::default(),
        };
        assert!(offer.answer(None, CredentialType::USER_PASS_PLAINTEXT).is_ok());
        let error = offer.answer(None, CredentialType::USER_PASS_PLAINTEXT).err().expect("the second is refused");
        assert_eq!(error.code(), git2::ErrorCode::Auth);
        assert!(offer.is_exhausted());
        assert!(offer.hint().contains("token"));
        assert!(!format!("{offer:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_that_is_not_there_is_named() {
        let file = SecretSource::File(PathBuf::from("/nonexistent/token")).read("access token").unwrap_err();
        assert!(file.to_string().contains("/nonexistent/token"), "{file}");
        let variable = SecretSource::Environment("MAINSTAY_TEST_UNSET".to_owned()).read("access token").unwrap_err();
        assert!(variable.to_string().contains("MAINSTAY_TEST_UNSET"), "{variable}");
    }
}
