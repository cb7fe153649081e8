//! Counters as gauges of `/metrics`.
//!
//! Invariant: what is not known is not set; a counter that can't be asked shows in its `up` alone, beside what was
//! last known of it.

use crate::coordinator::CounterView;
use crate::telemetry;

/// Sets the gauges of a counter.
pub fn report(view: &CounterView) {
    let name = view.name.as_str();
    let set = |gauge: &'static str, value: f64| {
        metrics::gauge!(gauge, "counter" => name.to_owned()).set(value);
    };
    set(telemetry::COUNTER_UP, flag(view.status.is_ok()));
    if let Some(messages) = view.queue_messages {
        set(telemetry::COUNTER_QUEUE_MESSAGES, messages as f64);
    }
    if let Some(batches) = view.lag_batches {
        set(telemetry::COUNTER_LAG_BATCHES, batches as f64);
    }
    if let Some(ago_ms) = view.last_seen_ms_ago {
        set(telemetry::COUNTER_SEEN_AGO, seconds(ago_ms));
    }
    let Ok(status) = &view.status else { return };
    set(telemetry::COUNTER_COMPLETE, flag(status.complete));
    set(telemetry::COUNTER_TENANTS, status.tenants as f64);
    set(telemetry::COUNTER_ITEMS, status.items as f64);
    set(telemetry::COUNTER_EPOCHS, status.epochs as f64);
    set(telemetry::COUNTER_HOLES, status.holes as f64);
    set(telemetry::COUNTER_LAG, seconds(status.lag_ms));
    set(telemetry::COUNTER_REDELIVERIES, status.redeliveries as f64);
    set(telemetry::COUNTER_SNAPSHOTS, status.snapshots as f64);
    set(telemetry::COUNTER_FORKS, status.forks as f64);
    if view.url.is_none() {
        // It runs in this process, and so does its store.
        metrics::gauge!(telemetry::TENANTS).set(status.tenants as f64);
        metrics::gauge!(telemetry::ITEMS).set(status.items as f64);
        metrics::gauge!(telemetry::STORE_DISK_BYTES).set(status.disk_bytes as f64);
        metrics::gauge!(telemetry::STORE_MEMORY_BYTES).set(status.memory_bytes as f64);
        metrics::gauge!(telemetry::STORE_RUNS).set(status.runs as f64);
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
