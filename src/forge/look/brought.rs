//! What a merge changed where it is not what was planned last: somebody pushed right before it, or nothing could be
//! planned. Reads only.

use std::collections::BTreeMap;

use git2::Repository;

use super::{Eye, LookError};
use crate::{
    desired::DesiredState,
    forge::{ChangeRequest, Forge},
    git::{
        GitError, Revision,
        checkout::{files_at, is_descendant},
    },
    plan::Action,
    policy::{
        PolicyName,
        load::{ParseCache, load},
    },
};

impl<F: Forge> Eye<F> {
    /// The policies that the documents of a merged change request changed, and how. None: nobody can tell.
    pub(super) fn brought(
        &self,
        request: &ChangeRequest,
        commit: &Revision,
    ) -> Result<Option<BTreeMap<PolicyName, Action>>, LookError> {
        let Some(checkout) = self.with_commit(commit)? else { return Ok(None) };
        let repository = checkout.repository();
        let Some(before) = self.before(repository, request, commit)? else { return Ok(None) };
        let before = self.documents(repository, &before);
        Ok(before.zip(self.documents(repository, commit)).map(|(before, after)| changed(&before, &after)))
    }

    /// Where the branch was before the merge, as late as anybody can tell.
    fn before(
        &self,
        repository: &Repository,
        request: &ChangeRequest,
        commit: &Revision,
    ) -> Result<Option<Revision>, GitError> {
        let read = |source| GitError::Read { operation: format!("reading the commit {commit}"), source };
        let merge = repository.find_commit(commit.object_id()?).map_err(read)?;
        let parents: Vec<Revision> = merge.parent_ids().map(Revision::from).collect();
        if let [branch, head] = parents.as_slice()
            && *head == request.head
        {
            return Ok(Some(branch.clone()));
        }
        // A squash is one commit, a rebase or a fast-forward any number of them: what was seen of the branch last is
        // before them all. What others merged since then is told here, too, rather than anything left out.
        let planned = self.memory.requests.get(&request.number).and_then(|tracked| tracked.planned.as_ref());
        for known in self.memory.judged.iter().chain(planned.map(|planned| &planned.base)) {
            if known != commit && is_descendant(repository, commit, known)? {
                return Ok(Some(known.clone()));
            }
        }
        Ok(None)
    }

    /// What the documents of a commit ask for; none: they cannot be read, which the turn says.
    fn documents(&self, repository: &Repository, revision: &Revision) -> Option<DesiredState> {
        let files = files_at(repository, revision, &self.checkout.path).ok()?;
        let mut desired = load(&files.content, self.engine_kind, &mut ParseCache::default()).desired;
        files.freeze(&mut desired);
        Some(desired)
    }
}

/// What differs between the documents before and after a merge.
fn changed(before: &DesiredState, after: &DesiredState) -> BTreeMap<PolicyName, Action> {
    let mut changed = BTreeMap::new();
    for name in before.policies.keys().chain(after.policies.keys()).chain(&after.frozen_policies) {
        let is_frozen = after.frozen_policies.contains(name);
        let action = match (before.policies.get(name), after.policies.get(name)) {
            (Some(one), Some(other)) => {
                if other.is_compiled_as(&one.compile(&before.settings, None), &after.settings) {
                    continue;
                }
                Action::Update
            }
            (Some(_), None) if is_frozen => Action::Update,
            (Some(_), None) => Action::Delete,
            // It was as wrong before.
            (None, None) if before.frozen_policies.contains(name) => continue,
            (None, _) if before.frozen_policies.contains(name) => Action::Update,
            (None, _) => Action::Create,
        };
        changed.insert(name.clone(), action);
    }
    for (name, restore) in &after.restores {
        let is_known = |known: &crate::policy::Restore| known.content_hash() == restore.content_hash();
        if !before.restores.get(name).is_some_and(is_known) {
            changed.insert(name.clone(), Action::Restore);
        }
    }
    changed
}
