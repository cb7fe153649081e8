//! What clients know of a system that counts, and what each of its answers must be for it.
//!
//! Invariant: pure. Who posts and reads says what it attempted, what was acknowledged, when a read
//! began and what it was answered; a wrong answer is a [`Violation`], and whoever asked makes a
//! failure of it.
//!
//! Every answer is held against one ledger, whatever it is about. For each tenant: no more is ever
//! counted than was attempted, and an exact answer holds what was acknowledged before the read
//! began and all that earlier exact answers of the same coordinator showed, be it by a count, by an
//! item or on a page.

mod ask;
mod book;
mod counts;
mod dice;
mod items;
mod pages;
mod plan;
#[cfg(test)]
mod samples;

use std::collections::{BTreeMap, HashSet, VecDeque};

use thiserror::Error;

pub use ask::{Done, ask};
pub use dice::Dice;
pub use plan::{CERTAIN_MS, Habits, follow};

use book::Book;

/// Tokens that are kept to be given with reads.
const TOKENS_MAX: usize = 64;

/// An item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item {
    pub tenant: String,
    pub id: String,
}

/// What a read asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The counts of these tenants, of one moment.
    Counts(Vec<String>),
    /// Whether an item is counted.
    Item(Item),
    /// A page of tenants.
    Page(Page),
}

/// Which page of tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub prefix: String,
    pub limit: usize,
    pub cursor: Option<String>,
}

impl Page {
    /// Whether a tenant of this name is on the page or on one after it.
    fn reaches(&self, tenant: &str) -> bool {
        let passed = self.cursor.as_deref().is_some_and(|name| tenant <= name);
        tenant.starts_with(&self.prefix) && !passed
    }
}

/// What an exact answer must include.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    Session,
    Strong,
    /// Nothing: it is never exact.
    Eventual,
}

impl Consistency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Strong => "strong",
            Self::Eventual => "eventual",
        }
    }
}

/// A post's token, and what was posted.
#[derive(Debug, Clone)]
pub struct Token {
    text: String,
    items: HashSet<Item>,
}

/// A read, and which coordinator of `faces` is asked in which of its lives. What a coordinator has
/// shown, it has shown in one life.
#[derive(Debug, Clone)]
pub struct Read {
    pub face: usize,
    pub life: u64,
    pub what: What,
    pub consistency: Consistency,
    pub after: Option<Token>,
    pub timeout_ms: u64,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// In the order asked for.
    Counts(Vec<u64>),
    Item {
        counted: bool,
    },
    Page {
        tenants: Vec<(String, u64)>,
        next_cursor: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub exact: bool,
    pub shown: Shown,
}

/// A promise that an answer breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("an eventual answer is called exact")]
    EventualIsExact,
    #[error("the answer is of another form than the read")]
    AnotherForm,
    #[error("{tenant}: exact {count}, but {floor} were acknowledged or shown")]
    TooFew {
        tenant: String,
        count: u64,
        floor: u64,
    },
    #[error("{tenant}: {count} of {attempted} attempted")]
    TooMany {
        tenant: String,
        count: u64,
        attempted: u64,
    },
    #[error("{tenant}: {id} is not counted exactly, but was acknowledged or shown")]
    Uncounted { tenant: String, id: String },
    #[error("{tenant}: {id} is counted, and was never attempted")]
    NeverAttempted { tenant: String, id: String },
    #[error("{tenant} is not on the exact page, with {floor} acknowledged or shown")]
    NotListed { tenant: String, floor: u64 },
    #[error("the exact listing ends before {tenant}, with {floor} acknowledged or shown")]
    EndsEarly { tenant: String, floor: u64 },
    #[error("{tenant} comes after {before} or is it")]
    OutOfOrder { before: String, tenant: String },
    #[error("{tenant} is listed, and was not asked for")]
    NotAskedFor { tenant: String },
    #[error("{tenant} is listed, and has no items")]
    ListedEmpty { tenant: String },
    #[error("{listed} tenants on a page of at most {limit}")]
    PageTooLong { listed: usize, limit: usize },
    #[error("the next cursor {cursor} is not the page's last name")]
    WrongCursor { cursor: String },
}

/// A read that has begun, with what an exact answer must hold at least.
#[derive(Debug, Clone)]
pub struct Begun {
    pub read: Read,
    /// Of each tenant that is asked for.
    floors: BTreeMap<String, u64>,
    /// Whether the item that is asked for must be counted.
    certain: bool,
}

/// What is known, by tenant.
pub struct Ledger {
    books: BTreeMap<String, Book>,
    faces: usize,
    tokens: VecDeque<Token>,
}

impl Ledger {
    /// Of a system with this many coordinators.
    pub fn new(faces: usize) -> Self {
        Self {
            books: BTreeMap::new(),
            faces,
            tokens: VecDeque::new(),
        }
    }

    fn book(&mut self, tenant: &str) -> &mut Book {
        if !self.books.contains_key(tenant) {
            self.books.insert(tenant.to_owned(), Book::new(self.faces));
        }
        self.books.get_mut(tenant).expect("it was just added")
    }

