//! The read requirement of a coordinator: what its reads must cover so that clients read their own
//! writes and never go backwards.
//!
//! Invariant: during one incarnation of a coordinator the requirement only grows. The exception is
//! a sequence of another epoch that was never acknowledged and that no counter holds any more:
//! `losses` decides which one, and at most one per epoch is ever removed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::batcher::Batcher;
use headcount_model::{Epoch, Partition, Requirement};

/// Everything that this coordinator acknowledged, and everything that it showed in an exact answer.
pub(super) struct Session {
    epoch: Epoch,
    needs: Mutex<Needs>,
    /// Since when reads have not been exact.
    uncovered: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Needs {
    shown: Requirement,
    /// What the startup read found. It has one entry for every incarnation of any coordinator, so
    /// it is kept apart from what every read carries. A counter that covered it once covers it for
    /// the rest of its incarnation.
    floor: Option<Arc<Requirement>>,
    /// What was dropped from `shown` and `floor`.
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

    /// What a read that begins now must cover in addition to the floor.
    pub(crate) fn requirement(&self, batchers: &[Batcher]) -> Requirement {
        let mut requirement = self.needs.lock().shown.clone();
        for (partition, batcher) in (0..).zip(batchers) {
            requirement.add(Partition(partition), self.epoch, batcher.confirmed());
        }
        requirement
    }

    /// What a read that begins now must cover, including the floor.
    pub(crate) fn requirement_and_floor(&self, batchers: &[Batcher]) -> Requirement {
        let mut requirement = self.requirement(batchers);
        if let Some(floor) = self.floor() {
            requirement.unite(&floor);
        }
        requirement
    }

    /// Records what an exact answer covered, or what the counters held at an accepted plan: later
    /// answers must cover at least that.
    pub(crate) fn note_shown(&self, covered: &Requirement) {
        self.needs.lock().shown.unite(covered);
    }

    /// Sets the floor to what the first startup read found. A later one finds at least as much.
    pub(crate) fn set_floor(&self, floor: Requirement) {
        self.needs
            .lock()
            .floor
            .get_or_insert_with(|| Arc::new(floor));
    }

    /// What every exact answer must cover; `None` before the startup read.
    pub(crate) fn floor(&self) -> Option<Arc<Requirement>> {
        self.needs.lock().floor.clone()
    }

    /// Everything that was dropped so far.
    pub(crate) fn dropped(&self) -> Requirement {
        self.needs.lock().dropped.clone()
    }

    /// Drops what was never acknowledged from the requirement.
    pub(crate) fn drop_all(&self, never_acknowledged: &Requirement) {
        let mut needs = self.needs.lock();
        needs.shown = needs.shown.minus(never_acknowledged);
        if let Some(floor) = &mut needs.floor {
            *floor = Arc::new(floor.minus(never_acknowledged));
        }
        needs.dropped.unite(never_acknowledged);
    }

    /// Records whether a read of this session was exact.
    pub(crate) fn note_exact(&self, exact: bool) {
        let mut since = self.uncovered.lock();
        if exact {
            *since = None;
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }

    /// How long reads of this session have been inexact; `None` if the last one was exact.
    pub(crate) fn uncovered_for(&self) -> Option<Duration> {
        self.uncovered.lock().map(|since| since.elapsed())
    }
}
