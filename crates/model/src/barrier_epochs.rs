//! The epochs of barriers. Each barrier has an epoch of its own.
//!
//! Invariant: two barriers have the same epoch only if they were drawn with the same entropy, as
//! the same draw of the same incarnation. So a machine that was cloned or rolled back does not
//! reuse the epoch of a barrier that counters have already applied (docs/adr/0005-barriers.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Epoch;

/// Input that differs at every draw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entropy {
    /// Random bytes.
    pub random: [u8; 32],
    /// Nanoseconds since the Unix epoch. A machine that was rolled back may draw the same random
    /// bytes again, but not at the same time.
    pub now_ns: u128,
}

/// Draws the epochs of the barriers of a coordinator or counter. Cheap to clone; clones share the
/// number of draws.
#[derive(Clone)]
pub struct BarrierEpochs {
    life: Epoch,
    drawn: Arc<AtomicU64>,
    entropy: Arc<dyn Fn() -> Entropy + Send + Sync>,
}

impl BarrierEpochs {
    /// Makes the source for a new incarnation of a node. Only a clone of the node can have the same
    /// `life`.
    #[must_use]
    pub fn new(life: Epoch, entropy: impl Fn() -> Entropy + Send + Sync + 'static) -> Self {
        Self {
            life,
            drawn: Arc::default(),
            entropy: Arc::new(entropy),
        }
    }

    /// Draws the epoch of the next barrier.
    #[must_use]
    pub fn draw(&self) -> Epoch {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        epoch(self.life, drawn, (self.entropy)())
    }
}

/// The first 16 bytes of the BLAKE3 hash of everything that distinguishes two barriers.
fn epoch(life: Epoch, drawn: u64, entropy: Entropy) -> Epoch {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&life.0.to_le_bytes());
    hasher.update(&drawn.to_le_bytes());
    hasher.update(&entropy.random);
    hasher.update(&entropy.now_ns.to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Epoch(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(now_ns: u128, random: u8) -> BarrierEpochs {
        let random = [random; 32];
        BarrierEpochs::new(Epoch(1), move || Entropy { random, now_ns })
    }

    #[test]
    fn a_machine_brought_back_to_an_earlier_moment_draws_other_epochs() {
        let mut drawn = BTreeSet::new();
        // The original, the same time with other random bytes, and the same random bytes at a later
        // time.
        for epochs in [at(5, 7), at(5, 8), at(6, 7)] {
            drawn.extend((0..3).map(|_| epochs.draw()));
        }
        assert_eq!(drawn.len(), 9);
        let clone = at(5, 7);
        assert_eq!(clone.clone().draw(), at(5, 7).draw());
        assert_ne!(clone.draw(), at(5, 7).draw(), "clones share their place");
    }
}
