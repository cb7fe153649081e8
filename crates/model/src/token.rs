//! The token that a POST hands out: "whatever answers must cover this".
//!
//! Invariant: a token that decodes was made by a coordinator: a damaged or invented one is refused
//! by its checksum, never waited for.

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
/// Bytes before which base64url text of a token with every partition ends; longer text is refused
/// unread.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// One epoch, and for each partition that the request touched the sequence that carried its items.
///
/// As text: base64url without padding of, little-endian, version (u8, 1), epoch (u128), then per
/// partition its number (u16, ascending) and sequence (u64, 1 to 2^64 - 2), then the CRC-32 (u32)
/// of all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The coordinator's life that acknowledged the request.
    pub epoch: Epoch,
    /// The sequences that carried the request's items; empty for a request without items.
    pub sequences: TokenEntries,
}

/// What a token has for each partition. Mostly there is one: no memory of its own for that.
pub type TokenEntries = SmallVec<[(Partition, Sequence); 1]>;

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not the text of a token, or damaged on the way.
    #[error("not a token of this service, or damaged")]
    Damaged,
    /// A token of a later release.
    #[error("a token of version {0}, which this release does not know")]
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

    /// Gives the token's text away, which has no memory of its own where there is one partition.
    fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let bytes = self.encode();
        /// Enough for the text of a token with one partition, and a size that `SmallVec` has.
        const INLINE_BYTES: usize = 64;
        let mut text = SmallVec::<[u8; INLINE_BYTES]>::new();
        text.resize(BASE64URL_NOPAD.encode_len(bytes.len()), 0);
        take(BASE64URL_NOPAD.encode_mut_str(&bytes, &mut text))
    }

    /// Reads a token's text.
    ///
    /// # Errors
    /// [`TokenError`] when the text is anything else.
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

    /// What an answer must cover to include everything that the token stands for.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        let mut requirement = Requirement::default();
        for &(partition, sequence) in &self.sequences {
            requirement.add(partition, self.epoch, sequence);
        }
        requirement
    }
}

/// The token as clients carry it.
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
            sequences in prop::collection::vec((0_u16..8, prop_oneof![Just(1), Just(SEQUENCE_MAX), 1..=SEQUENCE_MAX]), 0..4),
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
