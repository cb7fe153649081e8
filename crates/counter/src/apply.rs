//! Applies one delivered batch to a store.
//!
//! Invariant: after any batches in any order, each applied any number of times, a tenant's count is
//! the number of distinct hashes among them. The seen-set ensures this; the position only saves
//! work and records coverage.

use headcount_model::{Acceptance, Batch, BatchId, Marks, Verdict};
use headcount_store::{Store, StoreError};

/// The outcome of applying a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Its items were inserted into the seen-set, and its sequence is recorded.
    Counted {
        /// Items that were counted for the first time.
        new: u64,
        /// Duplicates: items that had been counted before.
        duplicates: u64,
        /// Whether the same sequence was applied before with other content: two coordinators share
        /// an epoch.
        fork: bool,
    },
    /// The batch was applied before, and all its items are counted.
    Skipped,
    /// The batch is a barrier: it has no items and leaves no trace in the store.
    Barrier,
}

impl Applied {
    /// Items that were counted for the first time.
    #[must_use]
    pub fn new_items(self) -> u64 {
        match self {
            Self::Counted { new, .. } => new,
            Self::Skipped | Self::Barrier => 0,
        }
    }
}

/// Stages the changes of a batch. Nothing is durable or visible before the store commits.
///
/// # Errors
/// If the store fails; it is poisoned then.
pub fn apply(store: &mut impl Store, batch: &Batch) -> Result<Applied, StoreError> {
    apply_marking(store, batch, None)
}

/// Like [`apply`], and marks each item that was counted for the first time.
///
/// # Errors
/// If the store fails; it is poisoned then.
pub fn apply_marking(
    store: &mut impl Store,
    batch: &Batch,
    marks: Option<&mut Marks>,
) -> Result<Applied, StoreError> {
    if batch.is_barrier() {
        return Ok(Applied::Barrier);
    }
    let id = batch.id();
    let verdict = store.judge(id, batch.checksum());
    // Insert the items even if the sequence was applied before: a position keeps the checksum of
    // its last batch only, and a cloned coordinator that lags sends other items under an earlier
    // sequence.
    let new = match marks {
        None => store.insert_all(id.partition, batch.tenants())?,
        Some(marks) => store.insert_all_marking(id.partition, batch.tenants(), marks)?,
    };
    if verdict == Verdict::Applied && new == 0 {
        return Ok(Applied::Skipped);
    }
    if let Some(acceptance) = batch.acceptance() {
        accept(store, id, acceptance);
    }
    if verdict == Verdict::New {
        store.record(id, batch.checksum());
    }
    Ok(Applied::Counted {
        new,
        duplicates: batch.item_count() as u64 - new,
        fork: verdict != Verdict::New,
    })
}

/// Records accepted losses as applied, so that nothing waits for them. The counter's task decides
/// whether the counter becomes complete, since it knows what was lost and when.
fn accept(store: &mut impl Store, id: BatchId, acceptance: &Acceptance) {
    for &(epoch, first, last) in &acceptance.losses {
        for sequence in first..=last {
            let lost = BatchId {
                partition: id.partition,
                epoch,
                sequence,
            };
            if store.judge(lost, LOST) == Verdict::New {
                store.record(lost, LOST);
            }
        }
    }
}

