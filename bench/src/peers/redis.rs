//! `headcount-bench redis`: Redis, with its append-only file synced at every write or every second.
//!
//! Invariant: at the end of a run every item is in exactly one set, and the counts equal the sizes
//! of the sets.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::load::{Items, Tally, Window};
use super::resp::{Connection, Reply, fault};
use super::{Daemon, POLL, START_LIMIT, free_port, make_empty, output, remove};
use crate::error::BenchError;

/// The script that counts whole batches.
const SCRIPT: &str = include_str!("../../peers/redis.lua");

/// The script that counts the single items of redis-benchmark.
const SCRIPT_ONE: &str = include_str!("../../peers/redis-one.lua");

/// Sums the sizes of all sets.
const SUM_OF_SETS: &str = "local n = 0 for _, k in ipairs(redis.call('KEYS', 'items:*')) do \
                           n = n + redis.call('SCARD', k) end return n";

/// Sums the counts.
const SUM_OF_COUNTS: &str = "local n = 0 for _, v in ipairs(redis.call('HVALS', 'counts')) do \
                             n = n + tonumber(v) end return n";

/// Number of redis-benchmark requests that only determine how many requests fill the measurement.
const PILOT_REQUESTS: u64 = 20_000;

/// Range of random ids. redis-benchmark stores it in an `int`.
const RANGE: &str = "2000000000";

/// When a write is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fsync {
    /// Before the response
    Always,
    /// Within about a second: a weaker guarantee
    Everysec,
}

/// How items are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// One script call per request, with counts
    Script,
    /// One SADD per tenant of a request, as one transaction; the size of the set is the count
    Plain,
}

/// The client that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// The client of this program
    Own,
    /// redis-benchmark, single items by script only
    Benchmark,
}

/// What to send to which Redis.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for its files; emptied first, removed at the end
    #[arg(long)]
    dir: PathBuf,
    /// When a write is synced
    #[arg(long, value_enum, default_value = "always")]
    fsync: Fsync,
    /// How items are counted
    #[arg(long, value_enum, default_value = "script")]
    form: Form,
    /// The client that sends
    #[arg(long, value_enum, default_value = "own")]
    client: Client,
    /// Number of connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Items per request
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Number of tenants
    #[arg(long, default_value_t = 1000)]
    tenants: u64,
    /// Duration of the measurement in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Duration of the warm-up in seconds
    #[arg(long, default_value_t = 1)]
    warmup_s: u64,
}

/// Starts Redis, puts load on it, checks it and stops it.
///
/// # Errors
/// It fails, or its counts are wrong.
pub fn run(options: &Options) -> Result<(), BenchError> {
    make_empty(&options.dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|why| BenchError::io("start the runtime", why))?;
    let port = free_port()?;
    let mut daemon = start(options, port)?;
    let result = runtime.block_on(async {
        wait_until_ready(&mut daemon, port).await?;
        match options.client {
            Client::Own => own(options, port).await,
            Client::Benchmark => benchmark(options, port).await,
        }
    })?;
    drop(daemon);
    remove(&options.dir)?;
    crate::print(&result)
}

fn start(options: &Options, port: u16) -> Result<Daemon, BenchError> {
    let fsync = match options.fsync {
        Fsync::Always => "always",
        Fsync::Everysec => "everysec",
    };
    let log = options.dir.join("redis.log");
    let log = File::create(&log).map_err(|why| BenchError::io("make the log of Redis", why))?;
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "yes", "--appendfsync", fsync])
        // No rewrite of the append-only file during a run.
        .args(["--auto-aof-rewrite-percentage", "0"])
        .arg("--dir")
        .arg(&options.dir)
        .stdin(Stdio::null())
        .stdout(log);
    Daemon::start("redis-server", &mut command, Signal::TERM)
}

