//! Single items: counted once they must be, never uncounted again, and never without a post.
//!
//! Invariant: what was shown by a count of everything is shown of each item.

use super::{Begun, Item, Ledger, Read, Violation};

/// Whether an exact answer to a read that begins now must say that the item is counted.
pub(super) fn is_certain(ledger: &Ledger, read: &Read, item: &Item) -> bool {
    let told = read.after.as_ref();
    let told = told.is_some_and(|token| token.items.contains(item));
    let book = ledger.books.get(&item.tenant);
    told || book.is_some_and(|book| book.is_certain(read, &item.id))
}

/// Judges an answer, and learns from it. Says whether it showed what nothing demanded.
pub(super) fn judge(
    ledger: &mut Ledger,
    begun: &Begun,
    exact: bool,
    item: &Item,
    counted: bool,
) -> Result<bool, Violation> {
    let (tenant, id) = (item.tenant.clone(), item.id.clone());
    let book = ledger.book(&tenant);
    if counted && !book.was_attempted(&id) {
        return Err(Violation::NeverAttempted { tenant, id });
    }
    if !exact {
        return Ok(false);
    }
    if !counted && begun.certain {
        return Err(Violation::Uncounted { tenant, id });
    }
    if counted {
        book.note_item(&begun.read, &id);
    }
    Ok(counted && !begun.certain)
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::super::{Consistency, Page, Shown, What};
    use super::*;

    const COUNTED: Shown = Shown::Item { counted: true };
    const UNCOUNTED: Shown = Shown::Item { counted: false };

    fn ask(id: &str) -> What {
        What::Item(item("t", id))
    }

    fn uncounted(id: &str) -> Result<bool, Violation> {
        Err(Violation::Uncounted {
            tenant: "t".to_owned(),
            id: id.to_owned(),
        })
    }

    #[test]
    fn what_was_acknowledged_before_is_counted() {
        let mut ledger = Ledger::new(2);
        ledger.attempts("t", &["a"]);
        let begun = ledger.begin(read(ask("a")));
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), Ok(false));
        ledger.posts(0, "t", &["a"]);
        assert_eq!(ledger.judge(&begun, &exact(UNCOUNTED)), Ok(false));
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), uncounted("a"));
        assert_eq!(ledger.reads(ask("a"), COUNTED), Ok(false));
        let begun = ledger.begin(read(ask("a")));
        assert_eq!(ledger.judge(&begun, &inexact(UNCOUNTED)), Ok(false));
    }

    #[test]
    fn another_coordinator_counts_it_when_it_is_asked_strongly_or_with_the_token() {
        let mut ledger = Ledger::new(2);
        let token = ledger.posts(0, "t", &["a"]);
        let other = read(ask("a")).at(1, 1);
        assert_eq!(ledger.reads_as(other.clone(), UNCOUNTED), Ok(false));
        let strong = other.clone().consistency(Consistency::Strong);
        assert_eq!(ledger.reads_as(strong, UNCOUNTED), uncounted("a"));
        let after = other.after(&token);
        assert_eq!(ledger.reads_as(after, UNCOUNTED), uncounted("a"));
        // A token of other items demands nothing of this one.
        ledger.attempts("t", &["b"]);
        let after = read(ask("b")).after(&token);
        assert_eq!(ledger.reads_as(after, UNCOUNTED), Ok(false));
    }

    #[test]
    fn what_was_shown_once_is_counted_for_the_rest_of_the_life() {
        let mut ledger = Ledger::new(2);
        ledger.attempts("t", &["a", "b"]);
        let begun = ledger.begin(read(ask("b")));
        assert_eq!(ledger.judge(&begun, &inexact(COUNTED)), Ok(false));
        // What was not exact promised nothing.
        assert_eq!(ledger.reads(ask("b"), UNCOUNTED), Ok(false));
        let late = ledger.begin(read(ask("a")));
        assert_eq!(ledger.reads(ask("a"), COUNTED), Ok(true));
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), uncounted("a"));
        for (face, life) in [(1, 1), (0, 2)] {
            let elsewhere = read(ask("a")).at(face, life);
            assert_eq!(ledger.reads_as(elsewhere, UNCOUNTED), Ok(false));
        }
        // An answer of the life that has ended.
        assert_eq!(ledger.judge(&late, &exact(COUNTED)), Ok(true));
        let next = read(ask("a")).at(0, 2);
        assert_eq!(ledger.reads_as(next, UNCOUNTED), Ok(false));
    }

    #[test]
    fn what_was_never_attempted_is_never_counted() {
        let mut ledger = Ledger::new(1);
        let begun = ledger.begin(read(ask("a")));
        let never = Err(Violation::NeverAttempted {
            tenant: "t".to_owned(),
            id: "a".to_owned(),
        });
        assert_eq!(ledger.judge(&begun, &exact(COUNTED)), never);
        assert_eq!(ledger.judge(&begun, &inexact(COUNTED)), never);
        assert_eq!(ledger.judge(&begun, &exact(UNCOUNTED)), Ok(false));
        // Another tenant's item of this id is another item.
        ledger.attempts("s", &["a"]);
        assert_eq!(ledger.judge(&begun, &exact(COUNTED)), never);
        // Attempted while the read was under way.
        ledger.attempts("t", &["a"]);
        assert_eq!(ledger.judge(&begun, &exact(COUNTED)), Ok(true));
    }

    #[test]
    fn a_count_of_everything_shows_each_item() {
        let mut ledger = Ledger::new(1);
        ledger.attempts("t", &["a", "b"]);
        assert_eq!(ledger.reads(count_of("t"), count(1)), Ok(false));
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), Ok(false));
        assert_eq!(ledger.reads(count_of("t"), count(2)), Ok(false));
        ledger.attempts("t", &["c"]);
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), uncounted("a"));
        assert_eq!(ledger.reads(ask("c"), UNCOUNTED), Ok(false));
    }

    #[test]
    fn a_page_with_everything_shows_each_item() {
        let mut ledger = Ledger::new(1);
        ledger.attempts("t", &["a"]);
        let page = What::Page(Page {
            limit: 1,
            ..Page::default()
        });
        let shown = Shown::Page {
            tenants: vec![("t".to_owned(), 1)],
            next_cursor: None,
        };
        assert_eq!(ledger.reads(page, shown), Ok(false));
        assert_eq!(ledger.reads(ask("a"), UNCOUNTED), uncounted("a"));
    }
}
