//! Load on our own servers and the no-op, by `headcount bench`; work for the other contenders.
//!
//! Invariant: the same work has the same items per request, connections and tenants, whoever does
//! it.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::processes::{Service, Tools, remove};

/// Tenants that single items and bodies of 1000 are spread over.
const TENANTS: u32 = 1000;

/// Before anything is measured, in seconds.
const WARMUP_S: f64 = 1.0;

/// The longest that a measurement may take beyond its seconds: starting, checking, settling.
const LIMIT: Duration = Duration::from_secs(120);

/// The longest run of an engine.
const ENGINE_LIMIT: Duration = Duration::from_secs(3600);

/// Before readers begin, so that there is something to read.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Requests with items, and how many connections send them.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Connections.
    pub connections: u32,
    /// Items in a request.
    pub batch: u32,
}

/// A server to put load on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `headcount serve`.
    Headcount,
    /// The server that does nothing.
    NoOp,
    /// Our path over the store in memory.
    Memory,
}

impl Target {
    fn start(self, tools: &Tools) -> Result<Service, String> {
        let folder = tools.folder("server")?;
        let command = match self {
            Self::Headcount => {
                let mut command = Command::new(&tools.headcount);
                command
                    .args([
                        "serve",
                        "--listen",
                        "127.0.0.1:0",
                        "--log",
                        "warn",
                        "--data-dir",
                    ])
                    .arg(folder.join("data"));
                command
            }
            Self::NoOp | Self::Memory => {
                let mut command = Command::new(&tools.contenders);
                command.arg("ceiling");
                if self == Self::Memory {
                    command.arg("--memory-store");
                }
                command
            }
        };
        Service::start(tools, command, folder)
    }
}

/// Posts to a fresh `target`.
///
/// # Errors
/// When it doesn't start, or counts wrong.
pub fn posts(tools: &Tools, target: Target, shape: Shape) -> Result<Value, String> {
    let service = target.start(tools)?;
    let mut command = items(tools, &service.url, shape, tools.seconds);
    if target == Target::NoOp {
        command.args(["--check", "false"]);
    }
    let result = tools.result(&mut command, limit(tools))?;
    service.stop()?;
    Ok(result)
}

/// Posts to a running coordinator; `settle` waits until all counters have everything.
///
/// # Errors
/// When it counts wrong.
pub fn posts_to(tools: &Tools, url: &str, shape: Shape, settle: bool) -> Result<Value, String> {
    let mut command = items(tools, url, shape, tools.seconds);
    if settle {
        command.arg("--settle");
    }
    tools.result(&mut command, limit(tools))
}

/// Reads from a fresh `target`, while items are posted at `rate` if there is one.
///
/// # Errors
/// When it doesn't start, or counts wrong.
pub fn reads(tools: &Tools, target: Target, rate: Option<f64>) -> Result<Value, String> {
    let service = target.start(tools)?;
    let result = reads_from(tools, &service.url, rate)?;
    service.stop()?;
    Ok(result)
}

/// Reads from a running coordinator, as [`reads`] does.
///
/// # Errors
/// When it counts wrong.
pub fn reads_from(tools: &Tools, url: &str, rate: Option<f64>) -> Result<Value, String> {
    let one = Shape {
        connections: 64,
        batch: 1,
    };
    let prefix = format!("reads-{}", std::process::id());
    let writer = rate.map(|rate| {
        // Longer than the readers, who come later.
        let mut command = items(tools, url, one, tools.seconds + 2.0 * WARMUP_S);
        command
            .args(["--rate", &format!("{rate:.0}"), "--prefix", &prefix])
            .args(["--check", "false"]);
        tools.spawn(&mut command)
    });
    let writer = writer.transpose()?;
    if writer.is_some() {
        thread::sleep(READ_PAUSE);
    }
    let mut command = bench(tools, url, one.connections);
    command
        .args(["--work", "counts", "--prefix", &prefix, "--check", "false"])
        .args(["--duration-s", &tools.seconds.to_string()]);
    let mut result = tools.result(&mut command, limit(tools))?;
    if let Some(writer) = writer {
        let written = tools.wait(writer, limit(tools))?;
        if let Some(result) = result.as_object_mut() {
            result.insert("written".to_owned(), written);
        }
    }
    Ok(result)
}

/// Runs Redis or PostgreSQL with these options of its own.
///
/// # Errors
/// When it is missing, fails, or counts wrong.
pub fn peer(tools: &Tools, name: &str, options: &[&str], shape: Shape) -> Result<Value, String> {
    let folder = tools.scratch.join(name);
    let mut command = Command::new(&tools.contenders);
    command
        .args([name, "--dir"])
        .arg(&folder)
        .args(options)
        .args(["--connections", &shape.connections.to_string()])
        .args(["--batch", &shape.batch.to_string()])
        .args(["--tenants", &TENANTS.to_string()])
        .args(["--seconds", &tools.seconds.to_string()]);
    tools.result(&mut command, limit(tools))
}

/// Drives a store by itself; `options` may override the usual ones.
///
/// # Errors
/// When it fails, or counts wrong.
pub fn engine(tools: &Tools, options: &[&str]) -> Result<Value, String> {
    let folder = tools.scratch.join("engine");
    let mut command = Command::new(&tools.contenders);
    command.args(["engine", "--dir"]).arg(&folder).args(options);
    let result = tools.result(&mut command, ENGINE_LIMIT)?;
    if !options.contains(&"--kill-after") {
        remove(&folder)?;
    }
    Ok(result)
}

/// Opens what an engine left that was killed.
///
/// # Errors
/// When it can't be opened.
pub fn open(tools: &Tools, options: &[&str]) -> Result<Value, String> {
    let folder = tools.scratch.join("engine");
    let mut command = Command::new(&tools.contenders);
    command.args(["open", "--dir"]).arg(&folder).args(options);
    let result = tools.result(&mut command, LIMIT)?;
    remove(&folder)?;
    Ok(result)
}

fn items(tools: &Tools, url: &str, shape: Shape, seconds: f64) -> Command {
    let mut command = bench(tools, url, shape.connections);
    command
        .args(["--work", "items"])
        .args(["--items-per-request", &shape.batch.to_string()])
        .args(["--duration-s", &seconds.to_string()]);
    command
}

fn bench(tools: &Tools, url: &str, connections: u32) -> Command {
    let mut command = Command::new(&tools.headcount);
    command
        .args(["bench", "--json", "--url", url])
        .args(["--connections", &connections.to_string()])
        .args(["--tenants", &TENANTS.to_string()])
        .args(["--warmup-s", &WARMUP_S.to_string()]);
    command
}

fn limit(tools: &Tools) -> Duration {
    LIMIT + Duration::from_secs_f64(tools.seconds)
}
