//! What a coordinator's reads must cover so that clients read their own writes and never go
//! backwards.
//!
//! Invariant: during one life of a coordinator it only grows, but for sequences of other epochs
//! that were never acknowledged and that nobody holds any more: `losses` decides which, and at most
//! one of an epoch ever goes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::batcher::Batcher;
use headcount_model::{Epoch, Partition, Requirement};

/// Everything acknowledged by this coordinator, and everything it has shown in an exact answer.
pub(super) struct Session {
    epoch: Epoch,
    needs: Mutex<Needs>,
    /// Since when reads have not been exact.
    uncovered: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Needs {
    shown: Requirement,
    /// What the start read found: one entry for each life of a coordinator ever, so it is kept
    /// apart from what every read carries. A counter that covered it once covers it for the rest of
    /// its life.
    floor: Option<Arc<Requirement>>,
    /// What was dropped of the two.
    dropped: Requirement,
}

impl Session {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            needs: Mutex::default(),
            uncovered: Mutex::new(None),
        }
    }

    /// What a read that begins now must cover beside the floor.
    pub(crate) fn requirement(&self, batchers: &[Batcher]) -> Requirement {
        let mut requirement = self.needs.lock().shown.clone();
        for (partition, batcher) in (0..).zip(batchers) {
            requirement.add(Partition(partition), self.epoch, batcher.confirmed());
        }
        requirement
    }

    /// What a read that begins now must cover, the floor included.
    pub(crate) fn requirement_and_floor(&self, batchers: &[Batcher]) -> Requirement {
        let mut requirement = self.requirement(batchers);
        if let Some(floor) = self.floor() {
            requirement.unite(&floor);
        }
        requirement
    }

    /// Notes what an exact answer covered, or what an operator was shown: later answers cover no
    /// less.
    pub(crate) fn note_shown(&self, covered: &Requirement) {
        self.needs.lock().shown.unite(covered);
    }

    /// Notes what the first start read found; later ones find no less.
    pub(crate) fn set_floor(&self, floor: Requirement) {
        self.needs
            .lock()
            .floor
            .get_or_insert_with(|| Arc::new(floor));
    }

    /// What every exact answer must cover; `None` before the start read.
    pub(crate) fn floor(&self) -> Option<Arc<Requirement>> {
        self.needs.lock().floor.clone()
    }

    /// What was dropped so far.
    pub(crate) fn dropped(&self) -> Requirement {
        self.needs.lock().dropped.clone()
    }

    /// Asks no more for what was never acknowledged.
    pub(crate) fn drop_all(&self, never_acknowledged: &Requirement) {
        let mut needs = self.needs.lock();
        needs.shown = needs.shown.minus(never_acknowledged);
        if let Some(floor) = &mut needs.floor {
            *floor = Arc::new(floor.minus(never_acknowledged));
        }
        needs.dropped.unite(never_acknowledged);
    }

    /// Notes whether a read of this session was exact.
    pub(crate) fn note_exact(&self, exact: bool) {
        let mut since = self.uncovered.lock();
        if exact {
            *since = None;
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }

    /// How long no read of this session has been exact, if the last one was not.
    pub(crate) fn uncovered_for(&self) -> Option<Duration> {
        self.uncovered.lock().map(|since| since.elapsed())
    }
}
