//! Logs: lines of text for people, or of JSON.
//!
//! Invariant: where lines are JSON, each is one object, whatever it tells; a secret never reaches a
//! line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic;

use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Whether lines are JSON on an output that is a terminal, or not.
    #[must_use]
    pub fn is_json(self, terminal: bool) -> bool {
        match self {
            Self::Auto => !terminal,
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// A line in JSON as the log has them, for what is said beside it: before it is started, or
/// whatever its filter is.
#[derive(Serialize)]
pub struct LogLine<'a> {
    timestamp: String,
    level: &'static str,
    message: &'a str,
    #[serde(flatten)]
    fields: BTreeMap<&'static str, String>,
}

impl<'a> LogLine<'a> {
    /// That something goes well.
    #[must_use]
    pub fn info(message: &'a str) -> Self {
        Self::new("INFO", message)
    }

    /// That something does not.
    #[must_use]
    pub fn error(message: &'a str) -> Self {
        Self::new("ERROR", message)
    }

    fn new(level: &'static str, message: &'a str) -> Self {
        let mut timestamp = String::new();
        // Into a text, it can always be written.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        Self {
            timestamp,
            level,
            message,
            fields: BTreeMap::new(),
        }
    }

    /// The same with one more field.
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

/// Makes a panic a line like all others.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("it left no message");
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
        // If standard error is gone, nobody can be told.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }));
}

/// The broker's client reports every refusal as an error, also those that we ask for: whether
/// something is there is answered by refusing. What matters of them we tell ourselves.
fn without_client_noise(filter: EnvFilter) -> EnvFilter {
    if filter.to_string().contains("lapin") {
        return filter;
    }
    match "lapin=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Starts logging to standard error. `filter` is in the syntax of `tracing_subscriber::EnvFilter`;
/// one that does not parse was refused with the settings before.
pub fn start_logs(filter: EnvFilter, format: LogFormat) {
    let terminal = io::stderr().is_terminal();
    let filter = without_client_noise(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A line that can't be written is lost; to report that on the same standard error would
        // panic.
        .log_internal_errors(false)
        .with_target(false);
    let json = format.is_json(terminal);
    if json {
        log_panics();
    }
    // A second start in one process (tests) keeps the first.
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
