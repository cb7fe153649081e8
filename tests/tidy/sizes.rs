//! How long a file and a function may be.
//!
//! Invariant: lengths are lines of a file that rustfmt has formatted, from `fn` to the closing
//! brace.

use crate::Finding;
use crate::source::{Source, is_word};

/// The most lines of a file.
pub const FILE_LINES_MAX: usize = 400;

/// The most lines of a function.
pub const FUNCTION_LINES_MAX: usize = 80;

/// Findings of both limits.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.raw.len() > FILE_LINES_MAX {
        let rule = format!(
            "{} lines: a file has at most {FILE_LINES_MAX}",
            source.raw.len()
        );
        findings.push(Finding::new(&source.path, FILE_LINES_MAX + 1, rule));
    }
    for (index, line) in source.code.iter().enumerate() {
        let Some((name, column)) = function_in(line) else {
            continue;
        };
        let lines = length(&source.code[index..], column);
        if lines > FUNCTION_LINES_MAX {
            let rule = format!("fn {name} has {lines} lines: at most {FUNCTION_LINES_MAX}");
            findings.push(Finding::new(&source.path, index + 1, rule));
        }
    }
    findings
}

/// The name of the function that `line` begins, and where its name ends.
fn function_in(line: &str) -> Option<(&str, usize)> {
    let start = match line.find("fn ")? {
        0 => 0,
        at if line[..at].ends_with(is_word) => return None,
        at => at,
    };
    let name = line[start + 3..].split(|c: char| !is_word(c)).next()?;
    (!name.is_empty()).then_some((name, start + 3 + name.len()))
}

/// Lines of the function whose name ends at `column` of the first line; a mere declaration ends at
/// its `;`.
fn length(code: &[String], column: usize) -> usize {
    let mut braces = 0_usize;
    // Inside these, a `;` is part of an array's type.
    let mut brackets = 0_usize;
    for (index, line) in code.iter().enumerate() {
        let from = if index == 0 { column } else { 0 };
        for c in line[from..].chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 {
                        return index + 1;
                    }
                }
                ';' if braces == 0 && brackets == 0 => return index + 1,
                _ => {}
            }
        }
    }
    code.len()
}
