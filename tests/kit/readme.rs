//! The README's commands, run as they are written there.
//!
//! Invariant: only the address and the tokens may differ.

use std::process::Command;

/// The shell blocks of the README that hold a curl, each with the answers shown below it as
/// comments.
fn curls() -> Vec<(String, String)> {
    let readme = include_str!("../../README.md");
    let mut found = Vec::new();
    let mut lines = readme.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("curl ") {
            let mut command = line.to_owned();
            while command.ends_with('\\') {
                command.pop();
                command.push_str(lines.next().unwrap_or_default());
            }
            if let Some(answer) = lines.peek().and_then(|next| next.strip_prefix("# ")) {
                found.push((command, answer.to_owned()));
            }
        }
    }
    found
}

/// Asserts that every curl of the README, sent to `url`, is answered as the README says. Only a
/// node that is `alone` knows what was new.
pub fn assert_answers(url: &str, alone: bool) {
    let curls = curls();
    assert!(curls.len() >= 2, "{curls:?}");
    for (command, expected) in curls {
        let command = command.replace("http://localhost:3000", url);
        let output = Command::new("sh")
            .args(["-c", &format!("{command} --silent")])
            .output();
        let output = output.expect("curl runs");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = match alone {
            true => expected,
            false => expected.replace("\"new\":1,", ""),
        };
        // Tokens differ from life to life.
        let shape = |text: &str| match text.split_once("\"token\":\"") {
            Some((before, rest)) => {
                let after = rest.split_once('"').map_or("", |(_, after)| after);
                format!("{before}\"token\":\"…\"{after}")
            }
            None => text.to_owned(),
        };
        assert_eq!(shape(&answer), shape(&expected), "{command}");
    }
}
