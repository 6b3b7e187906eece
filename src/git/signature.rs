//! Signatures: whether a commit was made by someone who is believed, as Settings ask.
//!
//! `ssh-keygen -Y verify` and `gpg --verify` decide; nothing here does cryptography. They are started directly, without
//! a shell, and get the signed bytes on their standard input. Callers use the Settings that are in force, not those of
//! the commit in question: a commit must not choose its own judges.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::{Retry, Revision, checkout::Checkout};
use crate::policy::document::settings::Signatures;

/// The largest commit that is checked, and the most that a program may answer.
const LIMIT_BYTES: u64 = 1024 * 1024;
/// How long a program may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// What git signs its commits as; see ssh-keygen(1), "namespace".
const SSH_NAMESPACE: &str = "git";

/// Who signed a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A principal of the allowed signers file.
    Ssh(String),
    /// The fingerprint of a key in the GnuPG key ring.
    Gpg(String),
}

/// Why a commit is not believed. What was applied before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Settings ask for signatures and name nobody.
    #[error("the settings ask for signed commits and name no signers; set sshAllowedSigners or gpgHome")]
    NobodyAllowed,
    /// The commit carries no signature.
    #[error("commit {} is not signed; sign it (`git commit --amend -S`) and push again", .0.short())]
    Unsigned(Revision),
    /// The signature is of a kind that the settings do not allow, or of one that is not known here.
    #[error("commit {} carries a signature of {kind}, and the settings name no such signers", revision.short())]
    KindNotAllowed {
        /// The commit.
        revision: Revision,
        /// Which kind.
        kind: &'static str,
    },
    /// Signed by someone who is not listed.
    #[error(
        "commit {} is signed by someone whom {} does not list; add the signer there, or sign with a listed key ({answer})",
        revision.short(), list.display()
    )]
    UnknownSigner {
        /// The commit.
        revision: Revision,
        /// The list.
        list: PathBuf,
        /// What the program says.
        answer: String,
    },
    /// The signature does not fit the commit, or its key is expired or revoked.
    #[error("commit {} carries a bad signature: {answer}. Do not trust it before someone has looked", revision.short())]
    Bad {
        /// The commit.
        revision: Revision,
        /// What the program says.
        answer: String,
    },
    /// The list of signers is not readable.
    #[error("cannot read the allowed signers in {}; check that they are there and readable by this user", .0.display())]
    ListMissing(PathBuf),
    /// The program is not installed.
    #[error("cannot start `{program}`, which checks signatures; install {package}")]
    ProgramMissing {
        /// Which program.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program did not end.
    #[error("`{0}` did not end within 30 s; it is tried again")]
    TimedOut(&'static str),
    /// A temporary file could not be used.
    #[error("cannot pass the commit to `{program}`; check that there is space for temporary files")]
    Exchange {
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The commit could not be read.
    #[error("cannot read the signature of commit {}; check the repository with `git fsck`", revision.short())]
    Read {
        /// The commit.
        revision: Revision,
        /// What libgit2 says.
        #[source]
        source: git2::Error,
    },
    /// The commit is too large to be one that a person made.
    #[error("commit {} has more than {LIMIT_BYTES} bytes, and is not checked", .0.short())]
    TooLarge(Revision),
}

impl SignatureError {
    /// Whether the same call may go through later by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::TimedOut(_) | Self::Exchange { .. } => Retry::Later,
            Self::NobodyAllowed
            | Self::Unsigned(_)
            | Self::KindNotAllowed { .. }
            | Self::UnknownSigner { .. }
            | Self::Bad { .. }
            | Self::ListMissing(_)
            | Self::ProgramMissing { .. }
            | Self::Read { .. }
            | Self::TooLarge(_) => Retry::AfterRepair,
        }
    }
}

/// Checks that a commit carries a good signature of an allowed signer.
///
/// # Errors
/// It does not, or that cannot be found out; each reason is a [`SignatureError`] of its own.
pub fn verify(checkout: &Checkout, revision: &Revision, allowed: &Signatures) -> Result<Signer, SignatureError> {
    let Signatures { ssh_allowed_signers, gpg_home } = allowed;
    if ssh_allowed_signers.is_none() && gpg_home.is_none() {
        return Err(SignatureError::NobodyAllowed);
    }
    let signed = signed_commit(checkout, revision)?;
    let not_allowed = |kind| SignatureError::KindNotAllowed { revision: revision.clone(), kind };
    if signed.signature.starts_with("-----BEGIN SSH SIGNATURE-----") {
        let list = ssh_allowed_signers.as_ref().ok_or_else(|| not_allowed("SSH"))?;
        verify_ssh(&signed, Path::new(list))
    } else if signed.signature.starts_with("-----BEGIN PGP SIGNATURE-----") {
        let home = gpg_home.as_ref().ok_or_else(|| not_allowed("GnuPG"))?;
        verify_gpg(&signed, Path::new(home))
    } else {
        Err(not_allowed("an unknown kind"))
    }
}

/// A commit as it was signed.
struct SignedCommit {
    revision: Revision,
    signature: String,
    payload: Vec<u8>,
}

