//! Keys that a unite has set aside: another store's, on their way into this one.
//!
//! Invariant: no manifest names its runs, so a crash or an abandoned unite leaves nothing of them;
//! a tenant has one number here as long as the unite is open.
//!
//! A tenant that the store did not know gets a *provisional* number, from [`PROVISIONAL_FIRST`] up
//! in order of arrival. [`Aside::resolve`] gives it its true one: the number that it got in the
//! store meanwhile, or the next new one. New numbers keep the order of the provisional ones, so
//! what was sorted stays sorted; keys of tenants that became known meanwhile are set aside once
//! more, under their true numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{Cut, Key, Staged, StoreError, TenantNumber};
use super::filters::RunFilter;
use super::merged::{Merged, Source};
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::Shared;
use headcount_model::TenantName;

/// The first provisional number; a store's own numbers stay below, or there is no more unite.
const PROVISIONAL_FIRST: u32 = 1 << 31;
/// With so many runs the smaller half becomes one: bounds the memory of reading them all at once,
/// about 150 KiB each.
const RUNS_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Aside {
    /// Tenants with provisional numbers, in order.
    names: Vec<TenantName>,
    numbers: HashMap<TenantName, TenantNumber>,
    keys: Vec<Key>,
    runs: Vec<Arc<Run>>,
}

/// What the tenants with provisional numbers are called in the store from now on.
pub(super) struct Resolved {
    /// True numbers, in order of the provisional ones.
    numbers: Vec<TenantNumber>,
    /// The first that the store does not know yet.
    pub(super) first_new: TenantNumber,
}

impl Aside {
    /// The number of a tenant, and whether the store knows it.
    pub(super) fn number(
        &mut self,
        staged: &Staged,
        cut: &Cut,
        tenant: &TenantName,
    ) -> Result<(TenantNumber, bool), StoreError> {
        if let Some(number) = self.numbers.get(tenant) {
            return Ok((*number, false));
        }
        if let Some(number) = staged.number(cut, tenant) {
            return Ok((number, true));
        }
        let tenants = cut.names().len() + staged.tenants().len() + self.names.len();
        let next = u32::try_from(self.names.len())
            .ok()
            .and_then(|next| PROVISIONAL_FIRST.checked_add(next))
            .filter(|_| tenants < PROVISIONAL_FIRST as usize)
            .ok_or(StoreError::TenantsExhausted)?;
        self.names.push(tenant.clone());
        self.numbers.insert(tenant.clone(), TenantNumber(next));
        Ok((TenantNumber(next), false))
    }

    /// Sets keys aside.
    pub(super) fn push(&mut self, shared: &Shared, keys: &[Key]) -> Result<(), StoreError> {
        let keys_max = shared.options.table_keys_max();
        for some in keys.chunks(keys_max) {
            self.keys.extend_from_slice(some);
            if self.keys.len() >= keys_max {
                self.spill(shared)?;
            }
        }
        Ok(())
    }

    /// Writes the keys in memory as a run.
    pub(super) fn spill(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable();
        keys.dedup();
        let run = write(shared, |writer| {
            keys.iter().try_for_each(|key| writer.push(*key))
        })?;
        self.add(shared, run);
        keys.clear();
        self.keys = keys;
        if self.runs.len() >= RUNS_MAX {
            self.merge_smaller(shared)?;
        }
        Ok(())
    }

    fn add(&mut self, shared: &Shared, run: Run) {
        // It goes with its last user, unless the machine dies: then with the next opening.
        run.retire();
        shared.add_aside_bytes(run.disk_bytes());
        self.runs.push(Arc::new(run));
    }

    fn merge_smaller(&mut self, shared: &Shared) -> Result<(), StoreError> {
        self.runs.sort_by_key(|run| run.keys);
        let larger = self.runs.split_off(self.runs.len() / 2);
        let smaller = std::mem::replace(&mut self.runs, larger);
        shared.remove_aside_bytes(smaller.iter().map(|run| run.disk_bytes()).sum());
        let mut merged = Merged::union(smaller.into_iter().map(Source::run).collect())?;
        let run = write(shared, |writer| {
            while let Some(key) = merged.next()? {
                writer.push(key)?;
            }
            Ok(())
        })?;
        self.add(shared, run);
        Ok(())
    }

