//! `mainstay plan`: what the documents would change, and which restore points would be lost. Read-only.
//!
//! Exit codes: 0 the plan was made; with `--detailed-exitcode` 0 says that there is nothing to change, 2 that there
//! are changes, 3 that some of them are refused (then there may be others, too). 4 says that documents are wrong, with
//! or without the flag. A plan that refuses something is a good plan, so without the flag it is no failure.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CommandResult, Exit, Failure};
use crate::plan::{Plan, json, markdown, saved, text};

pub(super) mod inputs;
pub(super) mod revisions;

/// Show what the documents would change, and which restore points would be lost.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    inputs: inputs::Arguments,
    /// Form of the plan on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Keep the plan in a file for `mainstay apply --plan FILE`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Exit with 2 if there are changes, and with 3 if some of them are refused
    #[arg(long)]
    detailed_exitcode: bool,
}

/// Form of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For a comment on a change request.
    Markdown,
    /// For programs; nothing is cut.
    Json,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    let Arguments { inputs, output, out, detailed_exitcode } = arguments;
    let planned = inputs::plan(&inputs)?;
    planned.report_findings();
    let inputs::Planned { plan, view, .. } = &planned;
    match output {
        Output::Text => print(&text::render(plan, view))?,
        Output::Markdown => print(&markdown::render(plan, view))?,
        Output::Json => print(&format!("{:#}\n", json::render(plan, view)))?,
    }
    if let Some(file) = out {
        std::fs::write(&file, saved::save(plan))
            .map_err(|error| Failure::new(format!("cannot write the plan to {}", file.display())).caused_by(error))?;
    }
    Ok(match view.errored {
        true => Exit::Documents,
        false if detailed_exitcode => detailed(plan),
        false => Exit::Success,
    })
}

fn detailed(plan: &Plan) -> Exit {
    match (plan.refusals.is_empty(), plan.changes.is_empty()) {
        (false, _) => Exit::Refused,
        (true, false) => Exit::Changes,
        (true, true) => Exit::Success,
    }
}

/// Prints to standard output. A reader that goes away early (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot write to standard output").caused_by(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
