//! Encodes a snapshot.
//!
//! Invariant: a frame never has more content than [`FRAME_BYTES_MAX`]; nothing follows an error, so
//! a snapshot that could not be read is never mistaken for a whole one.

use std::collections::VecDeque;

use super::{
    FRAME_BYTES_MAX, FRAME_HEAD_BYTES, KIND_END, KIND_HEAD, KIND_KEYS, KIND_POSITION, MAGIC,
    RANGES_MAX, VERSION,
};
use headcount_model::{
    Epoch, EpochPosition, ITEM_HASH_BYTES, ItemHash, Partition, Position, Sequence,
};
use headcount_store::{CommittedState, Keys, Snapshot, StoreError, TenantNumber};

/// Bytes of an entry of the position before its ranges.
const ENTRY_BYTES: usize = 34;
/// Bytes of a range.
const RANGE_BYTES: usize = 16;

/// Encodes one snapshot frame by frame, in the format of the [module](super).
pub struct SnapshotEncoder {
    committed: CommittedState,
    keys: Keys,
    /// A key that was read but did not fit into the previous frame.
    held: Option<(TenantNumber, ItemHash)>,
    /// Entries of the position that are not encoded yet.
    entries: VecDeque<Entry>,
    frames: Frames,
    /// The tenant of the last key.
    tenant: Option<TenantNumber>,
    /// Tenants and items so far.
    tenants: u64,
    items: u64,
    stage: Stage,
}

/// Which frame comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Position,
    Keys,
    Nothing,
}

/// Ranges of one epoch that make one entry, by their place in the position.
#[derive(Debug, Clone, Copy)]
struct Entry {
    partition: Partition,
    epoch: Epoch,
    first_range: usize,
}

impl SnapshotEncoder {
    /// An encoder of `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        let Snapshot { committed, keys } = snapshot;
        Self {
            entries: entries(committed.position()),
            committed,
            keys,
            held: None,
            frames: Frames::default(),
            tenant: None,
            tenants: 0,
            items: 0,
            stage: Stage::Head,
        }
    }

    fn head(&mut self) -> Vec<u8> {
        let mut content = vec![KIND_HEAD];
        content.extend_from_slice(&self.committed.partitioning().count().to_le_bytes());
        content.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        self.frames.put_raw(&out);
        out.extend_from_slice(&self.frames.frame(&content));
        out
    }

    /// The next frame of the position; `None` if there are no more entries.
    fn position(&mut self) -> Option<Vec<u8>> {
        let mut content = vec![KIND_POSITION];
        while let Some(entry) = self.entries.front() {
            let Some(part) = self.committed.position().get(entry.partition, entry.epoch) else {
                break;
            };
            let ranges = ranges_of(part, entry.first_range);
            if content.len() + ENTRY_BYTES + ranges.len() * RANGE_BYTES > FRAME_BYTES_MAX {
                break;
            }
            put_entry(&mut content, entry, part, ranges);
            self.entries.pop_front();
        }
        (content.len() > 1).then(|| self.frames.frame(&content))
    }

    fn next_key(&mut self) -> Result<Option<(TenantNumber, ItemHash)>, StoreError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let key = self.keys.next().transpose()?;
        Ok(key.map(|key| (key.tenant(), key.hash())))
    }

    /// The next frame of keys; `None` if there are no more.
    fn keys(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut content = Vec::with_capacity(FRAME_BYTES_MAX);
        content.push(KIND_KEYS);
        // The open group: its tenant, the offset of its number of hashes, and that number.
        let mut open: Option<(TenantNumber, usize, u32)> = None;
        while let Some((number, hash)) = self.next_key()? {
            let room = FRAME_BYTES_MAX - content.len();
            match &mut open {
                Some((tenant, at, hashes)) if *tenant == number => {
                    if room < ITEM_HASH_BYTES {
                        self.held = Some((number, hash));
                        break;
                    }
                    *hashes += 1;
                    content[*at..*at + 4].copy_from_slice(&hashes.to_le_bytes());
                }
                _ => {
                    let names = self.committed.names();
                    // Only a bug leads to a key without a tenant. It must not reach another
                    // counter.
                    let name = names.get(number.0 as usize).ok_or(StoreError::Poisoned)?;
                    let name = name.as_str().as_bytes();
                    if room < 2 + name.len() + 4 + ITEM_HASH_BYTES {
                        self.held = Some((number, hash));
                        break;
                    }
                    content.extend_from_slice(&(name.len() as u16).to_le_bytes());
                    content.extend_from_slice(name);
                    open = Some((number, content.len(), 1));
                    content.extend_from_slice(&1_u32.to_le_bytes());
                    self.tenants += u64::from(self.tenant != Some(number));
                    self.tenant = Some(number);
                }
            }
            content.extend_from_slice(&hash.0);
            self.items += 1;
        }
        Ok(open.map(|_| self.frames.frame(&content)))
    }

    fn end(&mut self) -> Result<Vec<u8>, StoreError> {
        if self.items != self.committed.items() {
            // Counts and keys that differ must not spread. Verifying this store shows where they
            // differ.
            return Err(StoreError::Poisoned);
        }
        let mut content = vec![KIND_END];
        content.extend_from_slice(&self.tenants.to_le_bytes());
        content.extend_from_slice(&self.items.to_le_bytes());
        let checksum = self.frames.all.clone().finalize();
        content.extend_from_slice(&checksum.to_le_bytes());
        Ok(self.frames.frame(&content))
    }
}

