//! The encoding of a batch in the messages and queues of a log.
//!
//! Invariant: a batch has exactly one encoding, and no other bytes decode. Lengths, order, names
//! and checksum are all checked, so a decoded batch equals the batch that was encoded.
//!
//! All numbers are little-endian.
//!
//! | field | bytes |
//! |---|---|
//! | magic `HCB` | 3 |
//! | format version, 1 or 2 | 1 |
//! | partition | 2 |
//! | epoch | 16 |
//! | sequence, 1 to 2^64 - 2 | 8 |
//! | accepted at, ms since the Unix epoch | 8 |
//! | number of tenants | 4 |
//! | per tenant, ascending: length of its name in bytes | 2 |
//! | … its name, UTF-8 | 1 to 1,024 |
//! | … number of hashes, at least 1 | 4 |
//! | … the hashes | 12 each |
//! | kind of the rest, see below | 1 |
//! | for kinds 1, 2 and 3: number of ranges | 4 |
//! | … per range: epoch, first and last sequence; at most 16,384 sequences in all | 32 |
//! | for kind 3: number of counters, 1 to 1,024 | 2 |
//! | … per counter, ascending: length of its name in bytes | 1 |
//! | … its name, ASCII | 1 to 64 |
//! | … the id of its loss | 8 |
//! | CRC-32 (IEEE) of all preceding bytes | 4 |
//!
//! Kinds: 0, nothing; 1, an operator's loss acceptance; 2, as 1, and counters become complete
//! without being named; 3, as 1, and the named counters become complete. Kind 3 exists only in
//! version 2.
//!
//! Version 2 is used only for kind 3, which version 1 cannot express, because a counter of an
//! earlier release halts at a batch that it cannot decode.

use thiserror::Error;

use headcount_model::{
    Acceptance, Batch, BatchId, Completes, CounterName, Epoch, ITEM_HASH_BYTES, ItemHash,
    LOSSES_PER_RECORD_MAX, LossId, NamedLosses, Partition, TenantItems, TenantName, is_sequence,
};

const MAGIC: [u8; 3] = *b"HCB";

/// The format version of all batches that it can express.
const VERSION: u8 = 1;

/// The format version of loss acceptances that name counters.
const VERSION_NAMING: u8 = 2;

/// The newest format version that this release decodes.
pub const VERSION_READ_MAX: u8 = VERSION_NAMING;

/// The kinds of the part after the tenants.
const KIND_NOTHING: u8 = 0;
const KIND_LOSSES: u8 = 1;
const KIND_UNNAMED: u8 = 2;
const KIND_NAMED: u8 = 3;

const HEADER_BYTES: usize = 42;
const CHECKSUM_BYTES: usize = 4;

/// Size of an encoded batch without its tenants, in bytes.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + CHECKSUM_BYTES;

/// Why bytes do not decode to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The magic bytes are missing.
    #[error("the bytes are not a batch")]
    NotABatch,
    /// The batch comes from a later release.
    #[error("format version {0} is not supported by this release")]
    Version(u8),
    /// The bytes do not match their checksum.
    #[error("the batch does not match its checksum")]
    Checksum,
    /// The batch belongs to another partition than its queue. It must not be applied, because its
    /// items would be added to the count of another tenant.
    #[error("the batch belongs to partition {found}, but its queue to partition {expected}")]
    Partition {
        /// The batch's partition.
        found: Partition,
        /// The partition of the queue.
        expected: Partition,
    },
    /// The checksum is right but the content violates the format: the encoder has a bug.
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
}

/// Size of a tenant's items in an encoded batch, in bytes.
#[must_use]
pub fn tenant_bytes(items: &TenantItems) -> usize {
    2 + items.tenant.as_str().len() + 4 + items.hashes.len() * ITEM_HASH_BYTES
}

/// The format version of a batch with this acceptance. A counter that does not support the version
/// halts at the batch.
#[must_use]
pub fn version_of(acceptance: Option<&Acceptance>) -> u8 {
    match acceptance.map(|signed| &signed.completes) {
        Some(Completes::Named(_)) => VERSION_NAMING,
        _ => VERSION,
    }
}

