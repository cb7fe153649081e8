//! The journal record of one commit.
//!
//! Invariant: a record that passes its checks was written to this segment for this commit. Its
//! header contains the random salt of the segment, which neither older bytes nor a client's text
//! can contain.
//!
//! Layout, little-endian. Header, [`HEAD_BYTES`]: magic `HCJR`, the segment's salt (u64), the
//! commit's number (u64), bytes of payload (u32), CRC-32 of the payload (u32), CRC-32 of the
//! preceding header bytes (u32). Payload: completeness (u8: 0 unchanged, 1 incomplete, 2 complete);
//! new tenants (u32 count; each u16 length in bytes, then UTF-8); applied batches (u32 count; each
//! partition u16, epoch u128, sequence u64, checksum u32); new keys (u32 count; each 16 bytes).
//! Zeros follow up to a multiple of [`ALIGN_BYTES`].

use super::super::{CommittedState, KEY_BYTES, Key, TenantNumber, WriteBatch};
use crate::bytes::Cursor;
use headcount_model::{BatchId, Epoch, Partition, TenantName};

/// Alignment of records in bytes.
pub(super) const ALIGN_BYTES: usize = 16;
/// Size of the header of a record in bytes.
pub(super) const HEAD_BYTES: usize = 32;
/// Maximum size of the payload of a commit in bytes: about 16 million keys. A longer record is
/// damaged.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// The first bytes of a record.
pub(super) const MAGIC: [u8; 4] = *b"HCJR";
const RECORD_BYTES: usize = 30;
const TENANT_BYTES_MIN: usize = 3;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) salt: u64,
    pub(super) commit: u64,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..12].copy_from_slice(&self.salt.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.commit.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header. Returns `None` if `bytes` are not a valid header.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let mut cursor = Cursor::checked(bytes)?;
        cursor.array().filter(|magic| *magic == MAGIC)?;
        Some(Self {
            salt: cursor.u64()?,
            commit: cursor.u64()?,
            payload_bytes: cursor.u32()?,
            payload_crc: cursor.u32()?,
        })
    }

    /// Size of the whole record in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        (HEAD_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(ALIGN_BYTES as u64)
    }
}

/// Encodes the write batch as a record into `out`. Returns `false` if the payload is longer than
/// [`PAYLOAD_BYTES_MAX`].
pub(super) fn encode(
    out: &mut Vec<u8>,
    salt: u64,
    commit: u64,
    staged: &WriteBatch,
    keys: &[Key],
) -> bool {
    out.clear();
    out.resize(HEAD_BYTES, 0);
    encode_payload(out, staged, keys);
    let payload = out.get(HEAD_BYTES..).unwrap_or_default();
    if payload.len() > PAYLOAD_BYTES_MAX {
        return false;
    }
    let head = Head {
        salt,
        commit,
        payload_bytes: payload.len() as u32,
        payload_crc: crc32fast::hash(payload),
    };
    out[..HEAD_BYTES].copy_from_slice(&head.encode());
    out.resize(out.len().next_multiple_of(ALIGN_BYTES), 0);
    true
}

fn encode_payload(out: &mut Vec<u8>, staged: &WriteBatch, keys: &[Key]) {
    out.push(match staged.complete() {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    });
    out.extend_from_slice(&(staged.tenants().len() as u32).to_le_bytes());
    for tenant in staged.tenants() {
        let name = tenant.as_str().as_bytes();
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
    }
    out.extend_from_slice(&(staged.records().len() as u32).to_le_bytes());
    for (id, checksum) in staged.records() {
        out.extend_from_slice(&id.partition.0.to_le_bytes());
        out.extend_from_slice(&id.epoch.0.to_le_bytes());
        out.extend_from_slice(&id.sequence.to_le_bytes());
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    out.extend_from_slice(&(keys.len() as u32).to_le_bytes());
    out.reserve(keys.len() * KEY_BYTES + ALIGN_BYTES);
    for key in keys {
        out.extend_from_slice(&key.0);
    }
}

/// A decoded payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) complete: Option<bool>,
    pub(super) tenants: Vec<TenantName>,
    pub(super) records: Vec<(BatchId, u32)>,
    pub(super) keys: Vec<Key>,
}

