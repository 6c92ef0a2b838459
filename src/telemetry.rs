//! Logs: structured, on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::RawLog;

/// Begins to log.
///
/// # Errors
///
/// Says which value does not read.
pub fn init(log: &RawLog) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level: {error}"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match log.format.as_str() {
        "text" => subscriber.with_ansi(false).try_init(),
        "json" => subscriber.json().flatten_event(true).try_init(),
        other => return Err(format!("log.format: {other:?} is neither text nor json")),
    };
    begun.map_err(|error| error.to_string())
}
