//! The forge: where change requests are. Plans appear there as a comment and a check, and consent comes back.
//!
//! One trait; `gitea`, `github` and `gitlab` speak to the three kinds of forges through `http`. Pure are `comment`,
//! `command`, `consent` and `done`: what is said, what is asked, what counts as consent. `merge` makes the tree that a
//! change request would leave, `look` is one look at a forge, `reviewer` is the task of the daemon that takes them,
//! `memory` is what it remembers, and `webhook` believes or does not.
//!
//! Everything that a forge says is untrusted input. Nothing of a change request reaches a shell, a path, an address or
//! the engine; what comes back to a turn are approvals, which are bound to exact restore points.

use jiff::Timestamp;

use self::usage::Usage;
use crate::git::{Retry, Revision};

pub mod command;
pub mod comment;
pub mod consent;
pub mod done;

pub mod http;
pub mod usage;

pub mod gitea;
pub mod github;
pub mod gitlab;

pub mod memory;
pub mod merge;

pub mod look;
pub mod reviewer;
mod shape;
pub mod webhook;

/// The check on the head of a change request.
pub const PLAN_CHECK: &str = "mainstay/plan";
/// The check on the merged commit.
pub const APPLY_CHECK: &str = "mainstay/apply";
/// The most characters of a comment that forges take.
pub const COMMENT_CHARACTERS: usize = 65_536;
/// The most change requests that [`Forge::recent_requests`] gives.
pub const RECENT_ENTRIES: usize = 50;
/// What that call is called in messages.
const RECENT: &str = "listing the change requests that were updated last";

/// Someone on a forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name that one signs in with; forges compare it without regard to case.
    pub name: String,
    /// The number of the account.
    pub id: u64,
}

impl Account {
    /// Whether both are the same account.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.name.eq_ignore_ascii_case(&other.name)
    }
}

/// How far a change request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It waits.
    Open,
    /// It was merged, as this commit of the watched branch.
    Merged(Revision),
    /// It was closed without being merged.
    Closed,
}

/// A change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRequest {
    /// Its number in the repository.
    pub number: u64,
    /// Who opened it.
    pub author: Account,
    /// The commit that it proposes.
    pub head: Revision,
    /// The branch that it is from.
    pub head_branch: String,
    /// The branch that it is for.
    pub base_branch: String,
    /// Whether the commit comes from another repository.
    pub is_fork: bool,
    /// How far it is.
    pub progress: Progress,
    /// When something about it changed last: a push, a comment, a review.
    pub updated_at: Timestamp,
    /// Its page.
    pub page: String,
}

impl ChangeRequest {
    /// Whether it is from this branch of the repository itself.
    fn is_of(&self, branch: &str) -> bool {
        self.head_branch == branch && !self.is_fork
    }
}

/// A comment on a change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Its number.
    pub id: u64,
    /// Who wrote it.
    pub author: Account,
    /// The text.
    pub body: String,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it was edited last.
    pub updated_at: Timestamp,
}

/// What a review says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Consent.
    Approved,
    /// The contrary.
    ChangesRequested,
    /// Neither, or it was taken back.
    Neither,
}

/// A review of a change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Its number.
    pub id: u64,
    /// Who gave it.
    pub author: Account,
    /// What it says.
    pub verdict: Verdict,
    /// The commit that was reviewed; none: the forge does not say.
    pub commit: Option<Revision>,
    /// When.
    pub at: Timestamp,
}

/// What someone may do with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing.
    None,
    /// Look.
    Read,
    /// Push, merge.
    Write,
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckState {
    /// It is being found out, or carried out.
    Pending,
    /// All is well.
    Success,
    /// Something is not.
    Failure,
    /// Nothing is wrong, but consent is missing. Forges that know no such state show a failure.
    ApprovalNeeded,
}

/// A check on a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// [`PLAN_CHECK`] or [`APPLY_CHECK`].
    pub name: &'static str,
    /// How it stands.
    pub state: CheckState,
    /// Why, in at most 140 characters, which is what GitHub takes.
    pub summary: String,
    /// Findings at lines of documents, for forges that can show them there.
    pub annotations: Vec<Annotation>,
}

/// A finding at lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Path in the repository.
    pub path: String,
    /// First line, from 1.
    pub line: usize,
    /// Last line.
    pub end_line: usize,
    /// Whether something does not count until it is mended.
    pub is_error: bool,
    /// The rule's id.
    pub rule: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A change request to open: one file on a new branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Name of the new branch.
    pub branch: String,
    /// The branch that it starts from and is for.
    pub base: String,
    /// Path of the new file.
    pub path: String,
    /// Its content.
    pub content: String,
    /// Title, and message of the commit.
    pub title: String,
    /// Text of the change request.
    pub body: String,
}

