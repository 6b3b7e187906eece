//! A plan as Markdown, for a comment on a change request.
//!
//! Pure. Everything that comes from documents stands in a code span: nothing in there mentions a person, closes an
//! issue, links anywhere or breaks the table. The whole stays below the limit of forges, cut by item, and the summary
//! is never cut.

use super::{
    Change, Plan, Refusal,
    wording::{self, View},
};

/// Forges refuse comments of 65,536 characters; some of it is left to whoever posts it. Counted in bytes, of which
/// there are never fewer than characters.
pub const LIMIT_BYTES: usize = 64_000;
/// What each section leaves for the ends of those after it.
const RESERVE_BYTES: usize = 4_000;

/// How the reader consents.
#[derive(Clone, Copy)]
enum Asking<'a> {
    /// By a command, on a host that has the documents.
    Command(&'a View),
    /// On the change request itself.
    Here,
}

/// Renders a plan.
pub fn render(plan: &Plan, view: &View) -> String {
    rendered(plan, view, Asking::Command(view), LIMIT_BYTES)
}

/// Renders the plan of a change request, for a comment on it, where consent is given, too.
pub fn render_on_request(plan: &Plan, limit_bytes: usize) -> String {
    rendered(plan, &View::default(), Asking::Here, limit_bytes)
}

fn rendered(plan: &Plan, view: &View, asking: Asking<'_>, limit_bytes: usize) -> String {
    let mut comment = Comment { text: String::new(), limit_bytes };
    comment.line(&format!("### Mainstay: {}", headline(plan)));
    comment.line("");
    comment.line(&format!("**{}**", wording::losses_summary(plan)));
    if let Some(compared_with) = &view.compared_with {
        comment.line("");
        comment.line(&code(compared_with));
    }
    refusals(&mut comment, plan, asking);
    changes(&mut comment, plan);
    losses(&mut comment, plan);
    drift(&mut comment, plan);
    if !plan.frozen.is_empty() {
        comment.line("");
        comment.line(&format!(
            "{} until the findings in the documents are mended.",
            wording::count(plan.frozen.len(), "policy stays as it is", "policies stay as they are")
        ));
    }
    comment.line("");
    comment.line(&format!(
        "{} {} unchanged.",
        wording::summary(plan),
        wording::count(plan.unchanged, "policy", "policies")
    ));
    comment.text
}

fn headline(plan: &Plan) -> String {
    match (plan.changes.len(), plan.refusals.len()) {
        (0, 0) => "nothing to change".to_owned(),
        (changes, 0) => wording::count(changes, "change", "changes"),
        (0, refused) => format!("{} refused", wording::count(refused, "change", "changes")),
        (changes, refused) => format!("{}, {refused} refused", wording::count(changes, "change", "changes")),
    }
}

fn refusals(comment: &mut Comment, plan: &Plan, asking: Asking<'_>) {
    if plan.refusals.is_empty() {
        return;
    }
    comment.line("");
    comment.line("#### Refused");
    comment.line("");
    comment.items(plan.refusals.iter().map(|refusal| refused(refusal, asking)), "refusals");
    if plan.refusals.iter().any(Refusal::can_be_approved) {
        comment.line("");
        comment.line(match asking {
            Asking::Command(_) => {
                "To consent, push the commit that the command writes, or one with the trailer `Mainstay-Approve: DIGEST`."
            }
            Asking::Here => {
                "To consent to exactly this, someone else who may merge approves the change request, or writes the line \
                 above as a comment. What is lost can be taken back within its grace time by reverting the merge."
            }
        });
    }
}

fn refused(refusal: &Refusal, asking: Asking<'_>) -> String {
    let change = &refusal.change;
    let what = format!(
        "- {} {}: {}",
        code(wording::symbol(change.action)),
        code(&change.policy.to_string()),
        code(&refusal.reason)
    );
    match refusal.can_be_approved() {
        true => format!(
            "{what}<br>{}",
            code(&match asking {
                Asking::Command(view) => wording::approve_command(&refusal.digest, view),
                Asking::Here => format!("/mainstay approve {}", refusal.digest),
            })
        ),
        false => what,
    }
}

