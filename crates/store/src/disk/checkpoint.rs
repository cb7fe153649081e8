//! The checkpoint: dictionary, counts, position and completeness as of one commit.
//!
//! Invariant: a checkpoint and the runs of the same manifest contain the same commits.
//!
//! Layout, little-endian: frames (see [`super::frames`]). The first frame: commit u64, partitions
//! u16, complete u8, items u64, tenants u32, epochs u32. Then frames of whole tenants in order of
//! their numbers (name: u16 length in bytes, UTF-8; a LEB128 count for each partition), then frames
//! of whole epochs (partition u16, epoch u128, prefix u64, last checksum u32, ranges u32; each
//! range two u64).

use super::super::{CommittedState, StoreError, TenantNumber, WriteBatch};
use super::frames::{FrameReader, FrameWriter};
use super::record::decode_name;
use crate::bytes::{Cursor, put_varint};
use crate::vfs::Files;
use headcount_model::{
    Epoch, EpochPosition, Partition, Partitioning, Position, SEQUENCE_MAX, Sequences, TenantName,
};

/// Number of tenant names that are copied at once from the dictionary, while commits continue.
const NAMES_AT_ONCE: usize = 1024;

/// Returns the file name of a checkpoint.
pub(super) fn name(number: u64) -> String {
    format!("checkpoint-{number:016x}")
}

/// A copy of the committed state without the tenant names, which never change once they are in the
/// dictionary.
pub(super) struct Image {
    pub(super) commit: u64,
    partitioning: Partitioning,
    tenants: usize,
    counts: Vec<u64>,
    items: u64,
    position: Position,
    complete: bool,
}

impl Image {
    /// Copies `committed` as of `commit`.
    pub(super) fn of(committed: &CommittedState, commit: u64) -> Self {
        let partitions = usize::from(committed.partitioning().count());
        let mut counts = Vec::with_capacity(committed.names().len() * partitions);
        for number in 0..committed.names().len() {
            counts.extend_from_slice(committed.counts_of(TenantNumber(number as u32)));
        }
        Self {
            commit,
            partitioning: committed.partitioning(),
            tenants: committed.names().len(),
            counts,
            items: committed.items(),
            position: committed.position().clone(),
            complete: committed.complete(),
        }
    }

    /// Writes and syncs the checkpoint `number`. `names(first, count)` returns up to `count` names
    /// from number `first` on. Returns the length of the file.
    pub(super) fn write(
        &self,
        files: &dyn Files,
        number: u64,
        mut names: impl FnMut(usize, usize) -> Vec<TenantName>,
    ) -> Result<u64, StoreError> {
        let mut out = FrameWriter::create(files, &name(number), number)?;
        self.encode_head(&mut out.frame);
        out.end_frame()?;
        let partitions = usize::from(self.partitioning.count());
        let mut counts = self.counts.chunks(partitions);
        let mut next = 0;
        while next < self.tenants {
            let some = names(next, NAMES_AT_ONCE.min(self.tenants - next));
            if some.is_empty() {
                break;
            }
            next += some.len();
            for (name, counts) in some.iter().zip(&mut counts) {
                encode_tenant(&mut out.frame, name, counts);
                out.end_full_frame()?;
            }
        }
        for (partition, epoch, part) in self.position.iter() {
            encode_epoch(&mut out.frame, partition, epoch, part);
            out.end_full_frame()?;
        }
        out.finish()
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(&self.partitioning.count().to_le_bytes());
        out.push(u8::from(self.complete));
        out.extend_from_slice(&self.items.to_le_bytes());
        out.extend_from_slice(&(self.tenants as u32).to_le_bytes());
        out.extend_from_slice(&(self.position.len() as u32).to_le_bytes());
    }
}

fn encode_tenant(out: &mut Vec<u8>, name: &TenantName, counts: &[u64]) {
    let name = name.as_str().as_bytes();
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(name);
    for count in counts {
        put_varint(out, *count);
    }
}

