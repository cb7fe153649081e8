//! The filters of a store's runs, in memory within one budget.
//!
//! Invariant: the total size of all filters never exceeds the budget, also while filters are built
//! or folded.
//!
//! Before a run is written, other filters are folded to make room for its filter; [`super::budget`]
//! decides which. Only the copy in memory is folded: the file of a run keeps its original filter,
//! and each opening folds the filters that do not fit. A run without a filter in memory gives the
//! same answers, but reads a block for every key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::super::StoreError;
use super::budget::{self, Share};
use super::filter::{Filter, Fingerprint};
use super::run::Run;

/// See the module documentation.
pub(super) struct Filters {
    bytes_max: u64,
    /// Locked while room for a filter is made, so that the same room is not given to two filters.
    making: Mutex<()>,
    all: Mutex<Vec<Weak<RunFilter>>>,
}

/// The filter of a run that exists or is being written. It can shrink or be dropped at any time.
pub(super) struct RunFilter {
    keys: u64,
    is_built: AtomicBool,
    is_retired: AtomicBool,
    filter: RwLock<Option<Filter>>,
}

impl Filters {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            making: Mutex::new(()),
            all: Mutex::new(Vec::new()),
        }
    }

    /// Makes an empty filter for a new run of `keys` keys, as large as the budget allows.
    pub(super) fn make(&self, keys: u64) -> Arc<RunFilter> {
        let _making = self.making.lock();
        let others = self.held();
        let mut shares: Vec<Share> = others.iter().map(|filter| filter.share()).collect();
        let bytes = budget::admit(&mut shares, keys, self.bytes_max);
        for (filter, share) in others.iter().zip(shares) {
            filter.shrink(share.bytes);
        }
        drop(others);
        let made = RunFilter::new(keys);
        made.set((bytes > 0).then(|| Filter::new(bytes)));
        self.add(&made);
        made
    }

    /// Reads the filters of the runs of a manifest, folded so that all fit.
    pub(super) fn load(&self, runs: &[Arc<Run>]) -> Result<(), StoreError> {
        let mut shares: Vec<Share> = runs.iter().map(|run| run.stored_share()).collect();
        budget::shrink(&mut shares, self.bytes_max);
        for (run, share) in runs.iter().zip(shares) {
            run.filter.set(run.read_filter(share.bytes)?);
            run.filter.end_building();
            self.add(&run.filter);
        }
        Ok(())
    }

    /// Total size of all filters in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.held().iter().map(|filter| filter.bytes()).sum()
    }

    fn add(&self, filter: &Arc<RunFilter>) {
        let mut all = self.all.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(filter));
    }

    fn held(&self) -> Vec<Arc<RunFilter>> {
        self.all.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl RunFilter {
    /// Makes a placeholder without a filter, for a run of `keys` keys.
    pub(super) fn new(keys: u64) -> Arc<Self> {
        Arc::new(Self {
            keys,
            is_built: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            filter: RwLock::new(None),
        })
    }

    /// Locks the filter in its current form for reading.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Option<Filter>> {
        self.filter.read()
    }

    /// Adds keys while the filter is being built.
    pub(super) fn add(&self, fingerprints: &[Fingerprint]) {
        if let Some(filter) = &mut *self.filter.write() {
            filter.add(fingerprints);
        }
    }

    /// Ends building: no more keys are added, so the filter may be folded.
    pub(super) fn end_building(&self) {
        self.is_built.store(true, Ordering::Release);
    }

    /// Marks the filter as obsolete: only running lookups need it, so it is the first to be
    /// dropped.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    fn bytes(&self) -> u64 {
        let filter = self.filter.read();
        filter.as_ref().map_or(0, |it| it.bytes().len() as u64)
    }

    fn share(&self) -> Share {
        let is_retired = self.is_retired.load(Ordering::Acquire);
        Share {
            keys: if is_retired { 0 } else { self.keys },
            bytes: self.bytes(),
            is_fixed: !self.is_built.load(Ordering::Acquire),
        }
    }

    fn shrink(&self, bytes: u64) {
        if bytes == self.bytes() {
            return;
        }
        let smaller = match &*self.filter.read() {
            Some(filter) if bytes > 0 => Some(filter.folded(bytes)),
            _ => None,
        };
        self.set(smaller);
    }

    fn set(&self, filter: Option<Filter>) {
        let old = std::mem::replace(&mut *self.filter.write(), filter);
        // Freeing much memory takes a while. It happens after the lock is released.
        drop(old);
    }
}
