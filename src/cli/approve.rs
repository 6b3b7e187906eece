//! `mainstay approve`: consent to what a plan refuses, as a commit that says exactly what to.
//!
//! The commit changes no file. Its trailers list each effect, so that the consent holds for these and for nothing else,
//! and goes on holding when something else of the plan has changed.

use std::collections::BTreeSet;

use clap::Args;
use git2::Repository;

use super::{
    CommandResult, Exit, Failure,
    plan::{inputs, print, revisions::Watched},
};
use crate::{
    git::Revision,
    plan::{Digest, Effect, Plan, approval, safety, wording},
};

/// Effects that are listed on standard output before the rest is counted.
const EFFECTS_SHOWN: usize = 20;

/// Consent to what a plan refuses: writes a commit with the approval on the branch that is checked out.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Digest of a refusal, or of the whole plan, as `mainstay plan` shows it
    digest: String,
    #[command(flatten)]
    inputs: inputs::InputArguments,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { digest, inputs } = arguments;
    let digest = Digest(digest);
    if !Digest::is_digest(&digest.0) {
        return Err(Failure::new(format!("`{digest}` is not a digest, which has 64 digits from 0 to f"))
            .hint("`mainstay plan` shows it beside each refusal"));
    }
    let watched = Watched::holding(&inputs.path)?;
    let planned = inputs::plan(&inputs)?;
    planned.report_findings();
    let effects: BTreeSet<Effect> = safety::effects_of(&planned.plan, &digest)
        .filter(|effects| !effects.is_empty())
        .ok_or_else(|| unknown(&digest, &planned.plan))?
        .into_iter()
        .cloned()
        .collect();
    print(&consent(&planned.plan, &effects))?;
    let message = message(&digest, &effects);
    let commit = commit(watched.repository(), &message)?;
    let branch = watched.repository().head().ok();
    let branch = branch.as_ref().and_then(|head| head.shorthand().ok()).unwrap_or("HEAD");
    print(&format!(
        "Approved in {} on {branch}. It counts once it is on the branch that the daemon watches.\n",
        commit.short()
    ))?;
    Ok(Exit::Success)
}

fn unknown(digest: &Digest, plan: &Plan) -> Failure {
    let refusals = plan.refusals.iter().filter(|refusal| refusal.can_be_approved());
    let open: Vec<String> = refusals.map(|refusal| format!("{} ({})", refusal.digest, refusal.change.policy)).collect();
    let hint = match open.as_slice() {
        [] => "nothing in this plan can be approved; look at it with `mainstay plan`".to_owned(),
        open => {
            format!("what is destroyed has changed since; look at `mainstay plan` again. Open now: {}", open.join(", "))
        }
    };
    Failure::new(format!("{digest} is not the digest of anything that this plan refuses")).hint(hint)
}

/// What is consented to, for people.
fn consent(plan: &Plan, effects: &BTreeSet<Effect>) -> String {
    let is_lost = |loss: &&crate::plan::Loss| {
        effects.contains(&Effect::Lose { policy: loss.policy.clone(), point: loss.id.clone() })
    };
    let lost: Vec<_> = plan.losses.iter().filter(is_lost).collect();
    let restores = effects.len() - lost.len();
    let mut text = String::new();
    if !lost.is_empty() {
        let points = wording::count(lost.len(), "restore point", "restore points");
        let size = wording::bytes(wording::size(lost.iter().copied()));
        text.push_str(&format!("Consent to losing {points} ({size}):\n"));
        for loss in lost.iter().take(EFFECTS_SHOWN) {
            let (id, size) = (wording::plain(&loss.id.0), wording::bytes(loss.size_bytes));
            text.push_str(&format!(
                "  - {} {id}  {}  {size}  {}\n",
                loss.policy,
                loss.time,
                wording::plain(&loss.reason)
            ));
        }
        if lost.len() > EFFECTS_SHOWN {
            text.push_str(&format!("  … and {} more, all listed in the commit\n", lost.len() - EFFECTS_SHOWN));
        }
    }
    if restores > 0 {
        text.push_str("Consent to overwriting in place:\n");
        for refusal in plan.refusals.iter().filter(|refusal| refusal.effects.is_subset(effects)) {
            if let Some(restore) = &refusal.change.restore {
                text.push_str(&format!("  ← {}: {}\n", restore.name, wording::restoring(restore)));
            }
        }
    }
    text
}

fn message(digest: &Digest, effects: &BTreeSet<Effect>) -> String {
    let lost = effects.iter().filter(|effect| matches!(effect, Effect::Lose { .. })).count();
    let mut what = Vec::new();
    if lost > 0 {
        what.push(format!("the loss of {}", wording::count(lost, "restore point", "restore points")));
    }
    if lost < effects.len() {
        what.push(wording::count(effects.len() - lost, "restore in place", "restores in place"));
    }
    let mut policies: Vec<String> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Lose { policy, .. } => policy.to_string(),
            Effect::RestoreInPlace { restore, .. } => restore.to_string(),
        })
        .collect();
    policies.dedup();
    let about = match policies.as_slice() {
        [one] => one.clone(),
        several => format!("{} policies", several.len()),
    };
    format!("backup: approve {} of {about}\n\n{}", what.join(" and "), approval::trailers(digest, effects))
}

/// Writes a commit on the branch that is checked out, with the files of its parent: neither the work tree nor what is
/// staged gets in.
fn commit(repository: &Repository, message: &str) -> Result<Revision, Failure> {
    let cannot =
        |what: &str, error: git2::Error| Failure::new(format!("cannot write the approval: {what}")).caused_by(error);
    let parent = repository
        .head()
        .and_then(|head| head.peel_to_commit())
        .map_err(|error| cannot("there is no commit to follow", error))?;
    let tree = parent.tree().map_err(|error| cannot("the last commit cannot be read", error))?;
    let config = repository.config().map_err(|error| cannot("git's configuration cannot be read", error))?;
    if config.get_bool("commit.gpgsign").unwrap_or(false) {
        return signed(repository, message);
    }
    let author = repository.signature().map_err(|error| {
        cannot("nobody is named as its author", error)
            .hint("say who approves: `git config user.name NAME` and `git config user.email ADDRESS`")
    })?;
    repository
        .commit(Some("HEAD"), &author, &author, message, &tree, &[&parent])
        .map(Revision::from)
        .map_err(|error| cannot("git refused the commit", error))
}

/// The same where the user's git signs commits: an approval without a signature would not be believed where the
/// settings ask for one. libgit2 cannot sign, so git itself does it.
fn signed(repository: &Repository, message: &str) -> Result<Revision, Failure> {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let cannot = || Failure::new("cannot write the signed approval with git");
    let directory = repository.workdir().unwrap_or_else(|| repository.path());
    let mut git = Command::new("git")
        .current_dir(directory)
        .args(["commit", "--quiet", "--only", "--allow-empty", "--cleanup=verbatim", "--file=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| cannot().caused_by(error).hint("install git, or turn commit.gpgsign off"))?;
    if let Some(mut input) = git.stdin.take() {
        // A git that ends early says why itself; its exit status is what counts.
        let _ = input.write_all(message.as_bytes());
    }
    match git.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(cannot().caused_by(format!("git ended with {status}"))),
        Err(error) => return Err(cannot().caused_by(error)),
    }
    repository
        .head()
        .and_then(|head| head.peel_to_commit())
        .map(|commit| commit.id().into())
        .map_err(|error| cannot().caused_by(error))
}
