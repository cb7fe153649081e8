//! The bytes of a batch, as they travel through a log and lie in its queues.
//!
//! Invariant: a batch has exactly one encoding, and nothing else decodes: lengths, order, names and checksum
//! are all checked, so a decoded batch is the batch that was encoded.
//!
//! All numbers are little-endian.
//!
//! | field | bytes |
//! |---|---|
//! | magic `HCB` | 3 |
//! | format version, 1 | 1 |
//! | partition | 2 |
//! | epoch | 16 |
//! | sequence, 1 to 2^64 - 2 | 8 |
//! | accepted at, ms since the Unix epoch | 8 |
//! | number of tenants | 4 |
//! | per tenant, ascending: length of its name in bytes | 2 |
//! | … its name, UTF-8 | 1 to 1,024 |
//! | … number of hashes, at least 1 | 4 |
//! | … the hashes | 12 each |
//! | kind of what follows: 0 nothing, 1 an operator's acceptance of losses, 2 the same, and counters are complete | 1 |
//! | for 1 and 2: number of ranges | 4 |
//! | … per range: epoch, first and last sequence; at most 16,384 sequences in all | 32 |
//! | CRC-32 (IEEE) of all before | 4 |

use thiserror::Error;

use crate::model::{
    Acceptance, Batch, BatchId, Epoch, ITEM_HASH_BYTES, ItemHash, LOSSES_PER_RECORD_MAX, Partition,
    TenantItems, TenantName, is_sequence,
};

const MAGIC: [u8; 3] = *b"HCB";

/// The format's version, which this release writes and reads.
pub const VERSION: u8 = 1;
const HEADER_BYTES: usize = 42;
const CHECKSUM_BYTES: usize = 4;

/// Bytes of an encoded batch beside its tenants.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + CHECKSUM_BYTES;

/// Why bytes are no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// They do not start like a batch.
    #[error("not a batch")]
    NotABatch,
    /// A later release's batch.
    #[error("a batch of format version {0}, which this release does not know")]
    Version(u8),
    /// They do not match their checksum.
    #[error("a batch that does not match its checksum")]
    Checksum,
    /// The checksum holds but the content breaks the format: a faulty writer.
    #[error("a batch that breaks its format: {0}")]
    Malformed(&'static str),
}

/// Bytes that a tenant's items take in an encoded batch.
#[must_use]
pub fn tenant_bytes(items: &TenantItems) -> usize {
    2 + items.tenant.as_str().len() + 4 + items.hashes.len() * ITEM_HASH_BYTES
}

/// Encodes a batch.
#[must_use]
pub fn encode(batch: &Batch) -> Vec<u8> {
    let tenants_bytes: usize = batch.tenants().iter().map(tenant_bytes).sum();
    let mut bytes = Vec::with_capacity(OVERHEAD_BYTES + tenants_bytes);
    let id = batch.id();
    bytes.extend_from_slice(&MAGIC);
    bytes.push(VERSION);
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

/// Decodes what [`encode`] made.
///
/// # Errors
/// [`WireError`] for any other bytes; nothing is allocated by an unchecked length.
pub fn decode(bytes: &[u8]) -> Result<Batch, WireError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(WireError::NotABatch)?;
    match rest.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(WireError::Version(version)),
        None => return Err(WireError::NotABatch),
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
        return Err(WireError::Malformed("its sequence is none"));
    }
    let accepted_at_ms = u64::from_le_bytes(fields.take()?);
    let tenants = u32::from_le_bytes(fields.take()?);
    let mut items: Vec<TenantItems> = Vec::new();
    for _ in 0..tenants {
        let next = decode_tenant(&mut fields)?;
        if items.last().is_some_and(|last| last.tenant >= next.tenant) {
            return Err(WireError::Malformed("its tenants are not ascending"));
        }
        items.push(next);
    }
    let acceptance = decode_acceptance(&mut fields)?;
    if !fields.0.is_empty() {
        return Err(WireError::Malformed("it has bytes after its end"));
    }
    match acceptance {
        None => Ok(Batch::new(id, accepted_at_ms, items)),
        Some(acceptance) if items.is_empty() => {
            Ok(Batch::accepting(id, accepted_at_ms, acceptance))
        }
        Some(_) => Err(WireError::Malformed("it has both items and an acceptance")),
    }
}

fn encode_acceptance(acceptance: Option<&Acceptance>, bytes: &mut Vec<u8>) {
    let Some(acceptance) = acceptance else {
        bytes.push(0);
        return;
    };
    bytes.push(1 + u8::from(acceptance.complete));
    bytes.extend_from_slice(&(acceptance.losses.len() as u32).to_le_bytes());
    for (epoch, first, last) in &acceptance.losses {
        bytes.extend_from_slice(&epoch.0.to_le_bytes());
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&last.to_le_bytes());
    }
}

fn decode_acceptance(fields: &mut Fields<'_>) -> Result<Option<Acceptance>, WireError> {
    let [kind] = fields.take()?;
    if kind == 0 {
        return Ok(None);
    }
    if kind > 2 {
        return Err(WireError::Malformed("it is of an unknown kind"));
    }
    let mut losses = Vec::new();
    let mut room = LOSSES_PER_RECORD_MAX;
    for _ in 0..u32::from_le_bytes(fields.take()?) {
        let epoch = Epoch(u128::from_le_bytes(fields.take()?));
        let first = u64::from_le_bytes(fields.take()?);
        let last = u64::from_le_bytes(fields.take()?);
        if first > last || !is_sequence(first) || !is_sequence(last) {
            return Err(WireError::Malformed("a range of losses is none"));
        }
        // A counter records one after the other, and does nothing else meanwhile.
        room = (last - first)
            .checked_add(1)
            .and_then(|count| room.checked_sub(count))
            .ok_or(WireError::Malformed("it accepts more losses than it may"))?;
        losses.push((epoch, first, last));
    }
    Ok(Some(Acceptance {
        losses,
        complete: kind == 2,
    }))
}

