//! The progress of a counter's task in this incarnation, for its status and for queries that wait.
//!
//! Invariant: a barrier is noted only after everything before it in the queue is committed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::waiting::Waiters;
use headcount_model::{BatchId, Epoch, Partition, Sequence};

/// Counters of this incarnation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Age of the last applied batch when it was committed, in milliseconds.
    pub lag_ms: u64,
    /// Batches that were redelivered.
    pub redeliveries: u64,
    /// Snapshots ingested.
    pub snapshots: u64,
    /// Forks detected.
    pub forks: u64,
    /// How often the log reported a possible loss.
    pub losses: u64,
}

/// Maximum barrier epochs that are remembered. Each barrier has its own epoch and is queried within
/// seconds. If a barrier is forgotten, the node that waits for it publishes another.
const EPOCHS_MAX: usize = 16_384;

/// The last barrier of each epoch, with its number among all notes. Earlier releases used one epoch
/// for all barriers of an incarnation; in such an epoch, a later barrier also stands for the
/// earlier ones.
#[derive(Default)]
struct Barriers {
    last: BTreeMap<(Partition, Epoch), (Sequence, u64)>,
    /// The same entries, in order of arrival.
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

/// The state that the task and its queries share.
struct Shared {
    tally: Mutex<Tally>,
    barriers: Mutex<Barriers>,
    waiters: Waiters,
    wanted: Notify,
    doubt: Mutex<Option<String>>,
    problem: OnceLock<String>,
    full: Mutex<Option<String>>,
}

/// The task's end. Dropping it reports to all waiters that the task has ended.
pub(super) struct Progress(Arc<Shared>);

/// The queries' end; cheap to clone.
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

    /// Records barriers that passed through the queue and the other changes of a commit. Wakes the
    /// queries that wait for the barriers.
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

    /// Wakes the queries that wait for one of these committed batches.
    pub(crate) fn committed(&self, batches: &[BatchId]) {
        self.0.waiters.wake_for_batches(batches);
    }

    /// Wakes all waiters, after a change that may concern any of them: the store is complete, or
    /// has ingested a position.
    pub(crate) fn changed(&self) {
        self.0.waiters.wake_all();
    }

    /// Resolves once a query waits for more than the last commit has.
    pub(crate) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Whether a query waits for one of these uncommitted batches.
    pub(crate) fn wants_any(&self, batches: &[BatchId]) -> bool {
        self.0.waiters.lacks_any(batches)
    }

    /// Records why batches may have been lost.
    pub(crate) fn doubt(&self, why: String) {
        *self.0.doubt.lock() = Some(why);
    }

    /// Records that nothing more is taken from the log in this incarnation, and why.
    pub(crate) fn halt(&self, why: String) {
        // Keep the first reason.
        let _ = self.0.problem.set(why);
    }

    /// Whether nothing more is taken from the log in this incarnation.
    pub(crate) fn is_halted(&self) -> bool {
        self.0.problem.get().is_some()
    }

    /// Records why the disk has no room, or with `None` that it has room again.
    pub(crate) fn set_full(&self, why: Option<String>) {
        *self.0.full.lock() = why;
    }

    /// Whether the disk had no room at the last check.
    pub(crate) fn is_full(&self) -> bool {
        self.0.full.lock().is_some()
    }

    /// How often the log has reported a possible loss.
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
    /// The counters so far.
    pub(crate) fn tally(&self) -> Tally {
        *self.0.tally.lock()
    }

    /// The queries that wait.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.0.waiters
    }

    /// Signals that a query waits for a batch that the last commit lacks. The task then commits the
    /// batch at once if it has applied it.
    pub(crate) fn want(&self) {
        self.0.wanted.notify_one();
    }

    /// Why batches may have been lost, as the log last reported in this incarnation.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.0.doubt.lock().clone()
    }

    /// Why nothing is taken from the log, for the rest of this incarnation or while the disk is
    /// full; `None` while the counter consumes.
    pub(crate) fn problem(&self) -> Option<String> {
        let halted = self.0.problem.get().cloned();
        halted.or_else(|| self.0.full.lock().clone())
    }

    /// Whether all `barriers`, or later ones of their epochs, have passed through the queue in this
    /// incarnation.
    pub(crate) fn has_seen(&self, barriers: &[BatchId]) -> bool {
        self.unseen(barriers).is_none()
    }

    /// The first of `barriers` for which neither it nor a later one of its epoch has passed through
    /// the queue in this incarnation.
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
        // The first barrier is noted again, so another one is the oldest.
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
