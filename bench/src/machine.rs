//! What the system says of this process and its files; latencies as JSON.
//!
//! Invariant: a number that the system doesn't tell is 0, and no measurement fails for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::error::BenchError;

/// Bytes of a block as `stat` counts them.
const STAT_BLOCK_BYTES: u64 = 512;

/// Significant digits of latencies.
const LATENCY_DIGITS: u8 = 3;

/// A line of this process's `/proc/self/status` in bytes, such as `VmRSS`.
pub fn status_bytes(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes that the files below `folder` take on disk.
pub fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) => data.blocks() * STAT_BLOCK_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// An empty record of latencies in microseconds.
pub fn latencies() -> Result<Histogram<u64>, BenchError> {
    let latencies = Histogram::new(LATENCY_DIGITS);
    let mut latencies = latencies.map_err(|why| BenchError::Start(why.to_string()))?;
    // No bound: the longest stall is what one looks for.
    latencies.auto(true);
    Ok(latencies)
}

/// Notes one latency.
pub fn note(latencies: &mut Histogram<u64>, took: Duration) {
    // One that grows takes every value.
    let _ = latencies.record(took.as_micros() as u64);
}

/// Latencies in microseconds as they stand in results; none is null.
pub fn latency_json(latencies: &Histogram<u64>) -> Value {
    if latencies.is_empty() {
        return Value::Null;
    }
    json!({
        "mean": latencies.mean(),
        "p50": latencies.value_at_quantile(0.5),
        "p90": latencies.value_at_quantile(0.9),
        "p99": latencies.value_at_quantile(0.99),
        "p999": latencies.value_at_quantile(0.999),
        "max": latencies.max(),
        "count": latencies.len(),
    })
}