fn decode_tenant(fields: &mut Fields<'_>) -> Result<TenantItems, WireError> {
    let name_bytes = usize::from(u16::from_le_bytes(fields.take()?));
    let name = std::str::from_utf8(fields.take_slice(name_bytes)?)
        .map_err(|_| WireError::Malformed("a tenant's name is not UTF-8"))?;
    let tenant =
        TenantName::new(name).map_err(|_| WireError::Malformed("a tenant's name is not valid"))?;
    let count = u32::from_le_bytes(fields.take()?) as usize;
    if count == 0 {
        return Err(WireError::Malformed("a tenant has no items"));
    }
    let (hashes, _) = fields
        .take_slice(count.saturating_mul(ITEM_HASH_BYTES))?
        .as_chunks::<ITEM_HASH_BYTES>();
    Ok(TenantItems {
        tenant,
        hashes: hashes.iter().copied().map(ItemHash).collect(),
    })
}

/// What is left to decode.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(WireError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn take_slice(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(WireError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::SEQUENCE_MAX;

    /// Those that a batch may have, the extremes among them.
    fn sequences() -> impl Strategy<Value = u64> {
        prop_oneof![Just(1), Just(SEQUENCE_MAX), 1..=SEQUENCE_MAX]
    }

    fn batches() -> impl Strategy<Value = Batch> {
        let name = prop::collection::vec(any::<char>(), 1..8)
            .prop_filter_map("a valid name", |chars| {
                TenantName::new(&chars.into_iter().collect::<String>()).ok()
            });
        let hashes = prop::collection::vec(any::<[u8; ITEM_HASH_BYTES]>().prop_map(ItemHash), 0..5);
        let items = (name, hashes).prop_map(|(tenant, hashes)| TenantItems {
            tenant,
            hashes: hashes.into(),
        });
        let id = (any::<u16>(), any::<u128>(), sequences());
        (id, any::<u64>(), prop::collection::vec(items, 0..6)).prop_map(
            |((partition, epoch, sequence), accepted_at_ms, items)| {
                let id = BatchId {
                    partition: Partition(partition),
                    epoch: Epoch(epoch),
                    sequence,
                };
                Batch::new(id, accepted_at_ms, items)
            },
        )
    }

    proptest! {
        #[test]
        fn batches_survive_the_round_trip(batch in batches()) {
            let bytes = encode(&batch);
            let tenants: usize = batch.tenants().iter().map(tenant_bytes).sum();
            prop_assert_eq!(bytes.len(), OVERHEAD_BYTES + tenants);
            prop_assert_eq!(decode(&bytes), Ok(batch));
        }

        #[test]
        fn any_flipped_bit_is_noticed(batch in batches(), at: prop::sample::Index, bit in 0_u32..8) {
            let mut bytes = encode(&batch);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_checked_but_malformed_body_is_refused_or_canonical(
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.push(VERSION);
            bytes.extend(body);
            let checksum = crc32fast::hash(&bytes);
            bytes.extend(checksum.to_le_bytes());
            if let Ok(batch) = decode(&bytes) {
                prop_assert_eq!(encode(&batch), bytes);
            }
        }
    }

    #[test]
    fn an_acceptance_survives_the_round_trip() {
        let id = BatchId {
            partition: Partition(1),
            epoch: Epoch(2),
            sequence: 3,
        };
        for complete in [false, true] {
            let losses = vec![(Epoch(9), 1, 4), (Epoch(8), 7, 7)];
            let batch = Batch::accepting(id, 5, Acceptance { losses, complete });
            assert_eq!(decode(&encode(&batch)), Ok(batch));
        }
    }

    #[test]
    fn a_sequence_that_no_batch_can_have_is_refused() {
        for sequence in [0, u64::MAX] {
            let id = BatchId {
                partition: Partition(0),
                epoch: Epoch(1),
                sequence,
            };
            let barrier = Batch::new(id, 0, Vec::new());
            let refused = Err(WireError::Malformed("its sequence is none"));
            assert_eq!(decode(&encode(&barrier)), refused);
        }
    }

    #[test]
    fn an_acceptance_of_no_or_too_many_sequences_is_refused() {
        let decoded = |losses: &[(u64, u64)]| {
            let id = BatchId {
                partition: Partition(0),
                epoch: Epoch(1),
                sequence: 1,
            };
            let losses = losses.iter().map(|&(first, last)| (Epoch(2), first, last));
            let losses = losses.collect();
            let complete = false;
            decode(&encode(&Batch::accepting(
                id,
                0,
                Acceptance { losses, complete },
            )))
            .is_ok()
        };
        assert!(decoded(&[(SEQUENCE_MAX, SEQUENCE_MAX)]));
        assert!(decoded(&[(1, LOSSES_PER_RECORD_MAX)]));
        assert!(decoded(&[(2, LOSSES_PER_RECORD_MAX), (1, 1)]));
        assert!(!decoded(&[(1, LOSSES_PER_RECORD_MAX), (7, 7)]));
        for refused in [
            (0, 1),
            (2, 1),
            (1, u64::MAX),
            (u64::MAX, u64::MAX),
            (1, SEQUENCE_MAX),
        ] {
            assert!(!decoded(&[refused]), "{refused:?}");
        }
    }

    #[test]
    fn a_later_version_says_so() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([9; 60]);
        assert_eq!(decode(&bytes), Err(WireError::Version(9)));
    }
}
