//! What to do about a failure, said once for each kind.

use super::job::{Failure, FailureKind};

impl Failure {
    /// A failure with the usual hint of its kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: kind.hint().to_owned() }
    }

    /// Another hint than the usual one.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl FailureKind {
    /// What a person can do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::WrongPassword => "check the password of the Repository document; a lost password cannot be replaced",
            Self::RepositoryMissing => {
                "check that its disk is mounted, and the place in the Repository document; it is not made anew in silence"
            }
            Self::RepositoryDamaged => "keep the repository as it is and run `mainstay verify` to see how far it goes",
            Self::NoSpace => "free space at the repository, or shorten the retention and run the cleanup",
            Self::PermissionDenied => "give the user that runs Mainstay access, or correct the access key",
            Self::Unreachable => "check the endpoint and the network; the next run tries again",
            Self::SourceFailed => "mend what is named and run the policy again; no restore point was made",
            Self::DestinationRefused => {
                "choose an empty destination, or allow to overwrite: `--existing update`, or `existing: Update` in a document"
            }
            Self::ProgramMissing => "install the program, or name the directory that holds it in `programDirectory`",
            Self::Other => "see the log for details, and report it if it looks like a bug",
        }
    }
}
