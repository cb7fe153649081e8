//! Recovery: opens a store from its files, at the state of the last commit.
//!
//! Invariant: nothing is changed on disk before everything that the manifest contains was read and
//! found intact. Damage that a crash cannot explain is rejected, never repaired.

use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::super::{CommittedState, StoreError, StoreShape};
use super::DiskOptions;
use super::checkpoint::{self, Image};
use super::filters::Filters;
use super::generation;
use super::journal::{self, Journal, SegmentReader};
use super::manifest::{self, Manifest};
use super::memtable::Memtable;
use super::room;
use super::run::Run;
use super::shared::{Flush, Version};
use crate::hold::Hold;
use crate::vfs::{Files, TEMPORARY};

/// The initial state of an opened store.
pub(super) struct Recovered {
    pub(super) manifest: Manifest,
    pub(super) committed: CommittedState,
    pub(super) view: Version,
    pub(super) filters: Filters,
    /// The flush of all segments but the last, if there are several.
    pub(super) flush: Option<Flush>,
    pub(super) journal: Journal,
    /// The number of the last commit.
    pub(super) commit: u64,
    pub(super) checkpoint_bytes: u64,
}

/// Opens the store in `files`, or makes a new one if there is none.
pub(super) fn recover(
    files: &Arc<dyn Files>,
    hold: &Weak<Hold>,
    shape: StoreShape,
    options: &DiskOptions,
) -> Result<Recovered, StoreError> {
    // An earlier process may have died between renaming a file and syncing the directory. Such
    // names must be durable before anything depends on them.
    files.sync_names()?;
    let names = files.names()?;
    if !has_manifest(&names) {
        create(files, &names, shape, options)?;
    }
    let found = read(files, shape, options)?;
    // Reading may have taken long.
    Hold::look_if_held(hold)?;
    remove_leftovers(&**files, &found.names, &found.manifest)?;
    let reader = found.replayed.reader;
    let commit = reader.next_commit().saturating_sub(1);
    let journal = reader.into_journal(options.journal_ahead_bytes)?;
    let checkpoint_bytes = match found.manifest.checkpoint {
        0 => 0,
        number => files.open_file(&checkpoint::name(number))?.len()?,
    };
    let (frozen, flush) = found.replayed.frozen.unzip();
    Ok(Recovered {
        manifest: found.manifest,
        committed: found.replayed.committed,
        view: Version {
            table: Arc::new(RwLock::new(found.replayed.table)),
            frozen,
            runs: found.runs,
        },
        filters: found.filters,
        flush,
        journal,
        commit,
        checkpoint_bytes,
    })
}

/// The state that a reader needs.
pub(super) struct ForReading {
    pub(super) manifest: Manifest,
    pub(super) committed: CommittedState,
    pub(super) view: Version,
    pub(super) filters: Filters,
}

/// Recovers the state that opening the store would show, without changing anything: the remains of
/// a crash stay.
pub(super) fn recover_for_reading(
    files: &Arc<dyn Files>,
    shape: StoreShape,
    options: &DiskOptions,
) -> Result<ForReading, StoreError> {
    let names = files.names()?;
    if !has_manifest(&names) {
        // The process died before it had made the store.
        refuse_remains(files, &names, &Manifest::new(shape.partitioning))?;
        return Ok(ForReading {
            manifest: Manifest::new(shape.partitioning),
            committed: shape.empty_cut(),
            view: Version {
                table: Arc::new(RwLock::new(Memtable::with_capacity(0))),
                frozen: None,
                runs: Vec::new(),
            },
            filters: Filters::new(options.filters_bytes_max()),
        });
    }
    let found = read(files, shape, options)?;
    Ok(ForReading {
        manifest: found.manifest,
        committed: found.replayed.committed,
        view: Version {
            table: Arc::new(RwLock::new(found.replayed.table)),
            frozen: found.replayed.frozen.map(|(table, _)| table),
            runs: found.runs,
        },
        filters: found.filters,
    })
}

fn has_manifest(names: &[String]) -> bool {
    names.iter().any(|name| name == manifest::NAME)
}

/// The state on disk, completely read.
struct Found {
    names: Vec<String>,
    manifest: Manifest,
    runs: Vec<Arc<Run>>,
    filters: Filters,
    replayed: Replayed,
}

