//! Metrics that every request updates. They are looked up once, because a lookup by name costs more
//! than the update.
//!
//! Invariant: create it after the process's metrics recorder is set; otherwise nothing is recorded.

use metrics::Counter;

use super::Consistency;
use headcount_telemetry as telemetry;

/// Handles of the metrics.
pub(super) struct Meters {
    /// Acknowledged items.
    pub accepted: Counter,
    /// Reads by consistency; for each, those that were not exact and those that were.
    reads: [[Counter; 2]; 3],
}

impl Meters {
    pub(crate) fn new() -> Self {
        let reads = |consistency: Consistency| {
            ["false", "true"].map(|exact| {
                metrics::counter!(
                    telemetry::READS,
                    "consistency" => consistency.as_str(),
                    "exact" => exact,
                )
            })
        };
        Self {
            accepted: metrics::counter!(telemetry::ITEMS_ACCEPTED),
            reads: [
                Consistency::Session,
                Consistency::Strong,
                Consistency::Eventual,
            ]
            .map(reads),
        }
    }

    /// The counter of reads with this consistency and exactness.
    pub(crate) fn reads(&self, consistency: Consistency, exact: bool) -> &Counter {
        let of_consistency = match consistency {
            Consistency::Session => &self.reads[0],
            Consistency::Strong => &self.reads[1],
            Consistency::Eventual => &self.reads[2],
        };
        &of_consistency[usize::from(exact)]
    }
}
