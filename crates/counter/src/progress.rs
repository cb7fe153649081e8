//! What a counter's task has done in this life, for queries that wait and for its status.
//!
//! Invariant: a barrier is noted only after everything that came before it in the queue is
//! committed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::waiting::Waiters;
use headcount_model::{BatchId, Epoch, Partition, Sequence};

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
}

/// Epochs of barriers remembered at most: each barrier has one, and is asked for within some
/// seconds. Who asks for a barrier that is forgotten publishes another.
const EPOCHS_MAX: usize = 16_384;

/// The last barrier of each epoch, and when it came, by the number of notes before it. Earlier
/// releases gave all barriers of a life one epoch, in which a later one stands for those before it.
#[derive(Default)]
struct Barriers {
    last: BTreeMap<(Partition, Epoch), (Sequence, u64)>,
    /// The same by when it came.
    by_note: BTreeMap<u64, (Partition, Epoch)>,
    notes: u64,
}

impl Barriers {
    fn note(&mut self, id: &BatchId) {
        self.notes += 1;
        let epoch = (id.partition, id.epoch);
        let last = self.last.entry(epoch).or_default();
        self.by_note.remove(&last.1);
        *last = (last.0.max(id.sequence), self.notes);
        self.by_note.insert(self.notes, epoch);
        if self.last.len() > EPOCHS_MAX
            && let Some((_, oldest)) = self.by_note.pop_first()
        {
            self.last.remove(&oldest);
        }
    }

    fn has(&self, id: &BatchId) -> bool {
        let last = self.last.get(&(id.partition, id.epoch));
        last.is_some_and(|&(last, _)| last >= id.sequence)
    }
}

/// What both ends share.
struct Shared {
    tally: Mutex<Tally>,
    barriers: Mutex<Barriers>,
    waiters: Waiters,
    wanted: Notify,
    doubt: Mutex<Option<String>>,
    problem: OnceLock<String>,
    full: Mutex<Option<String>>,
}

/// The end that the task holds; dropping it tells everybody that the task has ended.
pub(super) struct Progress(Arc<Shared>);

/// The end that queries hold; cheap to clone.
#[derive(Clone)]
pub(super) struct Watching(Arc<Shared>);

impl Progress {
    pub(crate) fn new() -> (Self, Watching) {
        let shared = Arc::new(Shared {
            tally: Mutex::default(),
            barriers: Mutex::default(),
            waiters: Waiters::new(),
            wanted: Notify::new(),
            doubt: Mutex::default(),
            problem: OnceLock::new(),
            full: Mutex::default(),
        });
        let watching = Watching(Arc::clone(&shared));
        (Self(shared), watching)
    }

    /// Notes barriers that came through the queue, and what else a commit changed; wakes whoever
    /// waits for the barriers.
    pub(crate) fn note(&self, barriers: &[BatchId], change: impl FnOnce(&mut Tally)) {
        change(&mut self.0.tally.lock());
        if !barriers.is_empty() {
            let mut seen = self.0.barriers.lock();
            for id in barriers {
                seen.note(id);
            }
            drop(seen);
            self.0.waiters.wake_for_barriers(barriers);
        }
    }

    /// Wakes whoever waits for one of these batches, which are committed.
    pub(crate) fn committed(&self, batches: &[BatchId]) {
        self.0.waiters.wake_for_batches(batches);
    }

    /// Wakes everybody: the store is complete, or has taken another's position in.
    pub(crate) fn changed(&self) {
        self.0.waiters.wake_all();
    }

    /// Resolves once a query waits for more than the last commit has.
    pub(crate) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Whether a query waits for one of these batches, which are not committed.
    pub(crate) fn wants_any(&self, batches: &[BatchId]) -> bool {
        self.0.waiters.lacks_any(batches)
    }

    /// Says why batches may have been lost.
    pub(crate) fn doubt(&self, why: String) {
        *self.0.doubt.lock() = Some(why);
    }

    /// Says that nothing more is taken from the log in this life, and why.
    pub(crate) fn halt(&self, why: String) {
        // The first reason is the one that matters.
        let _ = self.0.problem.set(why);
    }

    /// Whether nothing more is taken from the log in this life.
    pub(crate) fn is_halted(&self) -> bool {
        self.0.problem.get().is_some()
    }

    /// Says why there is no room on the disk, or that there is some again.
    pub(crate) fn set_full(&self, why: Option<String>) {
        *self.0.full.lock() = why;
    }

    /// Whether there was no room on the disk when it was looked for last.
    pub(crate) fn is_full(&self) -> bool {
        self.0.full.lock().is_some()
    }

    /// How often the log has said that batches may have been lost.
    pub(crate) fn losses(&self) -> u64 {
        self.0.tally.lock().losses
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.waiters.end();
    }
}

impl Watching {
    /// What is counted so far.
    pub(crate) fn tally(&self) -> Tally {
        *self.0.tally.lock()
    }

    /// Whoever waits.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.0.waiters
    }

    /// Says that a query waits for a batch that the last commit does not have: if it is applied, it
    /// should be committed now.
    pub(crate) fn want(&self) {
        self.0.wanted.notify_one();
    }

    /// Why batches may have been lost, as the log said last in this life.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.0.doubt.lock().clone()
    }

    /// Why nothing is taken from the log, in this life or as long as the disk is full, if that is
    /// so.
    pub(crate) fn problem(&self) -> Option<String> {
        let halted = self.0.problem.get().cloned();
        halted.or_else(|| self.0.full.lock().clone())
    }

    /// Whether all of `barriers`, or later ones of their epochs, have come through the queue in
    /// this life.
    pub(crate) fn has_seen(&self, barriers: &[BatchId]) -> bool {
        self.unseen(barriers).is_none()
    }

    /// The first of `barriers` that has not come through the queue in this life, nor a later one of
    /// its epoch.
    pub(crate) fn unseen(&self, barriers: &[BatchId]) -> Option<BatchId> {
        if barriers.is_empty() {
            return None;
        }
        let seen = self.0.barriers.lock();
        barriers.iter().find(|id| !seen.has(id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_and_the_oldest_is_forgotten() {
        let (progress, watching) = Progress::new();
        let barrier = |epoch: usize| BatchId {
            partition: Partition(0),
            epoch: Epoch(epoch as u128),
            sequence: 1,
        };
        for epoch in 0..EPOCHS_MAX {
            progress.note(&[barrier(epoch)], |_| {});
        }
        // The first one is used again: another is the oldest then.
        progress.note(&[barrier(0), barrier(EPOCHS_MAX)], |_| {});
        assert!(watching.has_seen(&[barrier(0), barrier(2), barrier(EPOCHS_MAX)]));
        assert!(!watching.has_seen(&[barrier(1)]));
        let noted = watching.0.barriers.lock();
        assert_eq!(
            (noted.last.len(), noted.by_note.len()),
            (EPOCHS_MAX, EPOCHS_MAX)
        );
    }
}
