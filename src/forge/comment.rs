//! The comment on a change request, and the check beside it: what its plan would do.
//!
//! Pure. Everything from a document, a path or a name stands in a code span or a code block whose fence it cannot end.

use super::{Annotation, Check, CheckState, PLAN_CHECK, consent::Consent};
use crate::{
    git::Revision,
    plan::{
        Plan,
        markdown::{self, code},
        wording,
    },
};

/// By this line, and by who wrote it, our comment is known.
pub const MARKER: &str = "<!-- mainstay:plan -->";
/// What remains of the forge's limit beside the plan and the findings.
const FRAME_BYTES: usize = 2_500;
/// How much of the findings is shown.
const FINDINGS_BYTES: usize = 12_000;
/// Files of a conflict that are named.
const CONFLICTS_SHOWN: usize = 20;
/// The longest summary of a check that every forge takes.
const SUMMARY_CHARACTERS: usize = 140;

/// What is planned.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The commit that is proposed.
    pub head: &'a Revision,
    /// The watched branch.
    pub branch: &'a str,
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// A plan of the merge.
    Planned {
        /// The plan, with what was consented to.
        plan: &'a Plan,
        /// By whom.
        consents: &'a [Consent],
        /// Whether consent that was given is for other effects than these.
        is_void: bool,
    },
    /// The merge has conflicts, in these files.
    Conflict(&'a [String]),
    /// It cannot be planned, and why.
    Impossible(&'a str),
}

/// What is wrong with the documents.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// How many do not count until they are mended.
    pub errors: usize,
    /// All of them with their lines, as plain text.
    pub text: String,
    /// The same at their lines, for forges that can show them there.
    pub annotations: Vec<Annotation>,
}

/// The comment.
pub fn render(subject: &Subject<'_>, outcome: &Outcome<'_>, findings: &Findings) -> String {
    let mut text = format!("{MARKER}\n");
    match outcome {
        Outcome::Planned { plan, consents, is_void } => {
            let room = super::COMMENT_CHARACTERS - FRAME_BYTES - shown(findings).len();
            text.push_str(&markdown::render_on_request(plan, room.min(markdown::LIMIT_BYTES)));
            if !consents.is_empty() {
                text.push_str("\n#### Consent\n\n");
                for consent in consents.iter().take(CONFLICTS_SHOWN) {
                    let points = wording::count(consent.effects.len(), "effect", "effects");
                    text.push_str(&format!("- {} by {}, to {points}\n", code(&consent.by), consent.way));
                }
            }
            if *is_void {
                text.push_str(
                    "\nConsent was given before, to other effects than those of this commit. It does not count any \
                     more.\n",
                );
            }
        }
        Outcome::Conflict(files) => {
            text.push_str("### Mainstay: cannot be merged\n\nThese files conflict with the watched branch:\n\n");
            for file in files.iter().take(CONFLICTS_SHOWN) {
                text.push_str(&format!("- {}\n", code(file)));
            }
            if files.len() > CONFLICTS_SHOWN {
                text.push_str(&format!("- and {} more\n", files.len() - CONFLICTS_SHOWN));
            }
        }
        Outcome::Impossible(why) => {
            text.push_str(&format!("### Mainstay: cannot be planned\n\n{}\n", code(why)));
        }
    }
    text.push_str(&shown(findings));
    let Subject { head, branch } = subject;
    // The tip of the branch is not named: each merge would change the comments on all other change requests.
    text.push_str(&format!(
        "\n---\n{} as it would be merged into {}. `/mainstay help` says what can be asked here.\n",
        code(head.short()),
        code(branch)
    ));
    text
}

/// The check that goes with it.
pub fn check(outcome: &Outcome<'_>, findings: &Findings) -> Check {
    let (state, summary) = judged(outcome, findings);
    Check { name: PLAN_CHECK, state, summary: cut(&summary), annotations: findings.annotations.clone() }
}