fn encode_epoch(out: &mut Vec<u8>, partition: Partition, epoch: Epoch, part: &EpochPosition) {
    out.extend_from_slice(&partition.0.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&part.sequences.prefix().to_le_bytes());
    out.extend_from_slice(&part.last_checksum.to_le_bytes());
    out.extend_from_slice(&(part.sequences.beyond().len() as u32).to_le_bytes());
    for (first, last) in part.sequences.beyond() {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

/// Reads the checkpoint `number`, which must be of `commit`.
pub(super) fn read(
    files: &dyn Files,
    number: u64,
    commit: u64,
    partitioning: Partitioning,
) -> Result<CommittedState, StoreError> {
    let mut frames = FrameReader::open(files, &name(number), number)?;
    let found = frames.load()?;
    let head = CheckpointHead::decode(&frames.frame)
        .filter(|head| found && head.commit == commit && head.partitions == partitioning.count())
        .ok_or_else(|| frames.bad("the first frame does not match the manifest"))?;

    // The file has the epochs last, but a `CommittedState` starts with its position. So it is made
    // with an empty position, which is replaced at the end.
    let mut committed = CommittedState::new(partitioning, Position::default());
    let mut position = Position::default();
    while frames.load()? {
        let decoded = decode_frame(&frames.frame, &head, &mut committed, &mut position);
        decoded.ok_or_else(|| frames.bad("a frame has an invalid field"))?;
    }
    let totals = (
        committed.tenants(),
        position.len() as u64,
        committed.items(),
    );
    if totals != (u64::from(head.tenants), u64::from(head.epochs), head.items) {
        return Err(frames.bad("the file is truncated"));
    }
    Ok(committed.with_position(position, head.complete))
}

struct CheckpointHead {
    commit: u64,
    partitions: u16,
    complete: bool,
    items: u64,
    tenants: u32,
    epochs: u32,
}

impl CheckpointHead {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let head = Self {
            commit: cursor.u64()?,
            partitions: cursor.u16()?,
            complete: cursor.u8()? == 1,
            items: cursor.u64()?,
            tenants: cursor.u32()?,
            epochs: cursor.u32()?,
        };
        (cursor.remaining() == 0).then_some(head)
    }
}

/// Adds the tenants and epochs of one frame to `committed` and `position`. Returns `None` if they
/// are invalid.
fn decode_frame(
    frame: &[u8],
    head: &CheckpointHead,
    committed: &mut CommittedState,
    position: &mut Position,
) -> Option<()> {
    let mut cursor = Cursor::new(frame);
    let mut staged = WriteBatch::default();
    let mut next = committed.names().len();
    while cursor.remaining() > 0 && next < head.tenants as usize {
        let name = decode_name(&mut cursor)?;
        let number = staged.number_or_new(committed, &name).ok()?;
        (number.0 as usize == next).then_some(())?;
        for partition in committed.partitioning().all() {
            staged.add(number, partition, cursor.varint()?);
        }
        next += 1;
    }
    let total = staged
        .added()
        .try_fold(committed.items(), |sum, (_, _, added)| {
            sum.checked_add(added)
        })?;
    (total <= head.items).then_some(())?;
    committed.apply(&staged);
    while cursor.remaining() > 0 {
        decode_epoch(&mut cursor, position)?;
    }
    Some(())
}

fn decode_epoch(cursor: &mut Cursor<'_>, position: &mut Position) -> Option<()> {
    let partition = Partition(cursor.u16()?);
    let epoch = Epoch(cursor.u128()?);
    let prefix = cursor.u64()?;
    let last_checksum = cursor.u32()?;
    let count = cursor.count(16)?;
    let mut beyond = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, last) = (cursor.u64()?, cursor.u64()?);
        // Earlier releases accepted a batch with the greatest sequence. Its items are counted, but
        // it need not be known as applied.
        if first <= SEQUENCE_MAX {
            beyond.push((first, last.min(SEQUENCE_MAX)));
        }
    }
    let sequences = Sequences::from_parts(prefix, beyond)?;
    let part = EpochPosition {
        sequences,
        last_checksum,
    };
    position.set(partition, epoch, part);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before sequences had a limit, a batch with the greatest sequence could be applied. Data
    /// directories with such a batch must open.
    #[test]
    fn a_sequence_that_no_batch_can_have_is_left_out() {
        let (checksum, none): (u32, u64) = (7, u64::MAX);
        for (first, kept) in [(none, 0), (none - 1, none - 1)] {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&0_u16.to_le_bytes());
            bytes.extend_from_slice(&1_u128.to_le_bytes());
            bytes.extend_from_slice(&0_u64.to_le_bytes());
            bytes.extend_from_slice(&checksum.to_le_bytes());
            bytes.extend_from_slice(&1_u32.to_le_bytes());
            for sequence in [first, none] {
                bytes.extend_from_slice(&sequence.to_le_bytes());
            }
            let mut position = Position::default();
            decode_epoch(&mut Cursor::new(&bytes), &mut position).expect("read");
            let part = position.get(Partition(0), Epoch(1)).expect("known");
            assert_eq!(part.sequences.last(), kept);
        }
    }
}
