//! `cargo xtask bench`: measures every claim about speed, side by side on the machine on which it
//! runs.
//!
//! `plan` and `load` define what is measured, `processes` the measured processes, and `goals` the
//! goals. `stats`, `goals`, `report` and `plot` are pure.
//!
//! Invariant: no started process outlives the command, and the report contains only data from the
//! raw results.

mod goals;
mod load;
mod machine;
mod plan;
mod plot;
mod processes;
mod report;
mod results;
mod stats;

use std::fs;
use std::iter;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::broker::free_ports;
use crate::cluster::Cluster;
use crate::process;
use crate::tools::{Tool, Toolbox};
use crate::workspace::Workspace;
use plan::{Context, Work};
use processes::Tools;
use results::Results;

/// Timeout of a build.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// File name of the raw results, in the directory of the report.
const RESULTS: &str = "results.json";

/// Number of counters in the cluster of most rows.
const COUNTERS: usize = 3;

/// Options of the command line.
#[derive(Debug)]
pub struct Options {
    /// Whether to include the runs with 100 M items.
    pub full: bool,
    /// The rows to measure; empty means all.
    pub rows: Vec<u8>,
    /// Number of rounds.
    pub rounds: u32,
    /// Duration of each measurement of a rate.
    pub seconds: f64,
    /// Directory of the report.
    pub output: PathBuf,
    /// Whether missing tools may be installed.
    pub install: bool,
    /// Whether to build first.
    pub build: bool,
    /// Whether to only write the report again from its raw results.
    pub render: bool,
}

/// Measures everything and writes the report.
///
/// # Errors
/// Something is missing, fails or counts wrong, or a signal stops the command. The report contains
/// what was measured before.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), String> {
    let raw = options.output.join(RESULTS);
    if options.render {
        return write_report(&Results::read(&raw)?, &options.output);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|why| format!("can't wait for signals: {why}"))?;
    }
    Toolbox::prepare(workspace, &needed(&options.rows), options.install)?;
    if options.build {
        workspace.build("dist", "--bin", "headcount", BUILD_LIMIT)?;
        build(workspace)?;
    }
    let tools = Tools {
        headcount: workspace.dist_binary("headcount"),
        contenders: workspace.bench_target().join("release/headcount-bench"),
        scratch: workspace.scratch("bench"),
        seconds: options.seconds,
        stop,
    };
    fs::create_dir_all(&options.output)
        .map_err(|why| format!("can't make {}: {why}", options.output.display()))?;
    let commit = machine::commit(workspace);
    let mut results = Results::new(machine::describe(), commit, command_line(options));
    results.started = machine::now();
    let started = Instant::now();
    let mut session = Session {
        workspace,
        options,
        tools: &tools,
        results: &mut results,
        failures: Vec::new(),
    };
    let outcome = session.measure();
    let failures = session.failures;
    results.seconds = started.elapsed().as_secs();
    let cleared = processes::remove(&tools.scratch);
    results.write(&raw)?;
    write_report(&results, &options.output)?;
    outcome.and(cleared)?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

/// The tools that the works of `rows` need.
fn needed(rows: &[u8]) -> Vec<Tool> {
    let works = plan::all(true).into_iter().filter(|work| work.is_for(rows));
    iter::once(Tool::Cc)
        .chain(works.filter_map(|work| work.needs))
        .collect()
}

/// State of one run of the command.
struct Session<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    tools: &'a Tools,
    results: &'a mut Results,
    /// Errors of failed works; the other works continue.
    failures: Vec<String>,
}

