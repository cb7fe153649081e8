//! Pages of tenants: in order, within their bounds, and without anything left out up to where they
//! end.
//!
//! Invariant: a page without a next cursor ends the listing, so nothing that must be counted may
//! come after it.

use std::collections::BTreeMap;

use super::{Begun, Ledger, Page, Read, Violation, counts};

/// What a page showed.
pub(super) struct Listed<'a> {
    pub tenants: &'a [(String, u64)],
    pub next_cursor: Option<&'a str>,
}

/// The floors of a read that begins: of all tenants from the cursor on.
pub(super) fn floors(ledger: &Ledger, read: &Read, page: &Page) -> BTreeMap<String, u64> {
    let reached = ledger.books.keys().filter(|name| page.reaches(name));
    let floors = reached.map(|name| (name.clone(), ledger.floor(read, name)));
    floors.filter(|&(_, floor)| floor > 0).collect()
}

/// Judges a page, and learns from it.
pub(super) fn judge(
    ledger: &mut Ledger,
    begun: &Begun,
    exact: bool,
    page: &Page,
    listed: &Listed<'_>,
) -> Result<(), Violation> {
    has_form(page, listed)?;
    if exact {
        leaves_nobody_out(begun, listed)?;
    }
    for (tenant, count) in listed.tenants {
        counts::judge(ledger, begun, exact, tenant, *count)?;
    }
    Ok(())
}

