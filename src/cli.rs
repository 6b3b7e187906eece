//! The command line: one file for each command, all of them thin.

use std::{error::Error, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod apply;
mod approve;
mod completions;
mod daemon;
mod display;
mod engine;
mod explain;
mod frozen;
mod init;
mod man;
mod mover;
mod plan;
mod points;
mod progress;
mod restore;
mod run;
mod schedule;
mod schema;
mod status;
mod validate;
mod verify;

/// Plan backups in git: see what an edit destroys before it is merged, then let a daemon make it so.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArguments,
    #[command(subcommand)]
    command: Command,
}

/// Arguments of every command, which its help shows after its own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArguments {
    /// More detail in the log; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 1000)]
    pub verbose: u8,
    /// Form of the log on standard error
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        default_value_t = LogFormat::Text,
        env = "MAINSTAY_LOG_FORMAT",
        display_order = 1001
    )]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where runs happen, and where what is known of them is kept.
#[derive(Debug, Clone, Args)]
pub struct StateArguments {
    /// Where runs happen.
    #[command(flatten)]
    pub engine: engine::EngineArguments,
    /// Directory of the local engine's state [default: /var/lib/mainstay as root, else ~/.local/state/mainstay]
    #[arg(long = "state", value_name = "DIR", env = "MAINSTAY_STATE")]
    pub directory: Option<PathBuf>,
}

impl StateArguments {
    /// The directory: as given, or the default for this user.
    ///
    /// # Errors
    /// Neither given nor is there a home directory.
    pub fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(directory) = &self.directory {
            return std::path::absolute(directory)
                .map_err(|error| Failure::new(format!("cannot use --state {}", directory.display())).caused_by(error));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/mainstay"));
        }
        let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        base.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))
            .map(|base| base.join("mainstay"))
            .ok_or_else(|| {
                Failure::new("there is no home directory to keep state in").hint("name a directory with --state")
            })
    }
}

/// How a command ended; the number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; with `--detailed-exitcode`: no change.
    Success = 0,
    /// Something went wrong.
    Error = 1,
    /// With `--detailed-exitcode`: there are changes.
    Changes = 2,
    /// There are changes that a safety rail refuses.
    Refused = 3,
    /// The documents are wrong.
    Documents = 4,
}

/// Why a command failed: what happened, why, and what to do.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    exit: Exit,
}

impl Failure {
    /// What happened, with the object it happened to.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, source: None, exit: Exit::Error }
    }

    /// What to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why.
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Another exit code than 1.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Prints `error: …`, the whole chain of causes and the hint to standard error.
    pub fn report(&self) -> Exit {
        eprintln!("error: {}", self.message);
        let mut cause: Option<&(dyn Error + 'static)> = self.source.as_deref().map(|source| source as _);
        while let Some(error) = cause {
            eprintln!("  because: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            eprintln!("  help: {hint}");
        }
        self.exit
    }
}

/// What every command returns.
pub type CommandResult = Result<Exit, Failure>;

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check documents: all findings at once, each with its place and a hint
    Validate(validate::Arguments),
    /// Show what the documents would change, and which restore points would be lost
    Plan(plan::Arguments),
    /// Carry out a plan
    Apply(apply::Arguments),
    /// Consent to what a plan refuses: writes a commit with the approval
    Approve(approve::Arguments),
    /// Watch a git repository and make what it asks for so
    Daemon(daemon::Arguments),
    /// Run a policy now
    Run(run::Arguments),
    /// Show policies, their last and next runs, and their conditions
    Status(status::Arguments),
    /// List, show, download, hold and release restore points
    Points(points::Arguments),
    /// Restore from a restore point
    Restore(restore::Arguments),
    /// Check the integrity of a policy's repositories
    Verify(verify::Arguments),
    /// Show the next times of a cron expression
    Schedule(schedule::Arguments),
    /// Explain a field of the documents
    Explain(explain::Arguments),
    /// Write a first backup.yaml
    Init(init::Arguments),
    /// Print the JSON schema of the documents
    Schema(schema::Arguments),
    /// Print shell completions
    Completions(completions::Arguments),
    /// Print the manual page
    Man(man::Arguments),
    #[command(hide = true)]
    /// Carry out one job, given as JSON on standard input
    Mover(mover::Arguments),
}

impl Cli {
    /// Carries the command out.
    pub fn execute(self) -> CommandResult {
        crate::telemetry::start(self.global.verbose, self.global.log_format);
        match self.command {
            Command::Validate(arguments) => validate::execute(arguments),
            Command::Plan(arguments) => plan::execute(arguments),
            Command::Apply(arguments) => apply::execute(arguments),
            Command::Approve(arguments) => approve::execute(arguments),
            Command::Daemon(arguments) => daemon::execute(arguments),
            Command::Run(arguments) => run::execute(arguments),
            Command::Status(arguments) => status::execute(arguments),
            Command::Points(arguments) => points::execute(arguments),
            Command::Restore(arguments) => restore::execute(arguments),
            Command::Verify(arguments) => verify::execute(arguments),
            Command::Schedule(arguments) => schedule::execute(arguments),
            Command::Explain(arguments) => explain::execute(arguments),
            Command::Init(arguments) => init::execute(arguments),
            Command::Schema(arguments) => schema::execute(arguments),
            Command::Completions(arguments) => completions::execute(arguments),
            Command::Man(arguments) => man::execute(arguments),
            Command::Mover(arguments) => mover::execute(arguments),
        }
    }
}
