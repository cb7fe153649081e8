//! Queries that wait for a commit to bring what they lack.
//!
//! Invariant: a commit wakes only the queries that lack something that it brought. A commit that
//! brings nothing that a query lacks wakes none; while no query waits, it only reads the number of
//! waiters. The number of waiters is bounded.
//!
//! A query may lack several things. It registers for one at a time. When that has arrived, the
//! query is checked again and registers for the next.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use headcount_model::{BatchId, Sequence};
use headcount_telemetry as telemetry;

/// Maximum queries that wait for batches or for completeness; further ones are rejected.
pub(super) const WAITING_MAX: usize = 2_048;

/// Maximum queries that wait for barriers; further ones are rejected. Their limit is separate,
/// because a counter that covers nothing leaves the other queries waiting but can still prove a
/// barrier.
pub(super) const PROVING_MAX: usize = 256;

/// One thing that a query lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lack {
    /// Completeness: the counter has everything that it should have.
    Completeness,
    /// The commit of this batch.
    Batch(BatchId),
    /// This barrier, or a later one of its epoch, from the queue.
    Barrier(BatchId),
}

/// The task has ended: nothing more will arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended;

/// The waiters, by what they lack and a unique number.
type Index = BTreeMap<(Lack, u64), oneshot::Sender<()>>;

#[derive(Default)]
struct Inside {
    index: Index,
    next: u64,
    ended: bool,
}

/// The queries that wait for a counter's task.
pub(super) struct Waiters {
    inside: Mutex<Inside>,
    /// Number of entries in the index. Changed under its lock, read without it.
    registered: AtomicUsize,
    waiting: AtomicUsize,
    proving: AtomicUsize,
    gauge: Gauge,
}

/// A permit to wait, released when it is dropped.
pub(super) struct Place<'w> {
    taken: &'w AtomicUsize,
    gauge: &'w Gauge,
}

/// A registered waiter, until it is woken or dropped.
pub(super) struct Registered<'w> {
    waiters: &'w Waiters,
    key: (Lack, u64),
    woken: oneshot::Receiver<()>,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            inside: Mutex::default(),
            registered: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            proving: AtomicUsize::new(0),
            gauge: metrics::gauge!(telemetry::QUERIES_WAITING),
        }
    }

    /// Acquires a permit for a query that waits, for barriers if it is `proving`. Returns `None` if
    /// the limit is reached.
    pub(crate) fn enter(&self, proving: bool) -> Option<Place<'_>> {
        let (taken, places_max) = match proving {
            true => (&self.proving, PROVING_MAX),
            false => (&self.waiting, WAITING_MAX),
        };
        let one_more = |number: usize| (number < places_max).then_some(number + 1);
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        self.gauge.increment(1.0);
        Some(Place {
            taken,
            gauge: &self.gauge,
        })
    }

    /// Registers a waiter for what it lacks. The waiter must check once more before it waits: what
    /// arrived earlier does not wake it.
    pub(crate) fn register(&self, lack: Lack) -> Registered<'_> {
        let (wake, woken) = oneshot::channel();
        let mut inside = self.inside.lock();
        let key = (lack, inside.next);
        inside.next += 1;
        // After the end, `wake` is dropped here, which reports the end to the waiter.
        if !inside.ended {
            inside.index.insert(key, wake);
            self.registered.store(inside.index.len(), Ordering::Release);
        }
        Registered {
            waiters: self,
            key,
            woken,
        }
    }

    /// Whether any query waits. The caller has just published what a query may lack, under a lock
    /// that a waiter takes to check for it (the lock of the committed or of the barriers). A waiter
    /// that checked before had registered before, which is visible here; a waiter that checks later
    /// finds what was published.
    fn somebody_waits(&self) -> bool {
        self.registered.load(Ordering::Acquire) > 0
    }

    /// Whether any waiter lacks one of `batches`.
    pub(crate) fn lacks_any(&self, batches: &[BatchId]) -> bool {
        if !self.somebody_waits() {
            return false;
        }
        let inside = self.inside.lock();
        let is_lacked = |id: &BatchId| inside.index.range(only(Lack::Batch(*id))).next().is_some();
        batches.iter().any(is_lacked)
    }

    /// Wakes the waiters that lack one of `batches`.
    pub(crate) fn wake_for_batches(&self, batches: &[BatchId]) {
        if self.somebody_waits() {
            self.wake(batches.iter().map(|id| only(Lack::Batch(*id))));
        }
    }

    /// Wakes the waiters that lack one of `barriers`, or an earlier one of its epoch.
    pub(crate) fn wake_for_barriers(&self, barriers: &[BatchId]) {
        if !barriers.is_empty() && self.somebody_waits() {
            let until = |id: &BatchId| {
                let first = BatchId {
                    sequence: Sequence::MIN,
                    ..*id
                };
                (Lack::Barrier(first), u64::MIN)..=(Lack::Barrier(*id), u64::MAX)
            };
            self.wake(barriers.iter().map(until));
        }
    }

    /// Wakes all waiters: anything may have arrived.
    pub(crate) fn wake_all(&self) {
        if self.somebody_waits() {
            let mut inside = self.inside.lock();
            let woken = std::mem::take(&mut inside.index);
            self.registered.store(0, Ordering::Release);
            drop(inside);
            woken.into_values().for_each(wake);
        }
    }

    /// Reports to all waiters, including later ones, that nothing more will arrive.
    pub(crate) fn end(&self) {
        let mut inside = self.inside.lock();
        inside.ended = true;
        let told = std::mem::take(&mut inside.index);
        self.registered.store(0, Ordering::Release);
        drop(inside);
        drop(told);
    }

    /// Whether the task has ended.
    pub(crate) fn have_ended(&self) -> bool {
        self.inside.lock().ended
    }

    fn wake(&self, ranges: impl Iterator<Item = RangeInclusive<(Lack, u64)>>) {
        let mut woken = Vec::new();
        let mut inside = self.inside.lock();
        for range in ranges {
            while let Some((&key, _)) = inside.index.range(range.clone()).next() {
                woken.extend(inside.index.remove(&key));
            }
        }
        self.registered.store(inside.index.len(), Ordering::Release);
        drop(inside);
        woken.into_iter().for_each(wake);
    }
}

