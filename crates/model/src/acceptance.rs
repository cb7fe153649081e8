//! Loss acceptance: an operator's record that a loss is permanent.
//!
//! Invariant: the record names a counter together with the loss that it accepts for that counter.
//! If the counter has another loss before it applies the record, the record has no effect on it.

use std::fmt;

use super::{CounterName, Epoch, Sequence};

/// Maximum number of sequences in one [`Acceptance`]. A counter takes about a microsecond to record
/// a sequence, and a range of one sequence takes 32 bytes.
pub const LOSSES_PER_RECORD_MAX: u64 = 16_384;

/// Maximum number of counters that one [`Acceptance`] names.
pub const COMPLETED_PER_RECORD_MAX: usize = 1_024;

/// Identifies the loss that made a counter incomplete. Different in each incarnation of the
/// counter's process, and after each loss in an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LossId(pub u64);

impl LossId {
    /// The id of the last of `losses` that were reported to the counter in its incarnation `life`.
    /// With 0 `losses`, the id for an incarnation that started incomplete.
    #[must_use]
    pub fn new(life: u64, losses: u64) -> Self {
        /// Odd, so that no two losses of an incarnation have the same id. Large, so that losses of
        /// consecutive incarnations have different ids.
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

/// An operator's loss acceptance: counters continue as if the lost batches had been applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Sequences of the batch's partition that no counter holds any more: epoch, first and last
    /// sequence.
    pub losses: Vec<(Epoch, Sequence, Sequence)>,
    /// The counters that become complete with what they hold.
    pub completes: Completes,
}

/// Which counters an [`Acceptance`] makes complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Completes {
    /// No counter.
    #[default]
    Nobody,
    /// All incomplete counters, in a record of an earlier release that has no [`LossId`]. The
    /// record does not state which loss of a counter it accepts, so it makes no counter complete.
    Unnamed,
    /// The named counters, if the named loss is still the last one of the counter.
    Named(NamedLosses),
}

/// Counters, each with the loss that is accepted for it, in ascending order of their names, without
/// duplicates. At least 1 and at most [`COMPLETED_PER_RECORD_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLosses(Vec<(CounterName, LossId)>);

impl NamedLosses {
    /// Makes a list of counters; `None` if `named` is not in order, empty, or too long.
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

/// The effect of an [`Acceptance`] on one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// None: the record completes no counter.
    Nothing,
    /// The counter becomes complete with what it holds.
    Complete,
    /// None: the record names other counters.
    NotNamed,
    /// None: the record accepts this loss, which is no longer the counter's last one.
    Outdated(LossId),
    /// None: the record, from an earlier release, names no counter.
    Unnamed,
}

impl Completes {
    /// Returns the effect on the counter `name` with the last loss `loss`.
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
