//! The metrics that every request touches, looked up once: finding one by its name costs more than
//! counting in it.
//!
//! Invariant: made after the process's recorder is set, or nothing is recorded.

use metrics::Counter;

use super::Consistency;
use headcount_telemetry as telemetry;

/// See the module.
pub(super) struct Meters {
    /// Items acknowledged.
    pub accepted: Counter,
    /// By consistency, answers that are not exact and those that are.
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

    /// Reads of a kind.
    pub(crate) fn reads(&self, consistency: Consistency, exact: bool) -> &Counter {
        let of_consistency = match consistency {
            Consistency::Session => &self.reads[0],
            Consistency::Strong => &self.reads[1],
            Consistency::Eventual => &self.reads[2],
        };
        &of_consistency[usize::from(exact)]
    }
}
