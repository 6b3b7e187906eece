//! One look at a forge: what moved is planned, said and answered. It never acts on what a change request asks for; the
//! only things that leave here are comments, checks, the wish for a run, and consent for the next turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::task::block_in_place;

use super::{
    Account, ChangeRequest, Check, CheckState, Comment, Forge, ForgeError, PLAN_CHECK, Permission, Progress,
    comment::{self, Findings, MARKER, Outcome, Subject},
    consent::{self, Shown},
    done::TurnReport,
    memory::{CheckSaid, FILE_BYTES, ForgeMemory, Planned, Tracked},
};
use crate::{
    actual::ActualState,
    daemon::memory::MemoryError,
    engine::{Engine, EngineError},
    git::{
        GitError, Retry, Revision,
        checkout::{Checkout, CheckoutOptions},
    },
    policy::{EngineKind, document::settings, load::ParseCache},
};

mod answers;
mod brought;
mod draft;
mod ended;
mod judged;
mod merged;
mod troubles;

use answers::Asked;
use draft::{Draft, Drafted};
use judged::Judged;
use troubles::Troubles;

/// Change requests that are looked after; further ones wait until some of these are closed.
const REQUESTS_LIMIT: usize = 500;
/// The status of an answer to a token that is none.
const UNAUTHORIZED: u16 = 401;
/// After news from the engine, a plan that is as old as this is made again.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// The longest problem that is remembered.
const PROBLEM_CHARACTERS: usize = 2_000;
/// Something may have changed in the same second in which it was read: within this time it is read again.
const SETTLING: SignedDuration = SignedDuration::from_secs(3);

/// What looks are taken with; kept from look to look.
pub struct Eye<F> {
    /// The forge.
    pub forge: F,
    /// The forge and repository as an address.
    pub place: String,
    /// Who we are there; none: it was not asked yet.
    pub own: Option<Account>,
    /// What counts as consent.
    pub rules: settings::Approval,
    /// The watched repository, in a mirror of our own: what a fork proposes never gets into that of the turns.
    pub checkout: CheckoutOptions,
    /// Where the memories of turns and looks are.
    pub state_directory: PathBuf,
    /// How much one fetch of change requests may bring, which is usually [`crate::git::remote::FOREIGN_BYTES`].
    pub foreign_bytes: usize,
    /// Which engine the documents are for.
    pub engine_kind: EngineKind,
    /// Files that were parsed by the last plan: most of them are the same in the next.
    pub cache: ParseCache,
    /// What is open, from the last list.
    pub open: Vec<ChangeRequest>,
    /// What is remembered.
    pub memory: ForgeMemory,
    /// Where the branch was seen last, and since when.
    pub seen: Option<(Revision, Timestamp)>,
    /// What people may do, as far as it was asked in this look.
    pub permissions: BTreeMap<String, Permission>,
    /// Merged change requests whose consent the turn with this number did not know: a later one settles them.
    pub unsettled: BTreeMap<u64, u64>,
}

/// What a fetch brought of a change request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Head {
    /// This commit.
    There(Revision),
    /// Nothing: it is larger than what is fetched.
    TooLarge,
}

/// What a look came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Whether there is consent that a turn does not know yet.
    pub has_consent: bool,
    /// What is wrong with one of the change requests, in words.
    pub problem: Option<String>,
    /// Whether something may have changed in the second in which it was read, so that it is to be looked at again soon.
    pub is_settling: bool,
}

