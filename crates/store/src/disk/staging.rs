//! Staging: finds the keys of an insert that are absent from the store, and stages them.
//!
//! Invariant: a staged key is in no memtable and no run, and is staged once.

use super::super::{Key, StoreError};
use super::DiskStore;
use super::filter::Fingerprint;
use headcount_model::{ItemHash, Marks, Partition, Partitioning, TenantItems, TenantName};

impl DiskStore {
    pub(super) fn stage<'i>(
        &mut self,
        partition: Partition,
        items: impl Iterator<Item = (&'i TenantName, &'i [ItemHash])>,
    ) -> Result<u64, StoreError> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.clear();
        self.numbers.clear();
        let partitioning = self.keys_of(items, &mut fresh)?;
        // A hash that does not belong to the partition it was inserted for is counted in the
        // partition in which a recount finds it.
        let owner = |key: &Key| match partitioning.count() {
            1 => partition,
            _ => partitioning.of(&key.hash()),
        };
        for key in &fresh {
            self.staged.add(key.tenant(), owner(key), 1);
        }
        self.staged_list.extend_from_slice(&fresh);
        let added = fresh.len() as u64;
        self.fresh = fresh;
        Ok(added)
    }

    /// Fills `fresh` with the keys of `items` that are neither committed nor staged, and stages
    /// them.
    ///
    /// All keys are looked up in one place before the next place. The lookups of one loop do not
    /// depend on each other, so the processor waits for many cache misses at the same time.
    fn keys_of<'i>(
        &mut self,
        items: impl Iterator<Item = (&'i TenantName, &'i [ItemHash])>,
        fresh: &mut Vec<Key>,
    ) -> Result<Partitioning, StoreError> {
        let mut of_new_tenants = Vec::new();
        let partitioning = {
            let committed = self.shared.committed.read();
            let known = committed.names().len();
            for (tenant, hashes) in items.filter(|(_, hashes)| !hashes.is_empty()) {
                let number = self.staged.number_or_new(&committed, tenant)?;
                self.numbers.push(number);
                let keys = hashes.iter().map(|hash| Key::new(number, hash));
                if (number.0 as usize) < known {
                    fresh.extend(keys);
                } else {
                    of_new_tenants.extend(keys);
                }
            }
            committed.partitioning()
        };
        self.remove_committed(fresh)?;
        fresh.append(&mut of_new_tenants);
        let staged_keys = &mut self.staged_keys;
        fresh.retain(|key| staged_keys.insert(*key));
        Ok(partitioning)
    }

    /// Removes the committed keys from `keys`. Adjacent keys in ascending order share block reads.
    pub(super) fn remove_committed(&mut self, keys: &mut Vec<Key>) -> Result<(), StoreError> {
        let view = self.shared.view();
        for table in [Some(&view.table), view.frozen.as_ref()]
            .into_iter()
            .flatten()
        {
            let table = table.read();
            keys.retain(|key| !table.contains(key));
        }
        let fingerprints = &mut self.fingerprints;
        fingerprints.clear();
        fingerprints.extend(keys.iter().map(Fingerprint::of));
        for run in view.runs.iter().rev() {
            run.remove_known(keys, fingerprints, &mut self.scratch)?;
        }
        Ok(())
    }

    /// Marks those of `items` that were absent. `items` must be those of the last insert.
    ///
    /// The absent keys are in `fresh`, in the order of the items, except that the keys of new
    /// tenants come after all others. A repeated key is fresh at its first occurrence only.
    pub(super) fn mark_fresh(&self, items: &[TenantItems], marks: &mut Marks) {
        let known = self.shared.committed.read().names().len();
        let is_known = |key: &Key| (key.tenant().0 as usize) < known;
        let behind = self.fresh.partition_point(is_known);
        let (of_known, of_new) = self.fresh.split_at(behind);
        let (mut of_known, mut of_new) = (of_known.iter().peekable(), of_new.iter().peekable());
        let groups = items.iter().filter(|group| !group.hashes.is_empty());
        let mut place = 0;
        for (group, number) in groups.zip(&self.numbers) {
            let fresh = match (number.0 as usize) < known {
                true => &mut of_known,
                false => &mut of_new,
            };
            for hash in &group.hashes {
                if fresh
                    .next_if(|next| **next == Key::new(*number, hash))
                    .is_some()
                {
                    marks.mark(place);
                }
                place += 1;
            }
        }
    }
}
