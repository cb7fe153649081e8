//! Load on Headcount's servers and the no-op server by `headcount bench`, and work for the other
//! contenders.
//!
//! Invariant: the same work has the same items per request, connections and tenants for every
//! contender.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::processes::{Service, Tools, remove};

/// Number of tenants for single items and for bodies of 1000 items.
const TENANTS: u32 = 1000;

/// Warm-up before a measurement in seconds.
const WARMUP_S: f64 = 1.0;

/// Maximum time of a measurement beyond its duration, for start, check and settling.
const LIMIT: Duration = Duration::from_secs(120);

/// Timeout of an engine run.
const ENGINE_LIMIT: Duration = Duration::from_secs(3600);

/// Delay before readers start, so that there are counts to read.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Shape of posts: connections and items per request.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of connections.
    pub connections: u32,
    /// Items per request.
    pub batch: u32,
}

/// A server under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `headcount serve`.
    Headcount,
    /// The no-op server.
    NoOp,
    /// Headcount's path over the in-memory store.
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

/// Posts to a newly started `target`.
///
/// # Errors
/// It doesn't start, or its counts are wrong.
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

/// Posts to a running coordinator. `settle` waits until all counters have committed everything.
///
/// # Errors
/// Its counts are wrong.
pub fn posts_to(tools: &Tools, url: &str, shape: Shape, settle: bool) -> Result<Value, String> {
    let mut command = items(tools, url, shape, tools.seconds);
    if settle {
        command.arg("--settle");
    }
    tools.result(&mut command, limit(tools))
}

/// Reads from a newly started `target`, while items are posted at `rate`, if given.
///
/// # Errors
/// It doesn't start, or its counts are wrong.
pub fn reads(tools: &Tools, target: Target, rate: Option<f64>) -> Result<Value, String> {
    let service = target.start(tools)?;
    let result = reads_from(tools, &service.url, rate)?;
    service.stop()?;
    Ok(result)
}

/// Reads from a running coordinator, like [`reads`].
///
/// # Errors
/// Its counts are wrong.
pub fn reads_from(tools: &Tools, url: &str, rate: Option<f64>) -> Result<Value, String> {
    let one = Shape {
        connections: 64,
        batch: 1,
    };
    let prefix = format!("reads-{}", std::process::id());
    let writer = rate.map(|rate| {
        // Runs longer than the readers, which start later.
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

/// Runs Redis or PostgreSQL with these options.
///
/// # Errors
/// It is missing, fails, or its counts are wrong.
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

/// Drives a store alone. `options` may override the defaults.
///
/// # Errors
/// It fails, or its counts are wrong.
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

/// Opens the store that a killed engine left.
///
/// # Errors
/// It can't be opened.
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