/// Why a look ended early. What was done until then counts, and the next look goes on.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The forge did not do something.
    #[error("the forge cannot be used")]
    Forge(#[from] ForgeError),
    /// Change requests cannot be fetched or merged.
    #[error("change requests cannot be read")]
    Git(#[from] GitError),
    /// The engine cannot be observed.
    #[error("the engine cannot be observed")]
    Engine(#[from] EngineError),
    /// What the last turn left cannot be read.
    #[error("the memory of the last turn cannot be used")]
    Turn(#[from] MemoryError),
    /// What the last look left cannot be written.
    #[error("cannot write {}", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl LookError {
    /// In words, for the dashboard.
    pub fn problem(&self) -> String {
        format!("change requests: {}", crate::engine::chain(self))
    }

    /// Whether it may be the matter of one change request only.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Forge(error) => match error {
                ForgeError::Unreachable { .. } | ForgeError::Limited { .. } | ForgeError::Credential { .. } => false,
                ForgeError::Refused { status, .. } => *status != UNAUTHORIZED,
                // Also one that breaks the forge itself.
                ForgeError::Missing { .. }
                | ForgeError::Answer { .. }
                | ForgeError::Malformed { .. }
                | ForgeError::TooLarge { .. } => true,
            },
            Self::Git(_) => true,
            Self::Engine(_) | Self::Turn(_) | Self::Memory { .. } => false,
        }
    }

    /// Whether the same look may go through later by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Forge(error) => error.retry(),
            Self::Git(error) => error.retry(),
            Self::Engine(_) => Retry::Later,
            Self::Turn(_) | Self::Memory { .. } => Retry::AfterRepair,
        }
    }
}

impl<F: Forge> Eye<F> {
    /// One look. `report` is what the last turn came to.
    ///
    /// # Errors
    /// Something kept the whole look from going on. What concerns one change request only is said there.
    pub async fn look<E: Engine>(
        &mut self,
        engine: &E,
        report: &TurnReport,
        now: Timestamp,
    ) -> Result<Looked, LookError> {
        self.permissions.clear();
        if self.memory.place != self.place {
            self.memory = ForgeMemory { place: self.place.clone(), ..ForgeMemory::default() };
        }
        let result = self.look_at_all(engine, report, now).await;
        self.save()?;
        let problem = match &result {
            Ok(looked) => looked.problem.clone(),
            Err(error) => Some(error.problem()),
        };
        let problem = problem.or_else(|| self.memory.cut());
        self.memory.problem = problem.map(|problem| problem.chars().take(PROBLEM_CHARACTERS).collect());
        self.save()?;
        result
    }

    async fn look_at_all<E: Engine>(
        &mut self,
        engine: &E,
        report: &TurnReport,
        now: Timestamp,
    ) -> Result<Looked, LookError> {
        // Before the first turn nobody knows what the branch is at.
        let Some(base) = &report.revision else { return Ok(Looked::default()) };
        if self.own.is_none() {
            self.own = Some(self.forge.own_account().await?);
        }
        if let Some(requests) = self.forge.open_requests().await? {
            self.open = requests;
            let branch = &self.checkout.branch;
            self.open.retain(|request| request.base_branch == *branch && request.progress == Progress::Open);
            self.open.sort_by_key(|request| request.number);
            self.open.truncate(REQUESTS_LIMIT);
        }
        let mut looked = Looked::default();
        let mut troubles = Troubles::default();
        self.gone(engine, &mut troubles, now).await?;
        // As long as it cannot be told, nothing of it counts.
        let judged = self.judge(base, now).await;
        let judged = troubles.note("who approved what on the branch", judged)?.unwrap_or(Judged::Nothing);
        looked.is_settling |= judged == Judged::Later;
        if judged == Judged::Trusted {
            // The last turn did not listen to what was approved there.
            let merged = self.memory.requests.iter().filter(|(_, tracked)| tracked.merged.is_some());
            self.unsettled.extend(merged.map(|(number, _)| (*number, report.number)));
        }
        let newest_sequence = block_in_place(|| engine.newest_sequence())?;
        let due: Vec<ChangeRequest> =
            self.open.iter().filter(|request| self.is_due(request, base, newest_sequence, now)).cloned().collect();
        if !due.is_empty() {
            // Where they cannot be had, what was merged and consented to does not wait for them.
            let fetched = self.fetch(&due);
            if let Some(heads) = troubles.note("the commits of change requests", fetched)? {
                let actual = engine.observe(now).await?;
                for request in &due {
                    looked.is_settling |= now.duration_since(request.updated_at) < SETTLING;
                    let result = self.look_at(engine, request, base, &heads, &actual, newest_sequence, now).await;
                    troubles.note(&format!("change request {}", request.number), result)?;
                }
            }
        }
        looked.has_consent = self.record_consent(engine, report, now).await? || judged == Judged::Trusted;
        if judged != Judged::Later {
            self.after_merges(engine, report, &mut troubles, now).await?;
        }
        let refused = self.refuse_on_ended(&mut troubles, now).await;
        looked.is_settling |= troubles.note("change requests that are open no longer", refused)?.unwrap_or(false);
        looked.problem = troubles.first;
        Ok(looked)
    }

