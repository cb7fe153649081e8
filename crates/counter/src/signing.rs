//! Applies an operator's loss acceptance to this counter.
//!
//! Invariant: a loss acceptance makes a counter complete only if it names the counter with its last
//! loss, including a loss that waits for its commit. An old acceptance in the counter's queue, from
//! before its disk was lost, has no effect.

use headcount_model::{Acceptance, LossId, Signed};
use headcount_store::{Store, StoreReader};

/// The identity of this counter.
pub(super) struct Own {
    pub name: String,
    /// The incarnation: random, new at every start.
    pub life: u64,
}

impl Own {
    /// Stages the effect of `acceptance` on this counter and logs it. The log has reported `losses`
    /// possible losses in this incarnation.
    pub(crate) fn heed(
        &self,
        store: &mut impl Store,
        acceptance: &Acceptance,
        losses: u64,
    ) -> Signed {
        let loss = LossId::new(self.life, losses);
        let signed = acceptance.completes.of(&self.name, loss);
        if signed == Signed::Complete {
            store.set_complete(true);
        }
        if !store.reader().committed().complete() {
            self.tell(signed, loss);
        }
        signed
    }

    fn tell(&self, signed: Signed, loss: LossId) {
        const AGAIN: &str = "it catches up as soon as a complete counter answers; if none does, \
                             run headcount accept-loss again, which names the current loss";
        let name = &self.name;
        match signed {
            Signed::Nothing => {}
            Signed::Complete => tracing::warn!(
                name, %loss,
                "loss acceptance applied: this counter is complete from here on, with what it holds"
            ),
            Signed::NotNamed => tracing::warn!(
                name, %loss,
                "loss acceptance does not name this counter, which stays not complete; {AGAIN}"
            ),
            Signed::Outdated(signed_for) => tracing::warn!(
                name, %loss, %signed_for,
                "loss acceptance is for an earlier loss of this counter, which was restarted or \
                 has lost batches since and stays not complete; {AGAIN}"
            ),
            Signed::Unnamed => tracing::warn!(
                name, %loss,
                "loss acceptance of an earlier release names no counter and makes none complete; \
                 upgrade the coordinators. This counter stays not complete; {AGAIN}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{Completes, CounterName, NamedLosses, Partitioning};
    use headcount_store::StoreShape;
    use headcount_store::memory::MemoryStore;

    const OWN: u64 = 5;

    fn naming(name: &str, loss: LossId) -> Completes {
        let name = CounterName::new(name).expect("a name");
        Completes::Named(NamedLosses::new(vec![(name, loss)]).expect("one"))
    }

    /// The outcome for a counter with two reported losses that applies this acceptance.
    fn heeded(completes: Completes) -> (Signed, bool) {
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        let own = Own {
            name: "c1".into(),
            life: OWN,
        };
        let acceptance = Acceptance {
            losses: Vec::new(),
            completes,
        };
        let signed = own.heed(&mut store, &acceptance, 2);
        store.commit().expect("commits");
        let complete = store.reader().committed().complete();
        (signed, complete)
    }

    #[test]
    fn only_a_signature_for_the_last_loss_makes_complete() {
        let last = LossId::new(OWN, 2);
        assert_eq!(heeded(naming("c1", last)), (Signed::Complete, true));
        for outdated in [LossId::new(OWN, 1), LossId::new(OWN + 1, 2)] {
            let signed = Signed::Outdated(outdated);
            assert_eq!(heeded(naming("c1", outdated)), (signed, false));
        }
        assert_eq!(heeded(naming("c2", last)), (Signed::NotNamed, false));
        assert_eq!(heeded(Completes::Nobody), (Signed::Nothing, false));
    }

    /// It has been in the queue since before the upgrade, or comes from a coordinator that was not
    /// upgraded.
    #[test]
    fn a_signature_of_the_first_version_makes_nobody_complete() {
        assert_eq!(heeded(Completes::Unnamed), (Signed::Unnamed, false));
    }
}
