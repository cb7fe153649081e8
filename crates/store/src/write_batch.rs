//! The write batch: the changes that a store has staged since its last commit, except the keys
//! themselves.
//!
//! Invariant: the numbers of new tenants continue the dictionary of the committed state, in order
//! and without gaps.

use std::collections::HashMap;

use headcount_model::{BatchId, Partition, TenantName};

use super::{CommittedState, StoreError, TenantNumber};

/// Changes that the next commit makes to a [`CommittedState`]: new tenants, added counts, applied
/// batches.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    tenants: Vec<TenantName>,
    numbers: HashMap<TenantName, TenantNumber>,
    added: Vec<(TenantNumber, Partition, u64)>,
    records: Vec<(BatchId, u32)>,
    complete: Option<bool>,
}

impl WriteBatch {
    /// Returns the tenant's number, committed or staged.
    #[must_use]
    pub fn number(&self, committed: &CommittedState, tenant: &TenantName) -> Option<TenantNumber> {
        committed
            .number(tenant.as_str())
            .or_else(|| self.numbers.get(tenant).copied())
    }

    /// Returns the tenant's number. A new tenant gets the next one.
    ///
    /// # Errors
    /// [`StoreError::TenantsExhausted`] when all numbers are taken.
    pub fn number_or_new(
        &mut self,
        committed: &CommittedState,
        tenant: &TenantName,
    ) -> Result<TenantNumber, StoreError> {
        if let Some(number) = self.number(committed, tenant) {
            return Ok(number);
        }
        let next = committed.names().len() + self.tenants.len();
        let number = TenantNumber(u32::try_from(next).map_err(|_| StoreError::TenantsExhausted)?);
        self.tenants.push(tenant.clone());
        self.numbers.insert(tenant.clone(), number);
        Ok(number)
    }

    /// Adds to a tenant's count.
    pub fn add(&mut self, number: TenantNumber, partition: Partition, added: u64) {
        match self.added.last_mut() {
            _ if added == 0 => {}
            Some((last, of, sum)) if (*last, *of) == (number, partition) => *sum += added,
            _ => self.added.push((number, partition, added)),
        }
    }

    /// Records an applied batch.
    pub fn record(&mut self, id: BatchId, checksum: u32) {
        self.records.push((id, checksum));
    }

    /// Sets whether the store is complete.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = Some(complete);
    }

    /// New tenants, in order of their numbers, which continue those of the committed state.
    #[must_use]
    pub fn tenants(&self) -> &[TenantName] {
        &self.tenants
    }

    /// Added counts, in any order. Several entries of one tenant and partition add up.
    pub fn added(&self) -> impl Iterator<Item = (TenantNumber, Partition, u64)> {
        self.added.iter().copied()
    }

    /// Applied batches with their checksums, in the order in which they were applied.
    #[must_use]
    pub fn records(&self) -> &[(BatchId, u32)] {
        &self.records
    }

    /// The new completeness, if it changes.
    #[must_use]
    pub fn complete(&self) -> Option<bool> {
        self.complete
    }

    /// Whether the write batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
            && self.added.is_empty()
            && self.records.is_empty()
            && self.complete.is_none()
    }

    /// Empties the write batch. Its memory is kept for the next one.
    pub fn clear(&mut self) {
        self.tenants.clear();
        self.numbers.clear();
        self.added.clear();
        self.records.clear();
        self.complete = None;
    }
}
