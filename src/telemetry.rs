//! Logging, and installation of the metrics recorder.
//!
//! Invariant: no log line and no metric label contains a secret.

mod logs;

pub use headcount_telemetry::*;
pub use logs::{LogFormat, LogLine, start_logs};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const SECONDS_BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
const ITEMS_BUCKETS: [f64; 9] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0,
];

/// Installs the metrics recorder of the process and returns the handle that renders the metrics.
///
/// # Errors
/// A recorder is already installed.
pub fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_ITEMS.into()), &ITEMS_BUCKETS)?
        .install_recorder()?;
    describe();
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Sets the gauges of the process itself. Does nothing on systems without `/proc`.
pub fn report_process() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return;
    };
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(kib) = kib {
        metrics::gauge!(PROCESS_RESIDENT_BYTES).set(kib * 1024.0);
    }
}