impl Iterator for SnapshotEncoder {
    type Item = Result<Vec<u8>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.stage == Stage::Head {
            self.stage = Stage::Position;
            return Some(Ok(self.head()));
        }
        if self.stage == Stage::Position {
            if let Some(frame) = self.position() {
                return Some(Ok(frame));
            }
            self.stage = Stage::Keys;
        }
        if self.stage == Stage::Nothing {
            return None;
        }
        let next = match self.keys() {
            Ok(Some(frame)) => return Some(Ok(frame)),
            Ok(None) => self.end(),
            Err(error) => Err(error),
        };
        self.stage = Stage::Nothing;
        Some(next)
    }
}

/// Numbers the frames and computes the checksum of the stream.
#[derive(Default)]
struct Frames {
    number: u64,
    all: crc32fast::Hasher,
}

impl Frames {
    fn put_raw(&mut self, bytes: &[u8]) {
        self.all.update(bytes);
    }

    fn frame(&mut self, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + content.len());
        out.extend_from_slice(&(content.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum(self.number, content).to_le_bytes());
        out.extend_from_slice(content);
        self.number += 1;
        self.all.update(&out);
        out
    }
}

/// The checksum of the frame `number`.
pub(super) fn checksum(number: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(&(content.len() as u32).to_le_bytes());
    crc.update(content);
    crc.finalize()
}

fn entries(position: &Position) -> VecDeque<Entry> {
    let mut entries = VecDeque::with_capacity(position.len());
    for (partition, epoch, part) in position.iter() {
        let ranges = part.sequences.beyond().len();
        let firsts = (0..ranges.max(1)).step_by(RANGES_MAX);
        entries.extend(firsts.map(|first_range| Entry {
            partition,
            epoch,
            first_range,
        }));
    }
    entries
}

/// At most [`RANGES_MAX`] ranges, starting at the range `first`.
fn ranges_of(part: &EpochPosition, first: usize) -> &[(Sequence, Sequence)] {
    let rest = part.sequences.beyond().get(first..).unwrap_or_default();
    rest.get(..RANGES_MAX).unwrap_or(rest)
}

fn put_entry(
    out: &mut Vec<u8>,
    entry: &Entry,
    part: &EpochPosition,
    ranges: &[(Sequence, Sequence)],
) {
    out.extend_from_slice(&entry.partition.0.to_le_bytes());
    out.extend_from_slice(&entry.epoch.0.to_le_bytes());
    out.extend_from_slice(&part.sequences.prefix().to_le_bytes());
    out.extend_from_slice(&part.last_checksum.to_le_bytes());
    out.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
    for (first, last) in ranges {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}
