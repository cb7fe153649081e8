//! Compaction: merges runs, so that their number stays logarithmic in the number of keys.
//!
//! Invariant: a compaction changes which runs contain the keys, never the set of keys. Its inputs
//! stay in the version and the manifest until its output has replaced them.
//!
//! Runs are tiered by size. Each tier is [`FANOUT`] times the one below, and once a tier has
//! `FANOUT` runs they are compacted into one. A key is therefore rewritten about log₄(keys /
//! memtable) times. Runs share no keys and have no order among them, so any runs of a tier can be
//! compacted together. A large compaction pauses every few thousand keys to let a smaller one run
//! first, so the small runs of new keys never accumulate behind it.
//!
//! A compaction needs the disk space of its inputs a second time until it ends, and does not free
//! space for others. Therefore it starts only if its output and the reserve have space, waits while
//! the store is full, and discards its output if the store becomes full while it runs. Waiting runs
//! only slow lookups, until there are [`flush::RUNS_MAX`] of them: then the store is full.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::super::StoreError;
use super::DiskStore;
use super::flush;
use super::manifest::RunEntry;
use super::merge_iter::{Merged, Source};
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::{Shared, Stop, Version};

/// Number of runs of one tier that are compacted into one.
pub(super) const FANOUT: u64 = 4;
/// Maximum number of inputs of a compaction.
const MERGED_MAX: usize = 8;
/// Number of keys between two checks for smaller compactions and cancellation.
const KEYS_BETWEEN_LOOKS: u64 = 1 << 14;

impl DiskStore {
    /// Waits until every flush and compaction that is due and has space is done, for tests and
    /// measurements.
    ///
    /// # Errors
    /// If one of them failed.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.shared.state();
        while !self.shared.is_poisoned()
            && (state.flush.is_some() && !state.flush_waits
                || state.merging
                || !state.merge_waits && !is_done(&self.shared))
        {
            self.shared.wait(&mut state);
        }
        drop(state);
        self.shared.check()
    }

    /// Whether a compaction is running, for measurements.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        self.shared.state().merging
    }
}

/// The tier of a run: 0 up to `base` keys, then one more for every factor of [`FANOUT`].
fn tier(keys: u64, base: u64) -> u32 {
    (keys / base.max(1)).max(1).ilog(FANOUT)
}

/// Picks the runs to compact: from the lowest tier below `tiers` that has enough runs that are not
/// `busy`. Returns the tier and the numbers of the runs.
fn pick(runs: &[RunEntry], busy: &[u64], base: u64, tiers: u32) -> Option<(u32, Vec<u64>)> {
    let mut free: Vec<RunEntry> = runs
        .iter()
        .copied()
        .filter(|run| !busy.contains(&run.number))
        .collect();
    free.sort_by_key(|run| run.keys);
    let of_tiers = free.chunk_by(|a, b| tier(a.keys, base) == tier(b.keys, base));
    for runs in of_tiers {
        let this = runs.first().map_or(0, |run| tier(run.keys, base));
        if this < tiers && runs.len() as u64 >= FANOUT {
            let chosen = runs.iter().take(MERGED_MAX).map(|run| run.number);
            return Some((this, chosen.collect()));
        }
    }
    None
}

/// The runs of a version, in the form that [`pick`] takes.
fn entries(view: &Version) -> Vec<RunEntry> {
    view.runs
        .iter()
        .map(|run| RunEntry {
            number: run.number,
            keys: run.keys,
        })
        .collect()
}

/// Retry interval of a compaction that found no space although the file system reported enough, as
/// a multiple of [`DiskOptions::room_interval`](super::DiskOptions).
const PAUSES: u32 = 16;

/// Runs the compaction thread until the store stops.
pub(super) fn work(shared: &Shared) {
    let mut earliest = None;
    while let Some(job) = wait_for_job(shared, earliest) {
        let merged = merge(shared, job, &mut Vec::new());
        earliest = None;
        match merged {
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "compaction found no room; retrying later");
                earliest = Some(Instant::now() + shared.options.room_interval * PAUSES);
            }
            Err(error) => shared.fail(error),
            Ok(()) => {}
        }
    }
}

/// Waits for a compaction that has space, but at least until `earliest`. Returns `None` if the
/// thread must end.
fn wait_for_job(shared: &Shared, earliest: Option<Instant>) -> Option<(u32, Vec<u64>)> {
    let mut state = shared.state();
    loop {
        if state.stop != Stop::No || shared.is_poisoned() {
            return None;
        }
        let job = next_job(shared, &[], u32::MAX);
        let is_due = job.is_some();
        if let Some(job) = job
            && earliest.is_none_or(|earliest| earliest <= Instant::now())
            && has_room(shared, &job.1)
        {
            (state.merging, state.merge_waits) = (true, false);
            return Some(job);
        }
        (state.merging, state.merge_waits) = (false, is_due);
        if is_due && state.flush.is_some() && shared.view().runs.len() >= flush::RUNS_MAX {
            // The flush waits for a compaction, which waits for space.
            shared.note_full(&no_room(shared));
            state.flush_waits = true;
        }
        shared.notify();
        match is_due {
            true => {
                let look_at = Instant::now() + shared.options.room_interval;
                shared.wait_until(&mut state, look_at);
            }
            false => shared.wait(&mut state),
        }
    }
}

