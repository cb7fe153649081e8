//! Logs, and every metric's name.
//!
//! Invariant: no label grows with tenants or items; a secret never reaches a line or a label.

mod logs;

pub use logs::{LogFormat, LogLine, start_logs};

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Requests answered, by route, method and status.
pub const REQUESTS: &str = "headcount_http_requests_total";
/// Seconds from a request's head to its answer's head, by route and method.
pub const REQUEST_SECONDS: &str = "headcount_http_request_duration_seconds";
/// Connections open.
pub const CONNECTIONS: &str = "headcount_http_connections";
/// Items in acknowledged requests, seen before or not.
pub const ITEMS_ACCEPTED: &str = "headcount_items_accepted_total";
/// Requests refused or given up before they were acknowledged, by reason.
pub const POSTS_REFUSED: &str = "headcount_posts_refused_total";
/// Items that a counter counted for the first time.
pub const ITEMS_COUNTED: &str = "headcount_items_counted_total";
/// Items that a counter had counted before.
pub const ITEMS_DUPLICATE: &str = "headcount_items_duplicate_total";
/// Items in each batch appended to the log.
pub const BATCH_ITEMS: &str = "headcount_batch_items";
/// Seconds from a batch's sealing to the end of its append.
pub const APPEND_SECONDS: &str = "headcount_append_duration_seconds";
/// Seconds that a counter's commit took.
pub const COMMIT_SECONDS: &str = "headcount_commit_duration_seconds";
/// Batches delivered again and skipped.
pub const BATCHES_SKIPPED: &str = "headcount_batches_skipped_total";
/// Batches of a known sequence with other content.
pub const FORKS: &str = "headcount_forks_total";
/// Snapshots united with the store.
pub const SNAPSHOTS_UNITED: &str = "headcount_snapshots_united_total";
/// Batches that no counter that can be asked has.
pub const HOLES_UNFILLABLE: &str = "headcount_holes_unfillable";
/// Publishes of a batch after its first.
pub const PUBLISHES_RETRIED: &str = "headcount_publishes_retried_total";
/// Batches that the broker returned because no queue takes them.
pub const PUBLISHES_RETURNED: &str = "headcount_publishes_returned_total";
/// Confirms that did not come in time.
pub const CONFIRMS_LOST: &str = "headcount_confirms_lost_total";
/// Connections to the broker after the first of each kind.
pub const BROKER_RECONNECTS: &str = "headcount_broker_reconnects_total";
/// Whether the broker takes nothing for now: a memory or disk alarm.
pub const BROKER_BLOCKED: &str = "headcount_broker_blocked";
/// Messages in a counter's queues that the counter does not hold, by counter.
pub const QUEUE_MESSAGES: &str = "headcount_queue_messages";
/// Posts admitted and not yet durable.
pub const POSTS_WAITING: &str = "headcount_posts_waiting";
/// Bytes of the posts admitted and not yet durable.
pub const POSTS_WAITING_BYTES: &str = "headcount_posts_waiting_bytes";
/// Queries that wait until a counter covers what they ask for.
pub const QUERIES_WAITING: &str = "headcount_queries_waiting";
/// Answers to reads, by consistency and exactness.
pub const READS: &str = "headcount_reads_total";
/// Batches that were shown, never acknowledged, and lost with their only holder: no longer waited for.
pub const REQUIREMENTS_DROPPED: &str = "headcount_requirements_dropped_total";
/// Tenants of this process's counter.
pub const TENANTS: &str = "headcount_tenants";
/// Items of this process's counter.
pub const ITEMS: &str = "headcount_items";
/// Bytes of the store's files.
pub const STORE_DISK_BYTES: &str = "headcount_store_disk_bytes";
/// Bytes of the store's tables, filters and indexes.
pub const STORE_MEMORY_BYTES: &str = "headcount_store_memory_bytes";
/// Whether nothing is taken for want of room on the store's disk.
pub const STORE_FULL: &str = "headcount_store_full";
/// Sorted runs in the store.
pub const STORE_RUNS: &str = "headcount_store_runs";
/// Whether a counter can be asked, by counter.
pub const COUNTER_UP: &str = "headcount_counter_up";
/// Whether a counter has everything that it should have, by counter.
pub const COUNTER_COMPLETE: &str = "headcount_counter_complete";
/// Whether a counter takes nothing more from its queue, by counter.
pub const COUNTER_HALTED: &str = "headcount_counter_halted";
/// Tenants of a counter, by counter.
pub const COUNTER_TENANTS: &str = "headcount_counter_tenants";
/// Items of a counter, by counter.
pub const COUNTER_ITEMS: &str = "headcount_counter_items";
/// Epochs in a counter's position, by counter.
pub const COUNTER_EPOCHS: &str = "headcount_counter_epochs";
/// Ranges of sequences that a counter misses, by counter.
pub const COUNTER_HOLES: &str = "headcount_counter_holes";
/// Age of the batch that a counter applied last, by counter.
pub const COUNTER_LAG: &str = "headcount_counter_lag_seconds";
/// Batches appended that a counter has not applied, by counter.
pub const COUNTER_LAG_BATCHES: &str = "headcount_counter_lag_batches";
/// Messages in a counter's queue, by counter.
pub const COUNTER_QUEUE_MESSAGES: &str = "headcount_counter_queue_messages";
/// Nodes on which a counter's queue has members, by counter; with `management-url` alone.
pub const COUNTER_QUEUE_MEMBERS: &str = "headcount_counter_queue_members";
/// Those of them that answer, by counter.
pub const COUNTER_QUEUE_MEMBERS_ONLINE: &str = "headcount_counter_queue_members_online";
/// Whether `GET /counters` has a warning of where a counter's queue is, by counter.
pub const COUNTER_QUEUE_WARNING: &str = "headcount_counter_queue_warning";
/// Nodes of the broker; with `management-url` alone.
pub const BROKER_NODES: &str = "headcount_broker_nodes";
/// Time since a counter announced itself, by counter.
pub const COUNTER_SEEN_AGO: &str = "headcount_counter_seen_ago_seconds";
/// Batches that came to a counter again, in its present life, by counter.
pub const COUNTER_REDELIVERIES: &str = "headcount_counter_redeliveries";
/// Snapshots that a counter united with its store, in its present life, by counter.
pub const COUNTER_SNAPSHOTS: &str = "headcount_counter_snapshots";
/// Forks that a counter met, in its present life, by counter.
pub const COUNTER_FORKS: &str = "headcount_counter_forks";
/// Requests between nodes that did not show the cluster's secret.
pub const REQUESTS_UNAUTHORIZED: &str = "headcount_http_unauthorized_total";
/// Resident memory of this process, in bytes.
pub const PROCESS_RESIDENT_BYTES: &str = "process_resident_memory_bytes";
/// Which release this is; always 1.
pub const BUILD_INFO: &str = "headcount_build_info";

