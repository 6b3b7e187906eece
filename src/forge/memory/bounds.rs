//! How large the memory of a forge may become, and what goes first. Pure.
//!
//! Nothing that goes makes anything count: without what was shown, nobody can consent, and without what was consented to,
//! losses are refused and can be approved again.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ForgeMemory, Tracked};

/// The most that is kept in the state directory.
pub const FILE_BYTES: usize = 8 << 20;
/// The most that a turn keeps of it: it goes into one object of the cluster, beside the rest.
pub const KEPT_BYTES: usize = 256 << 10;
/// What is left for everything but the change requests.
const FRAME_BYTES: usize = 64 << 10;
/// Change requests that are named where some were cut.
const NAMED: usize = 10;

impl ForgeMemory {
    /// Takes out what does not fit into `most_bytes`: of what was shown all but the newest, then what there is to consent
    /// to on change requests that were merged, oldest first, then on open ones, largest first, and at last whole change
    /// requests in the same order.
    pub fn shrink(&mut self, most_bytes: usize) {
        let room = most_bytes.saturating_sub(FRAME_BYTES);
        let mut sizes: BTreeMap<u64, usize> =
            self.requests.iter().map(|(number, tracked)| (*number, size_bytes(tracked))).collect();
        let fits = |sizes: &BTreeMap<u64, usize>| sizes.values().sum::<usize>() <= room;
        if fits(&sizes) {
            return;
        }
        for (number, tracked) in &mut self.requests {
            tracked.shown.drain(..tracked.shown.len().saturating_sub(1));
            sizes.insert(*number, size_bytes(tracked));
        }
        let order = self.order(&sizes);
        for number in &order {
            if fits(&sizes) {
                return;
            }
            if let Some(tracked) = self.requests.get_mut(number) {
                tracked.cut();
                sizes.insert(*number, size_bytes(tracked));
            }
        }
        for number in &order {
            if fits(&sizes) {
                return;
            }
            self.requests.remove(number);
            sizes.remove(number);
        }
    }

    /// What a turn keeps beside its own memory, for a daemon that starts without this file, and what does not fit, in
    /// words.
    pub fn kept(&self) -> Option<(Self, Option<String>)> {
        if *self == Self::default() {
            return None;
        }
        let mut kept = self.clone();
        kept.shrink(KEPT_BYTES);
        let is_whole = |number: &u64| match (self.requests.get(number), kept.requests.get(number)) {
            (Some(own), Some(kept)) => own.is_cut == kept.is_cut,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let cut: Vec<u64> = self.requests.keys().copied().filter(|number| !is_whole(number)).collect();
        // An open one that comes back without what it showed is planned and shown anew.
        kept.requests.retain(|number, tracked| !cut.contains(number) || tracked.merged.is_some());
        let problem = (!cut.is_empty()).then(|| {
            format!(
                "{} ask consent for more than the {} KiB that are kept beside the daemon; if it has to start anew, consent \
                 given there must be given again",
                named(&cut),
                KEPT_BYTES >> 10
            )
        });
        Some((kept, problem))
    }

    /// Change requests that were cut, in words.
    pub fn cut(&self) -> Option<String> {
        let cut: Vec<u64> =
            self.requests.iter().filter(|(_, tracked)| tracked.is_cut).map(|(number, _)| *number).collect();
        (!cut.is_empty()).then(|| {
            format!(
                "{} ask consent for more than can be remembered ({} MiB), so consent given there does not count; split them, \
                 or approve with `mainstay approve`",
                named(&cut),
                FILE_BYTES >> 20
            )
        })
    }

    /// What goes first: merged ones without consent, other merged ones, each the oldest first; open ones, the largest
    /// first.
    fn order(&self, sizes: &BTreeMap<u64, usize>) -> Vec<u64> {
        let mut order: Vec<u64> = self.requests.keys().copied().collect();
        order.sort_by_key(|number| {
            let tracked = self.requests.get(number);
            let merged_at = tracked.and_then(|tracked| tracked.merged.as_ref()).map(|merged| merged.seen_at);
            let has_consent = tracked.is_some_and(|tracked| !tracked.consents.is_empty());
            let size_bytes = std::cmp::Reverse(sizes.get(number).copied().unwrap_or_default());
            match merged_at {
                Some(at) => (0, has_consent, Some(at), std::cmp::Reverse(0), *number),
                None => (1, false, None, size_bytes, *number),
            }
        });
        order
    }
}

impl Tracked {
    /// Forgets what it asks for: nobody can consent here any more, until another plan is shown.
    fn cut(&mut self) {
        self.is_cut |= !(self.shown.is_empty() && self.consents.is_empty() && self.policies.is_empty());
        self.shown.clear();
        self.consents.clear();
        self.policies.clear();
    }
}

fn size_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX / 4096, |bytes| bytes.len())
}

