//! Output of commands to standard output and standard error.
//!
//! Invariant: if the reader closes the pipe, only the writing stops.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::telemetry::LogLine;

/// Writes a result to standard output. Returns whether it was written. A failure is reported on
/// standard error, unless the reader closed the pipe, as `head` does.
#[must_use]
pub fn print(text: &str) -> bool {
    let mut output = io::stdout().lock();
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    match written {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe {
                print_error(&format!("standard output: {error}"));
            }
            false
        }
    }
}

/// Writes an error to standard error. If standard error is closed, the error is dropped.
pub(super) fn print_error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "headcount: {text}");
}

/// Writes an error as a JSON object, for commands that print JSON.
pub(super) fn print_error_as_json(text: &str) {
    print_json_error(&serde_json::json!({ "error": text }));
}

/// Writes an error as a JSON line in the format of the log.
pub(super) fn print_error_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", LogLine::error(text));
}

/// Writes an event as JSON to standard error.
pub(super) fn print_json_error(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A number with commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
