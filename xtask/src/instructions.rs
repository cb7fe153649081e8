//! The stage that counts the instructions of hot paths and compares them with a committed baseline.
//!
//! Invariant: only [`renew`] changes the baseline. A count that is further above or below the
//! baseline than allowed fails.
//!
//! The cases are in `benches/instructions.rs`. Measured times differ in each run; callgrind, which
//! simulates each instruction, returns the same count to within 1 % on every machine of one
//! architecture.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::workspace::Workspace;

/// Path of the baseline.
const BASELINE: &str = "benches/instructions.toml";

/// The command that renews the baseline.
const RENEW: &str = "cargo xtask instructions --renew";

/// Maximum deviation of a count from its baseline in percent.
const CHANGE_PERCENT_MAX: u64 = 5;

/// Timeout of the build: everything, optimized, on two busy cores.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Timeout of one case; the slowest takes three seconds.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// Instructions of one iteration, by name of the case.
type Counts = BTreeMap<String, u64>;

/// Counts the instructions and compares them with the baseline.
///
/// # Errors
/// A case deviates too much, or can't be counted.
pub fn compare(workspace: &Workspace) -> Result<(), String> {
    let path = workspace.root().join(BASELINE);
    let text =
        fs::read_to_string(&path).map_err(|why| format!("can't read {}: {why}", path.display()))?;
    let (architecture, baseline) = parse(&text)
        .ok_or_else(|| format!("{BASELINE} can't be parsed; renew it with `{RENEW}`"))?;
    if architecture != env::consts::ARCH {
        println!("the baseline is for {architecture}; nothing to compare on this architecture");
        return Ok(());
    }
    let now = count_all(workspace)?;
    println!("\n{}", table(&baseline, &now));
    match moved(&baseline, &now).as_slice() {
        [] => Ok(()),
        moved => Err(format!(
            "{} deviate by more than {CHANGE_PERCENT_MAX} %; if that is intended, run `{RENEW}` \
             and commit {BASELINE}",
            moved.join(", ")
        )),
    }
}

/// Counts the instructions and writes them as the new baseline.
///
/// # Errors
/// A case can't be counted, or the file can't be written.
pub fn renew(workspace: &Workspace) -> Result<(), String> {
    let path = workspace.root().join(BASELINE);
    // An unreadable baseline must not prevent its renewal.
    let before = fs::read_to_string(&path).ok().as_deref().and_then(parse);
    let before = before.map(|(_, counts)| counts).unwrap_or_default();
    let now = count_all(workspace)?;
    fs::write(&path, write(env::consts::ARCH, &now))
        .map_err(|why| format!("can't write {}: {why}", path.display()))?;
    println!("\n{}\nrenewed {BASELINE}", table(&before, &now));
    Ok(())
}

fn count_all(workspace: &Workspace) -> Result<Counts, String> {
    workspace.build("dist", "--example", "instructions", BUILD_LIMIT)?;
    let program = workspace.dist_example("instructions");
    let cases = process::output(&mut Command::new(&program))
        .ok_or_else(|| format!("{} does not name its cases", program.display()))?;
    let folder = workspace.scratch("instructions");
    fs::create_dir_all(&folder).map_err(|why| format!("can't make {}: {why}", folder.display()))?;
    let mut counts = Counts::new();
    for line in cases.lines() {
        let (name, iterations) = line
            .split_once(' ')
            .and_then(|(name, iterations)| Some((name, iterations.parse::<u64>().ok()?)))
            .ok_or_else(|| format!("not a case: {line}"))?;
        let total = count(&program, name, &folder.join(name))?;
        counts.insert(name.to_owned(), total / iterations.max(1));
    }
    Ok(counts)
}

/// The instructions of one case in all its iterations.
fn count(program: &Path, case: &str, out: &PathBuf) -> Result<u64, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["-q", "--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*instructions*counted*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(case);
    process::run(&mut valgrind, CASE_LIMIT)?;
    let profile =
        fs::read_to_string(out).map_err(|why| format!("can't read {}: {why}", out.display()))?;
    profile
        .lines()
        .find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok())
        .filter(|total| *total > 0)
        .ok_or_else(|| format!("callgrind counted no instructions of {case}"))
}

