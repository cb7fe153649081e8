//! The generation of a counter's store. The store and the counter's queue on the broker both hold
//! it, so that replacement of one of them by an older copy is detected.
//!
//! Invariant: a generation is drawn at random and used once.

use std::fmt;

/// Size of a generation, in bytes.
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

/// A generation in the form that a store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptGeneration {
    /// The generation.
    pub generation: Generation,
    /// Whether the generation was on the broker when the store recorded it. `false` means that it
    /// is about to be put there, by a store that had no generation on this broker.
    pub is_placed: bool,
}