impl Session<'_> {
    /// Runs all rounds of all works. Works without a cluster run first, because the idle processes
    /// of a cluster would cost them time.
    fn measure(&mut self) -> Result<(), String> {
        let full = self.options.full;
        self.rounds(&self.chosen(plan::alone(full)), "")?;
        self.with_cluster(&self.chosen(plan::through_rabbitmq()), COUNTERS)?;
        self.rounds(&self.chosen(plan::sweeps(full)), "")?;
        for counters in plan::COUNTERS {
            let works = self.chosen(vec![plan::sweep_counters(counters)]);
            self.with_cluster(&works, counters)?;
        }
        Ok(())
    }

    /// The works of the requested rows.
    fn chosen(&self, works: Vec<Work>) -> Vec<Work> {
        let rows = &self.options.rows;
        works.into_iter().filter(|work| work.is_for(rows)).collect()
    }

    fn rounds(&mut self, works: &[Work], url: &str) -> Result<(), String> {
        for round in 1..=self.options.rounds {
            for work in works.iter().filter(|work| round == 1 || !work.once) {
                self.tools.check_stop()?;
                // Writes back the data of the previous work, so that this one does not wait for it.
                let _ = process::output(&mut Command::new("sync"));
                let started = Instant::now();
                let context = Context {
                    tools: self.tools,
                    results: self.results,
                    url,
                };
                let measured = (work.measure)(&context);
                self.tools.check_stop()?;
                let took_s = started.elapsed().as_secs_f64();
                let head = format!("round {round}: {:<30}", work.key);
                match measured {
                    Ok(result) => {
                        println!("{head} {:>12.0}/s in {took_s:.1} s", rate_of(&result));
                        self.results.add(&work.key, round, result);
                    }
                    Err(why) => {
                        println!("{head} failed: {why}");
                        self.failures
                            .push(format!("{}, round {round}: {why}", work.key));
                    }
                }
            }
        }
        Ok(())
    }

    fn with_cluster(&mut self, works: &[Work], counters: usize) -> Result<(), String> {
        if works.is_empty() {
            return Ok(());
        }
        let [port] = free_ports().map_err(|why| format!("can't find a free port: {why}"))?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let base = self.tools.scratch.join("cluster");
        let mut cluster = Cluster::prepare(base, true, counters)?;
        let tools = self.tools;
        let outcome = match cluster.start(self.workspace, listen, &tools.headcount, &tools.stop) {
            Ok(()) => self.rounds(works, &format!("http://{listen}")),
            Err(why) => {
                self.failures.push(format!("{counters} counters: {why}"));
                tools.check_stop()
            }
        };
        outcome.and(cluster.stop())
    }
}

/// The main rate of a result.
fn rate_of(result: &Value) -> f64 {
    ["/settled_items_per_s", "/items_per_s", "/requests_per_s"]
        .into_iter()
        .filter_map(|pointer| result.pointer(pointer)?.as_f64())
        .find(|rate| *rate > 0.0)
        .unwrap_or(0.0)
}

/// Builds the contenders.
fn build(workspace: &Workspace) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--locked",
            "--release",
            "--manifest-path",
            "bench/Cargo.toml",
        ])
        .arg("--target-dir")
        .arg(workspace.bench_target())
        .current_dir(workspace.root());
    process::run(&mut cargo, BUILD_LIMIT)
}

fn write_report(results: &Results, output: &Path) -> Result<(), String> {
    let write = |name: &str, text: String| {
        let path = output.join(name);
        fs::write(&path, text).map_err(|why| format!("can't write {}: {why}", path.display()))
    };
    for (name, chart) in report::charts(results) {
        write(name, chart.svg())?;
    }
    write("RESULTS.md", report::markdown(results))?;
    println!("the report is {}", output.join("RESULTS.md").display());
    Ok(())
}

/// The command line for the report, with the options that differ from their defaults.
fn command_line(options: &Options) -> String {
    let mut line = "cargo xtask bench".to_owned();
    if options.full {
        line += " --full";
    }
    if !options.rows.is_empty() {
        let rows: Vec<String> = options.rows.iter().map(u8::to_string).collect();
        line += &format!(" --rows {}", rows.join(","));
    }
    line + &format!(" --rounds {} --seconds {}", options.rounds, options.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_rows_compare_with_is_needed() {
        let tools = [Tool::Cc, Tool::Redis, Tool::PostgreSql, Tool::RabbitMq];
        let needs = |rows: &[u8]| tools.map(|tool| needed(rows).contains(&tool));
        assert_eq!(needs(&[]), [true, true, true, true]);
        assert_eq!(needs(&[1, 3]), [true, false, false, false]);
        assert_eq!(needs(&[1, 5]), [true, true, true, false]);
        assert_eq!(needs(&[8]), [true, false, false, true]);
    }
}
