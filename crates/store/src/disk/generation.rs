//! The generation of the store, in a file of its own.
//!
//! Invariant: the file is replaced atomically. After a crash it has its old or its new content.
//!
//! Layout of the file `GENERATION`, little-endian: magic `HCGN`, version (u32, 1), the generation
//! (16 bytes), whether the broker had it (u8, 0 or 1), CRC-32 (u32) of all preceding bytes. The
//! data directory of a store that was never behind a broker does not have this file.

use super::super::StoreError;
use crate::bytes::{Cursor, append_checksum};
use crate::vfs::Files;
use headcount_model::{Generation, KeptGeneration};

/// The name of the file.
pub(super) const NAME: &str = "GENERATION";
const MAGIC: [u8; 4] = *b"HCGN";
const VERSION: u32 = 1;
/// Size in bytes above which the file is damaged.
const BYTES_MAX: u64 = 64;

/// Replaces the file.
pub(super) fn write(files: &dyn Files, kept: KeptGeneration) -> Result<(), StoreError> {
    files.replace(NAME, &encode(kept))
}

/// Reads the file. Returns `None` if it does not exist.
pub(super) fn read(files: &dyn Files) -> Result<Option<KeptGeneration>, StoreError> {
    if !files.names()?.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let file = files.open_file(NAME)?;
    let bytes = file.read_all(BYTES_MAX)?;
    file.check_head(&bytes, MAGIC, VERSION, "a generation")?;
    let kept = decode(&bytes);
    kept.map(Some)
        .ok_or_else(|| file.damaged(8, "the checksum or a field is wrong"))
}

fn encode(kept: KeptGeneration) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES_MAX as usize);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&kept.generation.0);
    out.push(u8::from(kept.is_placed));
    append_checksum(&mut out);
    out
}

fn decode(bytes: &[u8]) -> Option<KeptGeneration> {
    let mut cursor = Cursor::checked(bytes)?;
    cursor.array().filter(|magic| *magic == MAGIC)?;
    cursor.u32().filter(|version| *version == VERSION)?;
    let kept = KeptGeneration {
        generation: Generation(cursor.array()?),
        is_placed: match cursor.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        },
    };
    (cursor.remaining() == 0).then_some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn generations_survive_the_round_trip_and_damage_is_noticed(
            bytes: [u8; 16],
            is_placed: bool,
            at: prop::sample::Index,
            flip in 1_u8..=255,
        ) {
            let kept = KeptGeneration { generation: Generation(bytes), is_placed };
            let mut bytes = encode(kept);
            prop_assert_eq!(decode(&bytes), Some(kept));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn what_decodes_has_one_form(body: Vec<u8>) {
            for start in [Vec::new(), [&MAGIC[..], &VERSION.to_le_bytes()].concat()] {
                let body = [start, body.clone()].concat();
                let bytes = [&body[..], &crc32fast::hash(&body).to_le_bytes()].concat();
                if let Some(kept) = decode(&bytes) {
                    prop_assert_eq!(encode(kept), bytes);
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let kept = KeptGeneration {
            generation: Generation(*b"the generation's"),
            is_placed: true,
        };
        let body = b"HCGN\x01\0\0\0the generation's\x01";
        assert_eq!(encode(kept)[..body.len()], body[..]);
        assert_eq!(encode(kept).len(), body.len() + 4);
    }
}
