//! What a counter's task has done in this life, for queries that wait and for its status.
//!
//! Invariant: a barrier is noted only after everything that came before it in the queue is committed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

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

/// Epochs of barriers remembered at most: each barrier has one, and is asked for within some seconds. Who asks for a
/// barrier that is forgotten publishes another.
const EPOCHS_MAX: usize = 16_384;

/// The last barrier of each epoch, and when it came, by the number of notes before it. Earlier releases gave all barriers of
/// a life one epoch, in which a later one stands for those before it.
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

/// The end that the task holds.
pub(super) struct Progress {
    tally: watch::Sender<Tally>,
    barriers: Arc<Mutex<Barriers>>,
    wanted: Arc<Notify>,
    problem: Arc<OnceLock<String>>,
}

/// The end that queries hold; cheap to clone.
#[derive(Clone)]
pub(super) struct Watching {
    pub tally: watch::Receiver<Tally>,
    barriers: Arc<Mutex<Barriers>>,
    wanted: Arc<Notify>,
    problem: Arc<OnceLock<String>>,
}

impl Progress {
    pub fn new() -> (Self, Watching) {
        let (tally, watching) = watch::channel(Tally::default());
        let barriers = Arc::<Mutex<Barriers>>::default();
        let wanted = Arc::<Notify>::default();
        let problem = Arc::<OnceLock<String>>::default();
        let watching = Watching {
            tally: watching,
            barriers: Arc::clone(&barriers),
            wanted: Arc::clone(&wanted),
            problem: Arc::clone(&problem),
        };
        let progress = Self {
            tally,
            barriers,
            wanted,
            problem,
        };
        (progress, watching)
    }

    /// Notes barriers that came through the queue, and what else a commit changed; wakes whoever waits.
    pub fn note(&self, barriers: &[BatchId], change: impl FnOnce(&mut Tally)) {
        if !barriers.is_empty() {
            let mut seen = self.barriers.lock();
            for id in barriers {
                seen.note(id);
            }
        }
        self.tally.send_modify(|tally| {
            tally.version += 1;
            change(tally);
        });
    }
}

impl Progress {
    /// Resolves once a query waits for more than the last commit has.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Says that nothing more is taken from the log in this life, and why.
    pub fn halt(&self, why: String) {
        // The first reason is the one that matters.
        let _ = self.problem.set(why);
    }

    /// Whether nothing more is taken from the log in this life.
    pub fn is_halted(&self) -> bool {
        self.problem.get().is_some()
    }

    /// How often the log has said that batches may have been lost.
    pub fn losses(&self) -> u64 {
        self.tally.borrow().losses
    }
}

impl Watching {
    /// Says that a query waits for more than the last commit has: what is applied should be committed now.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Why nothing more is taken from the log in this life, if that is so.
    pub fn problem(&self) -> Option<&str> {
        self.problem.get().map(String::as_str)
    }

    /// Whether all of `barriers`, or later ones of their epochs, have come through the queue in this life.
    pub fn has_seen(&self, barriers: &[BatchId]) -> bool {
        if barriers.is_empty() {
            return true;
        }
        let seen = self.barriers.lock();
        barriers.iter().all(|id| seen.has(id))
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
        let noted = watching.barriers.lock();
        assert_eq!(
            (noted.last.len(), noted.by_note.len()),
            (EPOCHS_MAX, EPOCHS_MAX)
        );
    }
}
