//! What a reader asks for next, by chance.
//!
//! Invariant: every kind of read is asked with every consistency, with tokens, and with timeouts
//! that are too short; what is being posted just now is asked for more often than what is old.

use super::{Answer, Consistency, Dice, Item, Ledger, Page, Read, Shown, What};

/// A timeout that nothing but a fault makes too short, in milliseconds.
pub const CERTAIN_MS: u64 = 2_000;

/// Timeouts of reads in milliseconds; most are long enough.
const TIMEOUTS_MS: [u64; 8] = [
    CERTAIN_MS, CERTAIN_MS, CERTAIN_MS, CERTAIN_MS, CERTAIN_MS, 200, 20, 0,
];

/// How many of the ids that came last count as being posted just now.
const LATEST: u64 = 8;

/// Pages of few tenants, so that there are many.
const LIMITS: [usize; 6] = [1, 1, 2, 2, 3, 1_000];

/// What the readers of a load have in common.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Tenants that are asked for more often than others.
    pub favourites: Vec<String>,
    /// What all tenants' names begin with.
    pub prefix: String,
}

impl Habits {
    /// The next read of a coordinator.
    pub fn plan(&self, dice: &mut Dice, ledger: &Ledger, face: usize, life: u64) -> Read {
        let after = match dice.below(6) {
            0 if !ledger.tokens.is_empty() => {
                let at = dice.below(ledger.tokens.len() as u64) as usize;
                Some(ledger.tokens[at].clone())
            }
            _ => None,
        };
        let consistency = match dice.below(10) {
            0 | 1 => Consistency::Strong,
            2 => Consistency::Eventual,
            _ => Consistency::Session,
        };
        let what = match dice.below(10) {
            0..=4 => self.some_counts(dice, ledger),
            5..=7 => What::Item(
                match &after {
                    // What else would the token be for?
                    Some(token) if dice.below(2) == 0 => token.items.iter().next().cloned(),
                    _ => None,
                }
                .unwrap_or_else(|| self.some_item(dice, ledger)),
            ),
            _ => What::Page(self.some_page(dice, ledger)),
        };
        Read {
            face,
            life,
            what,
            consistency,
            after,
            timeout_ms: dice.of(&TIMEOUTS_MS),
        }
    }

    fn some_tenant(&self, dice: &mut Dice, ledger: &Ledger) -> String {
        let known = ledger.books.len() as u64;
        if known > 0 && dice.below(4) == 0 {
            let at = dice.below(known) as usize;
            if let Some(name) = ledger.books.keys().nth(at) {
                return name.clone();
            }
        }
        dice.of(&self.favourites)
    }

    fn some_counts(&self, dice: &mut Dice, ledger: &Ledger) -> What {
        let first = self.some_tenant(dice, ledger);
        let mut tenants = vec![first];
        if dice.below(8) == 0 {
            tenants.extend([(); 2].map(|()| self.some_tenant(dice, ledger)));
        }
        What::Counts(tenants)
    }

    /// One that is being posted, any one, the one that will be posted next, or one that never will
    /// be.
    fn some_item(&self, dice: &mut Dice, ledger: &Ledger) -> Item {
        let tenant = self.some_tenant(dice, ledger);
        let attempted = ledger.attempted(&tenant);
        let number = match dice.below(10) {
            0..=3 => attempted.checked_sub(1 + dice.below(LATEST)),
            4..=6 if attempted > 0 => Some(dice.below(attempted)),
            7 | 8 => Some(attempted + dice.below(3)),
            _ => None,
        };
        let id = number.map(|number| match ledger.id(&tenant, number) {
            Some(id) => id.to_owned(),
            None => format!("i{number}"),
        });
        let id = id.unwrap_or_else(|| format!("never-{}", dice.below(1_000)));
        Item { tenant, id }
    }

    fn some_page(&self, dice: &mut Dice, ledger: &Ledger) -> Page {
        Page {
            prefix: match dice.below(4) {
                0 => String::new(),
                1 => self.some_tenant(dice, ledger),
                _ => self.prefix.clone(),
            },
            limit: dice.of(&LIMITS),
            cursor: match dice.below(2) {
                0 => None,
                _ => Some(self.some_tenant(dice, ledger)),
            },
        }
    }
}

