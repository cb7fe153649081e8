//! All metrics: their names, kinds, units and help texts, each declared once.
//!
//! Invariant: no label has a number of values that grows with tenants or items.

pub use metrics::Unit;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that only increases.
    Counter,
    /// A value that increases and decreases.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// The declaration of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: Unit,
    /// Its help text.
    pub help: &'static str,
}

/// Declares metrics: each name as a constant, and all metrics in [`ALL`].
macro_rules! metrics {
    ($(
        $(#[$doc:meta])*
        $constant:ident: $kind:ident $unit:ident = $name:literal,
            $help:literal;
    )*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*

        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: kind!($kind),
            unit: Unit::$unit,
            help: $help,
        }),*];
    };
}

macro_rules! kind {
    (counter) => {
        Kind::Counter
    };
    (gauge) => {
        Kind::Gauge
    };
    (histogram) => {
        Kind::Histogram
    };
}

metrics! {
    /// HTTP requests answered, by route, method and status.
    REQUESTS: counter Count = "headcount_http_requests_total",
        "HTTP requests answered";
    /// Seconds from the end of a request's headers to the start of its response, by route and
    /// method.
    REQUEST_SECONDS: histogram Seconds = "headcount_http_request_duration_seconds",
        "Seconds from a request's headers to the start of its response";
    /// Open HTTP connections.
    CONNECTIONS: gauge Count = "headcount_http_connections",
        "Open HTTP connections";
    /// Items in acknowledged requests, with duplicates.
    ITEMS_ACCEPTED: counter Count = "headcount_items_accepted_total",
        "Items in acknowledged requests, with duplicates";
    /// Posts that were rejected or failed before they were acknowledged, by reason.
    POSTS_REFUSED: counter Count = "headcount_posts_refused_total",
        "Posts rejected or failed before they were acknowledged";
    /// Items that a counter counted for the first time.
    ITEMS_COUNTED: counter Count = "headcount_items_counted_total",
        "Items counted for the first time";
    /// Duplicates: items that a counter had counted before.
    ITEMS_DUPLICATE: counter Count = "headcount_items_duplicate_total",
        "Duplicates: items that had been counted before";
    /// Items in each batch appended to the log.
    BATCH_ITEMS: histogram Count = "headcount_batch_items",
        "Items in each batch";
    /// Seconds from the sealing of a batch to the end of its append.
    APPEND_SECONDS: histogram Seconds = "headcount_append_duration_seconds",
        "Seconds from the sealing of a batch to the end of its append";
    /// Seconds that a counter's commit took.
    COMMIT_SECONDS: histogram Seconds = "headcount_commit_duration_seconds",
        "Seconds that a commit took";
    /// Redelivered batches that were skipped.
    BATCHES_SKIPPED: counter Count = "headcount_batches_skipped_total",
        "Redelivered batches that were skipped";
    /// Batches with the id of an earlier batch but other content.
    FORKS: counter Count = "headcount_forks_total",
        "Batches with the id of an earlier batch but other content";
    /// Snapshots of other counters that the store ingested.
    SNAPSHOTS_UNITED: counter Count = "headcount_snapshots_united_total",
        "Snapshots of other counters ingested";
    /// Missing batches that no reachable counter has.
    HOLES_UNFILLABLE: gauge Count = "headcount_holes_unfillable",
        "Missing batches that no reachable counter has";
    /// Retries of publishing a batch.
    PUBLISHES_RETRIED: counter Count = "headcount_publishes_retried_total",
        "Retries of publishing a batch";
    /// Batches that the broker returned because no queue accepts them.
    PUBLISHES_RETURNED: counter Count = "headcount_publishes_returned_total",
        "Batches that the broker returned because no queue accepts them";
    /// Publisher confirms that timed out.
    CONFIRMS_LOST: counter Count = "headcount_confirms_lost_total",
        "Publisher confirms that timed out";
    /// Connections to the broker after the first of each kind.
    BROKER_RECONNECTS: counter Count = "headcount_broker_reconnects_total",
        "Connections to the broker after the first of each kind";
    /// Whether the broker accepts no messages because of a memory or disk alarm.
    BROKER_BLOCKED: gauge Count = "headcount_broker_blocked",
        "Whether the broker blocks publishing (memory or disk alarm)";
    /// Messages in a counter's queues that the counter does not hold, by counter.
    QUEUE_MESSAGES: gauge Count = "headcount_queue_messages",
        "Messages in a counter's queues that the counter does not hold";
    /// Posts that are admitted but not durable yet.
    POSTS_WAITING: gauge Count = "headcount_posts_waiting",
        "Posts admitted but not durable yet";
    /// Bytes of the posts that are admitted but not durable yet.
    POSTS_WAITING_BYTES: gauge Bytes = "headcount_posts_waiting_bytes",
        "Bytes of the posts admitted but not durable yet";
    /// Queries that wait until a counter covers their requirement.
    QUERIES_WAITING: gauge Count = "headcount_queries_waiting",
        "Queries that wait until a counter covers their requirement";
    /// Answers to reads, by consistency and exactness.
    READS: counter Count = "headcount_reads_total",
        "Answers to reads";
    /// Requirements that reads no longer wait for: batches that were included in an answer, never
    /// acknowledged, and lost with the only counter that had them.
    REQUIREMENTS_DROPPED: counter Count = "headcount_requirements_dropped_total",
        "Batches read but never acknowledged, and lost with their only holder";
    /// Tenants of this process's counter.
    TENANTS: gauge Count = "headcount_tenants",
        "Tenants of this counter";
    /// Items of this process's counter.
    ITEMS: gauge Count = "headcount_items",
        "Items of this counter";
    /// Bytes of the store's files.
    STORE_DISK_BYTES: gauge Bytes = "headcount_store_disk_bytes",
        "Bytes of the store's files";
    /// Bytes of the store's memtables, filters and indexes.
    STORE_MEMORY_BYTES: gauge Bytes = "headcount_store_memory_bytes",
        "Bytes of the store's memtables, filters and indexes";
    /// Whether the store accepts no changes because there is no room on its disk.
    STORE_FULL: gauge Count = "headcount_store_full",
        "Whether the store accepts no changes because its disk has no room";
    /// Sorted runs in the store.
    STORE_RUNS: gauge Count = "headcount_store_runs",
        "Sorted runs in the store";
    /// Whether a counter is reachable, by counter.
    COUNTER_UP: gauge Count = "headcount_counter_up",
        "Whether the counter is reachable";
    /// Whether a counter is complete: whether it has everything that it should have, by counter.
    COUNTER_COMPLETE: gauge Count = "headcount_counter_complete",
        "Whether the counter is complete";
    /// Whether a counter has stopped consuming its queue, by counter.
    COUNTER_HALTED: gauge Count = "headcount_counter_halted",
        "Whether the counter has stopped consuming its queue";
    /// Tenants of a counter, by counter.
    COUNTER_TENANTS: gauge Count = "headcount_counter_tenants",
        "Tenants of the counter";
    /// Items of a counter, by counter.
    COUNTER_ITEMS: gauge Count = "headcount_counter_items",
        "Items of the counter";
    /// Epochs in a counter's position, by counter.
    COUNTER_EPOCHS: gauge Count = "headcount_counter_epochs",
        "Epochs in the counter's position";
    /// Holes in a counter's position: ranges of missing sequences, by counter.
    COUNTER_HOLES: gauge Count = "headcount_counter_holes",
        "Holes in the counter's position: ranges of missing sequences";
    /// Age of the last batch that a counter applied, by counter.
    COUNTER_LAG: gauge Seconds = "headcount_counter_lag_seconds",
        "Age of the last batch that the counter applied, in seconds";
    /// Appended batches that a counter has not applied yet, by counter.
    COUNTER_LAG_BATCHES: gauge Count = "headcount_counter_lag_batches",
        "Appended batches that the counter has not applied yet";
    /// Messages in a counter's queue, by counter.
    COUNTER_QUEUE_MESSAGES: gauge Count = "headcount_counter_queue_messages",
        "Messages in the counter's queue";
    /// Broker nodes with a member of a counter's queue, by counter. Requires `management-url`.
    COUNTER_QUEUE_MEMBERS: gauge Count = "headcount_counter_queue_members",
        "Broker nodes with a member of the counter's queue";
    /// Members of a counter's queue that are online, by counter. Requires `management-url`.
    COUNTER_QUEUE_MEMBERS_ONLINE: gauge Count = "headcount_counter_queue_members_online",
        "Online members of the counter's queue";
    /// Whether `GET /counters` has a warning about the location of a counter's queue, by counter.
    COUNTER_QUEUE_WARNING: gauge Count = "headcount_counter_queue_warning",
        "Whether GET /counters warns about the location of the counter's queue";
    /// Nodes of the broker. Requires `management-url`.
    BROKER_NODES: gauge Count = "headcount_broker_nodes",
        "Nodes of the broker";
    /// Time since the last announcement of a counter, by counter.
    COUNTER_SEEN_AGO: gauge Seconds = "headcount_counter_seen_ago_seconds",
        "Seconds since the counter's last announcement";
    /// Batches redelivered to a counter in its current incarnation, by counter.
    COUNTER_REDELIVERIES: gauge Count = "headcount_counter_redeliveries",
        "Batches redelivered to the counter since it started";
    /// Snapshots that a counter ingested in its current incarnation, by counter.
    COUNTER_SNAPSHOTS: gauge Count = "headcount_counter_snapshots",
        "Snapshots that the counter ingested since it started";
    /// Forks that a counter detected in its current incarnation, by counter.
    COUNTER_FORKS: gauge Count = "headcount_counter_forks",
        "Forks that the counter detected since it started";
    /// Requests between nodes without the cluster's secret.
    REQUESTS_UNAUTHORIZED: counter Count = "headcount_http_unauthorized_total",
        "Requests between nodes without the cluster's secret";
    /// Resident memory of this process, in bytes.
    PROCESS_RESIDENT_BYTES: gauge Bytes = "process_resident_memory_bytes",
        "Resident memory of this process";
    /// The release, as labels; the value is always 1.
    BUILD_INFO: gauge Count = "headcount_build_info",
        "The release, as labels; the value is always 1";
}

/// Counters with label values that are not known at startup.
const LABELLED: [&str; 3] = [REQUESTS, POSTS_REFUSED, READS];

/// Describes all metrics to the installed recorder.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(metric.name, metric.help);
                // A counter that starts at 0 makes its first increase visible.
                if !LABELLED.contains(&metric.name) {
                    metrics::counter!(metric.name).absolute(0);
                }
            }
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Increments a counter without labels.
pub fn count(name: &'static str, added: u64) {
    metrics::counter!(name).increment(added);
}
