//! The names of everything that belongs to a policy: the same policy gives the same names, and no two policies share one.
//!
//! Pure. Restore points outlive their policy, so a name must never come to mean another policy.

use sha2::{Digest as _, Sha256};

use crate::{policy::PolicyName, restore_point::RestorePointId};

/// A CronJob's name has at most 52 characters, because the controller appends 11 for each Job.
const CRON_JOB_LENGTH: usize = 52;
/// The longest of what [`CronJobKind::suffix`] appends, with its dash.
const SUFFIX_LENGTH: usize = 8;
/// What is left for the policy.
const OBJECT_LENGTH: usize = CRON_JOB_LENGTH - SUFFIX_LENGTH;
/// Hex digits of the hash where a name alone would not do.
const HASH_LENGTH: usize = 8;

/// The Lease that the daemon at work holds.
pub const LEADER_LEASE: &str = "mainstay-daemon";
/// The ConfigMap with the history that is not in git yet.
pub const HISTORY: &str = "mainstay-history";
/// The ConfigMap with what the settings say to runs.
pub const LIMITS: &str = "mainstay-limits";
/// The ConfigMap with what the last turn left.
pub const MEMORY: &str = "mainstay-memory";

/// What a CronJob of a policy starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CronJobKind {
    /// Runs, by the schedule with this index.
    Run(usize),
    /// The cleanup.
    Cleanup,
    /// The check of all repositories.
    Verify,
    /// The pruning of the repository with this index.
    Prune(usize),
    /// The check of the repository with this index.
    Check(usize),
}

impl CronJobKind {
    /// What is appended to the policy's name. It has no dash, so that the last dash of a name always divides the two.
    fn suffix(self) -> String {
        match self {
            Self::Run(index) => index.to_string(),
            Self::Cleanup => "cleanup".to_owned(),
            Self::Verify => "verify".to_owned(),
            Self::Prune(index) => format!("prune{index}"),
            Self::Check(index) => format!("check{index}"),
        }
    }
}

/// `NAMESPACE-NAME`, at most 44 characters. A hash of the whole name takes the end where that would be too long, or
/// where another policy could have the same: a namespace with a dash (`a-b/c` and `a/b-c`), or a name that ends as if
/// it had a hash.
pub fn object(policy: &PolicyName) -> String {
    let joined = format!("{}-{}", policy.namespace(), policy.name());
    if joined.len() <= OBJECT_LENGTH && !policy.namespace().contains('-') && !ends_like_a_hash(&joined) {
        return joined;
    }
    let kept: String = joined.chars().take(OBJECT_LENGTH - HASH_LENGTH - 1).collect();
    format!("{}-{}", kept.trim_end_matches('-'), short_hash(&policy.to_string()))
}

/// The CronJob of a policy.
pub fn cron_job(policy: &PolicyName, kind: CronJobKind) -> String {
    format!("{}-{}", object(policy), kind.suffix())
}

/// The Job of a run that was asked for by hand.
pub fn run_job(policy: &PolicyName, id: &RestorePointId) -> String {
    format!("{}-{id}", object(policy))
}

/// The Job of a cleanup that has no schedule: that of a policy which was withdrawn.
pub fn cleanup_job(policy: &PolicyName, at: &RestorePointId) -> String {
    format!("{}-c{at}", object(policy))
}

/// The Job of other work that a person asks for.
pub fn work_job(policy: &PolicyName, number: u32) -> String {
    format!("{}-w{number:08x}", object(policy))
}

/// The ConfigMap with the compiled policy.
pub fn policy_map(policy: &PolicyName) -> String {
    format!("policy-{}", object(policy))
}

/// The ConfigMap with the restore points.
pub fn points_map(policy: &PolicyName) -> String {
    format!("points-{}", object(policy))
}

/// The ConfigMap of a run.
pub fn run_map(policy: &PolicyName, id: &RestorePointId) -> String {
    format!("run-{}-{id}", object(policy))
}

/// The ConfigMap of a restore that a document asks for, by the hash of its content.
pub fn restore_map(restore: &PolicyName, content_hash: &str) -> String {
    let content: String = content_hash.chars().take(HASH_LENGTH).collect();
    format!("restore-{}-{content}", object(restore))
}

