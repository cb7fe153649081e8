//! The manifest: the list of the files that make up the store.
//!
//! Invariant: the manifest is replaced atomically, after everything that it contains is on disk,
//! and before any file that it no longer contains is removed.
//!
//! Layout of the file `MANIFEST`, little-endian: magic `HCMF`, version (u32), partitions (u16),
//! commit (u64: the last one in runs and checkpoint), checkpoint (u64, 0 for none), first segment
//! (u64), next number (u64), runs (u32 count; each its number u64 and keys u64), CRC-32 (u32) of
//! all preceding bytes.

use super::super::StoreError;
use crate::bytes::{Cursor, append_checksum};
use crate::vfs::Files;
use headcount_model::Partitioning;

/// The name of the file.
pub(super) use crate::data_dir::MANIFEST as NAME;
const MAGIC: [u8; 4] = *b"HCMF";
const VERSION: u32 = 1;
const RUN_BYTES: usize = 16;
/// Size in bytes above which the manifest is damaged: compaction keeps the number of runs far below
/// that.
const BYTES_MAX: u64 = 1 << 20;

/// A run in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunEntry {
    pub(super) number: u64,
    pub(super) keys: u64,
}

/// The content of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) partitioning: Partitioning,
    /// The last commit that the runs and the checkpoint contain; 0 for none.
    pub(super) commit: u64,
    /// The number of the checkpoint; 0 if there is none yet.
    pub(super) checkpoint: u64,
    /// The segment that starts with the next commit.
    pub(super) first_segment: u64,
    /// Greater than the number of every run and checkpoint that a manifest ever contained.
    pub(super) next_number: u64,
    pub(super) runs: Vec<RunEntry>,
}

impl Manifest {
    /// Makes the manifest of a new store.
    pub(super) fn new(partitioning: Partitioning) -> Self {
        Self {
            partitioning,
            commit: 0,
            checkpoint: 0,
            first_segment: 1,
            next_number: 1,
            runs: Vec::new(),
        }
    }

    /// Replaces the manifest on disk.
    pub(super) fn write(&self, files: &dyn Files) -> Result<(), StoreError> {
        // The names of the files in the manifest must be durable before the name of the manifest
        // is.
        files.sync_names()?;
        files.replace(NAME, &self.encode())
    }

    /// Reads the manifest from disk.
    pub(super) fn read(files: &dyn Files) -> Result<Self, StoreError> {
        let file = files.open_file(NAME)?;
        let bytes = file.read_all(BYTES_MAX)?;
        file.check_head(&bytes, MAGIC, VERSION, "a manifest")?;
        Self::decode(&bytes).ok_or_else(|| file.damaged(8, "the checksum or a field is wrong"))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.runs.len() * RUN_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.partitioning.count().to_le_bytes());
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(&self.checkpoint.to_le_bytes());
        out.extend_from_slice(&self.first_segment.to_le_bytes());
        out.extend_from_slice(&self.next_number.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            out.extend_from_slice(&run.number.to_le_bytes());
            out.extend_from_slice(&run.keys.to_le_bytes());
        }
        append_checksum(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::checked(bytes)?;
        cursor.array().filter(|magic| *magic == MAGIC)?;
        cursor.u32().filter(|version| *version == VERSION)?;
        let mut manifest = Self {
            partitioning: Partitioning::new(cursor.u16()?)?,
            commit: cursor.u64()?,
            checkpoint: cursor.u64()?,
            first_segment: cursor.u64()?,
            next_number: cursor.u64()?,
            runs: Vec::new(),
        };
        let count = cursor.count(RUN_BYTES)?;
        manifest.runs.reserve(count);
        for _ in 0..count {
            manifest.runs.push(RunEntry {
                number: cursor.u64()?,
                keys: cursor.u64()?,
            });
        }
        (cursor.remaining() == 0).then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn manifests_survive_the_round_trip_and_damage_is_noticed(
            numbers: [u64; 4],
            runs in prop::collection::vec((any::<u64>(), any::<u64>()), 0..5),
            at: prop::sample::Index,
            flip in 1_u8..=255,
        ) {
            let [commit, checkpoint, first_segment, next_number] = numbers;
            let runs = runs.into_iter().map(|(number, keys)| RunEntry { number, keys }).collect();
            let partitioning = Partitioning::SINGLE;
            let manifest =
                Manifest { partitioning, commit, checkpoint, first_segment, next_number, runs };
            let mut bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Some(manifest));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(Manifest::decode(&bytes), None);
        }
    }
}