/// The checksum recorded for a lost batch. If that batch arrives later, it is a fork, and its items
/// count.
const LOST: u32 = 0;

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use headcount_model::{
        BatchId, Completes, Epoch, ItemHash, Partition, Partitioning, Requirement, TenantItems,
        TenantName,
    };
    use headcount_store::memory::MemoryStore;
    use headcount_store::{StoreReader, StoreShape};

    type Posted = Vec<(u8, u16)>;

    fn batch(epoch: u128, sequence: u64, posted: &Posted) -> Batch {
        let items = posted.iter().map(|(tenant, id)| TenantItems {
            tenant: TenantName::new(&format!("t{tenant}")).expect("valid"),
            hashes: [ItemHash::of_id(&id.to_string())].into(),
        });
        let id = BatchId {
            partition: Partition(0),
            epoch: Epoch(epoch),
            sequence,
        };
        Batch::new(id, 0, items.collect())
    }

    fn store() -> MemoryStore {
        MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        })
    }

    proptest! {
        /// Batches of two coordinators, delivered in any order, some repeatedly, committed in
        /// groups of any size: the count always equals the naive count, and every delivered batch
        /// is covered.
        #[test]
        fn counts_what_a_naive_model_counts(
            first in prop::collection::vec(
                prop::collection::vec((0_u8..4, 0_u16..30), 1..6),
                1..8,
            ),
            second in prop::collection::vec(
                prop::collection::vec((0_u8..4, 0_u16..30), 1..6),
                1..8,
            ),
            deliveries in prop::collection::vec(
                (any::<prop::sample::Index>(), any::<bool>()),
                0..60,
            ),
        ) {
            let mut batches = Vec::new();
            for (epoch, posts) in [(1, &first), (2, &second)] {
                for (at, posted) in posts.iter().enumerate() {
                    batches.push((batch(epoch, at as u64 + 1, posted), posted));
                }
            }
            let mut store = store();
            let mut model: HashMap<u8, HashSet<u16>> = HashMap::new();
            let mut seen = HashSet::new();
            for (at, commit) in deliveries {
                let (batch, posted) = &batches[at.index(batches.len())];
                let mut distinct = 0;
                for &(tenant, id) in *posted {
                    distinct += u64::from(model.entry(tenant).or_default().insert(id));
                }
                let applied = apply(&mut store, batch).expect("memory never fails");
                if seen.insert(batch.id()) {
                    let duplicates = batch.item_count() as u64 - distinct;
                    let counted = Applied::Counted { new: distinct, duplicates, fork: false };
                    prop_assert_eq!(applied, counted);
                } else {
                    prop_assert_eq!(applied, Applied::Skipped);
                }
                if commit {
                    store.commit().expect("memory never fails");
                }
            }
            store.commit().expect("memory never fails");
            let reader = store.reader();
            for tenant in 0..4 {
                let count = reader.committed().counts(&format!("t{tenant}"))[0];
                prop_assert_eq!(count, model.get(&tenant).map_or(0, HashSet::len) as u64);
            }
            for (batch, _) in &batches {
                let id = batch.id();
                let mut single = Requirement::default();
                let ranges = vec![(id.sequence, id.sequence)];
                let sequences = headcount_model::Sequences::from_parts(0, ranges);
                let sequences = sequences.unwrap_or_else(|| headcount_model::Sequences::up_to(1));
                single.add_all(id.partition, id.epoch, &sequences);
                let covers = reader.committed().position().covers(&single, Partition(0));
                prop_assert_eq!(covers, seen.contains(&id));
            }
        }
    }

    #[test]
    fn what_is_accepted_as_lost_is_no_longer_a_hole() {
        let mut store = store();
        apply(&mut store, &batch(1, 5, &vec![(0, 1)])).expect("applies");
        let losses = vec![(Epoch(1), 1, 4)];
        let id = BatchId {
            partition: Partition(0),
            epoch: Epoch(2),
            sequence: 1,
        };
        let acceptance = Acceptance {
            losses,
            completes: Completes::Unnamed,
        };
        apply(&mut store, &Batch::accepting(id, 0, acceptance)).expect("applies");
        store.commit().expect("commits");
        let reader = store.reader();
        assert_eq!(reader.committed().position().holes(), 0);
        assert!(
            !reader.committed().complete(),
            "the counter's task decides that"
        );
    }

    #[test]
    fn a_barrier_leaves_no_trace() {
        let mut store = store();
        let applied = apply(&mut store, &batch(7, 1, &vec![])).expect("applies");
        assert_eq!(applied, Applied::Barrier);
        store.commit().expect("commits");
        assert!(store.reader().committed().position().is_empty());
    }

    /// docs/testing/schedules.md, 15: the clone lags, so its sequence is no longer the last one
    /// applied.
    #[test]
    fn a_clone_that_is_behind_counts_and_raises_the_alarm() {
        let mut store = store();
        for sequence in 1..=3 {
            apply(&mut store, &batch(1, sequence, &vec![(0, 1)])).expect("applies");
        }
        let forked = apply(&mut store, &batch(1, 2, &vec![(0, 1), (0, 2)])).expect("applies");
        assert_eq!(
            forked,
            Applied::Counted {
                new: 1,
                duplicates: 1,
                fork: true
            }
        );
        store.commit().expect("commits");
        assert_eq!(store.reader().committed().counts("t0"), [2]);
    }

    #[test]
    fn a_fork_counts_and_raises_the_alarm() {
        let mut store = store();
        apply(&mut store, &batch(1, 1, &vec![(0, 1)])).expect("applies");
        let forked = apply(&mut store, &batch(1, 1, &vec![(0, 1), (0, 2)])).expect("applies");
        assert_eq!(
            forked,
            Applied::Counted {
                new: 1,
                duplicates: 1,
                fork: true
            }
        );
        store.commit().expect("commits");
        assert_eq!(store.reader().committed().counts("t0"), [2]);
    }
}
