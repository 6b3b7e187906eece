//! Logs: `tracing` to standard error, as text or as JSON lines.

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Starts logging. `RUST_LOG` wins over the number of `-v`.
pub fn start(verbose: u8, format: LogFormat) {
    let level = match verbose {
        // What rustic_core says in pages, the mover says in a sentence.
        0 => "mainstay=info,rustic_core=off,warn",
        1 => "mainstay=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would be told on standard error, which is what cannot be written to; a run must outlive its reader.
        .log_internal_errors(false);
    // A second start (in tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.without_time().with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