    /// Whether a change request has to be looked at: something about it moved, or what it was planned against.
    fn is_due(&self, request: &ChangeRequest, base: &Revision, newest_sequence: u64, now: Timestamp) -> bool {
        let Some(tracked) = self.memory.requests.get(&request.number) else { return true };
        let Some(planned) = &tracked.planned else { return true };
        let is_stale = tracked.sequence != newest_sequence && now.duration_since(planned.at) > STALE_AFTER;
        planned.head != request.head
            || planned.base != *base
            || tracked.read_at != Some(request.updated_at)
            || tracked.merged.is_some()
            || is_stale
    }

    /// Brings the branch and these heads into our mirror. A local repository has them, if anything has.
    fn fetch(&self, requests: &[ChangeRequest]) -> Result<BTreeMap<u64, Head>, LookError> {
        let checkout = block_in_place(|| Checkout::open(self.checkout.clone()))?;
        let Some(remote) = checkout.remote() else {
            let there = requests.iter().map(|request| (request.number, Head::There(request.head.clone())));
            return Ok(there.collect());
        };
        let branch = &self.checkout.branch;
        let base = (format!("refs/heads/{branch}"), format!("refs/mainstay/base/{branch}"));
        let name =
            |request: &ChangeRequest| (self.forge.head_reference(request.number), local_reference(request.number));
        let fetch = |names: &[(String, String)]| {
            block_in_place(|| remote.fetch_references(checkout.repository(), names, self.foreign_bytes))
        };
        let known = |number: &u64| self.memory.requests.get(number).and_then(|tracked| tracked.too_large.as_ref());
        let (too_large, wanted): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| known(&request.number) == Some(&request.head));
        let mut heads: BTreeMap<u64, Head> =
            too_large.into_iter().map(|request| (request.number, Head::TooLarge)).collect();
        let head = |request: &ChangeRequest, there: &BTreeMap<String, git2::Oid>| {
            there.get(&self.forge.head_reference(request.number)).map(|tip| Head::There(Revision::from(*tip)))
        };
        let all: Vec<(String, String)> =
            [base.clone()].into_iter().chain(wanted.iter().map(|request| name(request))).collect();
        match fetch(&all) {
            Ok(there) => {
                heads.extend(wanted.iter().filter_map(|request| Some((request.number, head(request, &there)?))));
            }
            Err(error) if !wanted.is_empty() && error.retry() == Retry::AfterRepair => {
                // One that cannot be had, because it is too large for instance, must not hold up the others.
                tracing::warn!(reason = crate::engine::chain(&error), "change requests are fetched one by one");
                fetch(&[base])?;
                for request in wanted {
                    match fetch(&[name(request)]) {
                        Ok(there) => heads.extend(head(request, &there).map(|head| (request.number, head))),
                        Err(error) => {
                            let number = request.number;
                            tracing::warn!(request = number, reason = crate::engine::chain(&error), "not fetched");
                            if matches!(error, GitError::TransferTooLarge { .. }) {
                                heads.insert(number, Head::TooLarge);
                            }
                        }
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(heads)
    }

    /// Reads, plans, says and answers one change request.
    #[expect(clippy::too_many_arguments, reason = "they are what a look consists of, and each is of another kind")]
    async fn look_at<E: Engine>(
        &mut self,
        engine: &E,
        request: &ChangeRequest,
        base: &Revision,
        heads: &BTreeMap<u64, Head>,
        actual: &ActualState,
        sequence: u64,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let number = request.number;
        let tracked = self.memory.requests.entry(number).or_default();
        (tracked.is_fork, tracked.page) = (request.is_fork, request.page.clone());
        // It was merged, and is open again.
        tracked.merged = None;
        if tracked.planned.is_none() {
            // If it is merged before it can be planned, what happened before it came is none of its doing.
            tracked.sequence = sequence;
        }
        let is_new_head = tracked.planned.as_ref().is_none_or(|planned| planned.head != request.head);
        if is_new_head {
            let summary = "being planned".to_owned();
            let check = Check { name: PLAN_CHECK, state: CheckState::Pending, summary, annotations: Vec::new() };
            self.set_check(number, &request.head, check).await?;
        }
        let is_too_large = match heads.get(&number) {
            Some(Head::TooLarge) => true,
            Some(Head::There(head)) if *head == request.head => false,
            // It was pushed to since the list was made: the next list shows that.
            Some(Head::There(_)) | None => return Ok(()),
        };
        // It is not brought half of the way at each look.
        self.tracked(number).too_large = is_too_large.then(|| request.head.clone());
        let is_read_anew = self.tracked(number).read_at != Some(request.updated_at);
        let asked = if is_read_anew { Some(self.read(request).await?) } else { None };
        let drafted = match is_too_large {
            true => Drafted::Impossible(format!(
                "its commits have more than {} MiB; take large files out of them, for instance with `git rebase`",
                self.foreign_bytes >> 20
            )),
            false => block_in_place(|| self.draft(request, base, actual, is_new_head, now))?,
        };
        self.say(request, drafted).await?;
        let tracked = self.tracked(number);
        tracked.planned = Some(Planned { head: request.head.clone(), base: base.clone(), at: now });
        tracked.sequence = sequence;
        if let Some(asked) = asked {
            answers::answer(self, engine, number, asked, now).await?;
            let is_settled = now.duration_since(request.updated_at) >= SETTLING;
            self.tracked(number).read_at = is_settled.then_some(request.updated_at);
        }
        self.save()
    }

    fn tracked(&mut self, number: u64) -> &mut Tracked {
        self.memory.requests.entry(number).or_default()
    }

    /// Reads comments and reviews, and counts who consents.
    async fn read(&mut self, request: &ChangeRequest) -> Result<Vec<Asked>, LookError> {
        let number = request.number;
        let comments = self.forge.comments(number).await?;
        self.recognise(number, &comments);
        let asked = answers::asked(self, request, &comments).await?;
        let reviews = if self.rules.reviews { self.forge.reviews(request).await? } else { Vec::new() };
        for review in reviews.iter().filter(|review| review.verdict == super::Verdict::Approved) {
            self.learn_permission(&review.author).await?;
        }
        let asked_by = answers::asked_by(self, request);
        let Self { memory, permissions, .. } = self;
        let tracked = memory.requests.entry(number).or_default();
        tracked.consents.retain(|consent| matches!(consent.way, consent::Way::Comment(_)));
        let origin = consent::Origin { author: &request.author, asked_by };
        let by_reviews = consent::by_reviews(&reviews, origin, &tracked.shown, permissions, &tracked.void);
        tracked.consents.extend(by_reviews);
        Ok(asked)
    }

    /// Finds our comment from before this memory began: with the marker, and written by us.
    fn recognise(&mut self, number: u64, comments: &[Comment]) {
        let Some(own) = self.own.clone() else { return };
        let is_ours = |comment: &&Comment| comment.author.is(&own) && comment.body.starts_with(MARKER);
        let tracked = self.tracked(number);
        if tracked.comment.is_none() {
            tracked.comment = comments.iter().find(is_ours).map(|comment| comment.id);
        }
    }

    /// Asks the forge what someone may do, once in a look. What it does not tell is no permission.
    pub(super) async fn learn_permission(&mut self, account: &Account) -> Result<(), LookError> {
        let name = account.name.to_lowercase();
        if self.permissions.contains_key(&name) {
            return Ok(());
        }
        let permission = self.forge.permission(account).await?;
        self.permissions.insert(name, permission);
        Ok(())
    }

    /// Brings our comment and the check up to date.
    async fn say(&mut self, request: &ChangeRequest, drafted: Drafted) -> Result<(), LookError> {
        let branch = self.checkout.branch.clone();
        let subject = Subject { head: &request.head, branch: &branch };
        let nothing = Findings::default();
        let (outcome, findings, asked) = match &drafted {
            Drafted::Plan(draft, findings) => {
                let Draft { plan, consents, asked, is_void } = draft.as_ref();
                (Outcome::Planned { plan, consents, is_void: *is_void }, findings, asked.clone())
            }
            Drafted::Conflict(files) => (Outcome::Conflict(files), &nothing, BTreeSet::new()),
            Drafted::Impossible(why) => (Outcome::Impossible(why), &nothing, BTreeSet::new()),
        };
        let body = comment::render(&subject, &outcome, findings);
        let check = comment::check(&outcome, findings);
        if let Some(at) = self.say_body(request.number, &body).await? {
            self.tracked(request.number).show(Shown { head: request.head.clone(), effects: asked, at });
        }
        self.set_check(request.number, &request.head, check).await?;
        Ok(())
    }

    /// Writes our comment, or edits it where it says something else. Gives the forge's time of that; none: it says so
    /// already.
    async fn say_body(&mut self, number: u64, body: &str) -> Result<Option<Timestamp>, LookError> {
        let said = hex::encode(Sha256::digest(body));
        let (known, is_same) = {
            let tracked = self.tracked(number);
            (tracked.comment, tracked.said == said)
        };
        if known.is_some() && is_same {
            return Ok(None);
        }
        let edited = match known {
            Some(comment) => match self.forge.edit_comment(number, comment, body).await {
                Ok(comment) => Some(comment),
                // Somebody deleted it.
                Err(ForgeError::Missing { .. }) => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let comment = match edited {
            Some(comment) => comment,
            None => self.forge.add_comment(number, body).await?,
        };
        let tracked = self.tracked(number);
        (tracked.comment, tracked.said) = (Some(comment.id), said);
        Ok(Some(comment.updated_at))
    }

    /// Sets a check where it is not so already.
    async fn set_check(&mut self, number: u64, revision: &Revision, check: Check) -> Result<(), LookError> {
        let said = CheckSaid { revision: revision.clone(), state: check.state, summary: check.summary.clone() };
        if self.tracked(number).check.as_ref() == Some(&said) {
            return Ok(());
        }
        self.forge.set_check(revision, &check).await?;
        self.tracked(number).check = Some(said);
        Ok(())
    }

    fn save(&mut self) -> Result<(), LookError> {
        self.memory.shrink(FILE_BYTES);
        let path = || self.state_directory.join(super::memory::FILE_NAME);
        block_in_place(|| self.memory.save(&self.state_directory))
            .map_err(|source| LookError::Memory { path: path(), source })
    }
}

fn local_reference(number: u64) -> String {
    format!("refs/mainstay/requests/{number}")
}

/// The path of a new document beside the others.
fn document_path(watched: &Path, name: &str) -> String {
    let file = format!("restores/{name}.backup.yaml");
    inside(watched).join(file).display().to_string()
}

/// The watched directory as a path inside the repository.
fn inside(watched: &Path) -> PathBuf {
    watched.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}