fn named(numbers: &[u64]) -> String {
    let mut names: Vec<String> = numbers.iter().take(NAMED).map(u64::to_string).collect();
    if numbers.len() > NAMED {
        names.push(format!("{} more", numbers.len() - NAMED));
    }
    format!("the change requests {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forge::{
            consent::{Consent, Shown, Way},
            memory::Merged,
        },
        git::Revision,
        plan::Effect,
    };
    use jiff::Timestamp;
    use std::collections::BTreeSet;

    fn effects(count: usize) -> BTreeSet<Effect> {
        (0..count).map(|point| format!("lose shop/nightly {point:015}").parse().unwrap()).collect()
    }

    /// One that asks for consent to so many effects, merged at that second; none: open.
    fn tracked(count: usize, merged_at: Option<i64>) -> Tracked {
        let revision = Revision("1".repeat(40));
        let at = |second| Timestamp::from_second(second).unwrap();
        Tracked {
            comment: Some(1),
            shown: vec![Shown { head: revision.clone(), effects: effects(count), at: at(1) }],
            consents: vec![Consent { effects: effects(count), by: "bob".to_owned(), way: Way::Review(1) }],
            merged: merged_at.map(|second| Merged { commit: revision, seen_at: at(second), is_recorded: true }),
            ..Tracked::default()
        }
    }

    fn memory(requests: &[(u64, usize, Option<i64>)]) -> ForgeMemory {
        let trusted = BTreeSet::from([Revision("2".repeat(40))]);
        let requests = requests.iter().map(|(number, count, merged_at)| (*number, tracked(*count, *merged_at)));
        ForgeMemory { requests: requests.collect(), trusted, ..ForgeMemory::default() }
    }

    fn cut(memory: &ForgeMemory) -> Vec<u64> {
        memory.requests.iter().filter(|(_, tracked)| tracked.is_cut).map(|(number, _)| *number).collect()
    }

    #[test]
    fn what_fits_stays() {
        let mut one = memory(&[(1, 10, None), (2, 10, Some(5))]);
        let before = one.clone();
        one.shrink(KEPT_BYTES);
        assert_eq!(one, before);
        assert_eq!((one.kept(), one.cut()), (Some((before, None)), None));
    }

    #[test]
    fn the_oldest_that_were_merged_go_first_and_then_the_largest_that_are_open() {
        let mut one = memory(&[(1, 500, None), (2, 900, None), (3, 500, Some(9)), (4, 500, Some(5))]);
        let mut seen = Vec::new();
        for room in (FRAME_BYTES..600_000).rev().step_by(5_000) {
            one.shrink(room);
            if seen.last() != Some(&cut(&one)) {
                seen.push(cut(&one));
            }
            let size = size_bytes(&one.requests);
            assert!(size + FRAME_BYTES <= room.max(FRAME_BYTES + 10), "{size} bytes in {room}");
            assert_eq!(one.trusted.len(), 1, "who is trusted stays");
        }
        let expected: [&[u64]; 5] = [&[], &[4], &[3, 4], &[2, 3, 4], &[1, 2, 3, 4]];
        assert_eq!(seen[..5], expected);
        one.shrink(0);
        assert!(one.requests.is_empty() && one.trusted.len() == 1);
    }

    #[test]
    fn what_was_cut_consents_to_nothing_and_says_so() {
        let mut one = memory(&[(7, 200_000, Some(5)), (8, 3, None)]);
        one.shrink(FILE_BYTES);
        assert_eq!(cut(&one), [7]);
        let cut = &one.requests[&7];
        assert!(cut.consents.is_empty() && cut.shown.is_empty() && cut.merged.is_some());
        let said = one.cut().unwrap();
        assert!(said.contains("the change requests 7 ask") && said.contains("mainstay approve"), "{said}");
        assert_eq!(one.requests[&8].consents.len(), 1);
    }

    #[test]
    fn what_is_kept_in_the_cluster_fits_and_what_is_left_out_is_named() {
        let one = memory(&[(1, 3, None), (2, 5_000, None), (3, 5_000, Some(5))]);
        let (kept, problem) = one.kept().unwrap();
        assert!(serde_json::to_vec(&kept).unwrap().len() <= KEPT_BYTES);
        assert!(problem.unwrap().contains("the change requests 2, 3 ask consent for more than the 256 KiB"));
        assert_eq!(kept.requests.keys().copied().collect::<Vec<_>>(), [1, 3], "an open one is shown anew");
        assert!(kept.requests[&3].is_cut && kept.requests[&3].consents.is_empty());
        assert_eq!(kept.trusted, one.trusted);
        assert_eq!(one.requests[&2].consents.len(), 1, "the daemon itself goes on with all of it");
    }
}
