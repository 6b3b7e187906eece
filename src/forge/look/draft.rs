//! The plan of one change request: merged in memory, read as documents, compared with what the engine has. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{Eye, LookError, inside};
use crate::{
    actual::ActualState,
    daemon::memory::Memory,
    forge::{
        Annotation, ChangeRequest, Forge,
        comment::Findings,
        consent::{self, Consent},
        merge::{self, Merge},
    },
    git::{
        Revision,
        checkout::{Checkout, files_at},
        history::{self, COMMITS_LIMIT},
    },
    plan::{Approvals, Effect, Plan, diff},
    policy::{
        diagnostic::{self, Severity},
        load::{FileContent, Loaded, load},
    },
};

/// What a plan was made of, for the comment.
pub(super) struct Draft {
    pub plan: Plan,
    pub consents: Vec<Consent>,
    /// The effects that consent is asked for, given on the change request or not.
    pub asked: BTreeSet<Effect>,
    pub is_void: bool,
}

/// What came of planning one change request.
pub(super) enum Drafted {
    Plan(Box<Draft>, Findings),
    Conflict(Vec<String>),
    Impossible(String),
}

impl<F: Forge> Eye<F> {
    /// Plans the merge, against what the engine has.
    pub(super) fn draft(
        &mut self,
        request: &ChangeRequest,
        base: &Revision,
        actual: &ActualState,
        is_new_head: bool,
        now: Timestamp,
    ) -> Result<Drafted, LookError> {
        // Opened anew each time: what a merge writes goes away with the handle.
        let checkout = Checkout::open(self.checkout.clone())?;
        let repository = checkout.repository();
        merge::write_to_memory(repository)?;
        let merged = match merge::merge(repository, base, &request.head, &self.checkout.path) {
            Ok(Merge::Clean(revision)) => revision,
            Ok(Merge::Conflict(files)) => return Ok(Drafted::Conflict(files)),
            Ok(Merge::TooLarge(what)) => return Ok(Drafted::Impossible(what)),
            Err(error) => return Ok(Drafted::Impossible(crate::engine::chain(&error))),
        };
        let files = match files_at(repository, &merged, &self.checkout.path) {
            Ok(files) => files,
            Err(error) => return Ok(Drafted::Impossible(crate::engine::chain(&error))),
        };
        let Loaded { mut desired, diagnostics } = load(&files.content, self.engine_kind, &mut self.cache);
        let unread = files.freeze(&mut desired);
        desired.revision = Some(request.head.clone());
        let findings = findings(&diagnostics, &files.content, &unread, &self.checkout.path);

        let Memory { consented, used_up, settings, .. } = Memory::load(&self.state_directory)?;
        // A change request that raises what may be lost without approval cannot use that for itself.
        desired.losses_in_force = Some(settings.safety.losses);
        // What a fork's author writes into a commit message is no consent, neither here nor in what was merged before.
        let own = match request.is_fork {
            true => Vec::new(),
            false => merge::own_commits(repository, base, &request.head, COMMITS_LIMIT)?,
        };
        let trusted = &self.memory.trusted;
        let counts = |commit: &Revision| trusted.contains(commit) || own.contains(commit);
        let by_trailer = history::approvals(repository, &merged, consented.as_ref(), &used_up, counts)?;
        let unapproved = diff::plan(&desired, actual, &by_trailer, now);
        let asked: BTreeSet<Effect> =
            unapproved.refusals.iter().flat_map(|refusal| refusal.effects.iter().cloned()).collect();

        let tracked = self.tracked(request.number);
        (tracked.policies_of, tracked.is_unknown) = (Some(request.head.clone()), false);
        tracked.policies = unapproved
            .changes
            .iter()
            .chain(unapproved.refusals.iter().map(|refusal| &refusal.change))
            .map(|change| (change.policy.clone(), change.action))
            .collect();
        let consented = consent::effects(&tracked.consents);
        let mut is_void = false;
        if is_new_head && !tracked.consents.is_empty() && !asked.is_subset(&consented) {
            tracked.void.extend(tracked.consents.drain(..).map(|consent| consent.way));
            is_void = true;
        }
        let is_void = is_void || (!tracked.void.is_empty() && tracked.consents.is_empty() && !asked.is_empty());
        let consents = tracked.consents.clone();
        let plan = match consents.is_empty() {
            true => unapproved,
            false => {
                let mut approvals = Approvals { effects: consented, ..Approvals::default() };
                approvals.extend(by_trailer);
                diff::plan(&desired, actual, &approvals, now)
            }
        };
        Ok(Drafted::Plan(Box::new(Draft { plan, consents, asked, is_void }), findings))
    }
}

fn findings(
    diagnostics: &[diagnostic::Diagnostic],
    files: &BTreeMap<PathBuf, FileContent>,
    unread: &[String],
    watched: &Path,
) -> Findings {
    let errors = diagnostics.iter().filter(|finding| finding.severity == Severity::Error).count() + unread.len();
    let mut text = diagnostic::text::render(diagnostics, files, false);
    for line in unread {
        text.push_str(line);
        text.push('\n');
    }
    let annotations = diagnostics.iter().map(|finding| {
        let hint = finding.hint.as_ref().map_or(String::new(), |hint| format!("\nhelp: {hint}"));
        Annotation {
            path: inside(watched).join(&finding.location.file).display().to_string(),
            line: finding.location.line,
            end_line: finding.end.0.max(finding.location.line),
            is_error: finding.severity == Severity::Error,
            rule: finding.rule.id().to_owned(),
            message: format!("{}{hint}", finding.message),
        }
    });
    Findings { errors, text, annotations: annotations.collect() }
}
