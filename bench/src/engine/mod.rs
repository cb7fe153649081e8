//! `headcount-bench engine`: the throughput of a store alone, without HTTP, hashing or a log.
//!
//! Invariant: every contender gets the same batches in the same order and makes each durable before
//! the next. Generating the batches is not measured.

mod contenders;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::machine::{disk_bytes, latencies, latency_json, note, status_bytes};
use contenders::{Contender, Fjall, Headcount};
use workload::{Batch, Workload};

/// Number of parts of a run with separate rates.
const PARTS: u64 = 10;

/// Kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// Headcount's own engine
    Headcount,
    /// The key-value store fjall
    Fjall,
}

/// What to do to which store.
#[derive(Debug, Args)]
pub struct Options {
    /// The store to drive
    #[arg(long, value_enum, default_value = "headcount")]
    store: StoreKind,
    /// Items to insert, including duplicates
    #[arg(long, default_value_t = 10_000_000)]
    items: u64,
    /// Number of tenants
    #[arg(long, default_value_t = 10_000)]
    tenants: u32,
    /// Fraction of items that repeat an earlier one
    #[arg(long, default_value_t = 0.05)]
    duplicates: f64,
    /// Items per batch, which is committed as one
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Directory of the store; emptied first
    #[arg(long)]
    dir: PathBuf,
    /// Memory of the store in MiB, as in `headcount serve --memory-mb`
    #[arg(long, default_value_t = 64)]
    memory_mb: usize,
    /// Stop after this many measured seconds, regardless of the number of items
    #[arg(long)]
    seconds_max: Option<u64>,
    /// End with SIGKILL once the result is printed, so that the directory is as after a crash
    #[arg(long)]
    kill_after: bool,
}

/// A directory to open.
#[derive(Debug, Args)]
pub struct OpenOptions {
    /// The store that created it
    #[arg(long, value_enum, default_value = "headcount")]
    store: StoreKind,
    /// The directory
    #[arg(long)]
    dir: PathBuf,
    /// Number of tenants that it was created with
    #[arg(long, default_value_t = 10_000)]
    tenants: u32,
    /// Memory of the store
    #[arg(long, default_value_t = 64)]
    memory_mb: usize,
}

/// Creates a store, drives it, checks it and prints the measurements.
///
/// # Errors
/// The store fails, or its counts are wrong.
pub fn run(options: &Options) -> Result<(), BenchError> {
    if options.dir.exists() {
        fs::remove_dir_all(&options.dir)
            .map_err(|why| BenchError::io(format!("empty {}", options.dir.display()), why))?;
    }
    let memory_bytes = options.memory_mb << 20;
    match options.store {
        StoreKind::Headcount => drive(
            Headcount::open(&options.dir, options.tenants, memory_bytes)?,
            options,
        ),
        StoreKind::Fjall => drive(
            Fjall::open(&options.dir, options.tenants, memory_bytes)?,
            options,
        ),
    }
}

/// Opens a store and prints how long that took.
///
/// # Errors
/// It can't be opened.
pub fn open(options: &OpenOptions) -> Result<(), BenchError> {
    let started = Instant::now();
    let memory_bytes = options.memory_mb << 20;
    let tenants = options.tenants;
    let (took, items) = match options.store {
        StoreKind::Headcount => {
            let store = Headcount::open(&options.dir, tenants, memory_bytes)?;
            (started.elapsed(), store.counts()?.iter().sum::<u64>())
        }
        StoreKind::Fjall => {
            let store = Fjall::open(&options.dir, tenants, memory_bytes)?;
            (started.elapsed(), store.counts()?.iter().sum::<u64>())
        }
    };
    crate::print(&json!({
        "version": 1,
        "open_seconds": took.as_secs_f64(),
        "items": items,
        "rss_bytes": status_bytes("VmRSS"),
    }))
}

/// The measurements of a run.
struct Measured {
    items: u64,
    seconds: f64,
    part_rates: Vec<f64>,
    batch_us: Histogram<u64>,
    commit_us: Histogram<u64>,
    commit_merging_us: Histogram<u64>,
}

fn drive(mut store: impl Contender, options: &Options) -> Result<(), BenchError> {
    let mut work = Workload::new(options.tenants, options.duplicates);
    let started = Instant::now();
    let measured = insert_all(&mut store, &mut work, options)?;
    let wall_seconds = started.elapsed().as_secs_f64();
    let settling = Instant::now();
    store.settle()?;
    let settle_seconds = settling.elapsed().as_secs_f64();
    let counts = store.counts()?;
    if counts != work.expected() {
        let sum: u64 = counts.iter().sum();
        let detail = format!(
            "{sum} items in the store, {} distinct made",
            work.distinct()
        );
        return Err(BenchError::WrongCount(detail));
    }
    let disk = disk_bytes(&options.dir);
    let result = json!({
        "version": 1,
        "store": format!("{:?}", options.store).to_lowercase(),
        "items": measured.items,
        "items_asked": options.items,
        "distinct": work.distinct(),
        "tenants": options.tenants,
        "batch": options.batch,
        "seconds": measured.seconds,
        "wall_seconds": wall_seconds,
        "settle_seconds": settle_seconds,
        "items_per_s": measured.items as f64 / measured.seconds,
        "part_items_per_s": measured.part_rates,
        "batch_us": latency_json(&measured.batch_us),
        "commit_us": latency_json(&measured.commit_us),
        "commit_merging_us": latency_json(&measured.commit_merging_us),
        "rss_max_bytes": status_bytes("VmHWM"),
        "rss_bytes": status_bytes("VmRSS"),
        "disk_bytes": disk,
        "disk_bytes_per_id": disk as f64 / work.distinct().max(1) as f64,
        "checked": true,
    });
    finish(store, &result, options.kill_after)
}

fn insert_all(
    store: &mut impl Contender,
    work: &mut Workload,
    options: &Options,
) -> Result<Measured, BenchError> {
    let mut measured = Measured {
        items: 0,
        seconds: 0.0,
        part_rates: Vec::new(),
        batch_us: latencies()?,
        commit_us: latencies()?,
        commit_merging_us: latencies()?,
    };
    let limit = options.seconds_max.map(Duration::from_secs);
    let mut batch = Batch::default();
    let mut total = Duration::ZERO;
    let mut part = (0, Duration::ZERO);
    while measured.items < options.items {
        let left = options.items - measured.items;
        work.next_batch((options.batch as u64).min(left) as usize, &mut batch);
        store.prepare(&batch);
        let merging = store.is_merging();
        let started = Instant::now();
        let new = store.apply(&batch)?;
        let applied = Instant::now();
        store.commit()?;
        let ended = Instant::now();
        work.check(&batch, new)?;
        total += ended - started;
        note(&mut measured.batch_us, ended - started);
        note(&mut measured.commit_us, ended - applied);
        if merging {
            note(&mut measured.commit_merging_us, ended - applied);
        }
        measured.items += batch.len() as u64;
        let part_items = measured.items - part.0;
        if part_items >= options.items.div_ceil(PARTS) || measured.items == options.items {
            let rate = part_items as f64 / (total - part.1).as_secs_f64();
            measured.part_rates.push(rate);
            part = (measured.items, total);
        }
        if limit.is_some_and(|limit| total >= limit) {
            break;
        }
    }
    measured.seconds = total.as_secs_f64();
    Ok(measured)
}

fn finish(store: impl Contender, result: &Value, kill: bool) -> Result<(), BenchError> {
    crate::print(result)?;
    if kill {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL)
            .map_err(|why| BenchError::io("kill this process", why.into()))?;
    }
    drop(store);
    Ok(())
}
