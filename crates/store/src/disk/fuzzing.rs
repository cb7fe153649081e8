//! Support for the fuzz targets: the files of a small store, repair of checksums after damage, and
//! a store that is exercised.
//!
//! Invariant: this module is compiled for fuzzing only, and uses no real disk.

#[allow(dead_code, reason = "only the tests use fault injection")]
#[path = "tests/sim.rs"]
mod sim;

use std::sync::Arc;

use self::sim::SimFiles;
use super::super::verify::recount;
use super::super::{Store, StoreError, StoreReader, StoreShape};
use super::block::{self, BLOCK_BYTES};
use super::run::{FOOT_BYTES, Foot};
use super::{DiskOptions, DiskStore, frames, generation, journal, manifest, record, room};
use crate::vfs::Files;
use headcount_model::{
    BatchId, Epoch, Generation, ItemHash, KeptGeneration, Partition, Partitioning, Position,
    TenantName,
};

/// Number of items in the sample.
const ITEMS: u64 = 100;

/// Names and contents of a store's files.
pub type StoreFiles = Vec<(String, Vec<u8>)>;

fn open(files: &SimFiles) -> Result<DiskStore, StoreError> {
    let options = DiskOptions {
        memory_bytes_max: 2 * 64 * 48,
        segment_bytes_max: 1 << 20,
        journal_ahead_bytes: 512,
        ..DiskOptions::default()
    };
    let shape = StoreShape {
        partitioning: Partitioning::SINGLE,
    };
    DiskStore::open_files(Arc::new(files.clone()), None, shape, options)
}

fn tenant(number: u64) -> Option<TenantName> {
    TenantName::new(&format!("t{}", number % 3)).ok()
}

/// Counts an item and commits it.
fn count(store: &mut DiskStore, item: u64) -> Result<(), StoreError> {
    let Some(tenant) = tenant(item) else {
        return Ok(());
    };
    let hash = ItemHash::of_id(&item.to_string());
    store.insert(Partition(0), &tenant, &[hash])?;
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(4),
        sequence: item + 1,
    };
    store.record(id, 0);
    store.commit()
}

/// Sets a generation.
fn renew(store: &mut DiskStore, byte: u8) -> Result<(), StoreError> {
    store.set_generation(KeptGeneration {
        generation: Generation([byte; _]),
        is_placed: true,
    })
}

/// Returns the files of a killed store, by name: a run, a checkpoint, some commits in the journal.
/// The generation comes last, so that the indexes of the other files do not change.
///
/// # Errors
/// Only errors of the simulated disk, which reports none.
pub fn sample() -> Result<StoreFiles, StoreError> {
    let sim = SimFiles::new();
    let mut store = open(&sim)?;
    for item in 0..ITEMS {
        count(&mut store, item)?;
        // Makes the files deterministic, except for the salt of the journal.
        store.settle()?;
    }
    renew(&mut store, 1)?;
    let files: &dyn Files = &sim;
    let mut all = Vec::new();
    for name in files.names()? {
        if name == room::reserve_name() {
            continue;
        }
        let bytes = files.open_file(&name)?.read_all(u64::MAX)?;
        all.push((name, bytes));
    }
    all.sort_by_cached_key(|(name, _)| (name == generation::NAME, name.clone()));
    Ok(all)
}

/// Corrects every checksum of the file `name` that can be located, so that damage of other fields
/// is not hidden by a checksum error.
pub fn seal(name: &str, bytes: &mut [u8]) {
    if name == manifest::NAME || name == generation::NAME {
        seal_end(bytes);
    } else if name.starts_with("checkpoint-") {
        seal_checkpoint(bytes);
    } else if name.starts_with("journal-") {
        seal_journal(bytes);
    } else if name.starts_with("run-") {
        seal_run(bytes);
    }
}

/// Sets the last four bytes to the checksum of the bytes before.
fn seal_end(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(body).to_le_bytes();
    }
}

