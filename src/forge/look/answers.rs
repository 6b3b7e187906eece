//! Answers to commands in comments: each is carried out and answered once, by whoever may ask for it, and every refusal
//! is answered, too.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Eye, LookError, document_path};
use crate::{
    engine::Engine,
    forge::{
        Account, ChangeRequest, Comment, Forge, Proposal,
        command::{self, Command, RestoreOrder},
        consent::{self, Consent, Origin, Unfit, Way},
    },
    git::Retry,
    plan::{Digest, markdown::code},
    policy::PolicyName,
};

/// By this, and by who wrote it, an answer is known, so that nothing is answered twice even if the memory is lost.
const MARKER: &str = "<!-- mainstay:answer ";
/// The branches that we make begin so, with the number of the comment behind it.
const BRANCH: &str = "mainstay/restore-";
/// Between that number and the one of the account that asked for it.
const FOR: &str = "-for-";
/// Commands that are answered in one look; the next look goes on.
const ANSWERS_LIMIT: usize = 10;
/// Commands that are refused, or were answered before, on a change request that is open no longer; further ones are not
/// heard.
const REFUSALS_LIMIT: usize = 100;
/// Comments that are remembered as answered for one change request; whoever writes more commands is not heard.
const COMMANDS_LIMIT: usize = 500;

/// A command that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    comment: u64,
    who: Account,
    what: Wanted,
}

/// What is to be done for it.
#[derive(Debug)]
enum Wanted {
    /// Only to say this.
    Say(String),
    /// To plan anew, which is done by the time that it is answered.
    Plan,
    /// To run a policy.
    Run(PolicyName),
    /// To open a change request.
    Restore(Box<RestoreOrder>),
}

/// The commands in these comments that were not answered yet. Consent among them counts from now on.
///
/// # Errors
/// The forge does not say who may write.
pub(super) async fn asked<F: Forge>(
    eye: &mut Eye<F>,
    request: &ChangeRequest,
    comments: &[Comment],
) -> Result<Vec<Asked>, LookError> {
    forget_what_is_gone(eye, request.number, comments);
    let mut asked = Vec::new();
    for comment in comments {
        if is_own(eye, comment) || is_answered(eye, request.number, comment) {
            continue;
        }
        let Some(command) = command::parse(&comment.body) else { continue };
        if asked.len() >= ANSWERS_LIMIT || eye.tracked(request.number).answered.len() >= COMMANDS_LIMIT {
            break;
        }
        eye.learn_permission(&comment.author).await?;
        let what = match command {
            _ if !consent::may_write(&eye.permissions, &comment.author) => {
                Wanted::Say("only people who may write to this repository can ask for something here.".to_owned())
            }
            _ if comment.updated_at > comment.created_at => {
                Wanted::Say("this comment was edited, so nobody can tell who asked for it; write a new one.".to_owned())
            }
            Err(error) => Wanted::Say(format!("{}.\n\n{}", code(&error.to_string()), command::HELP)),
            Ok(Command::Help) => Wanted::Say(format!("this can be asked:\n\n{}", command::HELP)),
            Ok(Command::Plan) => Wanted::Plan,
            Ok(Command::Run(policy)) => Wanted::Run(policy),
            Ok(Command::Restore(order)) => Wanted::Restore(order),
            Ok(Command::Approve(digest)) => match approve(eye, request, comment, &digest) {
                Ok(effects) => Wanted::Say(format!(
                    "this is consent to {}, and to nothing else. It holds as long as no push adds to them.",
                    crate::plan::wording::count(effects, "effect", "effects")
                )),
                Err(unfit) => Wanted::Say(format!("{unfit}.")),
            },
        };
        asked.push(Asked { comment: comment.id, who: comment.author.clone(), what });
    }
    Ok(asked)
}

/// Carries out and answers. A run that was asked for is never begun twice: it counts as answered before it is. What is to
/// be said is kept until the forge has taken it.
///
/// # Errors
/// The forge does not take an answer; the next call says it.
pub(super) async fn answer<F: Forge, E: Engine>(
    eye: &mut Eye<F>,
    engine: &E,
    number: u64,
    asked: Vec<Asked>,
    now: Timestamp,
) -> Result<(), LookError> {
    for Asked { comment, who, what } in asked {
        let said = match what {
            Wanted::Say(text) => text,
            Wanted::Plan => "planned anew; the comment above is up to date.".to_owned(),
            Wanted::Run(policy) => {
                eye.tracked(number).answered.insert(comment);
                eye.save()?;
                match engine.run_now(&policy, now).await {
                    Ok(()) => {
                        tracing::info!(%policy, by = who.name, request = number, "run asked for on a change request");
                        format!("a run of {} was started, as the policy is applied now.", code(&policy.to_string()))
                    }
                    Err(error) => format!("no run was started: {}.", code(&crate::engine::chain(&error))),
                }
            }
            // Where the forge went away in between, the next call finds what was made.
            Wanted::Restore(order) => propose(eye, &order, &who, comment).await?,
        };
        let tracked = eye.tracked(number);
        tracked.answered.insert(comment);
        tracked.unsaid.insert(comment, body(comment, &who, &said));
        eye.save()?;
    }
    for (comment, body) in eye.tracked(number).unsaid.clone() {
        eye.forge.add_comment(number, &body).await?;
        eye.tracked(number).unsaid.remove(&comment);
    }
    eye.save()
}

/// An answer to a comment.
fn body(comment: u64, who: &Account, said: &str) -> String {
    format!("{MARKER}{comment} -->\n{}: {said}\n", code(&who.name))
}

