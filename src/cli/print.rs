//! How commands write to standard output and standard error.
//!
//! Invariant: a reader that has gone ends nothing but the writing.

use std::io::{self, ErrorKind, Write};

/// Writes a result to standard output; says whether it was written. Why not is said on standard error, unless
/// the reader has simply gone, as `head` does.
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

/// Writes an error to standard error; if that is gone too, nobody can be told.
pub fn print_error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "headcount: {text}");
}