fn judged(outcome: &Outcome<'_>, findings: &Findings) -> (CheckState, String) {
    let plan = match outcome {
        Outcome::Planned { plan, .. } => plan,
        Outcome::Conflict(files) => {
            let files = wording::count(files.len(), "file conflicts", "files conflict");
            return (CheckState::Failure, format!("cannot be merged: {files} with the watched branch"));
        }
        Outcome::Impossible(why) => {
            return (CheckState::Failure, format!("cannot be planned: {}", wording::plain(why)));
        }
    };
    if findings.errors > 0 {
        let findings = wording::count(findings.errors, "finding", "findings");
        return (CheckState::Failure, format!("{findings} in the documents; the comment shows the lines"));
    }
    let (open, broken): (Vec<_>, Vec<_>) = plan.refusals.iter().partition(|refusal| refusal.can_be_approved());
    if !broken.is_empty() {
        let refused = wording::count(broken.len(), "change is", "changes are");
        return (CheckState::Failure, format!("{refused} refused, and something must be mended; see the comment"));
    }
    if !open.is_empty() {
        let lost: usize = open.iter().map(|refusal| refusal.change.losses.len()).sum();
        let what = match lost {
            0 => wording::count(open.len(), "change needs it", "changes need it"),
            lost => format!("{} would be lost", wording::count(lost, "restore point", "restore points")),
        };
        return (CheckState::ApprovalNeeded, format!("approval needed: {what}"));
    }
    let changes = match plan.changes.len() {
        0 => "nothing to change".to_owned(),
        changes => wording::count(changes, "change", "changes"),
    };
    let lost = match plan.losses.len() {
        0 => String::new(),
        lost => format!(", {} lost with consent", wording::count(lost, "restore point", "restore points")),
    };
    (CheckState::Success, format!("{changes}{lost}"))
}

/// A summary that every forge takes.
pub fn cut(summary: &str) -> String {
    match summary.chars().count() > SUMMARY_CHARACTERS {
        true => summary.chars().take(SUMMARY_CHARACTERS - 1).chain(['…']).collect(),
        false => summary.to_owned(),
    }
}

fn shown(findings: &Findings) -> String {
    if findings.text.is_empty() {
        return String::new();
    }
    format!("\n#### Findings in the documents\n\n{}", block(&findings.text, FINDINGS_BYTES))
}

/// Text in a code block that it cannot end, cut at a line.
pub fn block(text: &str, most_bytes: usize) -> String {
    let is_safe = |c: &char| *c == '\n' || !c.is_control();
    let text: String = text.chars().filter(is_safe).collect();
    let mut kept = String::new();
    let mut is_cut = false;
    for line in text.lines() {
        if kept.len() + line.len() + 1 > most_bytes {
            is_cut = true;
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    let longest = kept.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    let rest = if is_cut { "\n… and more; `mainstay validate` lists them all.\n" } else { "" };
    format!("{fence}text\n{kept}{fence}\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(files: &[&str], findings: &Findings) -> String {
        let head = Revision("a".repeat(40));
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let subject = Subject { head: &head, branch: "main" };
        render(&subject, &Outcome::Conflict(&files), findings)
    }

    #[test]
    fn nothing_gets_out_of_a_code_block() {
        for (text, fence) in [("plain", "```"), ("a\n```\n# b", "````"), ("`````", "``````")] {
            let block = block(text, 1000);
            assert!(
                block.starts_with(&format!("{fence}text\n")) && block.ends_with(&format!("\n{fence}\n")),
                "{block}"
            );
        }
        let cut = block(&"line\n".repeat(1000), 50);
        assert!(cut.contains("… and more") && cut.len() < 200, "{cut}");
    }

    #[test]
    fn a_conflict_names_its_files_and_nothing_in_their_names_counts() {
        let text = conflict(&["backup.yaml", "@someone `<b>`"], &Findings::default());
        assert!(text.contains("- `backup.yaml`\n- `` @someone `<b>` ``\n"), "{text}");
        let many: Vec<&str> = vec!["x"; 50];
        assert!(conflict(&many, &Findings::default()).contains("and 30 more"));
    }

    #[test]
    fn the_largest_findings_fit() {
        let findings = Findings { errors: 1, text: "error: a line\n".repeat(10_000), annotations: Vec::new() };
        assert!(conflict(&[], &findings).chars().count() < super::super::COMMENT_CHARACTERS);
    }

    #[test]
    fn a_summary_fits_every_forge() {
        assert_eq!(cut(&"é".repeat(200)).chars().count(), SUMMARY_CHARACTERS);
        assert_eq!(cut("short"), "short");
    }
}
