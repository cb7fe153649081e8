//! Logging: lines of text for people, or JSON.
//!
//! Invariant: in JSON format, each line is one object, whatever it reports; no line contains a
//! secret.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic;

use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// Whether lines are JSON on an output that is or is not a terminal.
    #[must_use]
    pub fn is_json(self, terminal: bool) -> bool {
        match self {
            Self::Auto => !terminal,
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// A JSON line in the format of the log, written without the log: before logging starts, or
/// regardless of the log filter.
#[derive(Serialize)]
pub struct LogLine<'a> {
    timestamp: String,
    level: &'static str,
    message: &'a str,
    #[serde(flatten)]
    fields: BTreeMap<&'static str, String>,
}

impl<'a> LogLine<'a> {
    /// Creates a line of level INFO.
    #[must_use]
    pub fn info(message: &'a str) -> Self {
        Self::new("INFO", message)
    }

    /// Creates a line of level ERROR.
    #[must_use]
    pub fn error(message: &'a str) -> Self {
        Self::new("ERROR", message)
    }

    fn new(level: &'static str, message: &'a str) -> Self {
        let mut timestamp = String::new();
        // Writing to a `String` can't fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        Self {
            timestamp,
            level,
            message,
            fields: BTreeMap::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.insert(name, value.into());
        self
    }
}

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// Logs panics as JSON lines.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let mut line = LogLine::error("a thread panicked")
            .with("panic", message)
            .with("place", place.unwrap_or_default())
            .with("thread", thread.name().unwrap_or_default());
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            line = line.with("backtrace", backtrace.to_string());
        }
        // If standard error is closed, the panic can't be reported.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }));
}

/// Adds `lapin=off` to a filter that does not name the broker's client. The client logs every
/// refusal as an error, including expected ones: Headcount checks whether a queue exists by an
/// operation that the broker refuses if it does not. Headcount logs the relevant refusals itself.
fn without_client_noise(filter: EnvFilter) -> EnvFilter {
    if filter.to_string().contains("lapin") {
        return filter;
    }
    match "lapin=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Starts logging to standard error. The settings have already validated `filter`, which uses the
/// syntax of `tracing_subscriber::EnvFilter`.
pub fn start_logs(filter: EnvFilter, format: LogFormat) {
    let terminal = io::stderr().is_terminal();
    let filter = without_client_noise(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A line that can't be written is dropped: reporting that on standard error too would
        // panic.
        .log_internal_errors(false)
        .with_target(false);
    let json = format.is_json(terminal);
    if json {
        log_panics();
    }
    // A second start in the same process (in tests) keeps the first logger.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_beside_the_log_looks_like_those_of_the_log() {
        let line = LogLine::error("no \"x\"\nat all")
            .with("place", "here")
            .to_string();
        assert_eq!(line.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["level"], "ERROR");
        assert_eq!(json["message"], "no \"x\"\nat all");
        assert_eq!(json["place"], "here");
        let time = json["timestamp"].as_str().expect("a text");
        assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len());
    }

    #[test]
    fn auto_is_json_where_no_person_looks() {
        let formats = [LogFormat::Auto, LogFormat::Text, LogFormat::Json];
        assert_eq!(formats.map(|it| it.is_json(true)), [false, false, true]);
        assert_eq!(formats.map(|it| it.is_json(false)), [true, false, true]);
    }
}
