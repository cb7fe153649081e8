//! Ingest runs: the keys of another store, before an ingest adds them to this one.
//!
//! Invariant: no manifest contains these runs, so nothing of them remains after a crash or an
//! abandoned ingest. A tenant keeps its number in these runs as long as the ingest is open.
//!
//! A tenant that the store does not know gets a *provisional* number, from [`PROVISIONAL_FIRST`]
//! up, in order of arrival. [`IngestKeys::resolve`] gives it its final number: the number that it
//! got in the store since then, or the next new one. New numbers keep the order of the provisional
//! ones, so sorted keys remain sorted. Keys of tenants that became known since are written to the
//! ingest runs again, with their final numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{CommittedState, Key, StoreError, TenantNumber, WriteBatch};
use super::filters::RunFilter;
use super::merge_iter::{Merged, Source};
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::Shared;
use headcount_model::TenantName;

/// The first provisional number. The numbers of the store must be lower; if they are exhausted, the
/// ingest fails.
const PROVISIONAL_FIRST: u32 = 1 << 31;
/// Number of runs at which the smaller half is compacted into one. It bounds the memory for reading
/// all of them at once, about 150 KiB each.
const RUNS_MAX: usize = 64;

/// See the module documentation.
#[derive(Default)]
pub(super) struct IngestKeys {
    /// The tenants with provisional numbers, in order.
    names: Vec<TenantName>,
    numbers: HashMap<TenantName, TenantNumber>,
    keys: Vec<Key>,
    runs: Vec<Arc<Run>>,
}

/// The final numbers of the tenants with provisional numbers.
pub(super) struct Resolved {
    /// The final numbers, in order of the provisional ones.
    numbers: Vec<TenantNumber>,
    /// The first number that the store does not know yet.
    pub(super) first_new: TenantNumber,
}

impl IngestKeys {
    /// Returns the number of a tenant, and whether the store knows the tenant.
    pub(super) fn number(
        &mut self,
        staged: &WriteBatch,
        committed: &CommittedState,
        tenant: &TenantName,
    ) -> Result<(TenantNumber, bool), StoreError> {
        if let Some(number) = self.numbers.get(tenant) {
            return Ok((*number, false));
        }
        if let Some(number) = staged.number(committed, tenant) {
            return Ok((number, true));
        }
        let tenants = committed.names().len() + staged.tenants().len() + self.names.len();
        let next = u32::try_from(self.names.len())
            .ok()
            .and_then(|next| PROVISIONAL_FIRST.checked_add(next))
            .filter(|_| tenants < PROVISIONAL_FIRST as usize)
            .ok_or(StoreError::TenantsExhausted)?;
        self.names.push(tenant.clone());
        self.numbers.insert(tenant.clone(), TenantNumber(next));
        Ok((TenantNumber(next), false))
    }

    /// Adds keys to the ingest.
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
        // The last user removes the file. If the machine dies first, the next opening removes it.
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

    /// Gives every tenant its final number, and stages the new tenants in `staged`. Afterwards all
    /// keys are in runs.
    pub(super) fn resolve(
        &mut self,
        shared: &Shared,
        staged: &mut WriteBatch,
    ) -> Result<Resolved, StoreError> {
        self.spill(shared)?;
        let resolved = {
            let committed = shared.committed.read();
            let numbers = self
                .names
                .iter()
                .map(|name| staged.number_or_new(&committed, name));
            Resolved {
                numbers: numbers.collect::<Result<_, _>>()?,
                first_new: TenantNumber(committed.names().len() as u32),
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

    /// The keys of the ingest runs with the tenant numbers used there, ascending, each once.
    fn stream(&self) -> Result<Merged, StoreError> {
        Merged::union(self.runs.iter().cloned().map(Source::run).collect())
    }

    /// The keys of the ingest with their final numbers, ascending.
    pub(super) fn resolved_stream(&self, resolved: Resolved) -> Result<ResolvedStream, StoreError> {
        Ok(ResolvedStream {
            keys: self.stream()?,
            resolved,
        })
    }

    /// Upper bound for the number of keys of the ingest.
    pub(super) fn keys_max(&self) -> u64 {
        self.runs.iter().map(|run| run.keys).sum()
    }

    /// Drops the runs, which removes their files, and their part of the statistics.
    pub(super) fn forget(self, shared: &Shared) {
        let bytes = self.runs.iter().map(|run| run.disk_bytes()).sum();
        shared.remove_aside_bytes(bytes);
    }
}

/// Writes a run with the keys that `push` adds. It needs no filter, because it is only read from
/// start to end.
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
    /// The final number of a key with a provisional one.
    fn of(&self, key: &Key) -> Option<TenantNumber> {
        let at = key.tenant().0.checked_sub(PROVISIONAL_FIRST)?;
        self.numbers.get(at as usize).copied()
    }

    /// The final number of a key, if its tenant became known while the ingest was open.
    fn known_meanwhile(&self, key: &Key) -> Option<TenantNumber> {
        self.of(key).filter(|number| *number < self.first_new)
    }
}

/// See [`IngestKeys::resolved_stream`].
pub(super) struct ResolvedStream {
    keys: Merged,
    resolved: Resolved,
}

impl ResolvedStream {
    /// Appends up to `count` keys to `out`. Appends none at the end.
    pub(super) fn read(&mut self, count: usize, out: &mut Vec<Key>) -> Result<(), StoreError> {
        let full = out.len() + count;
        while out.len() < full {
            let Some(key) = self.keys.next()? else {
                return Ok(());
            };
            match self.resolved.of(&key) {
                None => out.push(key),
                // The key is in the stream with its final number too.
                Some(number) if number < self.resolved.first_new => {}
                Some(number) => out.push(Key::new(number, &key.hash())),
            }
        }
        Ok(())
    }
}