/// The Job that carries a restore out, which is also the mark of everything that it makes for its time. At most 63
/// characters.
pub fn restore_mark(restore: &PolicyName, content_hash: &str) -> String {
    format!("restore-{}", short_hash(&format!("{restore} {content_hash}")))
}

/// The Job that takes back a restore which its own Job, `mark`, left half done.
pub fn take_back_job(mark: &str, at: &RestorePointId) -> String {
    format!("{mark}-b{at}")
}

/// The Lease that one run, restore or cleanup of a policy holds at a time.
pub fn policy_lease(policy: &PolicyName) -> String {
    format!("policy-{}", object(policy))
}

/// The Lease of one part of the budget of runs at once.
pub fn slot_lease(number: u32) -> String {
    format!("run-slot-{number}")
}

/// The Lease that one maintenance of a repository holds at a time; `place` says which, as it is written in documents.
pub fn maintenance_lease(place: &str) -> String {
    format!("maintenance-{}", short_hash(place))
}

/// The Lease by which captures into a repository and a prune of it keep out of each other's way.
pub fn prune_lease(place: &str) -> String {
    format!("prune-{}", short_hash(place))
}

/// Eight hex digits of the SHA-256 of a text.
pub fn short_hash(text: &str) -> String {
    let mut hash = hex::encode(Sha256::digest(text));
    hash.truncate(HASH_LENGTH);
    hash
}

fn ends_like_a_hash(joined: &str) -> bool {
    let last = joined.rsplit_once('-').map_or("", |(_, last)| last);
    last.len() == HASH_LENGTH && last.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn policy(text: &str) -> PolicyName {
        text.parse().unwrap()
    }

    #[test]
    fn a_short_name_is_readable() {
        assert_eq!(object(&policy("shop/nightly")), "shop-nightly");
        assert_eq!(object(&policy("shop/nightly-full")), "shop-nightly-full");
        assert_eq!(cron_job(&policy("shop/nightly"), CronJobKind::Run(0)), "shop-nightly-0");
        assert_eq!(
            run_map(&policy("shop/nightly"), &RestorePointId("20261121-020000".into())),
            "run-shop-nightly-20261121-020000"
        );
    }

    #[test]
    fn no_two_policies_share_a_name() {
        let long = "x".repeat(52);
        // A policy that is named as another one's hashed name is.
        let forged = object(&policy("a-b/c"));
        let forged = forged.strip_prefix("a-").unwrap();
        let names = [
            "a-b/c".to_owned(),
            "a/b-c".to_owned(),
            "a/b".to_owned(),
            "a/b-0".to_owned(),
            "a/b-cleanup".to_owned(),
            "a/b-prune".to_owned(),
            "a/b-prune0".to_owned(),
            format!("a/{forged}"),
            format!("{long}/{long}"),
            format!("{long}/{}", &long[1..]),
            format!("n/{long}"),
            format!("n/{}y", &long[1..]),
        ];
        let kinds = [
            CronJobKind::Run(0),
            CronJobKind::Run(12),
            CronJobKind::Cleanup,
            CronJobKind::Verify,
            CronJobKind::Prune(0),
            CronJobKind::Check(99),
        ];
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for name in &names {
            for kind in kinds {
                let job = cron_job(&policy(name), kind);
                assert!(job.len() <= CRON_JOB_LENGTH, "{job}");
                assert!(crate::policy::is_name(&job), "{job}");
                if let Some(other) = seen.insert(job.clone(), format!("{name} {kind:?}")) {
                    panic!("{job}: {other} and {name} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn every_name_fits_a_label() {
        let longest = policy(&format!("{}/{}", "n".repeat(52), "p".repeat(52)));
        let id = RestorePointId("20261121-020000".into());
        let mark = restore_mark(&longest, "content");
        let jobs = [run_job(&longest, &id), cleanup_job(&longest, &id), take_back_job(&mark, &id)];
        for name in [object(&longest)].into_iter().chain(jobs) {
            assert!(name.len() <= 63, "{name}");
        }
    }
}
