//! Change requests that are open no longer: what became of them, whose consent the turn may use, and what was done.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tokio::task::block_in_place;

use super::{Eye, LookError, Troubles, answers, local_reference};
use crate::{
    actual::ActualState,
    daemon::memory::Memory,
    engine::Engine,
    forge::{
        APPLY_CHECK, Check, CheckState, Forge, ForgeError, Progress,
        consent::{self, Consent},
        done::{self, TurnReport},
        memory::{Merged, Tracked},
    },
    git::{
        Revision,
        checkout::{Checkout, is_descendant},
    },
    plan::{Approvals, Effect, digest},
    status::ledger::EventKind,
};

impl<F: Forge> Eye<F> {
    /// Finds out what became of change requests that are open no longer.
    pub(super) async fn gone<E: Engine>(
        &mut self,
        engine: &E,
        troubles: &mut Troubles,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let is_open = |number: &u64| self.open.iter().any(|request| request.number == *number);
        let gone: Vec<u64> = self
            .memory
            .requests
            .iter()
            .filter(|(number, tracked)| tracked.merged.is_none() && !is_open(number))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            let result = self.closed(engine, number, now).await;
            troubles.note(&format!("change request {number}"), result)?;
        }
        Ok(())
    }

    /// One that is open no longer.
    async fn closed<E: Engine>(&mut self, engine: &E, number: u64, now: Timestamp) -> Result<(), LookError> {
        let request = match self.forge.request(number).await {
            Ok(request) => request,
            Err(ForgeError::Missing { .. }) => {
                self.forget(number);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match &request.progress {
            // It is there, but beyond the limit of the list.
            Progress::Open => {}
            Progress::Closed => {
                tracing::info!(request = number, "change request closed");
                self.has_ended(number, now);
                self.forget(number);
            }
            Progress::Merged(commit) => {
                tracing::info!(request = number, commit = commit.short(), "change request merged");
                // Someone may have consented and merged within the same second.
                let asked = self.read(&request).await?;
                answers::answer(self, engine, number, asked, now).await?;
                let merged = Merged { commit: commit.clone(), seen_at: now, is_recorded: false };
                let is_planned = self.tracked(number).policies_of.as_ref() == Some(&request.head);
                let brought = if is_planned { None } else { Some(block_in_place(|| self.brought(&request, commit))?) };
                if let Some(tracked) = self.memory.requests.get_mut(&number) {
                    if let Some(brought) = brought {
                        tracked.is_unknown = brought.is_none();
                        tracked.policies = brought.unwrap_or_default();
                    }
                    tracked.merged = Some(merged);
                }
                self.has_ended(number, now);
            }
        }
        Ok(())
    }

    fn forget(&mut self, number: u64) {
        self.memory.requests.remove(&number);
        if let Ok(checkout) = Checkout::open(self.checkout.clone())
            && checkout.remote().is_some()
            && let Ok(mut reference) = checkout.repository().find_reference(&local_reference(number))
        {
            // One that stays behind costs a little room.
            let _ = reference.delete();
        }
    }

    /// Puts who consented to what was merged into the history of the engine. True: a turn does not know of it yet.
    pub(super) async fn record_consent<E: Engine>(
        &mut self,
        engine: &E,
        report: &TurnReport,
        now: Timestamp,
    ) -> Result<bool, LookError> {
        let mut is_news = false;
        let numbers: Vec<u64> = self.memory.requests.keys().copied().collect();
        for number in numbers {
            let tracked = self.tracked(number);
            if tracked.merged.as_ref().is_none_or(|merged| merged.is_recorded) {
                continue;
            }
            let (consents, sequence) = (tracked.consents.clone(), tracked.sequence);
            // Once written it counts, whatever happens next: it is saved before anybody is told.
            self.save()?;
            if !consents.is_empty() {
                is_news = true;
                self.unsettled.insert(number, report.number);
                self.record(engine, number, &consents, sequence, now).await?;
            }
            // Only now: what could not be written is written by the next look.
            if let Some(merged) = &mut self.tracked(number).merged {
                merged.is_recorded = true;
            }
            self.save()?;
        }
        Ok(is_news)
    }

    /// Writes down who consented to what, as far as the look before did not get to it. `sequence` is older than that.
    async fn record<E: Engine>(
        &self,
        engine: &E,
        number: u64,
        consents: &[Consent],
        sequence: u64,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let by = consent::names(consents);
        let mut policies: BTreeMap<_, BTreeSet<Effect>> = BTreeMap::new();
        for effect in consent::effects(consents) {
            let policy = match &effect {
                Effect::Lose { policy, .. } => policy.clone(),
                Effect::RestoreInPlace { restore, .. } => restore.clone(),
            };
            policies.entry(policy).or_default().insert(effect);
        }
        let known = engine.history(sequence).await?;
        for (policy, effects) in policies {
            let kind = EventKind::Approved { digest: digest::of(&effects), by: by.clone(), request: number };
            if !known.iter().any(|event| event.policy == policy && event.kind == kind) {
                engine.record(&policy, kind, now).await?;
            }
        }
        Ok(())
    }

    /// Says what was done of change requests that were merged.
    pub(super) async fn after_merges<E: Engine>(
        &mut self,
        engine: &E,
        report: &TurnReport,
        troubles: &mut Troubles,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let merged: Vec<(u64, Tracked, Merged)> = self
            .memory
            .requests
            .iter()
            .filter_map(|(number, tracked)| Some((*number, tracked.clone(), tracked.merged.clone()?)))
            .collect();
        let (Some(head), false) = (&report.revision, merged.is_empty()) else { return Ok(()) };
        let actual = engine.observe(now).await?;
        for (number, tracked, merged) in merged {
            let what = format!("change request {number}, which was merged");
            let result = self.after_merge(engine, report, head, &actual, number, &tracked, &merged, now).await;
            troubles.note(&what, result)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "they are what is told about a merge, and each is of another kind")]
    async fn after_merge<E: Engine>(
        &mut self,
        engine: &E,
        report: &TurnReport,
        head: &Revision,
        actual: &ActualState,
        number: u64,
        tracked: &Tracked,
        merged: &Merged,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let is_settled = self.unsettled.get(&number).is_none_or(|turn| report.number > *turn);
        let is_applied = is_settled && block_in_place(|| self.contains(head, &merged.commit))?;
        if !is_applied {
            let summary = "waits for the next turn".to_owned();
            let check = Check { name: APPLY_CHECK, state: CheckState::Pending, summary, annotations: vec![] };
            return self.set_check(number, &merged.commit, check).await;
        }
        self.unsettled.remove(&number);
        let events = engine.history(tracked.sequence).await?;
        let done = done::done(tracked, merged, report, &events, actual, &self.checkout.branch, now);
        self.say_body(number, &done.body).await?;
        self.set_check(number, &merged.commit, done.check).await?;
        // Consent that is not used up yet is still asked for by each turn.
        if done.is_over && block_in_place(|| self.is_used_up(tracked, merged))? {
            self.forget(number);
        }
        Ok(())
    }

    /// Whether no consent to what was merged is left to be used up.
    fn is_used_up(&self, tracked: &Tracked, merged: &Merged) -> Result<bool, LookError> {
        if tracked.consents.is_empty() {
            return Ok(true);
        }
        let Memory { consented, used_up, .. } = Memory::load(&self.state_directory)?;
        if let Some(consented) = consented
            && self.contains(&consented, &merged.commit)?
        {
            return Ok(true);
        }
        let given = Approvals { effects: consent::effects(&tracked.consents), ..Approvals::default() };
        Ok(used_up.rest(given, |used| self.contains(used, &merged.commit))?.is_empty())
    }

    /// Whether a commit of the branch has another one in its history.
    fn contains(&self, head: &Revision, commit: &Revision) -> Result<bool, LookError> {
        match self.with_commit(head)? {
            Some(checkout) => Ok(is_descendant(checkout.repository(), head, commit)?),
            None => Ok(false),
        }
    }
}
