//! The token in the response to a POST. A read with the token includes the items of that POST.
//!
//! Invariant: every token that decodes was made by a coordinator. The checksum rejects a damaged or
//! invented token, so no read waits for one.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{Serialize, Serializer};
use smallvec::SmallVec;
use thiserror::Error;

use super::{Epoch, Partition, Requirement, Sequence, is_sequence};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 16;
const ENTRY_BYTES: usize = 2 + 8;
const CHECKSUM_BYTES: usize = 4;
/// Upper limit for the length of a token's text, above that of a token with every partition. Longer
/// text is rejected without decoding.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The epoch of a request, and for each partition of its items the sequence of their batch.
///
/// The text form is unpadded base64url of, little-endian: version (u8, 1), epoch (u128), per
/// partition its number (u16, ascending) and sequence (u64, 1 to 2^64 - 2), CRC-32 (u32) of all
/// preceding bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The incarnation of the coordinator that acknowledged the request.
    pub epoch: Epoch,
    /// The sequences of the batches with the request's items; empty for a request without items.
    pub sequences: TokenEntries,
}

/// The entries of a token, one per partition. Most tokens have one entry, which is stored inline,
/// without an allocation.
pub type TokenEntries = SmallVec<[(Partition, Sequence); 1]>;

/// Why a text is not a valid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The text is not a token, or was damaged in transit.
    #[error("not a token of this service, or damaged")]
    Damaged,
    /// The token comes from a later release.
    #[error("a token of version {0}, which this release does not support")]
    Version(u8),
}

impl Token {
    fn encode(&self) -> SmallVec<[u8; HEADER_BYTES + ENTRY_BYTES + CHECKSUM_BYTES]> {
        let mut bytes = SmallVec::new();
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        for (partition, sequence) in &self.sequences {
            bytes.extend_from_slice(&partition.0.to_le_bytes());
            bytes.extend_from_slice(&sequence.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Calls `take` with the token's text, which needs no allocation if there is one partition.
    fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let bytes = self.encode();
        /// Sufficient for the text of a token with one partition, and an array size that `SmallVec`
        /// supports.
        const INLINE_BYTES: usize = 64;
        let mut text = SmallVec::<[u8; INLINE_BYTES]>::new();
        text.resize(BASE64URL_NOPAD.encode_len(bytes.len()), 0);
        take(BASE64URL_NOPAD.encode_mut_str(&bytes, &mut text))
    }

    /// Decodes a token's text.
    ///
    /// # Errors
    /// [`TokenError`] when the text is not a valid token.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| TokenError::Damaged)?;
        let (body, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(TokenError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return Err(TokenError::Damaged);
        }
        let (&version, rest) = body.split_first().ok_or(TokenError::Damaged)?;
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let (epoch, entries) = rest.split_first_chunk::<16>().ok_or(TokenError::Damaged)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(TokenError::Damaged);
        }
        let sequences: TokenEntries = entries
            .iter()
            .map(|&[p0, p1, sequence @ ..]| {
                (
                    Partition(u16::from_le_bytes([p0, p1])),
                    Sequence::from_le_bytes(sequence),
                )
            })
            .collect();
        if !sequences.iter().all(|&(_, sequence)| is_sequence(sequence)) {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            epoch: Epoch(u128::from_le_bytes(*epoch)),
            sequences,
        })
    }

    /// The requirement that an answer must meet to include the items of the token's request.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        let mut requirement = Requirement::default();
        for &(partition, sequence) in &self.sequences {
            requirement.add(partition, self.epoch, sequence);
        }
        requirement
    }
}

/// The text form, which clients use.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SEQUENCE_MAX;

    #[test]
    fn a_sequence_that_no_batch_can_have_is_refused() {
        for sequence in [0, Sequence::MAX] {
            let token = Token {
                epoch: Epoch(1),
                sequences: [(Partition(0), sequence)].into(),
            };
            assert_eq!(Token::decode(&token.to_string()), Err(TokenError::Damaged));
        }
    }

    proptest! {
        #[test]
        fn tokens_survive_the_round_trip_and_damage_is_noticed(
            epoch: u128,
            sequences in prop::collection::vec(
                (0_u16..8, prop_oneof![Just(1), Just(SEQUENCE_MAX), 1..=SEQUENCE_MAX]),
                0..4,
            ),
            at: prop::sample::Index,
            flip in 1_u8..=255,
        ) {
            let token = Token {
                epoch: Epoch(epoch),
                sequences: sequences.into_iter().map(|(p, s)| (Partition(p), s)).collect(),
            };
            let text = token.to_string();
            prop_assert_eq!(Token::decode(&text), Ok(token));

            let mut bytes = BASE64URL_NOPAD.decode(text.as_bytes()).expect("just encoded");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Token::decode(&BASE64URL_NOPAD.encode(&bytes)).is_err());
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text: String) {
            let _ = Token::decode(&text);
        }
    }
}
