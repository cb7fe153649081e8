//! Decodes the bytes of a snapshot into its parts.
//!
//! Invariant: memory is bounded by one frame, the bytes pushed at once and the position; a length
//! is not trusted before the bytes that it covers have arrived; after an error the decoder only
//! repeats that error.

use std::collections::VecDeque;

use super::encode::checksum;
use super::{
    FRAME_BYTES_MAX, FRAME_HEAD_BYTES, KIND_END, KIND_HEAD, KIND_KEYS, KIND_POSITION, MAGIC,
    POSITION_BYTES_MAX, PREAMBLE_BYTES, Part, RANGES_MAX, SnapshotError, VERSION,
};
use headcount_model::{
    Epoch, EpochPosition, ITEM_HASH_BYTES, ItemHash, Partition, Partitioning, Position, Sequence,
    Sequences, TenantName,
};

/// Decodes the bytes of a snapshot, pushed in pieces of any size, into its parts.
///
/// After each [`push`](Self::push), call [`next`](Self::next) until it returns `None`. When the
/// bytes have ended, [`finish`](Self::finish) checks whether the snapshot has ended too.
#[derive(Default)]
pub struct SnapshotDecoder {
    buffer: Vec<u8>,
    /// Bytes of the buffer that are consumed.
    taken: usize,
    /// Parts of the last frame that are not taken yet.
    parts: VecDeque<Part>,
    /// Number of the next frame.
    frame: u64,
    all: crc32fast::Hasher,
    preamble_read: bool,
    stage: Stage,
    tenants: u64,
    items: u64,
    /// The tenant of the last group, and its last hash.
    last: Option<(TenantName, ItemHash)>,
    failed: Option<SnapshotError>,
}

/// Which frame may follow.
#[derive(Default)]
enum Stage {
    #[default]
    Head,
    Position(PositionDecoder),
    Keys,
    Nothing,
}

