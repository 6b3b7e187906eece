//! Whose messages count: which commits of the watched branch may consent. A fork's author writes what a squash or a
//! rebase puts on the branch, so each commit that says `Mainstay-Approve` waits until the forge has told whose change
//! request brought it. Only what was judged and believed is remembered as trusted: what nobody judged consents to nothing.

use std::collections::{BTreeMap, BTreeSet};

use git2::Sort;
use jiff::Timestamp;
use tokio::task::block_in_place;

use super::{Eye, LookError, SETTLING};
use crate::{
    daemon::memory::Memory,
    forge::{Forge, Progress},
    git::{
        GitError, Revision,
        checkout::{Checkout, is_descendant},
        history::{self, COMMITS_LIMIT},
    },
    plan::approval,
};

/// Commits with approvals that are judged in one go; what goes beyond is not believed, and can be approved again.
const JUDGED_LIMIT: usize = 50;
/// Commits of the branch that the forge is asked about for each of them.
const CARRIERS_LIMIT: usize = 20;
/// Trusted commits that are remembered; those before the last one that is used up are not needed any more.
const TRUSTED_LIMIT: usize = 500;

/// What a judgement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// Nothing that a turn does not know.
    Nothing,
    /// Approvals count that no turn has counted yet.
    Trusted,
    /// It is too early: the forge may not have noted yet which change request a commit is from.
    Later,
}

/// Who brought a commit to the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Fork,
    Repository,
    /// No change request that the forge knows of.
    Nobody,
}

/// A commit with an approval, and those of the branch's own line that have it in their history, oldest first: one of
/// them is the merge, the squash or the last commit of the rebase that brought it.
struct Candidate {
    commit: Revision,
    carriers: Vec<Revision>,
}

impl<F: Forge> Eye<F> {
    /// Judges what came to the branch since the last time. What is judged is remembered, whatever happens later.
    pub(super) async fn judge(&mut self, base: &Revision, now: Timestamp) -> Result<Judged, LookError> {
        if self.memory.judged.as_ref() == Some(base) {
            return Ok(Judged::Nothing);
        }
        let consented = Memory::load(&self.state_directory)?.consented;
        let before = self.memory.judged.clone().or(consented.clone());
        let Some(checkout) = block_in_place(|| self.with_commit(base))? else { return Ok(Judged::Later) };
        let candidates = block_in_place(|| candidates(&checkout, base, before.as_ref()))?;
        let (mut trusted, mut is_early) = (BTreeSet::new(), false);
        let mut known = self.merged_before();
        for Candidate { commit, carriers } in candidates {
            match self.origin(&carriers, &mut known).await? {
                Some(Origin::Repository) => {
                    trusted.insert(commit);
                }
                Some(Origin::Nobody) => {
                    // Pushed by somebody who may, unless the forge is only about to note the merge.
                    is_early |= !self.is_seen_for_long(base, now);
                    trusted.insert(commit);
                }
                Some(Origin::Fork) | None => {
                    tracing::warn!(commit = commit.short(), "an approval that a fork brought counts for nothing");
                }
            }
        }
        if is_early {
            return Ok(Judged::Later);
        }
        let is_news = !trusted.is_empty();
        self.memory.trusted.extend(trusted);
        if !self.memory.trusted.is_empty() {
            block_in_place(|| self.forget_what_is_used_up(&checkout, base, consented.as_ref()))?;
        }
        self.memory.judged = Some(base.clone());
        self.save()?;
        Ok(if is_news { Judged::Trusted } else { Judged::Nothing })
    }

    /// Our view of the repository, once it has this commit. None: it does not have it, whatever is fetched.
    pub(super) fn with_commit(&self, commit: &Revision) -> Result<Option<Checkout>, LookError> {
        let mut checkout = Checkout::open(self.checkout.clone())?;
        let id = commit.object_id()?;
        if checkout.repository().find_commit(id).is_err() {
            checkout.fetch()?;
        }
        let is_there = checkout.repository().find_commit(id).is_ok();
        Ok(is_there.then_some(checkout))
    }

    /// What the merges that were seen here say already.
    fn merged_before(&self) -> BTreeMap<Revision, Origin> {
        let merged = self.memory.requests.values().filter_map(|tracked| {
            let origin = if tracked.is_fork { Origin::Fork } else { Origin::Repository };
            Some((tracked.merged.as_ref()?.commit.clone(), origin))
        });
        merged.collect()
    }

