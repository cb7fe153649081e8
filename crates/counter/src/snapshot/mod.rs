//! The bytes of a snapshot on their way from one counter to another.
//!
//! Invariant: what decodes to its [`Part::End`] is the whole snapshot that was encoded, each key
//! once; bytes that are missing, changed, repeated or out of order are an error before that. Both
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
//! | keys: groups, at least 1, a tenant's together: length of its name in bytes | 2 |
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
/// The most bytes of a frame's content: far more than a tenant's name, little beside a network's
/// buffers.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;
/// The most ranges of one entry, so that every entry fits into a frame.
const RANGES_MAX: usize = 1024;
/// The most bytes of position frames that a decoder takes: room for two million epochs.
pub const POSITION_BYTES_MAX: usize = 64 << 20;

const KIND_HEAD: u8 = 1;
const KIND_POSITION: u8 = 2;
const KIND_KEYS: u8 = 3;
const KIND_END: u8 = 4;

/// A decoded piece of a snapshot, in this order: one head, any number of keys, the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What the snapshot is of.
    Head {
        /// How its keys are split.
        partitioning: Partitioning,
        /// The batches that its keys hold.
        position: Position,
    },
    /// Some keys of one tenant, ascending; a tenant's parts follow each other.
    Keys {
        /// Whose they are.
        tenant: TenantName,
        /// The items, at least one.
        hashes: Vec<ItemHash>,
    },
    /// All was there. Only now may the keys be used.
    End,
}

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// They do not start like a snapshot.
    #[error("not a snapshot")]
    NotASnapshot,
    /// A later release's snapshot.
    #[error("a snapshot of format version {0}, which this release does not know")]
    Version(u32),
    /// They do not match their checksum: changed, lost or reordered on the way.
    #[error("a frame of the snapshot, number {frame}, does not match its checksum")]
    Checksum {
        /// The frame's number, from 0.
        frame: u64,
    },
    /// The checksums hold but the content breaks the format: a faulty writer.
    #[error("the snapshot breaks its format: {0}")]
    Malformed(&'static str),
    /// They ended before the snapshot did.
    #[error("the snapshot ends too early")]
    Truncated,
    /// The parts that are there must be taken before more bytes are given.
    #[error("more bytes were given before the parts of the earlier ones were taken")]
    NotDrained,
}
