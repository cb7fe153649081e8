//! What all load on the contenders has in common: the measurement window and the results.
//!
//! Invariant: an item is measured if its response arrived after the warm-up and before the end. It
//! always counts as an item that must be in the store.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::machine::{latencies, latency_json, note};

/// The time in which load is measured.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    /// Creates a window that begins after `warmup` and lasts `seconds`.
    pub fn new(warmup: Duration, seconds: f64) -> Self {
        let from = Instant::now() + warmup;
        Self {
            from,
            to: from + Duration::from_secs_f64(seconds),
        }
    }

    /// Whether the window is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.to
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// Results of one connection or of all connections.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Number of requests answered in the window.
    pub requests: u64,
    /// Number of their items.
    pub items: u64,
    /// Number of items acknowledged in total.
    pub sent: u64,
    /// Number of items that the contender reported as new in total, if it reports that.
    pub new: u64,
    latency_us: Histogram<u64>,
}

impl Tally {
    /// Creates empty results.
    pub fn new() -> Result<Self, BenchError> {
        Ok(Self {
            requests: 0,
            items: 0,
            sent: 0,
            new: 0,
            latency_us: latencies()?,
        })
    }

    /// Records one answered request.
    pub fn note(&mut self, window: &Window, started: Instant, items: u64, new: u64) {
        let now = Instant::now();
        self.sent += items;
        self.new += new;
        if now >= window.from && now < window.to {
            self.requests += 1;
            self.items += items;
            note(&mut self.latency_us, now - started);
        }
    }

    /// Adds another connection's results.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.items += other.items;
        self.sent += other.sent;
        self.new += other.new;
        // Both histograms have the same precision and resize themselves.
        let _ = self.latency_us.add(&other.latency_us);
    }

    /// The result as JSON, with the field names of `headcount bench`.
    pub fn to_json(&self, seconds: f64) -> Value {
        json!({
            "version": 1,
            "seconds": seconds,
            "requests": self.requests,
            "items": self.items,
            "distinct": self.sent,
            "requests_per_s": self.requests as f64 / seconds,
            "items_per_s": self.items as f64 / seconds,
            "latency_us": latency_json(&self.latency_us),
            "checked": true,
        })
    }
}

/// Distinct items: tenants are drawn uniformly, ids are numbered.
#[derive(Debug)]
pub struct Items {
    connection: usize,
    tenants: u64,
    number: u64,
    state: u64,
}

impl Items {
    /// The items of one connection.
    pub fn new(connection: usize, tenants: u64) -> Self {
        Self {
            connection,
            tenants,
            number: 0,
            state: (connection as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// The tenants of the next `count` items, in ascending order.
    pub fn tenants(&mut self, count: usize, tenants: &mut Vec<u64>) {
        tenants.clear();
        for _ in 0..count {
            // xorshift64 (Marsaglia, 2003).
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let draw = u128::from(self.state) * u128::from(self.tenants);
            tenants.push((draw >> 64) as u64);
        }
        tenants.sort_unstable();
    }

    /// The next id.
    pub fn id(&mut self) -> String {
        self.number += 1;
        format!("order-{}-{}", self.connection, self.number)
    }
}
