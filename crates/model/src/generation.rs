//! The generation of a counter's store: what its queue on the broker and the store both hold, so
//! that neither can be exchanged for an older copy unnoticed.
//!
//! Invariant: a generation is drawn at random and used once.

use std::fmt;

/// Bytes of a generation.
pub const GENERATION_BYTES: usize = 16;

/// A generation: random bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub [u8; GENERATION_BYTES]);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

/// A generation as a store remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptGeneration {
    /// Which.
    pub generation: Generation,
    /// Whether the broker had it when the store was told. Until then it is about to be put there,
    /// by a store that had none on this broker.
    pub is_placed: bool,
}
