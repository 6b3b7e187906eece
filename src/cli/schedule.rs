//! `mainstay schedule`: what a cron expression means.

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, civil, tz::TimeZone};

use super::{CommandResult, Exit, Failure, engine::EngineName};
use crate::schedule::{ClockChange, Schedule, next_runs};

/// Show the next times of a cron expression.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to show.
#[derive(Debug, Subcommand)]
enum Command {
    /// The next times at which an expression is due
    Next(NextArguments),
}

/// Arguments of `schedule next`.
#[derive(Debug, Args)]
struct NextArguments {
    /// Five fields such as "0 2 * * *", or @daily and the like
    expression: String,
    /// IANA zone in which the expression is read, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// Times after this one, such as 2026-11-21T12:00:00Z, or without a zone in the zone above [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Who starts it: on Kubernetes its controller, which reads changes of clocks otherwise
    #[arg(long, value_enum, default_value_t = EngineName::Local, env = "MAINSTAY_ENGINE")]
    engine: EngineName,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Local time, offset and UTC, for people.
    Text,
    /// `{"formatVersion": 1, "next": [TIME…]}` in UTC.
    Json,
}

/// Carries the command out.
pub fn execute(arguments: Arguments) -> CommandResult {
    match arguments.command {
        Command::Next(arguments) => next(&arguments),
    }
}

fn next(arguments: &NextArguments) -> CommandResult {
    let time_zone = TimeZone::get(&arguments.time_zone).map_err(|error| {
        Failure::new(format!("`{}` is not a known time zone", arguments.time_zone))
            .caused_by(error)
            .hint(zone_hint(&arguments.time_zone))
    })?;
    let after = match &arguments.from {
        Some(text) => read_time(text, &time_zone)?,
        None => Timestamp::now(),
    };
    let schedule = Schedule::parse(&arguments.expression, &time_zone)
        .map_err(|error| Failure::new("the expression is not a schedule").caused_by(error))?;
    let schedule = match arguments.engine {
        EngineName::Local => schedule,
        EngineName::Kubernetes => schedule.by_controller(),
    };
    let times = next_runs(std::slice::from_ref(&schedule), after, usize::from(arguments.count));
    match arguments.output {
        Output::Json => println!("{}", serde_json::json!({"formatVersion": 1, "next": times})),
        Output::Text => times.iter().for_each(|time| println!("{}", line(&schedule, *time))),
    }
    Ok(Exit::Success)
}

/// One time for people, with what a change of clocks does on that day.
fn line(schedule: &Schedule, time: Timestamp) -> String {
    let local = time.to_zoned(schedule.time_zone.clone());
    let note = match (schedule.clock_change(local.date()), schedule.is_by_controller()) {
        (Some(ClockChange::Skipped), _) => "  (the clock skips a time that is asked for on this day)",
        (Some(ClockChange::Repeated), false) => "  (the clock shows a time that is asked for twice on this day)",
        (Some(ClockChange::Repeated), true) => {
            "  (the clock shows a time that is asked for twice on this day, and Kubernetes runs it twice)"
        }
        (None, _) => "",
    };
    format!("{}  {time}{note}", local.strftime("%a %Y-%m-%d %H:%M:%S %:z %Z"))
}

/// A time with a zone, or one of the wall in the zone of the schedule.
fn read_time(text: &str, time_zone: &TimeZone) -> Result<Timestamp, Failure> {
    let local = || text.parse::<civil::DateTime>().and_then(|time| time_zone.to_timestamp(time));
    text.parse::<Timestamp>().or_else(|_| local()).map_err(|error| {
        Failure::new(format!("`{text}` is not a time"))
            .caused_by(error)
            .hint("write 2026-11-21T12:00:00Z or 2026-11-21")
    })
}

/// The known zone whose name is most like the one that was written.
fn zone_hint(written: &str) -> String {
    let similarity = |name: &str| strsim::jaro_winkler(&written.to_lowercase(), &name.to_lowercase());
    let names = jiff::tz::db().available().map(|name| name.as_str().to_owned());
    let best = names.max_by(|a, b| similarity(a).total_cmp(&similarity(b))).filter(|name| similarity(name) > 0.8);
    best.map_or_else(|| "write an IANA name such as Europe/Berlin".to_owned(), |name| format!("did you mean `{name}`?"))
}
