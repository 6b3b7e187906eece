//! `mainstay daemon`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{CommandResult, Exit, Failure, StateArguments, engine::EngineName};
use crate::{
    daemon::{DaemonOptions, Place, daemon},
    git::{
        checkout::CheckoutOptions,
        credentials::{Credentials, SecretSource},
        remote::local_path,
    },
    policy::document::DurationText,
};

/// Holds the token for https where no file is named.
const TOKEN_VARIABLE: &str = "MAINSTAY_GIT_TOKEN";

/// Watch a git repository and make what it asks for so.
///
/// A git server or S3 store whose certificate comes from a private authority: install the authority in the system, or
/// name its file in the environment variable SSL_CERT_FILE, which takes the place of the system's authorities.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    checkout: CheckoutArguments,
    #[command(flatten)]
    state: StateArguments,
    /// How often a remote git repository is asked; one on this host is watched, and a commit there is seen at once
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "MAINSTAY_POLL")]
    poll: DurationText,
    /// How long one exchange with a remote git repository may take before it is given up and tried again
    #[arg(long, value_name = "DURATION", default_value = "15m", env = "MAINSTAY_GIT_TIMEOUT")]
    git_timeout: DurationText,
    /// Serve /healthz, /readyz, /metrics and /webhook here, such as 127.0.0.1:9797
    #[arg(long, value_name = "ADDRESS:PORT", env = "MAINSTAY_LISTEN")]
    listen: Option<SocketAddr>,
    /// Do not write the status to the branch mainstay/status
    #[arg(long)]
    no_write_back: bool,
}

/// Which repository is watched, and how it is reached.
#[derive(Debug, Args)]
struct CheckoutArguments {
    /// The git repository: a path on this host, or an https:// or ssh address
    #[arg(long, value_name = "URL", env = "MAINSTAY_REPO")]
    repo: String,
    /// The branch that is watched
    #[arg(long, default_value = "main", env = "MAINSTAY_BRANCH")]
    branch: String,
    /// Directory in the repository that holds the documents
    #[arg(long, value_name = "DIR", default_value = ".", env = "MAINSTAY_PATH")]
    path: PathBuf,
    /// User name for https
    #[arg(long, value_name = "NAME", env = "MAINSTAY_GIT_USERNAME")]
    git_username: Option<String>,
    /// File with the token or password for https; or the environment variable MAINSTAY_GIT_TOKEN
    #[arg(long, value_name = "FILE", env = "MAINSTAY_GIT_TOKEN_FILE")]
    git_token_file: Option<PathBuf>,
    /// Private key for ssh; default: the ssh agent
    #[arg(long, value_name = "FILE", env = "MAINSTAY_SSH_KEY")]
    ssh_key: Option<PathBuf>,
    /// Known host keys for ssh [default: ~/.ssh/known_hosts]
    #[arg(long, value_name = "FILE", env = "MAINSTAY_KNOWN_HOSTS")]
    known_hosts: Option<PathBuf>,
}

impl CheckoutArguments {
    /// As the checkout takes them. A local path is made absolute, so that messages name it whole.
    fn options(self, state_directory: &Path) -> Result<CheckoutOptions, Failure> {
        let Self { repo, branch, path, git_username, git_token_file, ssh_key, known_hosts } = self;
        let url_or_path = match local_path(&repo) {
            Some(local) => std::path::absolute(&local)
                .map_err(|error| Failure::new(format!("cannot use --repo {repo}")).caused_by(error))?
                .display()
                .to_string(),
            None => repo,
        };
        let environment =
            std::env::var_os(TOKEN_VARIABLE).map(|_| SecretSource::Environment(TOKEN_VARIABLE.to_owned()));
        let credentials = Credentials {
            username: git_username,
            token: git_token_file.map(SecretSource::File).or(environment),
            ssh_key,
            ssh_passphrase: None,
            known_hosts,
        };
        Ok(CheckoutOptions { url_or_path, branch, path, cache_directory: state_directory.join("git"), credentials })
    }
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { checkout, state, poll, git_timeout, listen, no_write_back } = arguments;
    let state_directory = state.directory()?;
    std::fs::create_dir_all(&state_directory).map_err(|error| {
        Failure::new(format!("cannot make the state directory {}", state_directory.display()))
            .caused_by(error)
            .hint("name a directory that you can write with --state")
    })?;
    if poll.seconds() < 1 {
        return Err(Failure::new("--poll is shorter than a second").hint("write for instance --poll 60s"));
    }
    if git_timeout.seconds() < 1 {
        return Err(Failure::new("--git-timeout is shorter than a second").hint("write for instance --git-timeout 15m"));
    }
    let place = match state.engine.engine {
        EngineName::Local => Place::Host,
        EngineName::Kubernetes => Place::Cluster(state.engine.installation()),
    };
    let options = DaemonOptions {
        place,
        checkout: checkout.options(&state_directory)?,
        state_directory,
        write_back: !no_write_back,
        poll: poll.std(),
        git_timeout: git_timeout.std(),
        listen,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new("cannot start").caused_by(error))?;
    let result = runtime.block_on(daemon(options));
    // A thread that still waits for git must not keep the process.
    runtime.shutdown_background();
    result.map_err(|error| Failure::new("the daemon cannot go on").caused_by(error))?;
    Ok(Exit::Success)
}