fn changes(comment: &mut Comment, plan: &Plan) {
    let refused = plan.refusals.iter().map(|refusal| &refusal.change);
    let mut all: Vec<&Change> = plan.changes.iter().chain(refused).collect();
    if all.is_empty() {
        return;
    }
    all.sort_by_key(|change| (&change.policy, change.action));
    comment.line("");
    comment.line("| | policy | what changes | next run | loses |");
    comment.line("| --- | --- | --- | --- | ---: |");
    comment.items(all.into_iter().map(|change| row(plan, change)), "changes");
}

fn row(plan: &Plan, change: &Change) -> String {
    const FIELDS_SHOWN: usize = 12;
    let fields = wording::changed_fields(change);
    let mut what: Vec<String> = fields
        .iter()
        .take(FIELDS_SHOWN)
        .map(|field| cell(&format!("{} {}", field.path, wording::arrow(field))))
        .collect();
    if fields.len() > FIELDS_SHOWN {
        what.push(format!("and {} more", fields.len() - FIELDS_SHOWN));
    }
    if let Some(restore) = &change.restore {
        what.push(cell(&wording::restoring(restore)));
    } else if change.after.is_none() {
        what.push(cell(wording::removal(change)));
        let renamed = wording::renamed_to(plan, change).map(|name| cell(&name.to_string()));
        what.extend(renamed.map(|name| format!("it looks renamed to {name}, which begins without restore points")));
    } else if change.before.is_none() {
        what.extend(
            change.after.iter().flat_map(wording::outline).map(|(label, value)| cell(&format!("{label}: {value}"))),
        );
    }
    what.extend(wording::taken_back(change));
    let next = change.next_runs.first().map(|time| cell(&time.to_string())).unwrap_or_default();
    let losses = wording::losses_of(plan, change);
    let lost = match losses.len() {
        0 => String::new(),
        number => format!("{number} ({})", wording::bytes(wording::size(losses))),
    };
    format!(
        "| {} | {} | {} | {next} | {lost} |",
        cell(wording::symbol(change.action)),
        cell(&change.policy.to_string()),
        what.join("<br>")
    )
}

fn losses(comment: &mut Comment, plan: &Plan) {
    if plan.losses.is_empty() {
        return;
    }
    comment.line("");
    comment.line("#### Restore points lost");
    comment.line("");
    comment.line("| policy | restore point | captured | size | kept until now by |");
    comment.line("| --- | --- | --- | ---: | --- |");
    let rows = plan.losses.iter().map(|loss| {
        format!(
            "| {} | {} | {} | {} | {} |",
            cell(&loss.policy.to_string()),
            cell(&loss.id.0),
            loss.time,
            wording::bytes(loss.size_bytes),
            cell(&loss.reason)
        )
    });
    comment.items(rows, "restore points");
}

fn drift(comment: &mut Comment, plan: &Plan) {
    if plan.drift.is_empty() {
        return;
    }
    comment.line("");
    comment.line("#### Drift, not from the documents");
    comment.line("");
    let items =
        plan.drift.iter().map(|drift| format!("- {}: {}", code(&drift.policy.to_string()), code(&drift.difference)));
    comment.items(items, "lines");
}

/// A comment that grows up to the limit.
struct Comment {
    text: String,
    limit_bytes: usize,
}

impl Comment {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds as many items as fit, and says how many did not.
    fn items(&mut self, items: impl ExactSizeIterator<Item = String>, what: &str) {
        let total = items.len();
        for (index, item) in items.enumerate() {
            if self.text.len() + item.len() + RESERVE_BYTES > self.limit_bytes {
                self.line("");
                self.line(&format!("… and {} more {what}; `mainstay plan` lists them.", total - index));
                return;
            }
            self.line(&item);
        }
    }
}

/// Text in a code span, whose fence is longer than any run of backticks in it.
pub fn code(text: &str) -> String {
    let text = wording::plain_long(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') || text.is_empty() { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// The same inside of a table, where `|` ends a cell even in code.
pub fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_a_code_span() {
        for (text, shown) in [
            ("plain", "`plain`"),
            ("@someone closes #1", "`@someone closes #1`"),
            ("a`b", "``a`b``"),
            ("``", "``` `` ```"),
            ("a\n\n# b", "`a\\n\\n# b`"),
            ("", "`  `"),
        ] {
            assert_eq!(code(text), shown);
        }
        assert_eq!(cell("a|b"), "`a\\|b`");
    }
}