/// The deviation of `now` from `baseline` in percent.
fn change_percent(baseline: u64, now: u64) -> f64 {
    (now as f64 / baseline.max(1) as f64 - 1.0) * 100.0
}

/// The cases that deviate too much, and those that were added or removed.
fn moved(baseline: &Counts, now: &Counts) -> Vec<String> {
    let is_near = |name: &str, now: u64| {
        baseline
            .get(name)
            .is_some_and(|&before| before.abs_diff(now) * 100 <= before * CHANGE_PERCENT_MAX)
    };
    let far = now.iter().filter(|(name, now)| !is_near(name, **now));
    let gone = baseline.keys().filter(|name| !now.contains_key(*name));
    far.map(|(name, _)| name).chain(gone).cloned().collect()
}

fn table(baseline: &Counts, now: &Counts) -> String {
    let mut out = format!(
        "{:<24} {:>12} {:>12} {:>8}\n",
        "instructions of", "baseline", "now", "change"
    );
    let mut line = |name: &str, before: Option<u64>, now: Option<u64>| {
        let shown = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let change = match before.zip(now) {
            Some((before, now)) => format!("{:+.1} %", change_percent(before, now)),
            None => "-".to_owned(),
        };
        let (before, now) = (shown(before), shown(now));
        // Writing to a `String` can't fail.
        let _ = writeln!(out, "{name:<24} {before:>12} {now:>12} {change:>8}");
    };
    for (name, &count) in now {
        line(name, baseline.get(name).copied(), Some(count));
    }
    for (name, &before) in baseline.iter().filter(|(name, _)| !now.contains_key(*name)) {
        line(name, Some(before), None);
    }
    out
}

fn write(architecture: &str, counts: &Counts) -> String {
    let lines: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} = {count}\n"))
        .collect();
    format!(
        "# Instructions of one iteration of each case of benches/instructions.rs, as callgrind \
            counts them.\n\
         # A case that takes {CHANGE_PERCENT_MAX} % more or fewer fails `cargo xtask \
         instructions`. When that is meant, renew\n\
         # all of them by `{RENEW}`, and say in the commit why.\n\n\
         architecture = \"{architecture}\"\n\n[instructions]\n{}",
        lines.concat()
    )
}

/// Parses the architecture and the counts that [`write()`] wrote.
fn parse(text: &str) -> Option<(String, Counts)> {
    let mut architecture = None;
    let mut counts = Counts::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (name, value) = line.split_once(" = ")?;
        match name {
            "architecture" => architecture = Some(value.trim_matches('"').to_owned()),
            _ => {
                counts.insert(name.to_owned(), value.parse().ok()?);
            }
        }
    }
    Some((architecture?, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(each: &[(&str, u64)]) -> Counts {
        each.iter()
            .map(|&(name, count)| (name.to_owned(), count))
            .collect()
    }

    #[test]
    fn more_and_fewer_both_fail_and_so_do_new_and_old_cases() {
        let baseline = counts(&[("a", 1_000), ("b", 1_000), ("c", 1_000), ("d", 1_000)]);
        let now = counts(&[("a", 1_050), ("b", 1_051), ("c", 949), ("e", 1)]);
        assert_eq!(moved(&baseline, &now), ["b", "c", "e", "d"]);
        let table = table(&baseline, &now);
        for shown in ["a ", "+5.0 %", "+5.1 %", "-5.1 %", "d ", "e "] {
            assert!(table.contains(shown), "{shown} is not in\n{table}");
        }
        assert!(moved(&baseline, &baseline).is_empty());
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let written = counts(&[("parse_item", 3_483), ("unite", 139_797_979)]);
        let text = write("x86_64", &written);
        assert_eq!(parse(&text), Some(("x86_64".to_owned(), written)));
        assert_eq!(parse("a = many"), None);
        assert_eq!(parse("a = 1"), None, "of no architecture");
    }
}