/// Answers each command with a refusal, once.
///
/// # Errors
/// The forge does not take an answer.
pub(super) async fn refuse<F: Forge>(
    eye: &mut Eye<F>,
    number: u64,
    comments: &[Comment],
    why: &str,
) -> Result<(), LookError> {
    let answered = answered_in(eye, comments);
    for comment in comments {
        let Some(ended) = eye.memory.ended.get_mut(&number) else { break };
        if ended.answered.len() >= REFUSALS_LIMIT {
            break;
        }
        let is_asked = command::parse(&comment.body).is_some() && !answered.contains(&comment.id);
        if !is_asked || !ended.answered.insert(comment.id) || is_own(eye, comment) {
            continue;
        }
        // First: a list may lack what was said last, and an answer to each look would never end.
        eye.save()?;
        let said = format!("{why}, so nothing is carried out here; ask on one that is open.");
        if let Err(error) = eye.forge.add_comment(number, &body(comment.id, &comment.author, &said)).await {
            if let Some(ended) = eye.memory.ended.get_mut(&number) {
                ended.answered.remove(&comment.id);
            }
            return Err(error.into());
        }
    }
    Ok(())
}

/// Counts consent by a comment. Gives how many effects it is for.
fn approve<F: Forge>(
    eye: &mut Eye<F>,
    request: &ChangeRequest,
    comment: &Comment,
    digest: &Digest,
) -> Result<usize, Unfit> {
    let (rules, asked_by) = (eye.rules, asked_by(eye, request));
    let Eye { memory, permissions, .. } = eye;
    let tracked = memory.requests.entry(request.number).or_default();
    let origin = Origin { author: &request.author, asked_by };
    consent::may_comment(&comment.author, origin, permissions, rules)?;
    if tracked.is_cut {
        return Err(Unfit::TooMuch);
    }
    let seen = tracked.shown.iter().rev().find(|shown| shown.at <= comment.created_at).ok_or(Unfit::Digest)?;
    let effects = consent::offers(&seen.effects).remove(digest).filter(|effects| !effects.is_empty());
    let effects = effects.ok_or(Unfit::Digest)?;
    let count = effects.len();
    let way = Way::Comment(comment.id);
    tracked.consents.retain(|consent| consent.way != way);
    tracked.consents.push(Consent { effects, by: comment.author.name.clone(), way });
    Ok(count)
}

/// Opens a change request with a Restore document; gives the answer.
async fn propose<F: Forge>(
    eye: &mut Eye<F>,
    order: &RestoreOrder,
    who: &Account,
    comment: u64,
) -> Result<String, LookError> {
    let name = format!("restore-{comment}");
    let content = match serde_yaml::to_string(&order.document(name.clone())) {
        Ok(content) => content,
        Err(error) => return Ok(format!("the restore cannot be written as a document: {}.", code(&error.to_string()))),
    };
    let proposal = Proposal {
        branch: format!("{BRANCH}{comment}{FOR}{}", who.id),
        base: eye.checkout.branch.clone(),
        path: document_path(&eye.checkout.path, &name),
        content,
        title: format!("restore {}", order.policy),
        body: format!("{} asked for this restore. It is carried out once, after the merge.\n", code(&who.name)),
    };
    match eye.forge.propose(&proposal).await {
        Ok(opened) => {
            Ok(format!("change request {} has the restore; it is carried out when that is merged.", opened.number))
        }
        // The next call goes on with what this one made.
        Err(error) if error.retry() == Retry::Later => Err(error.into()),
        Err(error) => Ok(format!("no change request could be opened: {}.", code(&crate::engine::chain(&error)))),
    }
}

/// The number of the account that asked us for a change request. Its branch says so, which nobody can give another name
/// to while it is open, whatever becomes of our memory: they cannot consent to it any more than an author.
pub(super) fn asked_by<F: Forge>(eye: &Eye<F>, request: &ChangeRequest) -> Option<u64> {
    let is_ours = eye.own.as_ref().is_some_and(|own| request.author.is(own));
    let (_, account) = request.head_branch.strip_prefix(BRANCH).filter(|_| is_ours)?.split_once(FOR)?;
    account.parse().ok()
}

/// Consent whose comment was deleted or edited since counts no more.
fn forget_what_is_gone<F: Forge>(eye: &mut Eye<F>, number: u64, comments: &[Comment]) {
    let is_there =
        |id: u64| comments.iter().any(|comment| comment.id == id && comment.updated_at == comment.created_at);
    eye.tracked(number).consents.retain(|consent| match consent.way {
        Way::Comment(id) => is_there(id),
        Way::Review(_) => true,
    });
    let answered = answered_in(eye, comments);
    let tracked = eye.tracked(number);
    tracked.unsaid.retain(|comment, _| !answered.contains(comment));
    tracked.answered.extend(answered);
}

/// The comments that these answer.
fn answered_in<F: Forge>(eye: &Eye<F>, comments: &[Comment]) -> BTreeSet<u64> {
    let own = comments.iter().filter(|comment| is_own(eye, comment));
    own.filter_map(|comment| comment.body.strip_prefix(MARKER)?.split(' ').next()?.parse().ok()).collect()
}

fn is_answered<F: Forge>(eye: &mut Eye<F>, number: u64, comment: &Comment) -> bool {
    eye.tracked(number).answered.contains(&comment.id)
}

fn is_own<F: Forge>(eye: &Eye<F>, comment: &Comment) -> bool {
    eye.own.as_ref().is_some_and(|own| comment.author.is(own))
}
