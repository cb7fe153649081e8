//! Every metric: its name, kind, unit and help, declared once.
//!
//! Invariant: no label grows with tenants or items.

pub use metrics::Unit;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts values by their size.
    Histogram,
}

/// A metric's declaration.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its values are in.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
}

/// Declares metrics: the name of each as a constant, and all of them in [`ALL`].
macro_rules! metrics {
    ($($(#[$doc:meta])* $constant:ident: $kind:ident $unit:ident = $name:literal, $help:literal;)*) => {
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
    /// Requests answered, by route, method and status.
    REQUESTS: counter Count = "headcount_http_requests_total", "Requests answered";
    /// Seconds from a request's head to its answer's head, by route and method.
    REQUEST_SECONDS: histogram Seconds = "headcount_http_request_duration_seconds", "Seconds from a request's head to its answer's head";
    /// Connections open.
    CONNECTIONS: gauge Count = "headcount_http_connections", "Connections open";
    /// Items in acknowledged requests, seen before or not.
    ITEMS_ACCEPTED: counter Count = "headcount_items_accepted_total", "Items in acknowledged requests, seen before or not";
    /// Requests refused or given up before they were acknowledged, by reason.
    POSTS_REFUSED: counter Count = "headcount_posts_refused_total", "Requests refused or given up before they were acknowledged";
    /// Items that a counter counted for the first time.
    ITEMS_COUNTED: counter Count = "headcount_items_counted_total", "Items counted for the first time";
    /// Items that a counter had counted before.
    ITEMS_DUPLICATE: counter Count = "headcount_items_duplicate_total", "Items that had been counted before";
    /// Items in each batch appended to the log.
    BATCH_ITEMS: histogram Count = "headcount_batch_items", "Items in each batch";
    /// Seconds from a batch's sealing to the end of its append.
    APPEND_SECONDS: histogram Seconds = "headcount_append_duration_seconds", "Seconds from a batch's sealing to the end of its append";
    /// Seconds that a counter's commit took.
    COMMIT_SECONDS: histogram Seconds = "headcount_commit_duration_seconds", "Seconds that a commit took";
    /// Batches delivered again and skipped.
    BATCHES_SKIPPED: counter Count = "headcount_batches_skipped_total", "Batches delivered again and skipped";
    /// Batches of a known sequence with other content.
    FORKS: counter Count = "headcount_forks_total", "Batches of a known sequence with other content";
    /// Snapshots united with the store.
    SNAPSHOTS_UNITED: counter Count = "headcount_snapshots_united_total", "Snapshots of other counters taken in";
    /// Batches that no counter that can be asked has.
    HOLES_UNFILLABLE: gauge Count = "headcount_holes_unfillable", "Batches that no counter that can be asked has";
    /// Publishes of a batch after its first.
    PUBLISHES_RETRIED: counter Count = "headcount_publishes_retried_total", "Publishes of a batch after its first";
    /// Batches that the broker returned because no queue takes them.
    PUBLISHES_RETURNED: counter Count = "headcount_publishes_returned_total", "Batches that the broker returned because no queue takes them";
    /// Confirms that did not come in time.
    CONFIRMS_LOST: counter Count = "headcount_confirms_lost_total", "Confirms that did not come in time";
    /// Connections to the broker after the first of each kind.
    BROKER_RECONNECTS: counter Count = "headcount_broker_reconnects_total", "Connections to the broker after the first of each kind";
    /// Whether the broker takes nothing for now: a memory or disk alarm.
    BROKER_BLOCKED: gauge Count = "headcount_broker_blocked", "Whether the broker takes nothing for now";
    /// Messages in a counter's queues that the counter does not hold, by counter.
    QUEUE_MESSAGES: gauge Count = "headcount_queue_messages", "Messages in a counter's queues that the counter does not hold";
    /// Posts admitted and not yet durable.
    POSTS_WAITING: gauge Count = "headcount_posts_waiting", "Posts admitted and not yet durable";
    /// Bytes of the posts admitted and not yet durable.
    POSTS_WAITING_BYTES: gauge Bytes = "headcount_posts_waiting_bytes", "Bytes of the posts admitted and not yet durable";
    /// Queries that wait until a counter covers what they ask for.
    QUERIES_WAITING: gauge Count = "headcount_queries_waiting", "Queries that wait until a counter covers what they ask for";
    /// Answers to reads, by consistency and exactness.
    READS: counter Count = "headcount_reads_total", "Answers to reads";
    /// Batches that were shown, never acknowledged, and lost with their only holder: no longer
    /// waited for.
    REQUIREMENTS_DROPPED: counter Count = "headcount_requirements_dropped_total", "Batches shown, never acknowledged and lost with their only holder";
    /// Tenants of this process's counter.
    TENANTS: gauge Count = "headcount_tenants", "Tenants of this counter";
    /// Items of this process's counter.
    ITEMS: gauge Count = "headcount_items", "Items of this counter";
    /// Bytes of the store's files.
    STORE_DISK_BYTES: gauge Bytes = "headcount_store_disk_bytes", "Bytes of the store's files";
    /// Bytes of the store's tables, filters and indexes.
    STORE_MEMORY_BYTES: gauge Bytes = "headcount_store_memory_bytes", "Bytes of the store's tables, filters and indexes";
    /// Whether nothing is taken for want of room on the store's disk.
    STORE_FULL: gauge Count = "headcount_store_full", "Whether nothing is taken for want of room on its disk";
    /// Sorted runs in the store.
    STORE_RUNS: gauge Count = "headcount_store_runs", "Sorted runs in the store";
    /// Whether a counter can be asked, by counter.
    COUNTER_UP: gauge Count = "headcount_counter_up", "Whether it can be asked";
    /// Whether a counter has everything that it should have, by counter.
    COUNTER_COMPLETE: gauge Count = "headcount_counter_complete", "Whether it has everything";
    /// Whether a counter takes nothing more from its queue, by counter.
    COUNTER_HALTED: gauge Count = "headcount_counter_halted", "Whether it takes nothing more from its queue";
    /// Tenants of a counter, by counter.
    COUNTER_TENANTS: gauge Count = "headcount_counter_tenants", "Its tenants";
    /// Items of a counter, by counter.
    COUNTER_ITEMS: gauge Count = "headcount_counter_items", "Its items";
    /// Epochs in a counter's position, by counter.
    COUNTER_EPOCHS: gauge Count = "headcount_counter_epochs", "Epochs in its position";
    /// Ranges of sequences that a counter misses, by counter.
    COUNTER_HOLES: gauge Count = "headcount_counter_holes", "Ranges of sequences it misses";
    /// Age of the batch that a counter applied last, by counter.
    COUNTER_LAG: gauge Seconds = "headcount_counter_lag_seconds", "Age of the batch applied last";
    /// Batches appended that a counter has not applied, by counter.
    COUNTER_LAG_BATCHES: gauge Count = "headcount_counter_lag_batches", "Batches not applied yet";
    /// Messages in a counter's queue, by counter.
    COUNTER_QUEUE_MESSAGES: gauge Count = "headcount_counter_queue_messages", "Messages in its queue";
    /// Nodes on which a counter's queue has members, by counter; with `management-url` alone.
    COUNTER_QUEUE_MEMBERS: gauge Count = "headcount_counter_queue_members", "Nodes on which its queue has members";
    /// Those of them that answer, by counter.
    COUNTER_QUEUE_MEMBERS_ONLINE: gauge Count = "headcount_counter_queue_members_online", "Members of its queue that answer";
    /// Whether `GET /counters` has a warning of where a counter's queue is, by counter.
    COUNTER_QUEUE_WARNING: gauge Count = "headcount_counter_queue_warning", "Whether /counters warns of where its queue is";
    /// Nodes of the broker; with `management-url` alone.
    BROKER_NODES: gauge Count = "headcount_broker_nodes", "Nodes of the broker";
    /// Time since a counter announced itself, by counter.
    COUNTER_SEEN_AGO: gauge Seconds = "headcount_counter_seen_ago_seconds", "Time since it announced itself";
    /// Batches that came to a counter again, in its present life, by counter.
    COUNTER_REDELIVERIES: gauge Count = "headcount_counter_redeliveries", "Batches that came again, in its present life";
    /// Snapshots that a counter united with its store, in its present life, by counter.
    COUNTER_SNAPSHOTS: gauge Count = "headcount_counter_snapshots", "Snapshots united with its store, in its present life";
    /// Forks that a counter met, in its present life, by counter.
    COUNTER_FORKS: gauge Count = "headcount_counter_forks", "Forks that it met, in its present life";
    /// Requests between nodes that did not show the cluster's secret.
    REQUESTS_UNAUTHORIZED: counter Count = "headcount_http_unauthorized_total", "Requests between nodes that did not show the cluster's secret";
    /// Resident memory of this process, in bytes.
    PROCESS_RESIDENT_BYTES: gauge Bytes = "process_resident_memory_bytes", "Resident memory of this process";
    /// Which release this is; always 1.
    BUILD_INFO: gauge Count = "headcount_build_info", "Which release this is";
}

/// Counters whose series have labels that are not known from the start.
const LABELLED: [&str; 3] = [REQUESTS, POSTS_REFUSED, READS];

/// Tells the installed recorder of all metrics.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(metric.name, metric.help);
                // A counter that exists from the start at 0 lets the first increase be seen.
                if !LABELLED.contains(&metric.name) {
                    metrics::counter!(metric.name).absolute(0);
                }
            }
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Adds to a counter without labels.
pub fn count(name: &'static str, added: u64) {
    metrics::counter!(name).increment(added);
}
