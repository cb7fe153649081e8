//! What a store has taken in since its last commit, apart from the keys themselves.
//!
//! Invariant: the numbers it gives to new tenants continue the cut's dictionary without a gap, in
//! order.

use std::collections::HashMap;

use headcount_model::{BatchId, Partition, TenantName};

use super::{Cut, StoreError, TenantNumber};

/// Changes to a [`Cut`] that the next commit makes: new tenants, added counts, applied batches.
#[derive(Debug, Clone, Default)]
pub struct Staged {
    tenants: Vec<TenantName>,
    numbers: HashMap<TenantName, TenantNumber>,
    added: Vec<(TenantNumber, Partition, u64)>,
    records: Vec<(BatchId, u32)>,
    complete: Option<bool>,
}

impl Staged {
    /// The tenant's number: the cut's, or one given here.
    #[must_use]
    pub fn number(&self, cut: &Cut, tenant: &TenantName) -> Option<TenantNumber> {
        cut.number(tenant.as_str())
            .or_else(|| self.numbers.get(tenant).copied())
    }

    /// The tenant's number; a new tenant gets the next one.
    ///
    /// # Errors
    /// [`StoreError::TenantsExhausted`] when there is none left.
    pub fn number_or_new(
        &mut self,
        cut: &Cut,
        tenant: &TenantName,
    ) -> Result<TenantNumber, StoreError> {
        if let Some(number) = self.number(cut, tenant) {
            return Ok(number);
        }
        let next = cut.names().len() + self.tenants.len();
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

    /// Changes whether the store is complete.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = Some(complete);
    }

    /// New tenants, in order of their numbers, which continue the cut's.
    #[must_use]
    pub fn tenants(&self) -> &[TenantName] {
        &self.tenants
    }

    /// Added counts, in any order; those of one tenant and partition add up.
    pub fn added(&self) -> impl Iterator<Item = (TenantNumber, Partition, u64)> {
        self.added.iter().copied()
    }

    /// Applied batches with their checksums, in order of application.
    #[must_use]
    pub fn records(&self) -> &[(BatchId, u32)] {
        &self.records
    }

    /// The new completeness, when it changes.
    #[must_use]
    pub fn complete(&self) -> Option<bool> {
        self.complete
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
            && self.added.is_empty()
            && self.records.is_empty()
            && self.complete.is_none()
    }

    /// Forgets everything, keeping its memory for the next commit.
    pub fn clear(&mut self) {
        self.tenants.clear();
        self.numbers.clear();
        self.added.clear();
        self.records.clear();
        self.complete = None;
    }
}
