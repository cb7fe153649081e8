//! What a coordinator's reads must cover so that clients read their own writes and never go backwards.
//!
//! Invariant: it only grows during one life of a coordinator.

use std::sync::OnceLock;

use parking_lot::Mutex;

use super::batcher::Batcher;
use crate::model::{Epoch, Partition, Requirement};

/// Everything acknowledged by this coordinator, and everything it has shown in an exact answer.
pub(super) struct Session {
    epoch: Epoch,
    shown: Mutex<Requirement>,
    /// What the start read found: one entry for each life of a coordinator ever, so it is kept apart from what
    /// every read carries. A counter that covered it once always will.
    floor: OnceLock<Requirement>,
}

impl Session {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            shown: Mutex::default(),
            floor: OnceLock::new(),
        }
    }

    /// What a read that begins now must cover beside the floor.
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

    /// Notes what the first start read found; later ones find no less.
    pub fn set_floor(&self, floor: Requirement) {
        let _ = self.floor.set(floor);
    }

    /// What every exact answer must cover; `None` before the start read.
    pub fn floor(&self) -> Option<&Requirement> {
        self.floor.get()
    }
}
