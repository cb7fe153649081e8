//! The measurements, as stored in `results.json`.
//!
//! Invariant: every number in the report comes from here, so that the report can be rendered again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stats::Series;

/// Version of the file format.
const VERSION: u32 = 1;

/// All measurements of one run of the command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    version: u32,
    /// Description of the machine and its software: names and values in order.
    pub machine: Vec<(String, String)>,
    /// The measured commit.
    pub commit: String,
    /// The command line of the run.
    pub command: String,
    /// Start time in UTC.
    pub started: String,
    /// Duration in seconds, without building.
    pub seconds: u64,
    /// All measurements.
    pub runs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// The work and the contender, such as `one-64/redis`.
    pub key: String,
    /// Round, from 1.
    pub round: u32,
    /// Output of the measuring program.
    pub result: Value,
}

impl Results {
    /// Creates empty results.
    pub fn new(machine: Vec<(String, String)>, commit: String, command: String) -> Self {
        Self {
            version: VERSION,
            machine,
            commit,
            command,
            started: String::new(),
            seconds: 0,
            runs: Vec::new(),
        }
    }

    /// Reads a file that [`Self::write`] wrote.
    ///
    /// # Errors
    /// It can't be read or has another version.
    pub fn read(path: &Path) -> Result<Self, String> {
        let fault = |why: &dyn std::fmt::Display| format!("can't read {}: {why}", path.display());
        let text = fs::read_to_string(path).map_err(|why| fault(&why))?;
        let results: Self = serde_json::from_str(&text).map_err(|why| fault(&why))?;
        if results.version == VERSION {
            Ok(results)
        } else {
            Err(fault(&format!("it has version {}", results.version)))
        }
    }

    /// Writes the results to `path`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let fault = |why: &dyn std::fmt::Display| format!("can't write {}: {why}", path.display());
        let text = serde_json::to_string_pretty(self).map_err(|why| fault(&why))?;
        fs::write(path, text + "\n").map_err(|why| fault(&why))
    }

    /// Notes a measurement.
    pub fn add(&mut self, key: &str, round: u32, result: Value) {
        let key = key.to_owned();
        self.runs.push(Run { key, round, result });
    }

    /// The number at `pointer` (RFC 6901) of every round of `key`.
    pub fn series(&self, key: &str, pointer: &str) -> Series {
        self.of(key)
            .filter_map(|run| Some((run.round, run.result.pointer(pointer)?.as_f64()?)))
            .collect()
    }

    /// The runs of `key`.
    pub fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.key == key)
    }

    /// Points of a sweep: what follows `prefix` in the key, as a number, with the median at
    /// `pointer`.
    pub fn sweep(&self, prefix: &str, pointer: &str) -> Vec<(f64, f64)> {
        let mut points: BTreeMap<u64, f64> = BTreeMap::new();
        for run in &self.runs {
            let size = run.key.strip_prefix(prefix);
            if let Some(size) = size.and_then(|size| size.parse().ok())
                && let Some(summary) = super::stats::summary(&self.series(&run.key, pointer))
            {
                points.insert(size, summary.median);
            }
        }
        points.into_iter().map(|(x, y)| (x as f64, y)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_series_has_a_number_for_each_round() {
        let mut results = Results::new(Vec::new(), String::new(), String::new());
        results.add("a/x", 1, json!({"latency_us": {"p99": 7}}));
        results.add("a/x", 2, json!({"latency_us": null}));
        results.add("a/y", 1, json!({"latency_us": {"p99": 9}}));
        let series = results.series("a/x", "/latency_us/p99");
        assert_eq!(series, Series::from([(1, 7.0)]));
    }

    #[test]
    fn a_sweep_is_in_order() {
        let mut results = Results::new(Vec::new(), String::new(), String::new());
        for size in ["30", "4", "100"] {
            results.add(&format!("sweep/{size}"), 1, json!({"rate": 5}));
        }
        results.add("sweep/other", 1, json!({"rate": 6}));
        let points = results.sweep("sweep/", "/rate");
        assert_eq!(points, [(4.0, 5.0), (30.0, 5.0), (100.0, 5.0)]);
    }
}
