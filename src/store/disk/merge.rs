//! Merging runs, so that their number stays logarithmic in the number of keys.
//!
//! Invariant: a merge changes which runs hold the keys, never which keys there are. Its inputs stay in the
//! view and the manifest until its output has taken their place.
//!
//! Runs are tiered by size: each tier is [`FANOUT`] times the one below, and once a tier has `FANOUT` runs they
//! become one. A key is so rewritten about log₄(keys / table) times. Runs share no keys and have no order
//! among them, so any of a tier may be merged. While a large merge runs, it stops every few thousand keys to
//! let a smaller one pass, so the small runs of new keys never pile up behind it.

use std::sync::Arc;

use super::super::StoreError;
use super::DiskStore;
use super::manifest::RunEntry;
use super::merged::{Merged, Source};
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::{Shared, Stop, View};

/// Runs of one tier that become one.
pub(super) const FANOUT: u64 = 4;
/// The most runs merged at once.
const MERGED_MAX: usize = 8;
/// Keys merged between two looks at what else is to do.
const KEYS_BETWEEN_LOOKS: u64 = 1 << 14;

impl DiskStore {
    /// Waits until every flush and merge that is due is done: for tests and measurements.
    ///
    /// # Errors
    /// When one of them failed.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.shared.state();
        while !self.shared.is_poisoned()
            && (state.flush.is_some() || state.merging || !is_done(&self.shared))
        {
            self.shared.wait(&mut state);
        }
        drop(state);
        self.shared.check()
    }

    /// Whether runs are being merged just now: for measurements.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        self.shared.state().merging
    }
}

/// A run's tier: 0 up to `base` keys, then one more for every factor of [`FANOUT`].
fn tier(keys: u64, base: u64) -> u32 {
    (keys / base.max(1)).max(1).ilog(FANOUT)
}

/// Which of `runs` (each its number and keys) to merge: the lowest tier below `tiers` with enough runs that
/// are not `busy`.
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

/// The runs of a view as [`pick`] wants them.
fn entries(view: &View) -> Vec<RunEntry> {
    view.runs
        .iter()
        .map(|run| RunEntry {
            number: run.number,
            keys: run.keys,
        })
        .collect()
}

/// The thread that merges, until the store stops.
pub(super) fn work(shared: &Shared) {
    loop {
        let mut state = shared.state();
        let job = loop {
            if state.stop != Stop::No || shared.is_poisoned() {
                return;
            }
            if let Some(job) = next_job(shared, &[], u32::MAX) {
                break job;
            }
            state.merging = false;
            shared.notify();
            shared.wait(&mut state);
        };
        state.merging = true;
        drop(state);
        if let Err(error) = merge(shared, job, &mut Vec::new()) {
            shared.fail(error);
        }
    }
}

/// Whether the merging thread has nothing to do.
pub(super) fn is_done(shared: &Shared) -> bool {
    next_job(shared, &[], u32::MAX).is_none()
}

fn next_job(shared: &Shared, busy: &[u64], tiers: u32) -> Option<(u32, Vec<u64>)> {
    let base = shared.options.table_keys_max() as u64;
    pick(&entries(&shared.view()), busy, base, tiers)
}

/// Merges the runs of `job`; `busy` are the runs of the merges that wait for this one.
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
            }
            if shared.is_stopping() || shared.is_poisoned() {
                return give_up(shared, number);
            }
        }
    }
    let output = output.finish()?;
    busy.truncate(busy_before);
    install(shared, output, &inputs)
}

/// Leaves the merge where it is; its output is no part of the store.
fn give_up(shared: &Shared, number: u64) -> Result<(), StoreError> {
    shared.look()?;
    shared.files.remove_file(&run::name(number))
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
        let mut changed = View::clone(&view);
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
        fn the_number_of_runs_stays_logarithmic(flushes in prop::collection::vec(1_u64..=100, 1..400)) {
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
