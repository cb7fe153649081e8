//! Results of the requests: numbers, latencies, and the expected count of each tenant.
//!
//! Invariant: when a request has ended, each of its new ids is counted once, in `acked` or in
//! `doubtful` of its tenant. So `acked` ≤ count − count before ≤ `acked` + `doubtful`.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::BenchError;

/// Significant digits of latencies.
const LATENCY_DIGITS: u8 = 3;
/// Maximum recorded latency in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Results of one thread or of all threads.
#[derive(Debug)]
pub(super) struct Tally {
    /// Number of measured requests that succeeded.
    pub(super) requests: u64,
    /// Number of their items.
    pub(super) items: u64,
    /// Number of those items with a new id.
    pub(super) distinct: u64,
    /// Number of reads that were not exact.
    pub(super) not_exact: u64,
    /// Number of responses that asked for a retry, in the whole run.
    pub(super) refused: u64,
    /// Number of requests that were sent and never acknowledged, in the whole run.
    pub(super) in_doubt: u64,
    /// Number of reconnections in the whole run.
    pub(super) reconnects: u64,
    /// Time of the last measured response.
    pub(super) last: Duration,
    /// Latencies in microseconds.
    pub(super) latency: Histogram<u64>,
    /// New ids acknowledged in the whole run, by tenant.
    pub(super) acked: Vec<u64>,
    /// New ids sent and not acknowledged in the whole run, by tenant.
    pub(super) doubtful: Vec<u64>,
}

impl Tally {
    pub(super) fn new(tenants: u32) -> Result<Self, BenchError> {
        let latency = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
            .map_err(|error| BenchError::Latencies(error.to_string()))?;
        Ok(Self {
            requests: 0,
            items: 0,
            distinct: 0,
            not_exact: 0,
            refused: 0,
            in_doubt: 0,
            reconnects: 0,
            last: Duration::ZERO,
            latency,
            acked: vec![0; tenants as usize],
            doubtful: vec![0; tenants as usize],
        })
    }

    /// Records a latency.
    pub(super) fn took(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_micros() as u64);
    }

    /// Adds the results of another thread.
    pub(super) fn add(&mut self, other: &Self) -> Result<(), BenchError> {
        self.requests += other.requests;
        self.items += other.items;
        self.distinct += other.distinct;
        self.not_exact += other.not_exact;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.reconnects += other.reconnects;
        self.last = self.last.max(other.last);
        for (sum, part) in [
            (&mut self.acked, &other.acked),
            (&mut self.doubtful, &other.doubtful),
        ] {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        self.latency
            .add(&other.latency)
            .map_err(|error| BenchError::Latencies(error.to_string()))
    }

    /// Number of new ids acknowledged in the whole run.
    pub(super) fn acked_in_all(&self) -> u64 {
        self.acked.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut all = Tally::new(2).expect("a tally");
        let mut one = Tally::new(2).expect("a tally");
        one.requests = 3;
        one.acked[1] = 5;
        one.doubtful[0] = 1;
        one.last = Duration::from_secs(4);
        one.took(Duration::from_millis(7));
        for _ in 0..2 {
            all.add(&one).expect("added");
        }
        assert_eq!(all.requests, 6);
        assert_eq!(all.acked, [0, 10]);
        assert_eq!(all.doubtful, [2, 0]);
        assert_eq!(all.acked_in_all(), 10);
        assert_eq!(all.last, Duration::from_secs(4));
        assert_eq!(all.latency.len(), 2);
        assert!((6_990..=7_010).contains(&all.latency.max()));
    }

    #[test]
    fn no_latency_is_too_long_to_note() {
        let mut tally = Tally::new(1).expect("a tally");
        tally.took(Duration::ZERO);
        tally.took(Duration::from_secs(100_000));
        assert_eq!(tally.latency.len(), 2);
    }
}