const SECONDS_BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
const ITEMS_BUCKETS: [f64; 9] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0,
];

/// Installs the process's metrics and returns the handle that renders them.
///
/// # Errors
/// When a recorder is installed already.
pub fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_ITEMS.into()), &ITEMS_BUCKETS)?
        .install_recorder()?;
    describe();
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    describe_counters();
    describe_gauges();
    describe_histograms();
}

fn describe_counters() {
    for (name, text) in [
        (REQUESTS, "Requests answered"),
        (
            ITEMS_ACCEPTED,
            "Items in acknowledged requests, seen before or not",
        ),
        (
            POSTS_REFUSED,
            "Requests refused or given up before they were acknowledged",
        ),
        (ITEMS_COUNTED, "Items counted for the first time"),
        (ITEMS_DUPLICATE, "Items that had been counted before"),
        (BATCHES_SKIPPED, "Batches delivered again and skipped"),
        (FORKS, "Batches of a known sequence with other content"),
        (SNAPSHOTS_UNITED, "Snapshots of other counters taken in"),
        (READS, "Answers to reads"),
        (
            REQUIREMENTS_DROPPED,
            "Batches shown, never acknowledged and lost with their only holder",
        ),
        (
            REQUESTS_UNAUTHORIZED,
            "Requests between nodes that did not show the cluster's secret",
        ),
        (PUBLISHES_RETRIED, "Publishes of a batch after its first"),
        (
            PUBLISHES_RETURNED,
            "Batches that the broker returned because no queue takes them",
        ),
        (CONFIRMS_LOST, "Confirms that did not come in time"),
        (
            BROKER_RECONNECTS,
            "Connections to the broker after the first of each kind",
        ),
    ] {
        metrics::describe_counter!(name, text);
        // A counter that exists from the start at 0 lets the first increase be seen.
        if !matches!(name, REQUESTS | POSTS_REFUSED | READS) {
            metrics::counter!(name).absolute(0);
        }
    }
}