/// Sets the last four of the first `end` bytes to the checksum of the bytes before.
fn seal_start(bytes: &mut [u8], end: usize) {
    if let Some(start) = bytes.get_mut(..end) {
        seal_end(start);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(old) = bytes.get_mut(at..at.saturating_add(new.len())) {
        old.copy_from_slice(new);
    }
}

fn seal_checkpoint(bytes: &mut [u8]) {
    seal_start(bytes, frames::HEAD_BYTES);
    let mut at = frames::HEAD_BYTES;
    while let Some(length) = number(bytes, at).map(u32::from_le_bytes) {
        let Some(content) = bytes
            .get(at + 8..)
            .and_then(|rest| rest.get(..length as usize))
        else {
            return;
        };
        let frame = frames::frame(at as u64, content);
        put(bytes, at, &frame);
        at += frame.len();
    }
}

fn seal_journal(bytes: &mut [u8]) {
    seal_start(bytes, journal::HEAD_FIELDS_BYTES + 4);
    let mut at = journal::HEAD_BYTES;
    // The zeros after the last record must remain zeros.
    while number(bytes, at) == Some(record::MAGIC)
        && let Some(length) = number(bytes, at + 20).map(u32::from_le_bytes)
    {
        let content_at = at + record::HEAD_BYTES;
        let content = bytes
            .get(content_at..)
            .and_then(|rest| rest.get(..length as usize));
        if let Some(content) = content {
            let crc = crc32fast::hash(content).to_le_bytes();
            put(bytes, at + 24, &crc);
        }
        if let Some(head) = bytes.get_mut(at..content_at) {
            seal_end(head);
        }
        at += (record::HEAD_BYTES + length as usize).next_multiple_of(record::ALIGN_BYTES);
    }
}

fn seal_run(bytes: &mut [u8]) {
    seal_start(bytes, 20);
    let Some(foot_at) = bytes.len().checked_sub(FOOT_BYTES as usize) else {
        return;
    };
    seal_end(&mut bytes[foot_at..]);
    let Some(foot) = Foot::decode(&bytes[foot_at..]) else {
        return;
    };
    let Some((index_at, filter_at)) = foot.index_at().zip(foot.filter_at()) else {
        return;
    };
    let (index_at, filter_at) = (index_at as usize, filter_at as usize);
    for (from, to, crc_at) in [(index_at, filter_at, 36), (filter_at, foot_at, 40)] {
        if let Some(section) = bytes.get(from..to) {
            let crc = crc32fast::hash(section).to_le_bytes();
            put(bytes, foot_at + crc_at, &crc);
        }
    }
    seal_end(&mut bytes[foot_at..]);
    let blocks = bytes.get_mut(BLOCK_BYTES..index_at).unwrap_or_default();
    for (number, block) in (0..).zip(blocks.chunks_exact_mut(BLOCK_BYTES)) {
        let crc = block::checksum(foot.run, number, &block[4..]).to_le_bytes();
        put(block, 0, &crc);
    }
}

/// Opens a store with these files, reads all of it, adds to it in every way, and opens it again.
///
/// # Errors
/// If the store rejects the files, which is a valid result.
pub fn exercise(files: &StoreFiles) -> Result<(), StoreError> {
    let sim = SimFiles::new();
    let folder: &dyn Files = &sim;
    for (name, bytes) in files {
        let file = folder.create_file(name)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
    }
    folder.sync_names()?;
    let mut store = open(&sim)?;
    let reader = store.reader();
    // The differences are ignored: a store with corrected checksums may contain anything.
    recount(&reader)?;
    for item in (0..2 * ITEMS).step_by(7) {
        if let Some(tenant) = tenant(item) {
            reader.contains(&tenant, &ItemHash::of_id(&item.to_string()))?;
        }
    }
    for item in ITEMS..2 * ITEMS {
        count(&mut store, item)?;
    }
    store.begin_ingest()?;
    for item in (0..3 * ITEMS).step_by(5) {
        if let Some(tenant) = tenant(item) {
            store.ingest(&tenant, &[ItemHash::of_id(&item.to_string())])?;
        }
    }
    store.finish_ingest(&Position::default(), true)?;
    renew(&mut store, 2)?;
    store.settle()?;
    let items = reader.committed().items();
    drop((store, reader));
    let reopened = open(&sim)?;
    assert_eq!(
        reopened.reader().committed().items(),
        items,
        "the store opens at its last state"
    );
    reopened.close()
}
