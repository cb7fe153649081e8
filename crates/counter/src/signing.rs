//! What an operator's signature makes of this counter.
//!
//! Invariant: a counter is complete by a signature only if that names it together with its last
//! loss, one that still waits for its commit included. An old signature in its queue, from before
//! its disk was lost, says nothing.

use headcount_model::{Acceptance, LossId, Signed};
use headcount_store::{Store, StoreReader};

/// Who this counter is.
pub(super) struct Own {
    pub name: String,
    /// Random, new at every start.
    pub life: u64,
}

impl Own {
    /// Stages what `acceptance` says of this counter, which has been told of a loss `losses` times
    /// in this life, and tells the operator.
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
        if !store.reader().cut().complete() {
            self.tell(signed, loss);
        }
        signed
    }

    fn tell(&self, signed: Signed, loss: LossId) {
        const AGAIN: &str = "it takes a snapshot as soon as a complete counter answers; if none does, run headcount \
                             accept-loss again, which names the present loss";
        let name = &self.name;
        match signed {
            Signed::Nothing => {}
            Signed::Complete => tracing::warn!(
                name, %loss,
                "an operator accepts what this counter lost: it is complete from here on, with what it holds"
            ),
            Signed::NotNamed => tracing::warn!(
                name, %loss,
                "an operator's signature does not name this counter, which stays not complete: {AGAIN}"
            ),
            Signed::Outdated(signed_for) => tracing::warn!(
                name, %loss, %signed_for,
                "an operator's signature is for an earlier loss of this counter, which was restarted or has lost batches \
                 since, and stays not complete: {AGAIN}"
            ),
            Signed::Unnamed => tracing::warn!(
                name, %loss,
                "a signature of an earlier release, which names no counter, makes none complete: upgrade the coordinators; \
                 this counter stays not complete: {AGAIN}"
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

    /// What becomes of a counter that is told of a loss twice, and then finds this.
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
        let complete = store.reader().cut().complete();
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

    /// In a queue since before the upgrade, or from a coordinator that was not upgraded.
    #[test]
    fn a_signature_of_the_first_version_makes_nobody_complete() {
        assert_eq!(heeded(Completes::Unnamed), (Signed::Unnamed, false));
    }
}
