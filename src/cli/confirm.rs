//! Asking an operator before something that can't be taken back.
//!
//! Invariant: only a typed "yes" is a yes.

use std::io::{BufRead, Write};

/// Tells what is about to happen and asks; with `yes` it only tells.
#[must_use]
pub fn confirm(what: &str, yes: bool) -> bool {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{what}");
    if yes {
        return true;
    }
    let _ = write!(stderr, "Type yes to go on: ");
    let _ = stderr.flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let agreed = read.is_ok() && line.trim() == "yes";
    if !agreed {
        let _ = writeln!(stderr, "Nothing was changed.");
    }
    agreed
}
