//! Consent on a change request: which approvals count, and to what.
//!
//! Pure. An approval is bound to the effects that our comment listed when it was given; it is never taken for more. A
//! push that leaves the effects as they are leaves it, one that adds to them voids it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Account, Permission, Review, Verdict};
use crate::{
    git::Revision,
    plan::{Digest, Effect},
    policy::document::settings::Approval,
};

/// What our comment said at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The head that was planned.
    pub head: Revision,
    /// What consent was asked for.
    pub effects: BTreeSet<Effect>,
    /// Since when, by the clock of the forge.
    pub at: Timestamp,
}

/// How consent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// By the review with this number.
    Review(u64),
    /// By the comment with this number.
    Comment(u64),
}

impl std::fmt::Display for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Review(id) => write!(formatter, "review {id}"),
            Self::Comment(id) => write!(formatter, "comment {id}"),
        }
    }
}

/// Consent that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consent {
    /// To what.
    pub effects: BTreeSet<Effect>,
    /// Who gave it.
    pub by: String,
    /// How.
    pub way: Way,
}

/// Why an approval does not count, for the comment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nobody consents to an own change.
    #[error("the author of a change request cannot consent to it")]
    Author,
    /// The account may not merge.
    #[error("only people who may write to this repository can consent")]
    Permission,
    /// What would be destroyed is not remembered.
    #[error(
        "what this change request destroys is more than can be remembered here; split it, or approve it with `mainstay \
         approve`"
    )]
    TooMuch,
    /// The digest is not one that the comment shows.
    #[error("the plan asks for no consent under this digest; what it destroys has changed since")]
    Digest,
}

/// Whoever a change request comes from: its author, and who asked us for it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Who opened it.
    pub author: &'a Account,
    /// The number of the account that asked us to open it.
    pub asked_by: Option<u64>,
}

impl Origin<'_> {
    /// Whether this is one of them.
    pub fn is(&self, who: &Account) -> bool {
        self.author.is(who) || self.asked_by == Some(who.id)
    }
}

/// Consent by reviews: for each person the newest one that says something counts, to what our comment said when it was
/// given. `void` are those that a push made worthless.
pub fn by_reviews(
    reviews: &[Review],
    origin: Origin<'_>,
    shown: &[Shown],
    permissions: &BTreeMap<String, Permission>,
    void: &BTreeSet<Way>,
) -> Vec<Consent> {
    let mut newest: BTreeMap<u64, &Review> = BTreeMap::new();
    for review in reviews.iter().filter(|review| review.verdict != Verdict::Neither) {
        let known = newest.entry(review.author.id).or_insert(review);
        if (review.at, review.id) >= (known.at, known.id) {
            *known = review;
        }
    }
    let counts = |review: &&Review| {
        review.verdict == Verdict::Approved
            && !origin.is(&review.author)
            && may_write(permissions, &review.author)
            && !void.contains(&Way::Review(review.id))
    };
    newest
        .into_values()
        .filter(counts)
        .filter_map(|review| {
            let seen = shown.iter().rev().find(|shown| shown.at <= review.at)?;
            let is_same_head = review.commit.as_ref().is_none_or(|commit| *commit == seen.head);
            (is_same_head && !seen.effects.is_empty()).then(|| Consent {
                effects: seen.effects.clone(),
                by: review.author.name.clone(),
                way: Way::Review(review.id),
            })
        })
        .collect()
}

/// Whether someone may consent by a comment.
///
/// # Errors
/// Why not.
pub fn may_comment(
    who: &Account,
    origin: Origin<'_>,
    permissions: &BTreeMap<String, Permission>,
    rules: Approval,
) -> Result<(), Unfit> {
    if !may_write(permissions, who) {
        return Err(Unfit::Permission);
    }
    if origin.is(who) && !rules.author {
        return Err(Unfit::Author);
    }
    Ok(())
}

/// Whether an account may write, as far as the forge said.
pub fn may_write(permissions: &BTreeMap<String, Permission>, who: &Account) -> bool {
    permissions.get(&who.name.to_lowercase()) == Some(&Permission::Write)
}

