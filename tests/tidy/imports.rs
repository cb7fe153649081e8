//! Which module may know which: the house map's table.
//!
//! Invariant: every path into our own crate is looked up, in `use` trees and inline, by `crate::`
//! or `super::`; a module that is not in the table is refused until it is. Test code may know
//! anything.

use crate::Finding;
use crate::source::{Source, is_word};

/// Each module with those that it may import; all may import themselves and what is [for
/// all](FOR_ALL).
const TABLE: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("clock", &[]),
    ("socket", &[]),
    ("telemetry", &[]),
    ("supervisor", &[]),
    ("store", &["model"]),
    ("log", &["model"]),
    ("counter", &["model", "log", "store"]),
    ("coordinator", &["model", "log", "counter"]),
    ("http", &["model", "coordinator", "counter"]),
    ("client", &["model", "counter"]),
    ("config", &["model"]),
    ("cli", &["model", "store", "client", "config", "node"]),
    ("node", EVERYTHING),
];

/// What every module may import.
const FOR_ALL: [&str; 4] = ["clock", "socket", "supervisor", "telemetry"];

/// What the composition root may import, and main.
const EVERYTHING: &[&str] = &[
    "model",
    "clock",
    "socket",
    "telemetry",
    "supervisor",
    "store",
    "log",
    "counter",
    "coordinator",
    "http",
    "client",
    "config",
    "cli",
    "node",
];

/// Parts of a module that only the listed modules, and the module itself, may name; others use the
/// contract.
const PARTS: [(&str, &str, &[&str]); 7] = [
    ("log", "local", &["node"]),
    ("log", "amqp", &["node"]),
    ("store", "memory", &["node", "cli"]),
    ("store", "disk", &["node", "cli"]),
    ("counter", "step", &["node"]),
    ("counter", "catch_up", &["node"]),
    ("counter", "task", &["node"]),
];

/// Two implementations of one contract that don't know each other.
const STRANGERS: [(&str, &str, &str); 2] = [("log", "local", "amqp"), ("log", "amqp", "local")];

/// How the names of limits end: what config may take from every module but node and cli.
const LIMITS_SUFFIXES: [&str; 2] = ["Limits", "Options"];

/// Findings in the imports of a file of `src`.
pub fn check(source: &Source) -> Vec<Finding> {
    let module = source.module();
    paths(source, &module)
        .into_iter()
        .filter_map(|(line, path)| {
            let rule = refusal(&module, &path)?;
            Some(Finding::new(&source.path, line, rule))
        })
        .collect()
}

/// Why `module` may not name `path`; none when it may.
fn refusal(module: &[String], path: &[String]) -> Option<String> {
    let to = path.first()?.as_str();
    let named = path.join("::");
    if !EVERYTHING.contains(&to) {
        return Some(format!("crate::{named}: `{to}` is not on the house map"));
    }
    let Some(from) = module.first() else {
        // lib.rs and main.rs.
        return None;
    };
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| name == from) else {
        return Some(format!("module `{from}` is not on the house map"));
    };
    if from == to {
        let strangers = |(inside, one, other): &(&str, &str, &str)| {
            from == inside && module.get(1).is_some_and(|name| name == one) && names(path, other)
        };
        let met = STRANGERS.iter().any(strangers);
        return met.then(|| format!("crate::{named}: `local` and `amqp` don't know each other"));
    }
    if FOR_ALL.contains(&to) {
        return None;
    }
    let is_limits = path
        .iter()
        .any(|name| LIMITS_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
    if from == "config" && is_limits && to != "node" && to != "cli" {
        return None;
    }
    if !allowed.contains(&to) {
        return Some(format!("crate::{named}: `{from}` may not import `{to}`"));
    }
    let (_, part, _) = PARTS.iter().find(|(of, part, friends)| {
        to == *of && names(path, part) && !friends.contains(&from.as_str())
    })?;
    Some(format!(
        "crate::{named}: `{from}` may know the contract of `{to}`, not its `{part}`"
    ))
}

/// Whether `path` goes through the part `part` of its module.
fn names(path: &[String], part: &str) -> bool {
    path.get(1).is_some_and(|name| name == part)
}

/// Every path into our crate outside test code, from the crate's root, with its line.
fn paths(source: &Source, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut chars = Vec::new();
    for (number, line) in source.product() {
        chars.extend(line.chars().map(|c| (number, c)));
        chars.push((number, '\n'));
    }
    let mut reader = Reader { chars, at: 0 };
    let mut found = Vec::new();
    while reader.at < reader.chars.len() {
        if reader.inside_name() {
            reader.at += 1;
        } else if reader.skip("crate::") {
            reader.tree(&mut Vec::new(), &mut found);
        } else if reader.skip("super::") {
            let mut base = module.to_vec();
            base.pop();
            while reader.skip("super::") {
                base.pop();
            }
            reader.tree(&mut base, &mut found);
        } else {
            reader.at += 1;
        }
    }
    found
}

/// Reads paths and `use` trees; each character comes with its line.
struct Reader {
    chars: Vec<(usize, char)>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).map(|(_, c)| *c)
    }

    fn inside_name(&self) -> bool {
        // `::crate` can't be; a name or `super::` before it was read already.
        self.at > 0 && is_word(self.chars[self.at - 1].1)
    }

    fn skip(&mut self, text: &str) -> bool {
        let ahead = self.chars[self.at..].iter().map(|(_, c)| *c);
        let is_here = ahead.take(text.len()).eq(text.chars());
        if is_here {
            self.at += text.len();
        }
        is_here
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| is_word(*c)) {
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// Reads what follows `base::` and adds every path in it.
    fn tree(&mut self, base: &mut Vec<String>, found: &mut Vec<(usize, Vec<String>)>) {
        let line = self.chars.get(self.at).map_or(0, |(line, _)| *line);
        let depth = base.len();
        if self.skip("{") {
            loop {
                self.skip_space();
                if self.skip("}") || self.peek().is_none() {
                    break;
                }
                let before = self.at;
                self.tree(base, found);
                self.skip_alias();
                if self.at == before {
                    // A comma, or something that isn't a path.
                    self.at += 1;
                }
            }
        } else {
            let mut name = self.name();
            if name.is_empty() && self.skip("*") || name == "self" && depth == 0 {
                name = "*".to_owned();
            }
            let is_path = !name.is_empty();
            if is_path && name != "self" {
                base.push(name);
            }
            if self.skip("::") {
                self.tree(base, found);
            } else if is_path {
                found.push((line, base.clone()));
            }
        }
        base.truncate(depth);
    }

    /// Passes over ` as other`, so that `other` isn't taken for a path.
    fn skip_alias(&mut self) {
        let start = self.at;
        self.skip_space();
        if self.skip("as ") {
            self.name();
        } else {
            self.at = start;
        }
    }
}
