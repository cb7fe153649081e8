//! Statistics of this process and its files from the operating system, and latencies as JSON.
//!
//! Invariant: a number that the operating system does not report is 0; no measurement fails because
//! of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::error::BenchError;

/// Size of a block in `stat` in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

/// Significant digits of latencies.
const LATENCY_DIGITS: u8 = 3;

/// A field of this process's `/proc/self/status` in bytes, such as `VmRSS`.
pub fn status_bytes(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes that the files below `folder` occupy on disk.
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

/// An empty histogram of latencies in microseconds.
pub fn latencies() -> Result<Histogram<u64>, BenchError> {
    let latencies = Histogram::new(LATENCY_DIGITS);
    let mut latencies = latencies.map_err(|why| BenchError::Start(why.to_string()))?;
    // No upper bound, because the longest stall is of interest.
    latencies.auto(true);
    Ok(latencies)
}

/// Records one latency.
pub fn note(latencies: &mut Histogram<u64>, took: Duration) {
    // A histogram that resizes itself accepts every value.
    let _ = latencies.record(took.as_micros() as u64);
}

/// Latencies in microseconds as in results; an empty histogram is null.
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
