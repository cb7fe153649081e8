//! Counts: between what must be counted and what was attempted, and never backwards.
//!
//! Invariant: what was shown by items and pages is a floor of counts too.

use std::collections::BTreeMap;

use super::{Begun, Ledger, Read, Violation};

/// The floors of a read that begins.
pub(super) fn floors(ledger: &Ledger, read: &Read, tenants: &[String]) -> BTreeMap<String, u64> {
    let floor = |tenant: &String| (tenant.clone(), ledger.floor(read, tenant));
    tenants.iter().map(floor).collect()
}

/// Judges one count, wherever it stands, and learns from it.
pub(super) fn judge(
    ledger: &mut Ledger,
    begun: &Begun,
    exact: bool,
    tenant: &str,
    count: u64,
) -> Result<(), Violation> {
    let attempted = ledger.attempted(tenant);
    if count > attempted {
        return Err(Violation::TooMany {
            tenant: tenant.to_owned(),
            count,
            attempted,
        });
    }
    if !exact {
        return Ok(());
    }
    let floor = begun.floors.get(tenant).copied().unwrap_or(0);
    if count < floor {
        return Err(Violation::TooFew {
            tenant: tenant.to_owned(),
            count,
            floor,
        });
    }
    ledger.book(tenant).note_count(&begun.read, count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::super::{Consistency, Shown, What};
    use super::*;

    fn too_few(count: u64, floor: u64) -> Result<bool, Violation> {
        Err(Violation::TooFew {
            tenant: "t".to_owned(),
            count,
            floor,
        })
    }

    #[test]
    fn a_count_is_not_above_what_was_attempted() {
        let mut ledger = Ledger::new(1);
        ledger.posts(0, "t", &["a"]);
        ledger.attempts("t", &["b"]);
        assert_eq!(ledger.reads(count_of("t"), count(2)), Ok(false));
        let too_many = Err(Violation::TooMany {
            tenant: "t".to_owned(),
            count: 3,
            attempted: 2,
        });
        assert_eq!(ledger.reads(count_of("t"), count(3)), too_many);
        let begun = ledger.begin(read(count_of("t")));
        assert_eq!(ledger.judge(&begun, &inexact(count(3))), too_many);
        assert!(ledger.reads(count_of("nobody"), count(1)).is_err());
    }

    #[test]
    fn an_exact_count_holds_what_its_coordinator_acknowledged_before() {
        let mut ledger = Ledger::new(2);
        let begun = ledger.begin(read(count_of("t")));
        ledger.posts(0, "t", &["a", "b", "a"]);
        // It was acknowledged after the read began.
        assert_eq!(ledger.judge(&begun, &exact(count(0))), Ok(false));
        assert_eq!(ledger.reads(count_of("t"), count(1)), too_few(1, 2));
        let begun = ledger.begin(read(count_of("t")));
        assert_eq!(ledger.judge(&begun, &inexact(count(1))), Ok(false));
        // Only a strong read holds what another one acknowledged.
        let other = read(count_of("t")).at(1, 1);
        assert_eq!(ledger.reads_as(other.clone(), count(0)), Ok(false));
        let strong = other.consistency(Consistency::Strong);
        assert_eq!(ledger.reads_as(strong, count(1)), too_few(1, 2));
    }

    #[test]
    fn a_token_makes_another_coordinator_count_its_items_once() {
        let mut ledger = Ledger::new(2);
        let token = ledger.posts(0, "t", &["a", "b", "b"]);
        ledger.posts(1, "t", &["b", "c"]);
        let other = read(count_of("t")).at(1, 1);
        assert_eq!(ledger.reads_as(other.clone(), count(2)), Ok(false));
        let after = other.after(&token);
        assert_eq!(ledger.reads_as(after.clone(), count(2)), too_few(2, 3));
        assert_eq!(ledger.reads_as(after, count(3)), Ok(false));
        // Of other tenants it demands nothing.
        ledger.attempts("s", &["a", "b"]);
        let elsewhere = read(count_of("s")).after(&token);
        assert_eq!(ledger.reads_as(elsewhere, count(0)), Ok(false));
    }

    #[test]
    fn a_tenant_that_appears_during_a_read_is_learned_of() {
        let mut ledger = Ledger::new(1);
        let begun = ledger.begin(read(count_of("t")));
        ledger.attempts("t", &["a"]);
        assert_eq!(ledger.judge(&begun, &exact(count(1))), Ok(false));
        assert_eq!(ledger.reads(count_of("t"), count(0)), too_few(0, 1));
    }

    #[test]
    fn exact_counts_do_not_go_backwards_in_a_life() {
        let mut ledger = Ledger::new(2);
        ledger.posts(0, "t", &["a"]);
        ledger.attempts("t", &["b", "c"]);
        let late = ledger.begin(read(count_of("t")));
        assert_eq!(ledger.reads(count_of("t"), count(2)), Ok(false));
        assert_eq!(ledger.reads(count_of("t"), count(1)), too_few(1, 2));
        // It began before that was shown.
        assert_eq!(ledger.judge(&late, &exact(count(1))), Ok(false));
        assert_eq!(
            ledger.reads_as(read(count_of("t")).at(1, 1), count(0)),
            Ok(false)
        );
        // A life later what was acknowledged is still there.
        let next = read(count_of("t")).at(0, 2);
        assert_eq!(ledger.reads_as(next.clone(), count(1)), Ok(false));
        assert_eq!(ledger.reads_as(next.clone(), count(0)), too_few(0, 1));
        // An answer of a life that has ended is not what the next one has shown.
        assert_eq!(ledger.judge(&late, &exact(count(3))), Ok(false));
        assert_eq!(ledger.reads_as(next, count(1)), Ok(false));
    }

    #[test]
    fn items_that_were_shown_are_counted() {
        let mut ledger = Ledger::new(1);
        ledger.posts(0, "t", &["a"]);
        ledger.attempts("t", &["b", "c", "d"]);
        for id in ["b", "c"] {
            let what = What::Item(item("t", id));
            assert_eq!(ledger.reads(what, Shown::Item { counted: true }), Ok(true));
        }
        assert_eq!(ledger.reads(count_of("t"), count(2)), too_few(2, 3));
        assert_eq!(ledger.reads(count_of("t"), count(3)), Ok(false));
    }

    #[test]
    fn every_count_of_several_is_judged() {
        let mut ledger = Ledger::new(1);
        ledger.posts(0, "s", &["a"]);
        ledger.posts(0, "t", &["a"]);
        let both = What::Counts(vec!["s".to_owned(), "t".to_owned()]);
        let shown = |counts: [u64; 2]| Shown::Counts(counts.to_vec());
        assert_eq!(ledger.reads(both.clone(), shown([1, 1])), Ok(false));
        assert_eq!(ledger.reads(both, shown([1, 0])), too_few(0, 1));
    }
}
