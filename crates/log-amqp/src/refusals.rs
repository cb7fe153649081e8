//! What the broker currently refuses to the tasks of a node, for readiness checks.
//!
//! Invariant: refusals are only reported, and no decision depends on them. Each purpose has at most
//! one, the latest, until an operation for that purpose succeeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The current refusals, by purpose; cheap to clone, and shared by the connections of a node.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<String, String>>>);

impl Refusals {
    pub(super) fn note(&self, purpose: &str, refusal: String) {
        self.0.lock().insert(purpose.to_owned(), refusal);
    }

    pub(super) fn over(&self, purpose: &str) {
        let mut refused = self.0.lock();
        // Usually there are none.
        if !refused.is_empty() {
            refused.remove(purpose);
        }
    }

    /// One of the current refusals, with its purpose.
    #[must_use]
    pub fn any(&self) -> Option<String> {
        let refused = self.0.lock();
        let (purpose, refusal) = refused.first_key_value()?;
        Some(format!("{refusal} ({purpose})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_until_it_is_over() {
        let refusals = Refusals::default();
        let same = refusals.clone();
        assert_eq!(refusals.any(), None);
        same.note("control", "no".into());
        same.note("announcing", "never".into());
        assert_eq!(refusals.any().as_deref(), Some("never (announcing)"));
        same.over("announcing");
        assert_eq!(refusals.any().as_deref(), Some("no (control)"));
        same.over("control");
        same.over("control");
        assert_eq!(refusals.any(), None);
    }
}