/// Reads everything that the manifest contains.
fn read(
    files: &Arc<dyn Files>,
    shape: StoreShape,
    options: &DiskOptions,
) -> Result<Found, StoreError> {
    let manifest = Manifest::read(&**files)?;
    if manifest.partitioning != shape.partitioning {
        let (its, ours) = (manifest.partitioning.count(), shape.partitioning.count());
        return Err(StoreError::Foreign {
            path: files.folder().to_owned(),
            detail: format!("the store has {its} partitions, but {ours} are configured"),
        });
    }
    let mut runs = Vec::with_capacity(manifest.runs.len());
    for entry in &manifest.runs {
        let run = Run::open(Arc::clone(files), entry.number, entry.keys)?;
        runs.push(Arc::new(run));
    }
    let filters = Filters::new(options.filters_bytes_max());
    filters.load(&runs)?;
    let committed = read_cut(&**files, &manifest, shape)?;
    let names = files.names()?;
    let replayed = Replay::new(&manifest, committed, options).segments(&**files, &names)?;
    Ok(Found {
        names,
        manifest,
        runs,
        filters,
        replayed,
    })
}

/// Makes an empty store, unless the directory contains files that only an older store can have
/// left.
fn create(
    files: &Arc<dyn Files>,
    names: &[String],
    shape: StoreShape,
    options: &DiskOptions,
) -> Result<(), StoreError> {
    let manifest = Manifest::new(shape.partitioning);
    refuse_remains(files, names, &manifest)?;
    let ahead_bytes = options.journal_ahead_bytes;
    Journal::create(&**files, manifest.first_segment, 1, ahead_bytes, None)?;
    manifest.write(&**files)
}

/// Rejects files that only an older store can have left. `manifest` is the manifest of a new store.
fn refuse_remains(
    files: &Arc<dyn Files>,
    names: &[String],
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let first = journal::name(manifest.first_segment);
    let missing = || StoreError::Damaged {
        path: files.path(manifest::NAME),
        offset: 0,
        detail: "the file is missing, but other files of the store exist".to_owned(),
    };
    for name in names {
        let is_later = kind(name).is_some() && *name != first;
        if is_later && !name.ends_with(TEMPORARY) {
            return Err(missing());
        }
    }
    if names.contains(&first) {
        let mut segment = SegmentReader::open(&**files, manifest.first_segment)?;
        if segment.next()?.is_some() {
            return Err(missing());
        }
        segment.check_tail()?;
    }
    Ok(())
}

fn read_cut(
    files: &dyn Files,
    manifest: &Manifest,
    shape: StoreShape,
) -> Result<CommittedState, StoreError> {
    let committed = if manifest.checkpoint == 0 {
        shape.empty_cut()
    } else {
        let (number, commit) = (manifest.checkpoint, manifest.commit);
        checkpoint::read(files, number, commit, shape.partitioning)?
    };
    let keys = manifest
        .runs
        .iter()
        .try_fold(0_u64, |sum, run| sum.checked_add(run.keys));
    if keys == Some(committed.items()) {
        return Ok(committed);
    }
    Err(StoreError::Damaged {
        path: files.path(manifest::NAME),
        offset: 0,
        detail: "the runs and the checkpoint have different numbers of keys".to_owned(),
    })
}

/// Replays the commits of the journal into a committed state and memtables.
struct Replay {
    committed: CommittedState,
    table: Memtable,
    frozen: Option<Memtable>,
    table_keys_max: usize,
    first_segment: u64,
    base: u64,
}

struct Replayed {
    committed: CommittedState,
    table: Memtable,
    frozen: Option<(Arc<RwLock<Memtable>>, Flush)>,
    reader: SegmentReader,
}

impl Replay {
    fn new(manifest: &Manifest, committed: CommittedState, options: &DiskOptions) -> Self {
        let table_keys_max = options.table_keys_max();
        Self {
            committed,
            table: Memtable::with_capacity(table_keys_max),
            frozen: None,
            table_keys_max,
            first_segment: manifest.first_segment,
            base: manifest.commit.saturating_add(1),
        }
    }