/// A forge. Every call that writes can be repeated.
pub trait Forge: Send + Sync {
    /// Who we are there.
    fn own_account(&self) -> impl Future<Output = Result<Account, ForgeError>> + Send;

    /// All open change requests, newest first; none: nothing changed since the last call. One request where there are
    /// not many.
    fn open_requests(&self) -> impl Future<Output = Result<Option<Vec<ChangeRequest>>, ForgeError>> + Send;

    /// The change requests that were updated last, open or not, newest first: [`RECENT_ENTRIES`] at most, with one request.
    fn recent_requests(&self) -> impl Future<Output = Result<Vec<ChangeRequest>, ForgeError>> + Send;

    /// One change request, whether it is open or not.
    fn request(&self, number: u64) -> impl Future<Output = Result<ChangeRequest, ForgeError>> + Send;

    /// The change requests that brought a commit to a branch, as far as the forge knows: by a merge, a squash or a rebase.
    fn brought_by(&self, commit: &Revision) -> impl Future<Output = Result<Vec<ChangeRequest>, ForgeError>> + Send;

    /// The comments on a change request, oldest first.
    fn comments(&self, number: u64) -> impl Future<Output = Result<Vec<Comment>, ForgeError>> + Send;

    /// Writes a comment.
    fn add_comment(&self, number: u64, body: &str) -> impl Future<Output = Result<Comment, ForgeError>> + Send;

    /// Replaces the text of a comment of ours.
    fn edit_comment(
        &self,
        number: u64,
        comment: u64,
        body: &str,
    ) -> impl Future<Output = Result<Comment, ForgeError>> + Send;

    /// The reviews of a change request, oldest first.
    fn reviews(&self, request: &ChangeRequest) -> impl Future<Output = Result<Vec<Review>, ForgeError>> + Send;

    /// What someone may do.
    fn permission(&self, account: &Account) -> impl Future<Output = Result<Permission, ForgeError>> + Send;

    /// Sets a check on a commit.
    fn set_check(&self, revision: &Revision, check: &Check) -> impl Future<Output = Result<(), ForgeError>> + Send;

    /// Opens a change request.
    fn propose(&self, proposal: &Proposal) -> impl Future<Output = Result<ChangeRequest, ForgeError>> + Send;

    /// What it was asked since the last call.
    fn take_usage(&self) -> Usage;

    /// The git reference that a change request's head is found under.
    fn head_reference(&self, number: u64) -> String;
}

/// Why a forge did not do something. Backups and turns go on without it.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// It did not answer.
    #[error("{operation}: {place} cannot be reached; it is tried again")]
    Unreachable {
        /// What was tried.
        operation: String,
        /// Address, without secrets.
        place: String,
        /// Why.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// It asks us to wait.
    #[error("{operation}: {place} takes no more requests before {until}; it is tried again then")]
    Limited {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// When it may be asked again.
        until: Timestamp,
    },
    /// It does not let us.
    #[error("{operation}: {place} refuses it ({status}: {answer}); {hint}")]
    Refused {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// Status of the answer.
        status: u16,
        /// What it says, cut.
        answer: String,
        /// What to do.
        hint: &'static str,
    },
    /// There is no such thing.
    #[error("{operation}: {place} has no such thing ({answer}); check `repository` and what the token may see")]
    Missing {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// What it says, cut.
        answer: String,
    },
    /// It says that the request makes no sense, or that it is broken itself.
    #[error("{operation}: {place} answered {status}: {answer}")]
    Answer {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// Status of the answer.
        status: u16,
        /// What it says, cut.
        answer: String,
    },
    /// The answer is not what the forge's interface promises.
    #[error("{operation}: the answer of {place} cannot be read; is this the right `kind` of forge?")]
    Malformed {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than any of use.
    #[error("{operation}: the answer of {place} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was tried.
        operation: String,
        /// Address.
        place: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// A credential cannot be used.
    #[error("{what} cannot be used: {why}")]
    Credential {
        /// Which, never its value.
        what: String,
        /// Why.
        why: String,
    },
}

impl ForgeError {
    /// Whether the same call may go through later by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Limited { .. } => Retry::Later,
            Self::Answer { status, .. } if *status >= 500 => Retry::Later,
            Self::Refused { .. }
            | Self::Missing { .. }
            | Self::Answer { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Credential { .. } => Retry::AfterRepair,
        }
    }
}