/// Whether there is space for a second copy of the runs and for the reserve. A full disk has none.
fn has_room(shared: &Shared, numbers: &[u64]) -> bool {
    let view = shared.view();
    let inputs = view.runs.iter().filter(|run| numbers.contains(&run.number));
    let bytes: u64 = inputs.map(|run| run.disk_bytes()).sum();
    let with_reserve = bytes.saturating_add(shared.options.reserve_bytes());
    // If the space is unknown, the attempt decides.
    !shared.is_full() && shared.has_room(with_reserve).unwrap_or(true)
}

fn no_room(shared: &Shared) -> StoreError {
    StoreError::Full {
        action: "compact runs in",
        path: shared.files.folder().to_owned(),
        source: io::ErrorKind::StorageFull.into(),
    }
}

/// Whether no compaction is due.
pub(super) fn is_done(shared: &Shared) -> bool {
    next_job(shared, &[], u32::MAX).is_none()
}

fn next_job(shared: &Shared, busy: &[u64], tiers: u32) -> Option<(u32, Vec<u64>)> {
    let base = shared.options.table_keys_max() as u64;
    pick(&entries(&shared.view()), busy, base, tiers)
}

/// Compacts the runs of `job`. `busy` are the inputs of the compactions that wait for this one.
/// Cancels if the store must stop or is full.
fn merge(shared: &Shared, job: (u32, Vec<u64>), busy: &mut Vec<u64>) -> Result<(), StoreError> {
    let (tier, numbers) = job;
    let inputs: Vec<Arc<Run>> = shared
        .view()
        .runs
        .iter()
        .filter(|run| numbers.contains(&run.number))
        .cloned()
        .collect();
    let busy_before = busy.len();
    busy.extend(&numbers);
    let number = shared.take_number()?;
    let name = run::name(number);
    let done = shared.or_discard(&name, || {
        match write(shared, &inputs, number, tier, busy)? {
            Some(output) => install(shared, output, &inputs),
            // The compaction was cancelled: its output is not part of the store.
            None => shared.discard(&name),
        }
    });
    busy.truncate(busy_before);
    done
}

/// Writes the keys of `inputs` as the run `number`. Returns `None` if it was cancelled.
fn write(
    shared: &Shared,
    inputs: &[Arc<Run>],
    number: u64,
    tier: u32,
    busy: &mut Vec<u64>,
) -> Result<Option<Run>, StoreError> {
    let keys = inputs.iter().map(|run| run.keys).sum();
    let (files, filter) = (Arc::clone(&shared.files), shared.filters.make(keys));
    let mut output = RunWriter::create(files, number, filter)?;
    let mut merged = Merged::new(inputs.iter().cloned().map(Source::run).collect())?;
    let mut count = 0;
    while let Some(key) = merged.next()? {
        output.push(key)?;
        count += 1;
        if count % KEYS_BETWEEN_LOOKS == 0 {
            while let Some(smaller) = next_job(shared, busy, tier) {
                merge(shared, smaller, busy)?;
                if gives_up(shared) {
                    return Ok(None);
                }
            }
            if gives_up(shared) {
                return Ok(None);
            }
        }
    }
    output.finish().map(Some)
}

fn gives_up(shared: &Shared) -> bool {
    shared.is_stopping() || shared.is_poisoned() || shared.is_full()
}

fn install(shared: &Shared, output: Run, inputs: &[Arc<Run>]) -> Result<(), StoreError> {
    let is_input = |number: u64| inputs.iter().any(|run| run.number == number);
    let mut manifest = shared.manifest.lock();
    let mut next = manifest.clone();
    next.runs.retain(|run| !is_input(run.number));
    next.runs.push(RunEntry {
        number: output.number,
        keys: output.keys,
    });
    next.next_number = shared.next_number();
    shared.write_manifest(&next)?;
    *manifest = next;
    {
        let mut view = shared.view.write();
        let mut changed = Version::clone(&view);
        changed.runs.retain(|run| !is_input(run.number));
        changed.runs.push(Arc::new(output));
        *view = Arc::new(changed);
    }
    drop(manifest);
    inputs.iter().for_each(|run| run.retire());
    drop(shared.state());
    shared.notify();
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_number_of_runs_stays_logarithmic(
            flushes in prop::collection::vec(1_u64..=100, 1..400),
        ) {
            let base = 100;
            let mut runs: Vec<RunEntry> = Vec::new();
            let mut number = 0;
            let mut total = 0;
            let mut rewritten = 0;
            for keys in flushes {
                total += keys;
                number += 1;
                runs.push(RunEntry { number, keys });
                while let Some((_, chosen)) = pick(&runs, &[], base, u32::MAX) {
                    let (inputs, rest): (Vec<_>, Vec<_>) =
                        runs.into_iter().partition(|run| chosen.contains(&run.number));
                    runs = rest;
                    number += 1;
                    let keys = inputs.iter().map(|run| run.keys).sum();
                    rewritten += keys;
                    runs.push(RunEntry { number, keys });
                }
                prop_assert_eq!(runs.iter().map(|run| run.keys).sum::<u64>(), total);
                let tiers = u64::from(tier(total, base)) + 1;
                prop_assert!(runs.len() as u64 <= tiers * (FANOUT - 1), "{runs:?}");
            }
            prop_assert!(rewritten <= total * 8, "{rewritten} keys rewritten of {total}");
        }
    }
}