async fn wait_until_ready(daemon: &mut Daemon, port: u16) -> Result<(), BenchError> {
    let started = Instant::now();
    loop {
        if let Ok(mut connection) = Connection::open(port).await
            && matches!(connection.call(&["PING"]).await, Ok(Reply::Text(text)) if text == "PONG")
        {
            return Ok(());
        }
        if daemon.has_ended() || started.elapsed() > START_LIMIT {
            return Err(fault("it did not start".to_owned()));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn load_script(connection: &mut Connection, script: &str) -> Result<String, BenchError> {
    match connection.call(&["SCRIPT", "LOAD", script]).await? {
        Reply::Text(name) => Ok(name),
        Reply::Number(_) => Err(fault("it did not take the script".to_owned())),
    }
}

async fn own(options: &Options, port: u16) -> Result<Value, BenchError> {
    let mut control = Connection::open(port).await?;
    let script = load_script(&mut control, SCRIPT).await?;
    let window = Window::new(Duration::from_secs(options.warmup_s), options.seconds);
    let mut tasks = JoinSet::new();
    for index in 0..options.connections {
        let connection = Connection::open(port).await?;
        let items = Items::new(index, options.tenants);
        let (form, batch, script) = (options.form, options.batch, script.clone());
        tasks.spawn(async move { connection.load(form, &script, items, batch, window).await });
    }
    let mut all = Tally::new()?;
    while let Some(ended) = tasks.join_next().await {
        all.add(&ended.map_err(|why| fault(why.to_string()))??);
    }
    let stored = control.number(&["EVAL", SUM_OF_SETS, "0"]).await?;
    let counted = match options.form {
        Form::Script => control.number(&["EVAL", SUM_OF_COUNTS, "0"]).await?,
        Form::Plain => all.new,
    };
    if stored != all.sent || counted != all.sent {
        let detail = format!("{stored} in sets, {counted} counted, {} sent", all.sent);
        return Err(BenchError::WrongCount(detail));
    }
    Ok(all.to_json(window.seconds()))
}

async fn benchmark(options: &Options, port: u16) -> Result<Value, BenchError> {
    let mut control = Connection::open(port).await?;
    let script = load_script(&mut control, SCRIPT_ONE).await?;
    let send = |requests: u64| -> Result<Vec<f64>, BenchError> {
        let mut command = Command::new("redis-benchmark");
        command
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-r", RANGE])
            .args(["-c", &options.connections.to_string()])
            .args(["-n", &requests.to_string(), "--csv"])
            .args(["EVALSHA", &script, "0", "__rand_int__"]);
        parse_csv(&output("redis-benchmark", &mut command)?)
    };
    let rate = |row: &[f64]| row.first().copied().unwrap_or(0.0);
    let pilot = rate(&send(PILOT_REQUESTS)?);
    let requests = (pilot * options.seconds) as u64 + 1;
    let row = send(requests)?;
    let stored = control.number(&["EVAL", SUM_OF_SETS, "0"]).await?;
    let counted = control.number(&["EVAL", SUM_OF_COUNTS, "0"]).await?;
    if stored != counted || stored > requests + PILOT_REQUESTS {
        let detail = format!("{stored} in sets, {counted} counted");
        return Err(BenchError::WrongCount(detail));
    }
    let us = |at: usize| row.get(at).map(|ms| ms * 1000.0);
    Ok(json!({
        "version": 1,
        "seconds": requests as f64 / rate(&row),
        "requests": requests,
        "items": requests,
        "distinct": stored,
        "requests_per_s": rate(&row),
        "items_per_s": rate(&row),
        "latency_us": {"mean": us(1), "p50": us(3), "p99": us(5), "max": us(6)},
        "checked": true,
    }))
}

/// The numbers in the last line: rate, then mean, minimum, p50, p95, p99 and maximum latency in ms.
fn parse_csv(text: &str) -> Result<Vec<f64>, BenchError> {
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    let fields = line.unwrap_or_default().split("\",\"").skip(1);
    let numbers: Result<Vec<f64>, _> = fields
        .map(|field| field.trim_matches(['"', ' ']).parse())
        .collect();
    match numbers {
        Ok(numbers) if numbers.len() >= 7 => Ok(numbers),
        _ => Err(fault(format!("redis-benchmark printed {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_redis_benchmark_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                    \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"EVALSHA a 0 __rand_int__\",\"25000.50\",\"1.5\",\"0.1\",\"1.4\",\"2.0\",\
                    \"3.0\",\"9.0\"\n";
        let row = parse_csv(text).expect("a table");
        assert_eq!(row, [25000.5, 1.5, 0.1, 1.4, 2.0, 3.0, 9.0]);
        assert!(parse_csv("").is_err());
    }
}