    /// Gives every tenant its true number; `staged` takes the new ones. Everything is in runs
    /// afterwards.
    pub(super) fn resolve(
        &mut self,
        shared: &Shared,
        staged: &mut Staged,
    ) -> Result<Resolved, StoreError> {
        self.spill(shared)?;
        let resolved = {
            let cut = shared.cut.read();
            let numbers = self
                .names
                .iter()
                .map(|name| staged.number_or_new(&cut, name));
            Resolved {
                numbers: numbers.collect::<Result<_, _>>()?,
                first_new: TenantNumber(cut.names().len() as u32),
            }
        };
        if resolved
            .numbers
            .iter()
            .any(|number| *number < resolved.first_new)
        {
            let mut keys = self.stream()?;
            while let Some(key) = keys.next()? {
                if let Some(number) = resolved.known_meanwhile(&key) {
                    self.push(shared, &[Key::new(number, &key.hash())])?;
                }
            }
            self.spill(shared)?;
        }
        Ok(resolved)
    }

    /// The keys that were set aside and spilled, under the numbers that they have here, each once.
    fn stream(&self) -> Result<Merged, StoreError> {
        Merged::union(self.runs.iter().cloned().map(Source::run).collect())
    }

    /// The keys that were set aside, under their true numbers, ascending.
    pub(super) fn resolved_stream(&self, resolved: Resolved) -> Result<ResolvedStream, StoreError> {
        Ok(ResolvedStream {
            keys: self.stream()?,
            resolved,
        })
    }

    /// At most so many keys were set aside.
    pub(super) fn keys_max(&self) -> u64 {
        self.runs.iter().map(|run| run.keys).sum()
    }

    /// Says that its files are gone with it.
    pub(super) fn forget(self, shared: &Shared) {
        let bytes = self.runs.iter().map(|run| run.disk_bytes()).sum();
        shared.remove_aside_bytes(bytes);
    }
}

/// Writes a run, of the keys that `push` gives. It is only read from end to end, so it needs no
/// filter.
fn write(
    shared: &Shared,
    push: impl FnOnce(&mut RunWriter) -> Result<(), StoreError>,
) -> Result<Run, StoreError> {
    let (files, number) = (Arc::clone(&shared.files), shared.take_number()?);
    shared.or_discard(&run::name(number), || {
        let mut writer = RunWriter::create(files, number, RunFilter::new(0))?;
        push(&mut writer)?;
        writer.finish()
    })
}

impl Resolved {
    /// The true number of a key with a provisional one.
    fn of(&self, key: &Key) -> Option<TenantNumber> {
        let at = key.tenant().0.checked_sub(PROVISIONAL_FIRST)?;
        self.numbers.get(at as usize).copied()
    }

    /// The number of a tenant that became known while the unite was open.
    fn known_meanwhile(&self, key: &Key) -> Option<TenantNumber> {
        self.of(key).filter(|number| *number < self.first_new)
    }
}

/// See [`Aside::resolved_stream`].
pub(super) struct ResolvedStream {
    keys: Merged,
    resolved: Resolved,
}

impl ResolvedStream {
    /// Appends up to `count` keys to `out`; none at the end.
    pub(super) fn read(&mut self, count: usize, out: &mut Vec<Key>) -> Result<(), StoreError> {
        let full = out.len() + count;
        while out.len() < full {
            let Some(key) = self.keys.next()? else {
                return Ok(());
            };
            match self.resolved.of(&key) {
                None => out.push(key),
                // It comes under its true number as well.
                Some(number) if number < self.resolved.first_new => {}
                Some(number) => out.push(Key::new(number, &key.hash())),
            }
        }
        Ok(())
    }
}