fn has_form(page: &Page, listed: &Listed<'_>) -> Result<(), Violation> {
    let names = || listed.tenants.iter().map(|(name, _)| name);
    if listed.tenants.len() > page.limit {
        return Err(Violation::PageTooLong {
            listed: listed.tenants.len(),
            limit: page.limit,
        });
    }
    if let Some((before, tenant)) = names().zip(names().skip(1)).find(|(a, b)| a >= b) {
        return Err(Violation::OutOfOrder {
            before: before.clone(),
            tenant: tenant.clone(),
        });
    }
    if let Some(tenant) = names().find(|name| !page.reaches(name)) {
        return Err(Violation::NotAskedFor {
            tenant: tenant.clone(),
        });
    }
    if let Some((tenant, _)) = listed.tenants.iter().find(|(_, count)| *count == 0) {
        return Err(Violation::ListedEmpty {
            tenant: tenant.clone(),
        });
    }
    match listed.next_cursor {
        Some(cursor) if names().next_back().is_none_or(|last| last != cursor) => {
            Err(Violation::WrongCursor {
                cursor: cursor.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Those who have items are listed, as far as the page goes.
fn leaves_nobody_out(begun: &Begun, listed: &Listed<'_>) -> Result<(), Violation> {
    let is_listed = |tenant: &str| listed.tenants.iter().any(|(name, _)| name == tenant);
    let last = listed.tenants.last().map(|(name, _)| name.as_str());
    let goes_as_far_as = |tenant: &str| listed.next_cursor.is_none_or(|cursor| tenant <= cursor);
    let mut missing = begun
        .floors
        .iter()
        .filter(|(tenant, _)| goes_as_far_as(tenant) && !is_listed(tenant));
    let Some((tenant, &floor)) = missing.next() else {
        return Ok(());
    };
    let tenant = tenant.clone();
    match last {
        Some(last) if tenant.as_str() < last => Err(Violation::NotListed { tenant, floor }),
        _ => Err(Violation::EndsEarly { tenant, floor }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::super::{Consistency, Shown, What};
    use super::*;

    fn page(prefix: &str, limit: usize, cursor: Option<&str>) -> What {
        What::Page(Page {
            prefix: prefix.to_owned(),
            limit,
            cursor: cursor.map(str::to_owned),
        })
    }

    fn shows(tenants: &[(&str, u64)], next_cursor: Option<&str>) -> Shown {
        let named = |&(name, count): &(&str, u64)| (name.to_owned(), count);
        Shown::Page {
            tenants: tenants.iter().map(named).collect(),
            next_cursor: next_cursor.map(str::to_owned),
        }
    }

    /// Tenants `a`, `b` and `c` with 1, 2 and 3 items.
    fn three() -> Ledger {
        let mut ledger = Ledger::new(2);
        ledger.posts(0, "a", &["1"]);
        ledger.posts(0, "b", &["1", "2"]);
        ledger.posts(0, "c", &["1", "2", "3"]);
        ledger
    }

    const ALL: [(&str, u64); 3] = [("a", 1), ("b", 2), ("c", 3)];

    #[test]
    fn whole_and_cut_pages_are_right() {
        let mut ledger = three();
        for (what, shown) in [
            (page("", 3, None), shows(&ALL, None)),
            (page("", 9, None), shows(&ALL, None)),
            (page("", 1, None), shows(&ALL[..1], Some("a"))),
            // A page may be shorter than its limit, and still tell where to go on.
            (page("", 3, None), shows(&ALL[..1], Some("a"))),
            (page("", 2, Some("a")), shows(&ALL[1..], None)),
            (page("b", 1, None), shows(&ALL[1..2], None)),
            (page("b", 1, Some("b")), shows(&[], None)),
            (page("", 1, Some("c")), shows(&[], None)),
        ] {
            assert_eq!(ledger.reads(what.clone(), shown), Ok(false), "{what:?}");
        }
    }

    #[test]
    fn a_tenant_with_acknowledged_items_is_not_left_out() {
        let mut ledger = three();
        let cases = [
            (page("", 3, None), shows(&[ALL[0], ALL[2]], None)),
            (page("", 2, None), shows(&[ALL[0], ALL[2]], Some("c"))),
            (page("", 1, Some("a")), shows(&ALL[2..], None)),
        ];
        for (what, shown) in cases {
            let missing = Err(Violation::NotListed {
                tenant: "b".to_owned(),
                floor: 2,
            });
            assert_eq!(ledger.reads(what.clone(), shown.clone()), missing);
            let begun = ledger.begin(read(what.clone()));
            assert_eq!(ledger.judge(&begun, &inexact(shown.clone())), Ok(false));
            // For another coordinator's session, nothing of it is known.
            let other = read(what).at(1, 1);
            assert_eq!(ledger.reads_as(other.clone(), shown.clone()), Ok(false));
            let strong = other.consistency(Consistency::Strong);
            assert_eq!(ledger.reads_as(strong, shown), missing);
        }
    }

    #[test]
    fn a_listing_does_not_end_early() {
        let mut ledger = three();
        for (what, shown, tenant, floor) in [
            (page("", 1, None), shows(&[], None), "a", 1),
            (page("", 1, Some("a")), shows(&[], None), "b", 2),
            (page("", 2, None), shows(&ALL[..2], None), "c", 3),
            (page("c", 1, None), shows(&[], None), "c", 3),
        ] {
            let early = Err(Violation::EndsEarly {
                tenant: tenant.to_owned(),
                floor,
            });
            assert_eq!(ledger.reads(what, shown), early);
        }
        // Acknowledged after the read began.
        let begun = ledger.begin(read(page("", 1, Some("c"))));
        ledger.posts(0, "d", &["1"]);
        assert_eq!(ledger.judge(&begun, &exact(shows(&[], None))), Ok(false));
    }

    #[test]
    fn a_token_demands_its_tenants() {
        let mut ledger = Ledger::new(2);
        let token = ledger.posts(0, "a", &["1", "2"]);
        let other = read(page("", 1, None)).at(1, 1);
        let after = other.clone().after(&token);
        assert_eq!(ledger.reads_as(other, shows(&[], None)), Ok(false));
        assert!(ledger.reads_as(after.clone(), shows(&[], None)).is_err());
        assert_eq!(ledger.reads_as(after, shows(&[("a", 2)], None)), Ok(false));
    }

    #[test]
    fn counts_on_pages_are_within_their_bounds_and_never_backwards() {
        let mut ledger = three();
        ledger.attempts("b", &["3", "4"]);
        ledger.attempts("d", &["1"]);
        let asked = page("", 1, Some("a"));
        let mut reads = |count| {
            let shown = shows(&[("b", count)], Some("b"));
            ledger.reads(asked.clone(), shown)
        };
        let too_few = |count, floor| {
            Err(Violation::TooFew {
                tenant: "b".to_owned(),
                count,
                floor,
            })
        };
        assert_eq!(reads(1), too_few(1, 2));
        assert_eq!(reads(3), Ok(false));
        assert_eq!(reads(2), too_few(2, 3));
        let too_many = Violation::TooMany {
            tenant: "b".to_owned(),
            count: 5,
            attempted: 4,
        };
        assert_eq!(reads(5), Err(too_many));
        // Counts and pages are of one ledger.
        assert!(ledger.reads(count_of("b"), count(2)).is_err());
        assert_eq!(ledger.reads(count_of("b"), count(4)), Ok(false));
        assert!(ledger.reads(asked, shows(&[("b", 3)], Some("b"))).is_err());
        // A page shows who is on it: a tenant without anything acknowledged, once shown, stays.
        let end = page("", 1, Some("c"));
        assert_eq!(
            ledger.reads(end.clone(), shows(&[("d", 1)], None)),
            Ok(false)
        );
        assert!(ledger.reads(end, shows(&[], None)).is_err());
    }

    #[test]
    fn pages_have_their_form_though_they_are_not_exact() {
        let mut ledger = three();
        let mut judge = |what: What, shown: Shown| {
            let begun = ledger.begin(read(what));
            ledger.judge(&begun, &inexact(shown)).expect_err("refused")
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let (x, c) = ("x".to_owned(), "c".to_owned());
        assert_eq!(
            judge(page("", 2, None), shows(&ALL, None)),
            Violation::PageTooLong {
                listed: 3,
                limit: 2
            }
        );
        let order = |before: &String, tenant: &String| Violation::OutOfOrder {
            before: before.clone(),
            tenant: tenant.clone(),
        };
        assert_eq!(
            judge(page("", 3, None), shows(&[ALL[1], ALL[0]], None)),
            order(&b, &a)
        );
        assert_eq!(
            judge(page("", 3, None), shows(&[ALL[0], ALL[0]], None)),
            order(&a, &a)
        );
        let not_asked_for = |tenant: &String| Violation::NotAskedFor {
            tenant: tenant.clone(),
        };
        assert_eq!(
            judge(page("b", 3, None), shows(&ALL[1..], None)),
            not_asked_for(&c)
        );
        assert_eq!(
            judge(page("", 3, Some("a")), shows(&ALL, None)),
            not_asked_for(&a)
        );
        assert_eq!(
            judge(page("", 3, None), shows(&[("a", 0)], None)),
            Violation::ListedEmpty { tenant: a.clone() }
        );
        let cursor = |cursor: &String| Violation::WrongCursor {
            cursor: cursor.clone(),
        };
        assert_eq!(judge(page("", 3, None), shows(&ALL, Some("x"))), cursor(&x));
        assert_eq!(judge(page("", 3, None), shows(&[], Some("a"))), cursor(&a));
        assert_eq!(
            judge(page("", 3, None), shows(&[("x", 1)], None)),
            Violation::TooMany {
                tenant: x.clone(),
                count: 1,
                attempted: 0
            }
        );
    }
}