/// What our comment offers consent to, by digest: everything together, and what each policy or restore asks for.
pub fn offers(effects: &BTreeSet<Effect>) -> BTreeMap<Digest, BTreeSet<Effect>> {
    let mut groups: BTreeMap<(bool, &crate::policy::PolicyName), BTreeSet<Effect>> = BTreeMap::new();
    for effect in effects {
        let group = match effect {
            Effect::Lose { policy, .. } => (false, policy),
            Effect::RestoreInPlace { restore, .. } => (true, restore),
        };
        groups.entry(group).or_default().insert(effect.clone());
    }
    groups.into_values().chain([effects.clone()]).map(|effects| (crate::plan::digest::of(&effects), effects)).collect()
}

/// Everything that these consent to.
pub fn effects<'a>(consents: impl IntoIterator<Item = &'a Consent>) -> BTreeSet<Effect> {
    consents.into_iter().flat_map(|consent| consent.effects.iter().cloned()).collect()
}

/// Who consented, for people and the ledger: `bob by review 12, eve by comment 40`.
pub fn names(consents: &[Consent]) -> String {
    let mut names: Vec<String> = consents.iter().map(|Consent { by, way, .. }| format!("{by} by {way}")).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn account(name: &str, id: u64) -> Account {
        Account { name: name.to_owned(), id }
    }

    fn head(letter: char) -> Revision {
        Revision(letter.to_string().repeat(40))
    }

    fn lose(points: &[&str]) -> BTreeSet<Effect> {
        points.iter().map(|point| format!("lose shop/nightly {point}").parse().unwrap()).collect()
    }

    fn review(id: u64, who: (&str, u64), verdict: Verdict, commit: char, second: i64) -> Review {
        Review { id, author: account(who.0, who.1), verdict, commit: Some(head(commit)), at: at(second) }
    }

    fn count(reviews: &[Review]) -> Vec<(String, usize)> {
        let shown = [
            Shown { head: head('a'), effects: lose(&["1", "2"]), at: at(10) },
            Shown { head: head('b'), effects: lose(&["1", "2", "3"]), at: at(20) },
        ];
        let permissions = [
            ("ada", Permission::Write),
            ("zoe", Permission::Write),
            ("bob", Permission::Write),
            ("eve", Permission::Read),
        ];
        let permissions = permissions.map(|(name, permission)| (name.to_owned(), permission)).into();
        let origin = Origin { author: &account("ada", 1), asked_by: Some(5) };
        by_reviews(reviews, origin, &shown, &permissions, &[Way::Review(99)].into())
            .into_iter()
            .map(|consent| (consent.by, consent.effects.len()))
            .collect()
    }

    #[test]
    fn a_review_consents_to_what_the_comment_said_when_it_was_given() {
        let bob = ("Bob", 2);
        let approved = |commit, second| count(&[review(1, bob, Verdict::Approved, commit, second)]);
        assert_eq!(approved('a', 10), [("Bob".to_owned(), 2)]);
        assert_eq!(approved('b', 21), [("Bob".to_owned(), 3)]);
        assert_eq!(approved('a', 9), [], "nothing had been shown");
        assert_eq!(approved('b', 15), [], "the comment was about another commit");
        assert_eq!(approved('a', 25), [], "an older commit than the comment was about");
    }

    #[test]
    fn who_may_not_merge_the_author_and_who_took_it_back_do_not_count() {
        let one = |who, verdict| count(&[review(1, who, verdict, 'a', 12)]);
        assert_eq!(one(("ADA", 1), Verdict::Approved), [], "the author");
        assert_eq!(one(("zoe", 5), Verdict::Approved), [], "asked for it");
        assert_eq!(one(("eve", 3), Verdict::Approved), [], "may only read");
        assert_eq!(one(("mallory", 4), Verdict::Approved), [], "nobody knows them");
        assert_eq!(one(("bob", 2), Verdict::Neither), []);
        assert_eq!(count(&[review(99, ("bob", 2), Verdict::Approved, 'a', 12)]), [], "void");
        let changed_mind = [
            review(1, ("bob", 2), Verdict::Approved, 'a', 12),
            review(2, ("bob", 2), Verdict::ChangesRequested, 'a', 13),
        ];
        assert_eq!(count(&changed_mind), []);
        let remark =
            [review(1, ("bob", 2), Verdict::Approved, 'a', 12), review(2, ("bob", 2), Verdict::Neither, 'a', 13)];
        assert_eq!(count(&remark).len(), 1, "a remark takes nothing back");
    }
}