    /// Reads all segments, starting with the first.
    fn segments(mut self, files: &dyn Files, names: &[String]) -> Result<Replayed, StoreError> {
        let last = names
            .iter()
            .filter_map(|name| match kind(name) {
                Some(Kind::Journal(segment)) => Some(segment),
                _ => None,
            })
            .max()
            .unwrap_or_default();
        let mut reader = self.segment(files, self.first_segment)?;
        let mut image = None;
        for segment in self.first_segment.saturating_add(1)..=last {
            self.freeze();
            image = Some(Image::of(&self.committed, self.base.saturating_sub(1)));
            let next = SegmentReader::open(files, segment)?;
            if next.next_commit() > self.base {
                let detail = "commits are missing: the next segment starts after them";
                return Err(reader.bad_end(detail));
            }
            reader = self.segment(files, segment)?;
        }
        let frozen = self.frozen.zip(image).map(|(keys, image)| {
            let table = Arc::new(RwLock::new(keys));
            let flush = Flush {
                table: Arc::clone(&table),
                image,
                first_segment: self.first_segment,
                next_segment: last,
            };
            (table, flush)
        });
        Ok(Replayed {
            committed: self.committed,
            table: self.table,
            frozen,
            reader,
        })
    }

    /// Reads one segment, which must start with commit `self.base`.
    fn segment(&mut self, files: &dyn Files, segment: u64) -> Result<SegmentReader, StoreError> {
        let mut reader = SegmentReader::open(files, segment)?;
        if reader.next_commit() != self.base {
            return Err(reader.bad_end("the segment does not start with the next commit"));
        }
        while let Some(commit) = reader.next()? {
            let staged = commit
                .stage(&self.committed)
                .ok_or_else(|| reader.bad_record("a commit does not continue the dictionary"))?;
            for key in commit.keys {
                let known = self.frozen.as_ref().is_some_and(|keys| keys.contains(&key));
                if known || !self.table.insert(key) {
                    return Err(reader.bad_record("a commit adds a key that exists already"));
                }
            }
            self.committed.apply(&staged);
        }
        reader.check_tail()?;
        self.base = reader.next_commit();
        Ok(reader)
    }

    /// Freezes the keys that were read so far. All segments but the last become one memtable.
    fn freeze(&mut self) {
        let empty = Memtable::with_capacity(self.table_keys_max);
        let full = std::mem::replace(&mut self.table, empty);
        match &mut self.frozen {
            Some(frozen) => {
                for key in full.to_vec() {
                    frozen.insert(key);
                }
            }
            None => self.frozen = Some(full),
        }
    }
}

/// The kind of a file of the store, from its name.
enum Kind {
    Journal(u64),
    Run(u64),
    Checkpoint(u64),
    Generation,
    /// A file that was being made.
    Unfinished,
}

fn kind(name: &str) -> Option<Kind> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let families = [
        "journal-",
        "run-",
        "checkpoint-",
        room::FAMILY,
        manifest::NAME,
        generation::NAME,
    ];
    if name.ends_with(TEMPORARY) && families.iter().any(|family| name.starts_with(family)) {
        return Some(Kind::Unfinished);
    }
    if name == generation::NAME {
        return Some(Kind::Generation);
    }
    let (family, rest) = name.split_once('-')?;
    let kind = match family {
        "journal" => Kind::Journal(number(rest)?),
        "run" => Kind::Run(number(rest)?),
        "checkpoint" => Kind::Checkpoint(number(rest)?),
        _ => return None,
    };
    Some(kind)
}

/// Removes the remains of a crash: unfinished files, and obsolete files that were not removed yet.
fn remove_leftovers(
    files: &dyn Files,
    names: &[String],
    manifest: &Manifest,
) -> Result<(), StoreError> {
    for name in names {
        let is_used = match kind(name) {
            None | Some(Kind::Generation) => true,
            Some(Kind::Journal(segment)) => segment >= manifest.first_segment,
            Some(Kind::Run(number)) => manifest.runs.iter().any(|run| run.number == number),
            Some(Kind::Checkpoint(number)) => number == manifest.checkpoint,
            Some(Kind::Unfinished) => false,
        };
        if !is_used {
            files.remove_file(name)?;
        }
    }
    Ok(())
}
