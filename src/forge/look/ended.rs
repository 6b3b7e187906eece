//! Commands on change requests that are open no longer: nothing is carried out there, and whoever asks is told so. They
//! are listened to for a while after their end, with one request of the whole repository.

use jiff::{SignedDuration, Timestamp};

use super::{Eye, LookError, SETTLING, Troubles, answers};
use crate::forge::{ChangeRequest, Forge, ForgeError, Progress, memory::Ended};

/// How long after its end a change request is listened to.
const LISTENED_TO: SignedDuration = SignedDuration::from_hours(24);
/// How many are listened to; with more, the older ones are not.
const ENDED_LIMIT: usize = 30;
/// How many comments are remembered that were answered before the end.
const ANSWERED_KEPT: usize = 50;

impl<F: Forge> Eye<F> {
    /// Puts down that a change request is open no longer.
    pub(super) fn has_ended(&mut self, number: u64, now: Timestamp) {
        let tracked = self.memory.requests.get(&number);
        // Newer comments have higher numbers.
        let answered =
            tracked.into_iter().flat_map(|tracked| tracked.answered.iter().rev().take(ANSWERED_KEPT).copied());
        let entry = Ended { seen_at: now, read_at: None, answered: answered.collect() };
        let ended = &mut self.memory.ended;
        ended.insert(number, entry);
        while ended.len() > ENDED_LIMIT
            && let Some(oldest) = ended.iter().min_by_key(|(_, ended)| ended.seen_at).map(|(number, _)| *number)
        {
            ended.remove(&oldest);
        }
    }

    /// Answers what is asked on those. True: something may have changed in the second in which it was read.
    pub(super) async fn refuse_on_ended(&mut self, troubles: &mut Troubles, now: Timestamp) -> Result<bool, LookError> {
        let Self { memory, open, .. } = self;
        memory.ended.retain(|number, ended| {
            now.duration_since(ended.seen_at) < LISTENED_TO && open.iter().all(|request| request.number != *number)
        });
        if memory.ended.is_empty() {
            return Ok(false);
        }
        let mut is_settling = false;
        for request in self.forge.recent_requests().await? {
            let number = request.number;
            let is_read = |ended: &Ended| ended.read_at == Some(request.updated_at);
            if request.progress == Progress::Open || self.memory.ended.get(&number).is_none_or(is_read) {
                continue;
            }
            let is_settled = now.duration_since(request.updated_at) >= SETTLING;
            is_settling |= !is_settled;
            let result = self.refuse_on(&request).await;
            // One where nobody may write any more, such as a locked one, is not tried for a day.
            let is_closed_to_us = matches!(&result, Err(LookError::Forge(ForgeError::Refused { .. })));
            let was_read = troubles.note(&format!("change request {number}"), result)?.is_some();
            if let Some(ended) =
                self.memory.ended.get_mut(&number).filter(|_| (was_read || is_closed_to_us) && is_settled)
            {
                ended.read_at = Some(request.updated_at);
            }
        }
        Ok(is_settling)
    }

    async fn refuse_on(&mut self, request: &ChangeRequest) -> Result<(), LookError> {
        let comments = self.forge.comments(request.number).await?;
        let why = match request.progress {
            Progress::Merged(_) => "this change request is merged",
            Progress::Closed | Progress::Open => "this change request is closed",
        };
        answers::refuse(self, request.number, &comments, why).await
    }
}
