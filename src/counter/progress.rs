//! What a counter's task has done in this life, for queries that wait and for its status.
//!
//! Invariant: a barrier is noted only after everything that came before it in the queue is committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{BatchId, Epoch, Partition, Sequence};

/// What is counted in this life.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// How old the last applied batch was when it was committed, in milliseconds.
    pub lag_ms: u64,
    /// Batches that came a second time.
    pub redeliveries: u64,
    /// Snapshots united.
    pub snapshots: u64,
    /// Forks met.
    pub forks: u64,
    /// How often the log said that batches may have been lost.
    pub losses: u64,
    /// Changes so far, so that each is noticed.
    version: u64,
}

type Barriers = BTreeMap<(Partition, Epoch), Sequence>;

/// The end that the task holds.
pub(super) struct Progress {
    tally: watch::Sender<Tally>,
    barriers: Arc<Mutex<Barriers>>,
}

/// The end that queries hold; cheap to clone.
#[derive(Clone)]
pub(super) struct Watching {
    pub tally: watch::Receiver<Tally>,
    barriers: Arc<Mutex<Barriers>>,
}

impl Progress {
    pub fn new() -> (Self, Watching) {
        let (tally, watching) = watch::channel(Tally::default());
        let barriers = Arc::<Mutex<Barriers>>::default();
        let watching = Watching {
            tally: watching,
            barriers: Arc::clone(&barriers),
        };
        (Self { tally, barriers }, watching)
    }

    /// Notes barriers that came through the queue, and what else a commit changed; wakes whoever waits.
    pub fn note(&self, barriers: &[BatchId], change: impl FnOnce(&mut Tally)) {
        if !barriers.is_empty() {
            let mut seen = self.barriers.lock();
            for id in barriers {
                let last = seen.entry((id.partition, id.epoch)).or_default();
                *last = (*last).max(id.sequence);
            }
        }
        self.tally.send_modify(|tally| {
            tally.version += 1;
            change(tally);
        });
    }
}

impl Progress {
    /// How often the log has said that batches may have been lost.
    pub fn losses(&self) -> u64 {
        self.tally.borrow().losses
    }
}

impl Watching {
    /// Whether all of `barriers`, or later ones of their epochs, have come through the queue in this life.
    pub fn has_seen(&self, barriers: &[BatchId]) -> bool {
        if barriers.is_empty() {
            return true;
        }
        let seen = self.barriers.lock();
        barriers.iter().all(|id| {
            let last = seen.get(&(id.partition, id.epoch));
            last.is_some_and(|&last| last >= id.sequence)
        })
    }
}
