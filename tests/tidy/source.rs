//! A Rust file as the rules see it: each line's code without comments and texts, and whether it is
//! test code.
//!
//! Invariant: lines keep their numbers, and characters their columns.

/// One file.
#[derive(Debug)]
pub struct Source {
    /// Below the root, with slashes.
    pub path: String,
    /// As they are in the file.
    pub raw: Vec<String>,
    /// The same with comments and the insides of literals made spaces.
    pub code: Vec<String>,
    /// Which lines belong to an item under `#[cfg(test)]`.
    test: Vec<bool>,
}

impl Source {
    /// Reads `text`; whatever it holds, rustc has the last word on what is Rust.
    pub fn parse(path: &str, text: &str) -> Self {
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let test = test_lines(&code);
        Self {
            path: path.to_owned(),
            raw: text.lines().map(str::to_owned).collect(),
            code,
            test,
        }
    }

    /// Numbers (from 1) and code of the lines that are not test code.
    pub fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.test).enumerate();
        lines
            .filter(|(_, (_, test))| !**test)
            .map(|(index, (code, _))| (index + 1, code.as_str()))
    }

    /// Makes all of it test code.
    pub fn mark_all_test(&mut self) {
        self.test.fill(true);
    }

    /// The module that the file is: `src/log/amqp/mod.rs` is `log`, `amqp`; the root of a crate is
    /// nothing.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        let root = module.len() == 1 && ["lib", "main"].contains(&module[0].as_str());
        if root || module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        module
    }

    /// The modules that it declares, out of line, under `#[cfg(test)]`.
    pub fn test_modules(&self) -> Vec<Vec<String>> {
        let mut modules = Vec::new();
        for (index, code) in self
            .code
            .iter()
            .enumerate()
            .filter(|(index, _)| self.test[*index])
        {
            if let Some((_, name)) = code
                .trim()
                .strip_suffix(';')
                .and_then(|code| code.rsplit_once("mod "))
            {
                let mut module = self.module();
                module.push(name.trim().to_owned());
                modules.push(module);
            }
            let named = self.raw[index].trim().strip_prefix("#[path = \"");
            if let Some(file) = named.and_then(|rest| rest.strip_suffix("\"]")) {
                let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                modules.push(Self::parse(&format!("{folder}/{file}"), "").module());
            }
        }
        modules
    }
}

/// Where the reader is.
enum At {
    Code,
    LineComment,
    /// How deep: they nest.
    BlockComment(usize),
    Text,
    /// How many `#` end it.
    RawText(usize),
}

/// `text` with comments and the insides of texts and characters made spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = At::Code;
    let mut index = 0;
    while index < chars.len() {
        let (next, length) = step(&at, &chars, index, &mut out);
        index += length;
        at = next;
    }
    out
}

/// Reads one token at `index` into `out`: the state after it, and its length.
fn step(at: &At, chars: &[char], index: usize, out: &mut String) -> (At, usize) {
    let here = chars[index];
    let next = chars.get(index + 1).copied().unwrap_or('\n');
    match at {
        At::Code => code_step(chars, index, out),
        At::LineComment if here == '\n' => keep(out, here, At::Code),
        At::LineComment => hide(out, here, 1, At::LineComment),
        At::BlockComment(depth) if here == '/' && next == '*' => {
            hide(out, here, 2, At::BlockComment(depth + 1))
        }
        At::BlockComment(1) if here == '*' && next == '/' => hide(out, here, 2, At::Code),
        At::BlockComment(depth) if here == '*' && next == '/' => {
            hide(out, here, 2, At::BlockComment(depth - 1))
        }
        At::BlockComment(depth) => hide(out, here, 1, At::BlockComment(*depth)),
        At::Text if here == '\\' => {
            // A line break that is escaped keeps its line.
            hide(out, ' ', 1, At::Text);
            let (state, _) = hide(out, next, 1, At::Text);
            (state, 2)
        }
        At::Text if here == '"' => keep(out, here, At::Code),
        At::Text => hide(out, here, 1, At::Text),
        At::RawText(hashes) => {
            let ends = here == '"'
                && chars[index + 1..].iter().take_while(|c| **c == '#').count() >= *hashes;
            if ends {
                out.push('"');
                hide(out, ' ', *hashes, At::Code);
                (At::Code, hashes + 1)
            } else {
                hide(out, here, 1, At::RawText(*hashes))
            }
        }
    }
}

fn code_step(chars: &[char], index: usize, out: &mut String) -> (At, usize) {
    let here = chars[index];
    let next = chars.get(index + 1).copied().unwrap_or('\n');
    let in_word = index > 0 && is_word(chars[index - 1]) && !matches!(chars[index - 1], 'b' | 'c');
    match here {
        '/' if next == '/' => hide(out, here, 2, At::LineComment),
        '/' if next == '*' => hide(out, here, 2, At::BlockComment(1)),
        '"' => keep(out, here, At::Text),
        'r' if !in_word && matches!(next, '"' | '#') => {
            let hashes = chars[index + 1..].iter().take_while(|c| **c == '#').count();
            if chars.get(index + 1 + hashes) == Some(&'"') {
                hide(out, ' ', hashes + 1, At::Code);
                out.push('"');
                (At::RawText(hashes), hashes + 2)
            } else {
                // A raw identifier.
                keep(out, here, At::Code)
            }
        }
        '\'' => match char_literal(chars, index) {
            Some(length) => hide(out, ' ', length, At::Code),
            None => keep(out, here, At::Code),
        },
        _ => keep(out, here, At::Code),
    }
}

/// The length of the character literal at `index`; none when it is a lifetime.
fn char_literal(chars: &[char], index: usize) -> Option<usize> {
    if chars.get(index + 1) == Some(&'\\') {
        // The escaped character may itself be a quote.
        let close = chars.get(index + 3..)?.iter().position(|c| *c == '\'')?;
        return Some(close + 4);
    }
    (chars.get(index + 2) == Some(&'\'')).then_some(3)
}

fn keep(out: &mut String, c: char, next: At) -> (At, usize) {
    out.push(c);
    (next, 1)
}

fn hide(out: &mut String, c: char, length: usize, next: At) -> (At, usize) {
    for _ in 0..length {
        out.push(if c == '\n' { '\n' } else { ' ' });
    }
    (next, length)
}

/// Whether `c` can be part of a name.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Which lines belong to items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    if code.iter().any(|line| line.trim() == "#![cfg(test)]") {
        test.fill(true);
    }
    for first in 0..code.len() {
        let line = code[first].trim_start();
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,") {
            let last = item_end(code, first);
            test[first..=last].fill(true);
        }
    }
    test
}

/// The last line of the item whose attribute is at `first`.
fn item_end(code: &[String], first: usize) -> usize {
    let mut depth = 0_usize;
    for (number, line) in code.iter().enumerate().skip(first) {
        for c in line.chars() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && c == '}' {
                        return number;
                    }
                }
                ';' if depth == 0 => return number,
                _ => {}
            }
        }
        // A field or a variant.
        if depth == 0 && line.ends_with(',') {
            return number;
        }
    }
    code.len() - 1
}
