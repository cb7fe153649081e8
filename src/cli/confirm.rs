//! Asks the operator to confirm an action that can't be undone.
//!
//! Invariant: only a typed "yes" confirms.

use std::io::{BufRead, Write};

/// Prints what is about to happen and asks for confirmation. With `yes` it only prints.
#[must_use]
pub fn confirm(what: &str, yes: bool) -> bool {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{what}");
    if yes {
        return true;
    }
    let _ = write!(stderr, "Type yes to continue: ");
    let _ = stderr.flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let agreed = read.is_ok() && line.trim() == "yes";
    if !agreed {
        let _ = writeln!(stderr, "Nothing was changed.");
    }
    agreed
}