impl SnapshotDecoder {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// If bytes follow the end, or with [`SnapshotError::NotDrained`]. The decoder is unusable
    /// then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if matches!(self.stage, Stage::Nothing) {
            return self.fail(SnapshotError::Malformed("bytes follow the end"));
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if !self.parts.is_empty() || self.buffer.len() >= FRAME_HEAD_BYTES + FRAME_BYTES_MAX {
            return self.fail(SnapshotError::NotDrained);
        }
        // Release the memory of an unusually large piece.
        self.buffer.shrink_to(FRAME_HEAD_BYTES + FRAME_BYTES_MAX);
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next part; `None` if it needs more bytes, or the end was returned.
    ///
    /// # Errors
    /// If the bytes are not what an encoder made.
    #[expect(
        clippy::should_implement_trait,
        reason = "`None` is not the end: the next push may bring more"
    )]
    pub fn next(&mut self) -> Result<Option<Part>, SnapshotError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            match self.read_frame() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Ends the input: no more bytes will arrive.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`] if the end was not returned, and any earlier error.
    pub fn finish(self) -> Result<(), SnapshotError> {
        match (self.failed, self.stage) {
            (Some(failed), _) => Err(failed),
            (None, Stage::Nothing) if self.parts.is_empty() => Ok(()),
            _ => Err(SnapshotError::Truncated),
        }
    }

    fn fail<T>(&mut self, error: SnapshotError) -> Result<T, SnapshotError> {
        self.failed = Some(error);
        self.buffer = Vec::new();
        self.taken = 0;
        self.parts.clear();
        Err(error)
    }

    /// Reads one frame into parts. Returns `false` if it is not complete yet.
    fn read_frame(&mut self) -> Result<bool, SnapshotError> {
        if !self.preamble_read && !self.read_preamble()? {
            return Ok(false);
        }
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(false);
        };
        if matches!(self.stage, Stage::Nothing) {
            return Err(SnapshotError::Malformed("bytes follow the end"));
        }
        let mut fields = Fields(head);
        let length = u32::from_le_bytes(fields.take()?) as usize;
        let crc = u32::from_le_bytes(fields.take()?);
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(SnapshotError::Malformed("a frame has an invalid length"));
        }
        let Some(content) = rest.get(..length) else {
            return Ok(false);
        };
        if crc != checksum(self.frame, content) {
            return Err(SnapshotError::Checksum { frame: self.frame });
        }
        let content = content.to_vec();
        let all_before = self.all.clone().finalize();
        self.all.update(head);
        self.all.update(&content);
        self.taken += FRAME_HEAD_BYTES + length;
        self.frame += 1;
        self.read_content(&content, all_before)?;
        if matches!(self.stage, Stage::Nothing) && self.taken < self.buffer.len() {
            return Err(SnapshotError::Malformed("bytes follow the end"));
        }
        Ok(true)
    }

    fn read_preamble(&mut self) -> Result<bool, SnapshotError> {
        let start = self.buffer.get(..MAGIC.len().min(self.buffer.len()));
        if !start.is_some_and(|start| MAGIC.starts_with(start)) {
            return Err(SnapshotError::NotASnapshot);
        }
        let Some(preamble) = self.buffer.get(..PREAMBLE_BYTES) else {
            return Ok(false);
        };
        let mut fields = Fields(&preamble[MAGIC.len()..]);
        match u32::from_le_bytes(fields.take()?) {
            VERSION => {}
            version => return Err(SnapshotError::Version(version)),
        }
        self.all.update(preamble);
        self.taken = PREAMBLE_BYTES;
        self.preamble_read = true;
        Ok(true)
    }

    fn read_content(&mut self, content: &[u8], all_before: u32) -> Result<(), SnapshotError> {
        let (kind, rest) = content.split_first().ok_or(SnapshotError::Truncated)?;
        let mut fields = Fields(rest);
        match (*kind, &mut self.stage) {
            (KIND_HEAD, Stage::Head) => {
                let position = PositionDecoder::new(&mut fields)?;
                fields.end()?;
                self.stage = Stage::Position(position);
                self.end_position();
                Ok(())
            }
            (KIND_POSITION, Stage::Position(position)) => {
                position.read(&mut fields)?;
                self.end_position();
                Ok(())
            }
            (KIND_KEYS, Stage::Keys) => self.read_keys(&mut fields),
            (KIND_END, Stage::Keys) => {
                let tenants = u64::from_le_bytes(fields.take()?);
                let items = u64::from_le_bytes(fields.take()?);
                let all = u32::from_le_bytes(fields.take()?);
                fields.end()?;
                if (tenants, items, all) != (self.tenants, self.items, all_before) {
                    return Err(SnapshotError::Malformed(
                        "the totals do not match the content",
                    ));
                }
                self.stage = Stage::Nothing;
                self.parts.push_back(Part::End);
                Ok(())
            }
            _ => Err(SnapshotError::Malformed("a frame is out of order")),
        }
    }

    /// Emits the head once the position is complete.
    fn end_position(&mut self) {
        if let Stage::Position(decoder) = &mut self.stage
            && decoder.entries_left == 0
        {
            let (partitioning, position) = decoder.take();
            self.parts.push_back(Part::Head {
                partitioning,
                position,
            });
            self.stage = Stage::Keys;
        }
    }

    fn read_keys(&mut self, fields: &mut Fields<'_>) -> Result<(), SnapshotError> {
        loop {
            let name_bytes = usize::from(u16::from_le_bytes(fields.take()?));
            let name = std::str::from_utf8(fields.take_slice(name_bytes)?)
                .map_err(|_| SnapshotError::Malformed("a tenant's name is not UTF-8"))?;
            let tenant = TenantName::new(name)
                .map_err(|_| SnapshotError::Malformed("a tenant's name is invalid"))?;
            let count = u32::from_le_bytes(fields.take()?) as usize;
            let bytes = fields.take_slice(count.saturating_mul(ITEM_HASH_BYTES))?;
            let (hashes, _) = bytes.as_chunks::<ITEM_HASH_BYTES>();
            let hashes: Vec<ItemHash> = hashes.iter().copied().map(ItemHash).collect();
            let (Some(first), Some(greatest)) = (hashes.first(), hashes.last()) else {
                return Err(SnapshotError::Malformed("a tenant has no items"));
            };
            let ascend = hashes.is_sorted_by(|one, next| one < next);
            let continues = match &self.last {
                Some((last, hash)) if *last == tenant => Some(hash < first),
                _ => None,
            };
            if !ascend || continues == Some(false) {
                return Err(SnapshotError::Malformed(
                    "a tenant's items are not ascending",
                ));
            }
            self.tenants += u64::from(continues.is_none());
            self.items += count as u64;
            self.last = Some((tenant.clone(), *greatest));
            self.parts.push_back(Part::Keys { tenant, hashes });
            if fields.0.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Collects the entries of the position.
struct PositionDecoder {
    partitioning: Partitioning,
    entries_left: u32,
    bytes: usize,
    position: Position,
    /// The epoch that the next entry may continue, and its ranges so far.
    open: Option<(Entry, Vec<(Sequence, Sequence)>)>,
}

/// The fields that all entries of one epoch share.
#[derive(PartialEq, Eq)]
struct Entry {
    of: (Partition, Epoch),
    prefix: Sequence,
    last_checksum: u32,
}

impl PositionDecoder {
    fn new(fields: &mut Fields<'_>) -> Result<Self, SnapshotError> {
        let partitions = u16::from_le_bytes(fields.take()?);
        Ok(Self {
            partitioning: Partitioning::new(partitions).ok_or(SnapshotError::Malformed(
                "the number of partitions is invalid",
            ))?,
            entries_left: u32::from_le_bytes(fields.take()?),
            bytes: 0,
            position: Position::default(),
            open: None,
        })
    }

    /// Reads a frame of entries.
    fn read(&mut self, fields: &mut Fields<'_>) -> Result<(), SnapshotError> {
        self.bytes += fields.0.len();
        if self.bytes > POSITION_BYTES_MAX {
            return Err(SnapshotError::Malformed(
                "the position exceeds its size limit",
            ));
        }
        loop {
            self.entries_left = self
                .entries_left
                .checked_sub(1)
                .ok_or(SnapshotError::Malformed("the position has surplus entries"))?;
            self.read_entry(fields)?;
            if self.entries_left == 0 {
                self.end_epoch()?;
            }
            if fields.0.is_empty() {
                return Ok(());
            }
        }
    }

    fn read_entry(&mut self, fields: &mut Fields<'_>) -> Result<(), SnapshotError> {
        let partition = Partition(u16::from_le_bytes(fields.take()?));
        let entry = Entry {
            of: (partition, Epoch(u128::from_le_bytes(fields.take()?))),
            prefix: u64::from_le_bytes(fields.take()?),
            last_checksum: u32::from_le_bytes(fields.take()?),
        };
        let count = u32::from_le_bytes(fields.take()?) as usize;
        if count > RANGES_MAX || partition.0 >= self.partitioning.count() {
            return Err(SnapshotError::Malformed(
                "the position has an invalid entry",
            ));
        }
        let mut ranges = Vec::with_capacity(count);
        for _ in 0..count {
            let first = u64::from_le_bytes(fields.take()?);
            ranges.push((first, u64::from_le_bytes(fields.take()?)));
        }
        match &mut self.open {
            // A full entry may continue in the next one; a shorter entry is the last of its epoch.
            Some((last, open)) if *last == entry => {
                if count == 0 || open.len() % RANGES_MAX != 0 || open.is_empty() {
                    return Err(SnapshotError::Malformed("the position repeats an epoch"));
                }
                open.append(&mut ranges);
                Ok(())
            }
            Some((last, _)) if last.of >= entry.of => {
                Err(SnapshotError::Malformed("the position is not ascending"))
            }
            _ => {
                self.end_epoch()?;
                self.open = Some((entry, ranges));
                Ok(())
            }
        }
    }

    fn end_epoch(&mut self) -> Result<(), SnapshotError> {
        if let Some((entry, ranges)) = self.open.take() {
            let sequences = Sequences::from_parts(entry.prefix, ranges).ok_or(
                SnapshotError::Malformed("the position has invalid sequences"),
            )?;
            let part = EpochPosition {
                sequences,
                last_checksum: entry.last_checksum,
            };
            let (partition, epoch) = entry.of;
            self.position.set(partition, epoch, part);
        }
        Ok(())
    }

    fn take(&mut self) -> (Partitioning, Position) {
        (self.partitioning, std::mem::take(&mut self.position))
    }
}

/// The bytes of a frame that are left to decode.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    fn take_slice(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(head)
    }

    fn end(&self) -> Result<(), SnapshotError> {
        match self.0 {
            [] => Ok(()),
            _ => Err(SnapshotError::Malformed("a frame has surplus bytes")),
        }
    }
}

const SHORT: SnapshotError = SnapshotError::Malformed("a frame is truncated");