impl Commit {
    /// Decodes a payload. Returns `None` if it is invalid.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        let complete = match cursor.u8()? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return None,
        };
        let count = cursor.count(TENANT_BYTES_MIN)?;
        let mut tenants = Vec::with_capacity(count);
        for _ in 0..count {
            tenants.push(decode_name(&mut cursor)?);
        }
        let count = cursor.count(RECORD_BYTES)?;
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            let id = BatchId {
                partition: Partition(cursor.u16()?),
                epoch: Epoch(cursor.u128()?),
                sequence: cursor.u64()?,
            };
            records.push((id, cursor.u32()?));
        }
        let count = cursor.count(KEY_BYTES)?;
        let (keys, _) = cursor.take(count * KEY_BYTES)?.as_chunks::<KEY_BYTES>();
        let keys = keys.iter().copied().map(Key).collect();
        (cursor.remaining() == 0).then_some(Self {
            complete,
            tenants,
            records,
            keys,
        })
    }

    /// Returns the changes that the commit makes to `committed`, or `None` if it does not continue
    /// the dictionary of `committed`.
    pub(super) fn stage(&self, committed: &CommittedState) -> Option<WriteBatch> {
        let mut staged = WriteBatch::default();
        for (next, tenant) in (committed.names().len()..).zip(&self.tenants) {
            let number = staged.number_or_new(committed, tenant).ok()?;
            (number.0 as usize == next).then_some(())?;
        }
        let tenants = committed.names().len() + self.tenants.len();
        for key in &self.keys {
            let number = key.tenant();
            (number < TenantNumber(u32::try_from(tenants).ok()?)).then_some(())?;
            staged.add(number, committed.partitioning().of(&key.hash()), 1);
        }
        for &(id, checksum) in &self.records {
            staged.record(id, checksum);
        }
        if let Some(complete) = self.complete {
            staged.set_complete(complete);
        }
        Some(staged)
    }
}

/// Decodes a tenant name with its length before it.
pub(super) fn decode_name(cursor: &mut Cursor<'_>) -> Option<TenantName> {
    let bytes = usize::from(cursor.u16()?);
    TenantName::new(std::str::from_utf8(cursor.take(bytes)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use headcount_model::Partitioning;

    fn staged() -> impl Strategy<Value = (WriteBatch, Vec<Key>)> {
        (
            prop::collection::btree_set("[a-zé]{1,9}", 0..5),
            prop::collection::vec((0_u16..3, any::<u128>(), any::<u64>(), any::<u32>()), 0..4),
            prop::option::of(any::<bool>()),
            prop::collection::vec(any::<[u8; KEY_BYTES]>(), 0..20),
        )
            .prop_map(|(names, records, complete, keys)| {
                let mut staged = WriteBatch::default();
                let committed = CommittedState::new(Partitioning::SINGLE, Default::default());
                for name in names {
                    let name = TenantName::new(&name).expect("valid");
                    staged.number_or_new(&committed, &name).expect("few");
                }
                for (partition, epoch, sequence, checksum) in records {
                    let (partition, epoch) = (Partition(partition), Epoch(epoch));
                    let id = BatchId {
                        partition,
                        epoch,
                        sequence,
                    };
                    staged.record(id, checksum);
                }
                if let Some(complete) = complete {
                    staged.set_complete(complete);
                }
                (staged, keys.into_iter().map(Key).collect())
            })
    }

    proptest! {
        #[test]
        fn records_survive_the_round_trip_and_damage_is_noticed(
            (staged, keys) in staged(),
            salt: u64,
            commit: u64,
            at: prop::sample::Index,
            flip in 1_u8..=255,
        ) {
            let mut bytes = Vec::new();
            prop_assert!(encode(&mut bytes, salt, commit, &staged, &keys));
            let head = Head::decode(bytes.first_chunk().expect("long enough")).expect("intact");
            prop_assert_eq!((head.salt, head.commit), (salt, commit));
            prop_assert_eq!(head.record_bytes(), bytes.len() as u64);
            let end = HEAD_BYTES + head.payload_bytes as usize;
            prop_assert_eq!(head.payload_crc, crc32fast::hash(&bytes[HEAD_BYTES..end]));
            let decoded = Commit::decode(&bytes[HEAD_BYTES..end]).expect("intact");
            prop_assert_eq!(decoded.tenants, staged.tenants());
            prop_assert_eq!(decoded.records, staged.records());
            prop_assert_eq!(decoded.complete, staged.complete());
            prop_assert_eq!(decoded.keys, keys);

            let at = at.index(end);
            bytes[at] ^= flip;
            let intact = Head::decode(bytes.first_chunk().expect("long enough"))
                .is_some_and(|head| crc32fast::hash(&bytes[HEAD_BYTES..end]) == head.payload_crc);
            prop_assert!(!intact);
        }

        #[test]
        fn any_payload_is_read_without_a_panic(bytes in prop::collection::vec(0_u8..4, 0..100)) {
            if let Some(commit) = Commit::decode(&bytes) {
                let before = CommittedState::new(Partitioning::SINGLE, Default::default());
                let _ = commit.stage(&before);
            }
        }
    }
}