/// Encodes a batch.
#[must_use]
pub fn encode(batch: &Batch) -> Vec<u8> {
    let tenants_bytes: usize = batch.tenants().iter().map(tenant_bytes).sum();
    let mut bytes = Vec::with_capacity(OVERHEAD_BYTES + tenants_bytes);
    let id = batch.id();
    bytes.extend_from_slice(&MAGIC);
    bytes.push(version_of(batch.acceptance()));
    bytes.extend_from_slice(&id.partition.0.to_le_bytes());
    bytes.extend_from_slice(&id.epoch.0.to_le_bytes());
    bytes.extend_from_slice(&id.sequence.to_le_bytes());
    bytes.extend_from_slice(&batch.accepted_at_ms().to_le_bytes());
    bytes.extend_from_slice(&(batch.tenants().len() as u32).to_le_bytes());
    for items in batch.tenants() {
        let name = items.tenant.as_str().as_bytes();
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&(items.hashes.len() as u32).to_le_bytes());
        for hash in &items.hashes {
            bytes.extend_from_slice(&hash.0);
        }
    }
    encode_acceptance(batch.acceptance(), &mut bytes);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes the output of [`encode`].
///
/// # Errors
/// [`WireError`] for any other bytes. No allocation depends on an unchecked length.
pub fn decode(bytes: &[u8]) -> Result<Batch, WireError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(WireError::NotABatch)?;
    let version = *rest.first().ok_or(WireError::NotABatch)?;
    if !(VERSION..=VERSION_READ_MAX).contains(&version) {
        return Err(WireError::Version(version));
    }
    let (body, checksum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(WireError::NotABatch)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(WireError::Checksum);
    }
    let mut fields = Fields(body.get(MAGIC.len() + 1..).unwrap_or_default());
    let id = BatchId {
        partition: Partition(u16::from_le_bytes(fields.take()?)),
        epoch: Epoch(u128::from_le_bytes(fields.take()?)),
        sequence: u64::from_le_bytes(fields.take()?),
    };
    if !is_sequence(id.sequence) {
        return Err(WireError::Malformed("invalid sequence"));
    }
    let accepted_at_ms = u64::from_le_bytes(fields.take()?);
    let tenants = u32::from_le_bytes(fields.take()?);
    let mut items: Vec<TenantItems> = Vec::new();
    for _ in 0..tenants {
        let next = decode_tenant(&mut fields)?;
        if items.last().is_some_and(|last| last.tenant >= next.tenant) {
            return Err(WireError::Malformed("tenants not in ascending order"));
        }
        items.push(next);
    }
    let acceptance = decode_acceptance(&mut fields)?;
    if !fields.0.is_empty() {
        return Err(WireError::Malformed("trailing bytes"));
    }
    if version_of(acceptance.as_ref()) != version {
        return Err(WireError::Malformed(
            "the kind does not match the format version",
        ));
    }
    match acceptance {
        None => Ok(Batch::new(id, accepted_at_ms, items)),
        Some(acceptance) if items.is_empty() => {
            Ok(Batch::accepting(id, accepted_at_ms, acceptance))
        }
        Some(_) => Err(WireError::Malformed("both items and a loss acceptance")),
    }
}

/// Decodes a batch from a queue that contains only batches of `partition`.
///
/// # Errors
/// The same as those of [`decode`], and [`WireError::Partition`].
pub fn decode_of(partition: Partition, bytes: &[u8]) -> Result<Batch, WireError> {
    let batch = decode(bytes)?;
    let found = batch.id().partition;
    if found != partition {
        return Err(WireError::Partition {
            found,
            expected: partition,
        });
    }
    Ok(batch)
}