    /// Who brought the oldest of these commits that somebody brought. None: there are too many to ask about.
    async fn origin(
        &self,
        carriers: &[Revision],
        known: &mut BTreeMap<Revision, Origin>,
    ) -> Result<Option<Origin>, LookError> {
        for commit in carriers.iter().take(CARRIERS_LIMIT) {
            let origin = match known.get(commit) {
                Some(origin) => *origin,
                None => self.ask_origin(commit).await?,
            };
            known.insert(commit.clone(), origin);
            if origin != Origin::Nobody {
                return Ok(Some(origin));
            }
        }
        Ok((carriers.len() <= CARRIERS_LIMIT).then_some(Origin::Nobody))
    }

    async fn ask_origin(&self, commit: &Revision) -> Result<Origin, LookError> {
        let requests = self.forge.brought_by(commit).await?;
        let is_merge = |progress: &Progress| matches!(progress, Progress::Merged(_));
        let merged = requests
            .iter()
            .filter(|request| is_merge(&request.progress) && request.base_branch == self.checkout.branch);
        Ok(match merged.map(|request| request.is_fork).max() {
            None => Origin::Nobody,
            Some(true) => Origin::Fork,
            Some(false) => Origin::Repository,
        })
    }

    /// Whether the branch has stood here for long enough that the forge has noted what was merged.
    fn is_seen_for_long(&mut self, base: &Revision, now: Timestamp) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == base => now.duration_since(*since) >= SETTLING,
            _ => {
                self.seen = Some((base.clone(), now));
                false
            }
        }
    }

    fn forget_what_is_used_up(
        &mut self,
        checkout: &Checkout,
        base: &Revision,
        consented: Option<&Revision>,
    ) -> Result<(), GitError> {
        let messages = history::messages(checkout.repository(), base, consented, COMMITS_LIMIT)?;
        let trusted = &self.memory.trusted;
        let needed = messages.into_iter().map(|(commit, _)| commit).filter(|commit| trusted.contains(commit));
        // Newest first: with too many, the oldest do not count any more.
        self.memory.trusted = needed.take(TRUSTED_LIMIT).collect();
        Ok(())
    }
}

/// The commits up to `base` that approve something, without `before` and those before it; the newest of them.
fn candidates(checkout: &Checkout, base: &Revision, before: Option<&Revision>) -> Result<Vec<Candidate>, GitError> {
    let repository = checkout.repository();
    let messages = history::messages(repository, base, before, COMMITS_LIMIT)?;
    let approving: Vec<Revision> = messages
        .into_iter()
        .filter(|(_, message)| !approval::parse_message(message).is_empty())
        .map(|(commit, _)| commit)
        .take(JUDGED_LIMIT)
        .collect();
    if approving.is_empty() {
        return Ok(Vec::new());
    }
    let line = own_line(repository, base, before)?;
    approving
        .into_iter()
        .map(|commit| Ok(Candidate { carriers: carriers(repository, &line, &commit)?, commit }))
        .collect()
}

/// The commits of a line, oldest first, that have this one in their history: all from one of them on.
fn carriers(repository: &git2::Repository, line: &[Revision], commit: &Revision) -> Result<Vec<Revision>, GitError> {
    let (mut without, mut with) = (0, line.len());
    while without < with {
        let middle = without.midpoint(with);
        match is_descendant(repository, &line[middle], commit)? {
            true => with = middle,
            false => without = middle + 1,
        }
    }
    Ok(line[with..].iter().take(CARRIERS_LIMIT + 1).cloned().collect())
}

/// The branch's own line of commits from `before` to `base`, oldest first: each merge, and none of what it merged.
fn own_line(
    repository: &git2::Repository,
    base: &Revision,
    before: Option<&Revision>,
) -> Result<Vec<Revision>, GitError> {
    let read = |source| GitError::Read { operation: format!("walking the history of {base}"), source };
    let mut walk = repository.revwalk().map_err(read)?;
    walk.set_sorting(Sort::TOPOLOGICAL).map_err(read)?;
    walk.simplify_first_parent().map_err(read)?;
    walk.push(base.object_id()?).map_err(read)?;
    if let Some(before) = before {
        history::hide(repository, &mut walk, before).map_err(read)?;
    }
    let mut line: Vec<Revision> =
        walk.take(COMMITS_LIMIT).map(|id| id.map(Revision::from).map_err(read)).collect::<Result<_, GitError>>()?;
    line.reverse();
    Ok(line)
}
