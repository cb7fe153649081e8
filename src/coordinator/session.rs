//! What a coordinator's reads must cover so that clients read their own writes and never go backwards.
//!
//! Invariant: it only grows during one life of a coordinator.

use parking_lot::Mutex;

use super::batcher::Batcher;
use crate::model::{Epoch, Partition, Requirement};

/// Everything acknowledged by this coordinator, and everything it has shown in an exact answer.
pub(super) struct Session {
    epoch: Epoch,
    shown: Mutex<Requirement>,
}

impl Session {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            shown: Mutex::default(),
        }
    }

    /// What a read that begins now must cover.
    pub fn requirement(&self, batchers: &[Batcher]) -> Requirement {
        let mut requirement = self.shown.lock().clone();
        for (partition, batcher) in (0..).zip(batchers) {
            requirement.add(Partition(partition), self.epoch, batcher.confirmed());
        }
        requirement
    }

    /// Notes what an exact answer covered.
    pub fn note_shown(&self, covered: &Requirement) {
        self.shown.lock().unite(covered);
    }
}