fn encode_acceptance(acceptance: Option<&Acceptance>, bytes: &mut Vec<u8>) {
    let Some(acceptance) = acceptance else {
        bytes.push(KIND_NOTHING);
        return;
    };
    bytes.push(match acceptance.completes {
        Completes::Nobody => KIND_LOSSES,
        Completes::Unnamed => KIND_UNNAMED,
        Completes::Named(_) => KIND_NAMED,
    });
    bytes.extend_from_slice(&(acceptance.losses.len() as u32).to_le_bytes());
    for (epoch, first, last) in &acceptance.losses {
        bytes.extend_from_slice(&epoch.0.to_le_bytes());
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&last.to_le_bytes());
    }
    if let Completes::Named(named) = &acceptance.completes {
        bytes.extend_from_slice(&(named.as_slice().len() as u16).to_le_bytes());
        for (name, loss) in named.as_slice() {
            bytes.push(name.as_str().len() as u8);
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(&loss.0.to_le_bytes());
        }
    }
}

fn decode_acceptance(fields: &mut Fields<'_>) -> Result<Option<Acceptance>, WireError> {
    let [kind] = fields.take()?;
    if kind == KIND_NOTHING {
        return Ok(None);
    }
    if kind > KIND_NAMED {
        return Err(WireError::Malformed("unknown kind"));
    }
    let losses = decode_losses(fields)?;
    let completes = match kind {
        KIND_NAMED => Completes::Named(decode_named(fields)?),
        KIND_UNNAMED => Completes::Unnamed,
        _ => Completes::Nobody,
    };
    Ok(Some(Acceptance { losses, completes }))
}

fn decode_losses(fields: &mut Fields<'_>) -> Result<Vec<(Epoch, u64, u64)>, WireError> {
    let mut losses = Vec::new();
    let mut room = LOSSES_PER_RECORD_MAX;
    for _ in 0..u32::from_le_bytes(fields.take()?) {
        let epoch = Epoch(u128::from_le_bytes(fields.take()?));
        let first = u64::from_le_bytes(fields.take()?);
        let last = u64::from_le_bytes(fields.take()?);
        if first > last || !is_sequence(first) || !is_sequence(last) {
            return Err(WireError::Malformed("invalid range of losses"));
        }
        // The number is limited because a counter records the losses one by one, and does nothing
        // else meanwhile.
        room = (last - first)
            .checked_add(1)
            .and_then(|count| room.checked_sub(count))
            .ok_or(WireError::Malformed("too many losses"))?;
        losses.push((epoch, first, last));
    }
    Ok(losses)
}

fn decode_named(fields: &mut Fields<'_>) -> Result<NamedLosses, WireError> {
    let mut named = Vec::new();
    for _ in 0..u16::from_le_bytes(fields.take()?) {
        let [length] = fields.take()?;
        let name = std::str::from_utf8(fields.take_slice(usize::from(length))?);
        let name = name.ok().and_then(CounterName::new);
        let name = name.ok_or(WireError::Malformed("invalid counter name"))?;
        named.push((name, LossId(u64::from_le_bytes(fields.take()?))));
    }
    NamedLosses::new(named).ok_or(WireError::Malformed(
        "no counters, too many counters, or counters not in ascending order",
    ))
}

fn decode_tenant(fields: &mut Fields<'_>) -> Result<TenantItems, WireError> {
    let name_bytes = usize::from(u16::from_le_bytes(fields.take()?));
    let name = std::str::from_utf8(fields.take_slice(name_bytes)?)
        .map_err(|_| WireError::Malformed("tenant name is not UTF-8"))?;
    let tenant = TenantName::new(name).map_err(|_| WireError::Malformed("invalid tenant name"))?;
    let count = u32::from_le_bytes(fields.take()?) as usize;
    if count == 0 {
        return Err(WireError::Malformed("tenant without items"));
    }
    let (hashes, _) = fields
        .take_slice(count.saturating_mul(ITEM_HASH_BYTES))?
        .as_chunks::<ITEM_HASH_BYTES>();
    Ok(TenantItems {
        tenant,
        hashes: hashes.iter().copied().map(ItemHash).collect(),
    })
}

/// The bytes that are not decoded yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(WireError::Malformed("unexpected end"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn take_slice(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(WireError::Malformed("unexpected end"))?;
        self.0 = rest;
        Ok(head)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