    /// To be said before an item is posted.
    pub fn attempt(&mut self, item: &Item) {
        self.book(&item.tenant).attempt(&item.id);
    }

    /// A coordinator answered 200, with this token.
    pub fn acknowledge(&mut self, face: usize, items: &[Item], token: &str) {
        for item in items {
            self.book(&item.tenant).acknowledge(face, &item.id);
        }
        if self.tokens.len() == TOKENS_MAX {
            self.tokens.pop_front();
        }
        self.tokens.push_back(Token {
            text: token.to_owned(),
            items: items.iter().cloned().collect(),
        });
    }

    /// Distinct ids of a tenant that were ever posted.
    pub fn attempted(&self, tenant: &str) -> u64 {
        self.books.get(tenant).map_or(0, Book::attempted)
    }

    /// Distinct ids of a tenant that anyone acknowledged.
    pub fn acknowledged(&self, tenant: &str) -> u64 {
        self.books.get(tenant).map_or(0, Book::acknowledged)
    }

    /// Every tenant with what was attempted of it, in the order of the names' bytes.
    pub fn tenants(&self) -> impl Iterator<Item = (&str, u64)> {
        self.books
            .iter()
            .map(|(name, book)| (name.as_str(), book.attempted()))
    }

    /// The id of a tenant that was attempted as the `number`th distinct one, from 0.
    pub fn id(&self, tenant: &str, number: u64) -> Option<&str> {
        self.books.get(tenant)?.id(number)
    }

    /// A coordinator is asked, or has answered, in this life.
    fn enter(&mut self, read: &Read) {
        for book in self.books.values_mut() {
            book.enter(read.face, read.life);
        }
    }

    /// To be said before a read is sent.
    pub fn begin(&mut self, read: Read) -> Begun {
        self.enter(&read);
        let floors = match &read.what {
            What::Counts(tenants) => counts::floors(self, &read, tenants),
            What::Page(page) => pages::floors(self, &read, page),
            What::Item(_) => BTreeMap::new(),
        };
        let certain = match &read.what {
            What::Item(item) => items::is_certain(self, &read, item),
            _ => false,
        };
        Begun {
            read,
            floors,
            certain,
        }
    }

    /// Holds an answer against what is known, and learns from it. Says whether it showed an item
    /// that nothing known before demanded.
    pub fn judge(&mut self, begun: &Begun, answer: &Answer) -> Result<bool, Violation> {
        let read = &begun.read;
        self.enter(read);
        if answer.exact && read.consistency == Consistency::Eventual {
            return Err(Violation::EventualIsExact);
        }
        match (&read.what, &answer.shown) {
            (What::Counts(tenants), Shown::Counts(counts)) if tenants.len() == counts.len() => {
                for (tenant, &count) in tenants.iter().zip(counts) {
                    counts::judge(self, begun, answer.exact, tenant, count)?;
                }
                Ok(false)
            }
            (What::Item(item), &Shown::Item { counted }) => {
                items::judge(self, begun, answer.exact, item, counted)
            }
            (
                What::Page(page),
                Shown::Page {
                    tenants,
                    next_cursor,
                },
            ) => {
                let listed = pages::Listed {
                    tenants,
                    next_cursor: next_cursor.as_deref(),
                };
                pages::judge(self, begun, answer.exact, page, &listed)?;
                Ok(false)
            }
            _ => Err(Violation::AnotherForm),
        }
    }

    /// What an exact answer to a read that begins now must count of a tenant at least.
    fn floor(&self, read: &Read, tenant: &str) -> u64 {
        let Some(book) = self.books.get(tenant) else {
            return 0;
        };
        let items = read.after.iter().flat_map(|token| &token.items);
        let ids = items
            .filter(|item| item.tenant == tenant)
            .map(|item| item.id.as_str());
        book.floor(read, ids)
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    #[test]
    fn an_eventual_answer_is_never_exact() {
        let mut ledger = Ledger::new(1);
        ledger.posts(0, "t", &["a"]);
        let eventual = read(count_of("t")).consistency(Consistency::Eventual);
        let begun = ledger.begin(eventual);
        assert_eq!(
            ledger.judge(&begun, &exact(count(1))),
            Err(Violation::EventualIsExact)
        );
        // It may lag as far as it likes, and shows nothing that a later answer must hold.
        assert_eq!(ledger.judge(&begun, &inexact(count(0))), Ok(false));
    }

    #[test]
    fn an_answer_has_the_form_of_its_read() {
        let mut ledger = Ledger::new(1);
        let wrong = Err(Violation::AnotherForm);
        let item = What::Item(item("t", "a"));
        assert_eq!(ledger.reads(item.clone(), count(0)), wrong);
        assert_eq!(
            ledger.reads(count_of("t"), Shown::Item { counted: false }),
            wrong
        );
        assert_eq!(
            ledger.reads(count_of("t"), Shown::Counts(vec![0, 0])),
            wrong
        );
        let page = What::Page(Page::default());
        assert_eq!(ledger.reads(page, count(0)), wrong);
    }
}