/// The read that comes right after one, if any: the next page; or, when an item was shown that
/// nothing demanded, another look at it.
pub fn follow(dice: &mut Dice, read: &Read, answer: &Answer, is_news: bool) -> Option<Read> {
    let what = match (&read.what, &answer.shown) {
        (
            What::Page(page),
            Shown::Page {
                next_cursor: Some(cursor),
                ..
            },
        ) if dice.below(2) == 0 => What::Page(Page {
            cursor: Some(cursor.clone()),
            ..page.clone()
        }),
        (What::Item(item), _) if is_news => match dice.below(3) {
            0 => What::Counts(vec![item.tenant.clone()]),
            1 => What::Item(item.clone()),
            _ => What::Page(Page {
                prefix: item.tenant.clone(),
                limit: 1,
                cursor: None,
            }),
        },
        _ => return None,
    };
    Some(Read {
        what,
        consistency: Consistency::Session,
        after: None,
        timeout_ms: dice.of(&TIMEOUTS_MS),
        ..read.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::samples::{exact, item, read};
    use super::*;

    fn ledger() -> (Ledger, Habits) {
        let mut ledger = Ledger::new(1);
        ledger.posts(0, "t1", &["i0", "i1"]);
        ledger.posts(0, "t2", &["i0"]);
        let habits = Habits {
            favourites: vec!["t1".to_owned()],
            prefix: "t".to_owned(),
        };
        (ledger, habits)
    }

    #[test]
    fn everything_is_asked_for_in_every_way() {
        let (ledger, habits) = ledger();
        let mut dice = Dice::new();
        let mut seen = BTreeSet::new();
        for _ in 0..20_000 {
            let read = habits.plan(&mut dice, &ledger, 0, 1);
            let kind = match &read.what {
                What::Counts(tenants) if tenants.len() == 1 => "count",
                What::Counts(_) => "counts",
                What::Item(item) => match item.id.as_str() {
                    "i0" | "i1" => "item",
                    id if id.starts_with("never-") => "never",
                    _ => "next",
                },
                What::Page(page) if page.limit > 3 => "whole",
                What::Page(page) if page.cursor.is_some() => "page after",
                What::Page(_) => "first page",
            };
            let (consistency, token) = (read.consistency.as_str(), read.after.is_some());
            seen.insert((kind, consistency.to_owned()));
            seen.insert((kind, format!("token {token}")));
            seen.insert((kind, format!("timeout {}", read.timeout_ms)));
        }
        let timeouts: BTreeSet<u64> = TIMEOUTS_MS.into();
        assert_eq!(seen.len(), 8 * (3 + 2 + timeouts.len()), "{seen:?}");
    }

    #[test]
    fn pages_are_followed_and_news_is_looked_at_again() {
        let mut dice = Dice::new();
        let page = Page {
            prefix: "t".to_owned(),
            limit: 1,
            cursor: None,
        };
        let shown = |next_cursor: Option<&str>| {
            exact(Shown::Page {
                tenants: Vec::new(),
                next_cursor: next_cursor.map(str::to_owned),
            })
        };
        let asked = read(What::Page(page.clone()));
        assert!(follow(&mut dice, &asked, &shown(None), false).is_none());
        let next = (0..100).find_map(|_| follow(&mut dice, &asked, &shown(Some("t1")), false));
        let cursor = Some("t1".to_owned());
        let what = What::Page(Page { cursor, ..page });
        assert_eq!(next.map(|next| next.what), Some(what));

        let asked = read(What::Item(item("t1", "i0")));
        let counted = exact(Shown::Item { counted: true });
        assert!(follow(&mut dice, &asked, &counted, false).is_none());
        let mut forms = BTreeSet::new();
        for _ in 0..100 {
            let next = follow(&mut dice, &asked, &counted, true).expect("another look");
            assert_eq!(next.consistency, Consistency::Session);
            forms.insert(match next.what {
                What::Counts(_) => "count",
                What::Item(_) => "item",
                What::Page(_) => "page",
            });
        }
        assert_eq!(forms.len(), 3);
    }
}