/// The range of all waiters that lack exactly this.
fn only(lack: Lack) -> RangeInclusive<(Lack, u64)> {
    (lack, u64::MIN)..=(lack, u64::MAX)
}

fn wake(waiter: oneshot::Sender<()>) {
    // The waiter may have been dropped meanwhile.
    let _ = waiter.send(());
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

impl Registered<'_> {
    /// Resolves once what the waiter lacks has arrived.
    ///
    /// # Errors
    /// If it will not arrive.
    pub(crate) async fn woken(&mut self) -> Result<(), Ended> {
        (&mut self.woken).await.map_err(|_| Ended)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let waiters = self.waiters;
        let mut inside = waiters.inside.lock();
        if inside.index.remove(&self.key).is_some() {
            let left = inside.index.len();
            waiters.registered.store(left, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use headcount_model::{Epoch, Partition};

    fn id(epoch: u128, sequence: Sequence) -> BatchId {
        BatchId {
            partition: Partition(0),
            epoch: Epoch(epoch),
            sequence,
        }
    }

    /// The indexes of the waiters that have been woken. They are removed.
    fn woken(waiting: &mut [Option<Registered<'_>>]) -> Vec<usize> {
        let mut woken = Vec::new();
        for (at, waiter) in waiting.iter_mut().enumerate() {
            let is_woken = |waiter: &mut Registered<'_>| waiter.woken().now_or_never();
            if let Some(told) = waiter.as_mut().and_then(is_woken) {
                assert_eq!(told, Ok(()));
                *waiter = None;
                woken.push(at);
            }
        }
        woken
    }

    #[test]
    fn each_event_wakes_those_that_it_concerns() {
        let waiters = Waiters::new();
        let lacks = [
            Lack::Batch(id(1, 5)),
            Lack::Batch(id(1, 5)),
            Lack::Batch(id(1, 6)),
            Lack::Batch(id(2, 5)),
            Lack::Barrier(id(1, 5)),
            Lack::Barrier(id(1, 7)),
            Lack::Completeness,
        ];
        let mut waiting: Vec<_> = lacks
            .map(|lack| Some(waiters.register(lack)))
            .into_iter()
            .collect();
        waiters.wake_for_batches(&[id(1, 4), id(3, 5)]);
        waiters.wake_for_barriers(&[id(1, 4), id(2, 9)]);
        assert_eq!(woken(&mut waiting), [0; 0]);
        assert!(waiters.lacks_any(&[id(1, 4), id(1, 5)]));
        assert!(!waiters.lacks_any(&[id(1, 7)]), "a barrier is not a batch");
        waiters.wake_for_batches(&[id(1, 4), id(1, 5)]);
        assert_eq!(
            woken(&mut waiting),
            [0, 1],
            "a later batch does not bring an earlier one"
        );
        waiters.wake_for_barriers(&[id(1, 6)]);
        assert_eq!(
            woken(&mut waiting),
            [4],
            "a later barrier proves an earlier one"
        );
        waiting[2] = None;
        assert!(!waiters.lacks_any(&[id(1, 6)]), "it was dropped");
        waiters.wake_all();
        assert_eq!(woken(&mut waiting), [3, 5, 6]);
        assert!(!waiters.somebody_waits());
    }

    #[test]
    fn an_end_is_told_to_those_who_wait_and_those_who_come() {
        let waiters = Waiters::new();
        let mut early = waiters.register(Lack::Completeness);
        assert!(early.woken().now_or_never().is_none());
        waiters.end();
        let mut late = waiters.register(Lack::Batch(id(1, 1)));
        for waiter in [&mut early, &mut late] {
            assert_eq!(waiter.woken().now_or_never(), Some(Err(Ended)));
        }
        assert!(waiters.have_ended());
    }

    #[test]
    fn places_are_bounded_for_each_kind_and_come_back() {
        let waiters = Waiters::new();
        let enter_all =
            |proving| -> Vec<_> { std::iter::from_fn(|| waiters.enter(proving)).collect() };
        let waiting = enter_all(false);
        assert_eq!(waiting.len(), WAITING_MAX);
        assert_eq!(
            enter_all(true).len(),
            PROVING_MAX,
            "the limits are separate"
        );
        drop(waiting);
        assert!(waiters.enter(false).is_some());
    }
}
