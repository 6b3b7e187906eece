//! The status: what a turn learned, as documents for the status branch.
//!
//! Pure: the same state gives the same bytes, so that nothing changed means no commit. Nothing here says "now" or
//! "ago"; a time is written only when something happened at it.
//!
//! ```text
//! README.md                        what a person reads first
//! inventory.json                   what `plan --offline` reads
//! status/NAMESPACE/NAME.yaml       one for each policy
//! restores/NAMESPACE/NAME.yaml     one for each Restore document
//! runs/YYYY-MM.jsonl               the ledger
//! ```

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    actual::ActualState,
    apply::Applied,
    desired::DesiredState,
    plan::Plan,
    policy::{Policy, PolicyName},
    status::{documents::PolicyStatus, ledger::Event},
};

pub mod conditions;
pub mod coverage;
pub mod dashboard;
pub mod documents;
pub mod inventory;
pub mod ledger;
pub mod memo;
pub mod overdue;

use memo::Memo;

/// What a turn learned.
pub struct StatusInput<'a> {
    /// What the documents ask for.
    pub desired: &'a DesiredState,
    /// What was planned; none: the turn did not come that far.
    pub plan: Option<&'a Plan>,
    /// What was carried out.
    pub applied: &'a Applied,
    /// What there is after it.
    pub actual: &'a ActualState,
    /// What there is to protect; none: nobody knows.
    pub sight: Option<&'a coverage::Sight>,
    /// Findings in the documents, one a line, each with its place.
    pub findings: &'a [String],
    /// What hinders the turn as a whole: git, signatures, the engine. One sentence each.
    pub problems: &'a [String],
    /// What happened since the last publication. Those that the ledger has already are passed over.
    pub events: &'a [Event],
    /// The newest event that was published before. A ledger without it was deleted or set back.
    pub last_published: Option<&'a Event>,
    /// What `mainstay approve DIGEST` needs besides to see the same plan, such as ` --path backups`.
    pub approve_arguments: &'a str,
    /// When a policy is due next, seen from `now`.
    pub next_run: &'a dyn Fn(&Policy) -> Option<Timestamp>,
    /// The time that a condition which changes in this turn is said to have changed at.
    pub now: Timestamp,
}

/// What the status branch says already.
pub struct Published<'a> {
    /// The content of a file.
    pub read: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// The paths of all files below a directory, which ends with `/`.
    pub list: &'a dyn Fn(&str) -> Vec<String>,
}

impl Published<'_> {
    /// A branch that is not there yet.
    pub const NOTHING: Published<'static> = Published { read: &|_| None, list: &|_| Vec::new() };
}

/// What a publication does to the status branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Files to add or replace, by path.
    pub write: BTreeMap<String, Vec<u8>>,
    /// Files to remove. Those that are not there are no error.
    pub remove: Vec<String>,
}

/// The documents for the status branch, on top of what it says already.
pub fn documents(input: &StatusInput<'_>, published: &Published<'_>) -> Edit {
    documents_after(input, published, None, &mut Memo::default())
}

/// The same without those that `memo` knows to be on the branch, whose newest commit is `commit`.
pub fn documents_after(
    input: &StatusInput<'_>,
    published: &Published<'_>,
    commit: Option<&str>,
    memo: &mut Memo,
) -> Edit {
    let known = memo.take(commit);
    let policies = documents::policies(input, published, known.as_ref());
    let mut write = BTreeMap::new();
    write.insert("README.md".to_owned(), dashboard::render(input, &policies).into_bytes());
    let inventory = match &known {
        Some(known) if known.has_same_inventory(input.actual) => None,
        // It differs, and reading tens of megabytes back would tell nothing more.
        Some(_) => Some(inventory::render(input.actual, &Published::NOTHING)),
        None => Some(inventory::render(input.actual, published)),
    };
    write.extend(inventory.map(|inventory| (inventory::PATH.to_owned(), inventory)));
    let before = known.as_ref().map(|known| &known.statuses);
    let is_there = |name: &PolicyName, policy: &Arc<PolicyStatus>| {
        before.and_then(|before| before.get(name)).is_some_and(|before| Arc::ptr_eq(before, policy))
    };
    for (_, policy) in policies.iter().filter(|(name, policy)| !is_there(name, policy)) {
        write.insert(policy.path(), policy.render());
    }
    write.extend(documents::restores(input.actual));
    write.extend(ledger::extend(input.events, published));
    let remove = match before {
        Some(before) => {
            let gone = before.iter().filter(|(name, _)| !policies.contains_key(name));
            gone.map(|(_, policy)| policy.path()).collect()
        }
        None => {
            // Only what this program would write there itself is removed; a stranger's file stays.
            let is_ours = |path: &String| path.ends_with(".yaml") && path.split('/').count() == 3;
            let listed = (published.list)("status/").into_iter();
            listed.filter(|path| is_ours(path) && !write.contains_key(path)).collect()
        }
    };
    memo.keep(input, policies);
    Edit { write, remove }
}
