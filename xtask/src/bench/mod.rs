//! `cargo xtask bench`: every claim about speed, measured side by side on the machine it runs on.
//!
//! What is measured is in `plan` and `load`, by which processes in `processes`; what must be reached in `goals`. Pure
//! are `stats`, `goals`, `report` and `plot`.
//!
//! Invariant: nothing that was started outlives the command, and the report has only what the raw results have.

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
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::broker::free_ports;
use crate::cluster::{self, Cluster};
use crate::process;
use crate::workspace::Workspace;
use plan::{Context, Work};
use processes::Tools;
use results::Results;

/// The longest build.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The raw results, beside the report.
const RESULTS: &str = "results.json";

/// Counters of the cluster that most rows are about.
const COUNTERS: usize = 3;

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Options {
    /// Whether the runs of 100 M items are made too.
    pub full: bool,
    /// The rows to measure; none means all.
    pub rows: Vec<u8>,
    /// How often everything is measured.
    pub rounds: u32,
    /// How long each rate is measured.
    pub seconds: f64,
    /// Where the report goes.
    pub output: PathBuf,
    /// Whether the report is only written again from its raw results.
    pub render: bool,
}

/// Measures and reports.
///
/// # Errors
/// When something is missing, fails or counts wrong, and when it is told to stop. What was measured until then is
/// kept among the raw results.
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
    let tools = Tools {
        headcount: cluster::build(workspace)?,
        contenders: build(workspace)?,
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
    let outcome = measure(workspace, options, &tools, &mut results);
    results.seconds = started.elapsed().as_secs();
    let cleared = processes::remove(&tools.scratch);
    results.write(&raw)?;
    write_report(&results, &options.output)?;
    outcome.and(cleared)
}

/// All rounds of all works, those without a cluster first: its idle processes would cost them time.
fn measure(
    workspace: &Workspace,
    options: &Options,
    tools: &Tools,
    results: &mut Results,
) -> Result<(), String> {
    let wanted = |work: &Work| {
        options.rows.is_empty() || work.rows.iter().any(|row| options.rows.contains(row))
    };
    let chosen = |works: Vec<Work>| works.into_iter().filter(wanted).collect::<Vec<Work>>();
    rounds(
        options,
        tools,
        results,
        &chosen(plan::alone(options.full)),
        "",
    )?;
    let works = chosen(plan::through_rabbitmq());
    with_cluster(workspace, options, tools, results, &works, COUNTERS)?;
    rounds(
        options,
        tools,
        results,
        &chosen(plan::sweeps(options.full)),
        "",
    )?;
    for counters in plan::COUNTERS {
        let works = chosen(vec![plan::sweep_counters(counters)]);
        with_cluster(workspace, options, tools, results, &works, counters)?;
    }
    Ok(())
}

fn rounds(
    options: &Options,
    tools: &Tools,
    results: &mut Results,
    works: &[Work],
    url: &str,
) -> Result<(), String> {
    for round in 1..=options.rounds {
        for work in works.iter().filter(|work| round == 1 || !work.once) {
            tools.check_stop()?;
            let started = Instant::now();
            let context = Context {
                tools,
                results,
                url,
            };
            let result = (work.measure)(&context).map_err(|why| format!("{}: {why}", work.key))?;
            let rate = ["/settled_items_per_s", "/items_per_s", "/requests_per_s"]
                .into_iter()
                .find_map(|pointer| result.pointer(pointer)?.as_f64().filter(|rate| *rate > 0.0));
            println!(
                "round {round}: {:<30} {:>12.0}/s in {:.1} s",
                work.key,
                rate.unwrap_or(0.0),
                started.elapsed().as_secs_f64()
            );
            results.add(&work.key, round, result);
        }
    }
    Ok(())
}

fn with_cluster(
    workspace: &Workspace,
    options: &Options,
    tools: &Tools,
    results: &mut Results,
    works: &[Work],
    counters: usize,
) -> Result<(), String> {
    if works.is_empty() {
        return Ok(());
    }
    let [port] = free_ports().map_err(|why| format!("can't find a free port: {why}"))?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut cluster = Cluster::prepare(tools.scratch.join("cluster"), true, counters)?;
    let outcome = cluster
        .start(workspace, listen, &tools.headcount, &tools.stop)
        .and_then(|()| rounds(options, tools, results, works, &format!("http://{listen}")));
    outcome.and(cluster.stop())
}

/// Builds the contenders.
fn build(workspace: &Workspace) -> Result<PathBuf, String> {
    let target = workspace.bench_target();
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
        .arg(&target)
        .current_dir(workspace.root());
    process::run(&mut cargo, BUILD_LIMIT)?;
    Ok(target.join("release/headcount-bench"))
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

/// The command, for the report: what is not as usual.
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
