//! Findings as workflow commands, which GitHub and Gitea show at the lines of a change request.

use super::{Diagnostic, Severity};

/// Renders findings, one a line.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(one).collect()
}

fn one(diagnostic: &Diagnostic) -> String {
    let command = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let location = &diagnostic.location;
    let (end_line, end_column) = diagnostic.end;
    let mut message = diagnostic.message.clone();
    for (intro, text) in [("", &diagnostic.label), ("help: ", &diagnostic.hint)] {
        if let Some(text) = text {
            message.push_str(&format!("\n{intro}{text}"));
        }
    }
    if let Some(related) = &diagnostic.related {
        message.push_str(&format!("\n{}: {}", related.location, related.message));
    }
    // A last column behind the first one is read only where both are on one line.
    let end = if end_line == location.line {
        format!(",endColumn={}", end_column.max(location.column))
    } else {
        String::new()
    };
    format!(
        "::{command} file={},line={},endLine={},col={}{end},title={}::{}\n",
        property(&location.file.to_string_lossy()),
        location.line,
        end_line.max(location.line),
        location.column,
        property(diagnostic.rule.id()),
        data(&message),
    )
}

/// Text of a command: what would end the line is escaped, so that no document can smuggle in a command of its own.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::diagnostic::Rule;

    #[test]
    fn nothing_smuggles_in_a_command() {
        let finding =
            Diagnostic::whole_file(Rule::Name, "a,b:c/backup.yaml", "100%\n::stop-commands::x").hint("h\r\n::error::y");
        assert_eq!(
            render(&[finding]),
            "::error file=a%2Cb%3Ac/backup.yaml,line=1,endLine=1,col=1,endColumn=1,title=document/name::100%25%0A::stop-commands::x%0Ahelp: h%0D%0A::error::y\n"
        );
    }
}
