//! The format of a snapshot that one counter sends to another.
//!
//! Invariant: a stream that decodes to its [`Part::End`] is the whole snapshot that was encoded,
//! each key once; missing, changed, repeated or reordered bytes are an error before that. Both
//! sides hold about one frame and the position in memory, however long the snapshot is.
//!
//! All numbers are little-endian. The stream:
//!
//! | field | bytes |
//! |---|---|
//! | magic `HCSN` | 4 |
//! | format version, 1 | 4 |
//! | frames: one head, any number of positions, any number of keys, one end | |
//!
//! A frame:
//!
//! | field | bytes |
//! |---|---|
//! | length of its content, 1 to 131,072 | 4 |
//! | CRC-32 (IEEE) of the frame's number (u64, from 0), the length and the content | 4 |
//! | content: its kind (1 head, 2 position, 3 keys, 4 end), then by kind: | 1 |
//! | head: number of partitions | 2 |
//! | … number of entries of the position | 4 |
//! | position: entries, at least 1, ascending by partition and epoch: partition | 2 |
//! | … epoch | 16 |
//! | … contiguous prefix of its sequences | 8 |
//! | … checksum of its last batch | 4 |
//! | … number of ranges beyond the prefix, at most 1,024; more continue in the next entry | 4 |
//! | … the ranges, first and last sequence | 16 each |
//! | keys: groups, at least 1, adjacent for each tenant: length of its name in bytes | 2 |
//! | … its name, UTF-8 | 1 to 1,024 |
//! | … number of hashes, at least 1 | 4 |
//! | … the hashes, ascending over all groups of the tenant | 12 each |
//! | end: number of tenants | 8 |
//! | … number of keys | 8 |
//! | … CRC-32 (IEEE) of all bytes of the stream before this frame | 4 |

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::SnapshotDecoder;
pub use encode::SnapshotEncoder;

use thiserror::Error;

use headcount_model::{ItemHash, Partitioning, Position, TenantName};

const MAGIC: [u8; 4] = *b"HCSN";
const VERSION: u32 = 1;
/// Bytes of the stream before its first frame.
const PREAMBLE_BYTES: usize = 8;
/// Bytes of a frame before its content.
const FRAME_HEAD_BYTES: usize = 8;
/// Maximum bytes of a frame's content: far more than a tenant's name, little compared with network
/// buffers.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;
/// Maximum ranges of one entry, so that every entry fits into a frame.
const RANGES_MAX: usize = 1024;
/// Maximum bytes of position frames that a decoder accepts: room for two million epochs.
pub const POSITION_BYTES_MAX: usize = 64 << 20;

const KIND_HEAD: u8 = 1;
const KIND_POSITION: u8 = 2;
const KIND_KEYS: u8 = 3;
const KIND_END: u8 = 4;

/// A decoded part of a snapshot. The order is one head, any number of keys, the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Metadata of the snapshot.
    Head {
        /// The partitioning of its keys.
        partitioning: Partitioning,
        /// The position: the batches that its keys include.
        position: Position,
    },
    /// Keys of one tenant, ascending. The parts of a tenant are adjacent.
    Keys {
        /// The tenant.
        tenant: TenantName,
        /// The hashes of its items, at least one.
        hashes: Vec<ItemHash>,
    },
    /// The end of a complete snapshot. The keys must not be used before.
    End,
}

/// Why bytes can't be decoded as a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes do not start like a snapshot.
    #[error("not a snapshot")]
    NotASnapshot,
    /// The snapshot is of a later release.
    #[error("snapshot format version {0} is not supported by this release")]
    Version(u32),
    /// A frame does not match its checksum: it was changed, lost or reordered in transit.
    #[error("frame {frame} of the snapshot does not match its checksum")]
    Checksum {
        /// The frame's number, from 0.
        frame: u64,
    },
    /// The checksums match but the content violates the format: the writer is faulty.
    #[error("malformed snapshot: {0}")]
    Malformed(&'static str),
    /// The bytes ended before the snapshot did.
    #[error("the snapshot is truncated")]
    Truncated,
    /// More bytes were pushed before the decoded parts were taken.
    #[error("more bytes were pushed before the decoded parts were taken")]
    NotDrained,
}