fn describe_gauges() {
    for (name, unit, text) in [
        (CONNECTIONS, Unit::Count, "Connections open"),
        (
            POSTS_WAITING,
            Unit::Count,
            "Posts admitted and not yet durable",
        ),
        (
            POSTS_WAITING_BYTES,
            Unit::Bytes,
            "Bytes of the posts admitted and not yet durable",
        ),
        (
            QUERIES_WAITING,
            Unit::Count,
            "Queries that wait until a counter covers what they ask for",
        ),
        (TENANTS, Unit::Count, "Tenants of this counter"),
        (ITEMS, Unit::Count, "Items of this counter"),
        (STORE_DISK_BYTES, Unit::Bytes, "Bytes of the store's files"),
        (
            STORE_MEMORY_BYTES,
            Unit::Bytes,
            "Bytes of the store's tables, filters and indexes",
        ),
        (
            STORE_FULL,
            Unit::Count,
            "Whether nothing is taken for want of room on its disk",
        ),
        (STORE_RUNS, Unit::Count, "Sorted runs in the store"),
        (
            PROCESS_RESIDENT_BYTES,
            Unit::Bytes,
            "Resident memory of this process",
        ),
        (BUILD_INFO, Unit::Count, "Which release this is"),
        (
            BROKER_BLOCKED,
            Unit::Count,
            "Whether the broker takes nothing for now",
        ),
        (
            QUEUE_MESSAGES,
            Unit::Count,
            "Messages in a counter's queues that the counter does not hold",
        ),
        (BROKER_NODES, Unit::Count, "Nodes of the broker"),
    ] {
        metrics::describe_gauge!(name, unit, text);
    }
    describe_counter_gauges();
}

fn describe_histograms() {
    for (name, text) in [
        (
            REQUEST_SECONDS,
            "Seconds from a request's head to its answer's head",
        ),
        (
            APPEND_SECONDS,
            "Seconds from a batch's sealing to the end of its append",
        ),
        (COMMIT_SECONDS, "Seconds that a commit took"),
    ] {
        metrics::describe_histogram!(name, Unit::Seconds, text);
    }
    metrics::describe_histogram!(BATCH_ITEMS, Unit::Count, "Items in each batch");
}

/// The gauges that each counter has.
fn describe_counter_gauges() {
    for (name, unit, text) in [
        (COUNTER_UP, Unit::Count, "Whether it can be asked"),
        (COUNTER_COMPLETE, Unit::Count, "Whether it has everything"),
        (
            COUNTER_HALTED,
            Unit::Count,
            "Whether it takes nothing more from its queue",
        ),
        (COUNTER_TENANTS, Unit::Count, "Its tenants"),
        (COUNTER_ITEMS, Unit::Count, "Its items"),
        (COUNTER_EPOCHS, Unit::Count, "Epochs in its position"),
        (COUNTER_HOLES, Unit::Count, "Ranges of sequences it misses"),
        (COUNTER_LAG, Unit::Seconds, "Age of the batch applied last"),
        (COUNTER_LAG_BATCHES, Unit::Count, "Batches not applied yet"),
        (COUNTER_QUEUE_MESSAGES, Unit::Count, "Messages in its queue"),
        (
            COUNTER_QUEUE_MEMBERS,
            Unit::Count,
            "Nodes on which its queue has members",
        ),
        (
            COUNTER_QUEUE_MEMBERS_ONLINE,
            Unit::Count,
            "Members of its queue that answer",
        ),
        (
            COUNTER_QUEUE_WARNING,
            Unit::Count,
            "Whether /counters warns of where its queue is",
        ),
        (
            COUNTER_SEEN_AGO,
            Unit::Seconds,
            "Time since it announced itself",
        ),
        (
            COUNTER_REDELIVERIES,
            Unit::Count,
            "Batches that came again, in its present life",
        ),
        (
            COUNTER_SNAPSHOTS,
            Unit::Count,
            "Snapshots united with its store, in its present life",
        ),
        (
            COUNTER_FORKS,
            Unit::Count,
            "Forks that it met, in its present life",
        ),
    ] {
        metrics::describe_gauge!(name, unit, text);
    }
}

/// Sets the gauges of the process itself, where the system tells (Linux).
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

/// Adds to a counter without labels.
pub fn count(name: &'static str, added: u64) {
    metrics::counter!(name).increment(added);
}
