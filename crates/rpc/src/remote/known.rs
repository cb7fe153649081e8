//! A lower bound of what a remote counter covers, according to its answers. It determines which
//! queries do not have to wait.
//!
//! Invariant: it is a hint that no answer relies on, and holds only what the answers of the
//! counter's last incarnation reported.

use crate::Coverage;
use headcount_model::Requirement;

/// The known coverage; see the module.
#[derive(Default)]
pub(super) struct Known {
    life: u64,
    covered: Requirement,
}

impl Known {
    /// Whether the counter will cover this, unless it has restarted or has lost something.
    pub(super) fn covers(&self, requirement: &Requirement) -> bool {
        requirement.iter().all(|(partition, epoch, required)| {
            let covered = self.covered.get(partition, epoch);
            covered.is_some_and(|covered| covered.includes(required))
        })
    }

    /// Records the coverage of an answer.
    pub(super) fn note(&mut self, cover: &Coverage) {
        if self.life != cover.life {
            *self = Self {
                life: cover.life,
                covered: cover.covered.clone(),
            };
        } else if !self.covers(&cover.covered) {
            self.covered.unite(&cover.covered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{Epoch, Partition};

    fn up_to(epoch: u128, sequence: u64) -> Requirement {
        let mut requirement = Requirement::default();
        requirement.add(Partition(0), Epoch(epoch), sequence);
        requirement
    }

    fn cover(life: u64, covered: Requirement) -> Coverage {
        Coverage {
            life,
            covered,
            ..Coverage::default()
        }
    }

    #[test]
    fn what_one_life_covered_is_known_until_the_next() {
        let mut known = Known::default();
        assert!(known.covers(&Requirement::default()), "nothing is required");
        assert!(!known.covers(&up_to(1, 1)));
        known.note(&cover(7, up_to(1, 5)));
        known.note(&cover(7, up_to(2, 3)));
        known.note(&cover(7, up_to(1, 4)));
        let mut both = up_to(1, 5);
        both.unite(&up_to(2, 3));
        assert!(known.covers(&both), "a late answer removes nothing");
        assert!(!known.covers(&up_to(1, 6)));
        known.note(&cover(8, up_to(1, 1)));
        assert!(!known.covers(&up_to(1, 2)), "it may have lost that");
    }
}
