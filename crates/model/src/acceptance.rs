//! An operator's signature that something is lost for good.
//!
//! Invariant: a counter is named together with the loss that is accepted for it. After another loss
//! of its own, a signature that it still has to apply says nothing of it.

use std::fmt;

use super::{CounterName, Epoch, Sequence};

/// Sequences in one [`Acceptance`] at most: each takes a counter about a microsecond to record, and
/// a range of its own 32 bytes at most.
pub const LOSSES_PER_RECORD_MAX: u64 = 16_384;

/// Counters that one [`Acceptance`] names at most.
pub const COMPLETED_PER_RECORD_MAX: usize = 1_024;

/// What names the loss after which a counter is not complete: it differs from life to life of the
/// counter's process, and after each loss in that life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LossId(pub u64);

impl LossId {
    /// Of the last of `losses` that a counter was told of in its life `life`; also of a life that
    /// began as not complete, where it was told of none.
    #[must_use]
    pub fn new(life: u64, losses: u64) -> Self {
        /// Odd, so that no two losses of a life share an id; large, so that those of lives that
        /// follow one another don't.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        Self(life.wrapping_add(losses.wrapping_mul(STEP)))
    }
}

impl fmt::Display for LossId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LossId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An operator's signature that something is lost for good: counters go on as if it had been
/// applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Sequences of the batch's partition that nobody holds any more: the epoch, the first and the
    /// last one.
    pub losses: Vec<(Epoch, Sequence, Sequence)>,
    /// Which counters are complete from here on, with what they hold.
    pub completes: Completes,
}

/// Which counters are complete from an [`Acceptance`] on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Completes {
    /// Those that were complete before.
    #[default]
    Nobody,
    /// Whoever is not complete, as releases signed that knew of no [`LossId`]. It says nothing of
    /// when a counter lost, so none is complete by it.
    Unnamed,
    /// Those that are named, if the loss is still their last one.
    Named(NamedLosses),
}

/// Counters, each with the loss that is accepted for it: in ascending order of their names, each
/// once, at least 1 and at most [`COMPLETED_PER_RECORD_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLosses(Vec<(CounterName, LossId)>);

impl NamedLosses {
    /// What `named` says, which must be in order; `None` when it is not, or when these are none or
    /// too many.
    #[must_use]
    pub fn new(named: Vec<(CounterName, LossId)>) -> Option<Self> {
        let few = (1..=COMPLETED_PER_RECORD_MAX).contains(&named.len());
        let ascending = named.is_sorted_by(|(one, _), (next, _)| one < next);
        (few && ascending).then_some(Self(named))
    }

    /// The counters, in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[(CounterName, LossId)] {
        &self.0
    }
}

/// What an [`Acceptance`] says of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Nothing: it completes no counter.
    Nothing,
    /// It is complete from here on, with what it holds.
    Complete,
    /// Nothing: it names others.
    NotNamed,
    /// It was signed for this loss, which is no longer the counter's last one.
    Outdated(LossId),
    /// It names no counter, as those of earlier releases.
    Unnamed,
}

impl Completes {
    /// What is said of the counter `name`, whose last loss is `loss`.
    #[must_use]
    pub fn of(&self, name: &str, loss: LossId) -> Signed {
        let named = match self {
            Self::Nobody => return Signed::Nothing,
            Self::Unnamed => return Signed::Unnamed,
            Self::Named(named) => named.as_slice(),
        };
        match named.iter().find(|(of, _)| of.as_str() == name) {
            None => Signed::NotNamed,
            Some(&(_, signed)) if signed == loss => Signed::Complete,
            Some(&(_, signed)) => Signed::Outdated(signed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CounterName {
        CounterName::new(text).expect("a name")
    }

    #[test]
    fn every_loss_of_every_life_has_an_id_of_its_own() {
        let mut ids: Vec<_> = (0..50)
            .flat_map(|life| (0..50).map(move |losses| LossId::new(u64::MAX - life, losses)))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 2500);
    }

    #[test]
    fn a_signature_is_for_the_loss_that_it_names() {
        let named = NamedLosses::new(vec![(name("c1"), LossId(7))]).expect("valid");
        let named = Completes::Named(named);
        assert_eq!(named.of("c1", LossId(7)), Signed::Complete);
        assert_eq!(named.of("c1", LossId(8)), Signed::Outdated(LossId(7)));
        assert_eq!(named.of("c2", LossId(7)), Signed::NotNamed);
        assert_eq!(Completes::Unnamed.of("c1", LossId(7)), Signed::Unnamed);
        assert_eq!(Completes::Nobody.of("c1", LossId(7)), Signed::Nothing);
    }

    #[test]
    fn names_are_in_order_and_neither_none_nor_too_many() {
        let numbered = |count: usize| {
            let each = (0..count).map(|at| (name(&format!("c{at:04}")), LossId(1)));
            NamedLosses::new(each.collect()).is_some()
        };
        assert!(!numbered(0) && numbered(1));
        assert!(numbered(COMPLETED_PER_RECORD_MAX) && !numbered(COMPLETED_PER_RECORD_MAX + 1));
        for wrong in [["c2", "c1"], ["c1", "c1"]] {
            let wrong = wrong.map(|text| (name(text), LossId(1)));
            assert_eq!(NamedLosses::new(wrong.to_vec()), None);
        }
    }
}
