//! Admission: limits the posts that wait for a batch, which bounds memory here and the backlog in
//! the log.
//!
//! Invariant: the bytes and posts that are admitted and not released never exceed the limits,
//! except for a single post that alone exceeds the byte limit. Nothing is admitted while the log
//! does not accept appends.

use std::sync::Arc;

use parking_lot::Mutex;

use headcount_model::{ITEM_HASH_BYTES, TenantItems};
use headcount_telemetry as telemetry;

/// Limits on admitted posts that are not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Memory of their items, in bytes.
    pub waiting_bytes_max: usize,
    /// Number of posts.
    pub waiting_posts_max: usize,
}

/// Why a post is not admitted. None of its items is counted because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A limit is reached.
    Full,
    /// The process is shutting down.
    Closed,
    /// The log accepts no appends at the moment.
    LogBlocked,
    /// The queue of the named counter exceeds its limit.
    CountersLag(String),
}

/// The state of the log, as far as admission and readiness depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Whether the log is reachable. If not, posts wait for it, up to the limits.
    pub connected: bool,
    /// Whether the log accepts appends. It does not while its broker is short of memory or disk.
    pub writable: bool,
    /// The counter with the longest queue, if that queue exceeds its limit.
    pub lagging: Option<String>,
}

impl Default for LogState {
    fn default() -> Self {
        Self {
            connected: true,
            writable: true,
            lagging: None,
        }
    }
}

/// The pure decision: what is admitted now.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    bytes: usize,
    posts: usize,
    open: bool,
    log: LogState,
}

impl Admission {
    /// Creates an admission that has admitted nothing yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            bytes: 0,
            posts: 0,
            open: true,
            log: LogState::default(),
        }
    }

    /// Sets the state of the log.
    pub fn set_log_state(&mut self, log: LogState) {
        self.log = log;
    }

    /// Checks whether any append is allowed.
    ///
    /// # Errors
    /// The reason why none is.
    pub fn check_open(&self) -> Result<(), Refusal> {
        if !self.open {
            return Err(Refusal::Closed);
        }
        if !self.log.writable {
            return Err(Refusal::LogBlocked);
        }
        Ok(())
    }

    /// Admits a post of `bytes`, which must be released later, or rejects it.
    ///
    /// # Errors
    /// The reason for the rejection; the state is unchanged then.
    pub fn admit(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.check_open()?;
        if let Some(name) = &self.log.lagging {
            return Err(Refusal::CountersLag(name.clone()));
        }
        let fits = self.bytes.saturating_add(bytes) <= self.limits.waiting_bytes_max;
        if self.posts >= self.limits.waiting_posts_max || (self.posts > 0 && !fits) {
            return Err(Refusal::Full);
        }
        self.bytes += bytes;
        self.posts += 1;
        Ok(())
    }

    /// Releases an admitted post of `bytes`.
    pub fn release(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.posts = self.posts.saturating_sub(1);
    }

    /// Rejects everything from now on.
    pub fn close(&mut self) {
        self.open = false;
    }
}

/// The shared admission of a coordinator.
#[derive(Clone)]
pub(super) struct Gate(Arc<Mutex<Admission>>);

/// An admitted post's share of the limits. It is released on drop.
pub(super) struct Ticket {
    gate: Gate,
    bytes: usize,
}

impl Gate {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self(Arc::new(Mutex::new(Admission::new(limits))))
    }

    pub(crate) fn admit(&self, bytes: usize) -> Result<Ticket, Refusal> {
        self.0.lock().admit(bytes)?;
        Ok(Ticket {
            gate: self.clone(),
            bytes,
        })
    }

    pub(crate) fn close(&self) {
        self.0.lock().close();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().open
    }

    pub(crate) fn check_open(&self) -> Result<(), Refusal> {
        self.0.lock().check_open()
    }

    pub(crate) fn set_log_state(&self, log: LogState) {
        self.0.lock().set_log_state(log);
    }

    pub(crate) fn log_state(&self) -> LogState {
        self.0.lock().log.clone()
    }

    /// Sets the gauges of waiting posts.
    pub(crate) fn report(&self) {
        let (posts, bytes) = {
            let admission = self.0.lock();
            (admission.posts, admission.bytes)
        };
        metrics::gauge!(telemetry::POSTS_WAITING).set(posts as f64);
        metrics::gauge!(telemetry::POSTS_WAITING_BYTES).set(bytes as f64);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.0.lock().release(self.bytes);
    }
}

/// Approximate memory of a tenant's items while they wait, in bytes.
pub(super) fn waiting_bytes(items: &TenantItems) -> usize {
    /// The headers of the name and the list, the rounding of allocators, and the entry of the group
    /// in the batch.
    const GROUP_BYTES: usize = 160;
    GROUP_BYTES + items.tenant.as_str().len() + items.hashes.capacity() * ITEM_HASH_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        waiting_bytes_max: 100,
        waiting_posts_max: 4,
    };

    #[test]
    fn a_blocked_log_and_a_counter_that_lags_refuse_posts_until_they_recover() {
        let mut admission = Admission::new(LIMITS);
        let lagging = LogState {
            lagging: Some("c2".into()),
            ..LogState::default()
        };
        admission.set_log_state(lagging.clone());
        assert_eq!(admission.admit(1), Err(Refusal::CountersLag("c2".into())));
        assert_eq!(admission.check_open(), Ok(()));
        admission.set_log_state(LogState {
            writable: false,
            ..lagging
        });
        assert_eq!(admission.admit(1), Err(Refusal::LogBlocked));
        assert_eq!(admission.check_open(), Err(Refusal::LogBlocked));
        admission.set_log_state(LogState {
            connected: false,
            ..LogState::default()
        });
        assert_eq!(
            admission.admit(1),
            Ok(()),
            "posts may wait for an unreachable log"
        );
    }

    proptest! {
        #[test]
        fn what_waits_is_bounded_and_room_comes_back(
            posts in prop::collection::vec(0_usize..150, 1..40),
        ) {
            let mut admission = Admission::new(LIMITS);
            let mut waiting: Vec<usize> = Vec::new();
            for bytes in posts {
                match admission.admit(bytes) {
                    Ok(()) => waiting.push(bytes),
                    Err(refusal) => {
                        prop_assert_eq!(refusal, Refusal::Full);
                        let held: usize = waiting.iter().sum();
                        prop_assert!(waiting.len() == 4 || held + bytes > 100);
                        admission.release(waiting.remove(0));
                    }
                }
                prop_assert!(waiting.len() <= 4);
                prop_assert!(waiting.len() <= 1 || waiting.iter().sum::<usize>() <= 100);
            }
            for bytes in waiting {
                admission.release(bytes);
            }
            prop_assert_eq!(admission.admit(1_000), Ok(()), "alone, even a huge post is admitted");
            admission.close();
            prop_assert_eq!(admission.admit(0), Err(Refusal::Closed));
        }
    }
}