fn signed_commit(checkout: &Checkout, revision: &Revision) -> Result<SignedCommit, SignatureError> {
    let read = |source| SignatureError::Read { revision: revision.clone(), source };
    let repository = checkout.repository();
    let id = git2::Oid::from_str(&revision.0).map_err(read)?;
    let (size, _) = repository.odb().and_then(|database| database.read_header(id)).map_err(read)?;
    if size as u64 > LIMIT_BYTES {
        return Err(SignatureError::TooLarge(revision.clone()));
    }
    match repository.extract_signature(&id, None) {
        Ok((signature, payload)) => Ok(SignedCommit {
            revision: revision.clone(),
            signature: String::from_utf8_lossy(&signature).into_owned(),
            payload: payload.to_vec(),
        }),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Err(SignatureError::Unsigned(revision.clone())),
        Err(source) => Err(read(source)),
    }
}

/// Two steps, as git does it: whose key is it, and does the signature fit?
fn verify_ssh(signed: &SignedCommit, list: &Path) -> Result<Signer, SignatureError> {
    const PROGRAM: &str = "ssh-keygen";
    File::open(list).map_err(|_| SignatureError::ListMissing(list.to_owned()))?;
    let signature = temporary(PROGRAM, signed.signature.as_bytes())?;
    let command = |action: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["-Y", action, "-n", SSH_NAMESPACE, "-f"]).arg(list).arg("-s").arg(signature.path());
        command
    };
    let found = run(PROGRAM, "openssh-client", &mut command("find-principals"), &signed.payload)?;
    let Some(principal) = found.output.lines().next().filter(|_| found.status.success()) else {
        return Err(SignatureError::UnknownSigner {
            revision: signed.revision.clone(),
            list: list.to_owned(),
            answer: found.complaint(),
        });
    };
    let verified = run(PROGRAM, "openssh-client", command("verify").arg("-I").arg(principal), &signed.payload)?;
    if !verified.status.success() {
        return Err(SignatureError::Bad { revision: signed.revision.clone(), answer: verified.complaint() });
    }
    Ok(Signer::Ssh(principal.to_owned()))
}

/// The machine-readable lines are those of GnuPG's doc/DETAILS, "Format of the --status-fd output".
fn verify_gpg(signed: &SignedCommit, home: &Path) -> Result<Signer, SignatureError> {
    const PROGRAM: &str = "gpg";
    if !home.is_dir() {
        return Err(SignatureError::ListMissing(home.to_owned()));
    }
    let signature = temporary(PROGRAM, signed.signature.as_bytes())?;
    let mut command = Command::new(PROGRAM);
    command.arg("--homedir").arg(home);
    command.args(["--batch", "--no-tty", "--no-auto-key-retrieve", "--status-fd", "1", "--verify"]);
    command.arg(signature.path()).arg("-");
    let answer = run(PROGRAM, "gnupg", &mut command, &signed.payload)?;
    let status = |keyword: &str| {
        let lines = answer.output.lines().filter_map(|line| line.strip_prefix("[GNUPG:] "));
        lines.filter_map(|line| line.strip_prefix(keyword)).map(|rest| rest.trim().to_owned()).next()
    };
    let revision = signed.revision.clone();
    if status("NO_PUBKEY ").is_some() {
        return Err(SignatureError::UnknownSigner { revision, list: home.to_owned(), answer: answer.complaint() });
    }
    // GOODSIG alone is said of neither expired nor revoked keys; VALIDSIG names the whole fingerprint.
    let good = answer.status.success() && status("GOODSIG ").is_some();
    match status("VALIDSIG ").and_then(|rest| rest.split(' ').next().map(str::to_owned)) {
        Some(fingerprint) if good => Ok(Signer::Gpg(fingerprint)),
        Some(_) | None => Err(SignatureError::Bad { revision, answer: answer.complaint() }),
    }
}

/// What a program answered.
struct Answer {
    status: ExitStatus,
    output: String,
    errors: String,
}

impl Answer {
    /// Its complaint, in one line.
    fn complaint(&self) -> String {
        let lines = self.errors.lines().chain(self.output.lines().filter(|line| !line.starts_with("[GNUPG:]")));
        let text = lines.map(str::trim).filter(|line| !line.is_empty()).take(5).collect::<Vec<_>>().join("; ");
        if text.is_empty() { format!("it ended with {}", self.status) } else { text }
    }
}

/// Runs a program with `input` as its standard input. Files instead of pipes: nothing can block, whoever reads last.
fn run(
    program: &'static str,
    package: &'static str,
    command: &mut Command,
    input: &[u8],
) -> Result<Answer, SignatureError> {
    let exchange = |source| SignatureError::Exchange { program, source };
    let mut stdin = tempfile::tempfile().map_err(exchange)?;
    stdin.write_all(input).and_then(|()| stdin.rewind()).map_err(exchange)?;
    let (stdout, stderr) = (tempfile::tempfile().map_err(exchange)?, tempfile::tempfile().map_err(exchange)?);
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::from(stdout.try_clone().map_err(exchange)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(exchange)?))
        .spawn()
        .map_err(|source| SignatureError::ProgramMissing { program, package, source })?;
    let end = Instant::now() + TIME_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(exchange)? {
            break status;
        }
        if Instant::now() > end {
            // Both can only fail when it has ended by now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(SignatureError::TimedOut(program));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ok(Answer { status, output: text(stdout).map_err(exchange)?, errors: text(stderr).map_err(exchange)? })
}

fn temporary(program: &'static str, content: &[u8]) -> Result<tempfile::NamedTempFile, SignatureError> {
    let exchange = |source| SignatureError::Exchange { program, source };
    let mut file = tempfile::NamedTempFile::new().map_err(exchange)?;
    file.write_all(content).and_then(|()| file.flush()).map_err(exchange)?;
    Ok(file)
}

fn text(mut file: File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
