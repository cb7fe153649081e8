//! The clients and readers of a load: what each of them does until it is told to end.
//!
//! Invariant: what the checker promises (tests/checker) holds for every answer: for counts, single
//! items and pages of tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde_json::json;

use crate::checker::{self, CERTAIN_MS, Consistency, Dice, Done, Habits, Item, Ledger, What};
use crate::node::{Answer, client_builder};
use crate::process::Face;

/// Tenants whose items are posted all the time.
const TENANTS_HOT: u64 = 5;

/// All tenants. The others appear one by one, so that listings change.
const TENANTS: u64 = 60;

const BATCH_ITEMS_MAX: u64 = 40;

/// One post of so many has an item of a new tenant.
const POSTS_PER_TENANT: u64 = 100;

/// What a client waits for one answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(6);

/// Between two posts of one client: the machine has other tests to run too.
const PACE: Duration = Duration::from_millis(4);

/// Exact answers of each kind of read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactReads {
    pub counts: u64,
    pub items: u64,
    pub pages: u64,
}

impl ExactReads {
    fn add(&mut self, what: &What) {
        match what {
            What::Counts(_) => self.counts += 1,
            What::Item(_) => self.items += 1,
            What::Page(_) => self.pages += 1,
        }
    }

    /// Whether there are so many more than there were.
    pub fn is_beyond(&self, before: &Self, more: u64) -> bool {
        self.counts >= before.counts + more
            && self.items >= before.items + more
            && self.pages >= before.pages + more
    }
}

pub struct World {
    faces: Vec<Face>,
    /// The coordinators that are posted to.
    post_to: Vec<usize>,
    http: Client,
    pub ledger: Mutex<Ledger>,
    habits: Habits,
    /// Tenants that have appeared.
    appeared: AtomicU64,
    /// Given up by their clients, to be posted again at the end.
    pub left: Mutex<Vec<Vec<Item>>>,
    pub posts_acknowledged: AtomicU64,
    pub exact_reads: Mutex<ExactReads>,
    pub exact_probes: AtomicU64,
    pub done: AtomicBool,
}

/// Names that are new are not always the last ones: 101 is a prime.
fn tenant(number: u64) -> String {
    format!("t{:03}", number * 37 % 101)
}

impl World {
    /// Before anything was posted to these coordinators.
    pub fn new(faces: Vec<Face>, post_to: Vec<usize>) -> Self {
        Self {
            ledger: Mutex::new(Ledger::new(faces.len())),
            faces,
            post_to,
            http: client_builder().build().expect("a client"),
            habits: Habits {
                favourites: (0..TENANTS_HOT).map(tenant).collect(),
                prefix: "t".to_owned(),
            },
            appeared: AtomicU64::new(TENANTS_HOT),
            left: Mutex::new(Vec::new()),
            posts_acknowledged: AtomicU64::new(0),
            exact_reads: Mutex::default(),
            exact_probes: AtomicU64::new(0),
            done: AtomicBool::new(false),
        }
    }

    /// New items, some that were posted before, or both.
    fn make_post(&self, dice: &mut Dice) -> Vec<Item> {
        let size = match dice.below(2) {
            0 => 1,
            _ => 1 + dice.below(BATCH_ITEMS_MAX),
        };
        let start = dice.below(TENANTS_HOT);
        let mut ledger = self.ledger.lock();
        // A batch holds items of two tenants.
        let items = (0..size).map(|n| {
            let tenant = tenant((start + n % 2) % TENANTS_HOT);
            let attempted = ledger.attempted(&tenant);
            let number = match dice.below(4) {
                0 if attempted > 0 => dice.below(attempted),
                _ => attempted,
            };
            let id = format!("i{number}");
            let item = Item { tenant, id };
            ledger.attempt(&item);
            item
        });
        let mut items: Vec<_> = items.collect();
        if dice.below(POSTS_PER_TENANT) == 0 {
            let number = self.appeared.load(Ordering::SeqCst) % TENANTS;
            self.appeared.store(number + 1, Ordering::SeqCst);
            let tenant = tenant(number);
            let id = format!("i{}", ledger.attempted(&tenant));
            items.push(Item { tenant, id });
            items.iter().for_each(|item| ledger.attempt(item));
        }
        items
    }

    /// Whether the post was acknowledged, which is noted.
    pub async fn post(&self, face: usize, items: &[Item]) -> bool {
        let Some(url) = self.faces[face].url() else {
            return false;
        };
        let item = |item: &Item| json!({"id": item.id, "tenant": item.tenant});
        let body = match items {
            [one] => item(one),
            many => many.iter().map(item).collect(),
        };
        let sent = self
            .http
            .post(format!("{url}/items"))
            .json(&body)
            .timeout(REQUEST_LIMIT);
        let Ok(answer) = Answer::try_of(sent).await else {
            return false;
        };
        if answer.status != StatusCode::OK {
            assert_eq!(
                answer.status, 503,
                "only 200 and 503 are answers: {}",
                answer.text
            );
            assert!(!answer.header("retry-after").is_empty(), "{}", answer.text);
            return false;
        }
        let token = answer.json["token"].as_str().expect("a token");
        self.ledger.lock().acknowledge(face, items, token);
        self.posts_acknowledged.fetch_add(1, Ordering::SeqCst);
        true
    }

    pub async fn post_until_done(self: Arc<Self>) {
        let mut dice = Dice::new();
        while !self.done.load(Ordering::SeqCst) {
            let items = self.make_post(&mut dice);
            let gives_up = dice.below(2) == 0;
            loop {
                // A retry may go to another coordinator.
                let face = self.post_to[dice.below(self.post_to.len() as u64) as usize];
                if self.post(face, &items).await {
                    break;
                }
                if gives_up || self.done.load(Ordering::SeqCst) {
                    self.left.lock().push(items);
                    break;
                }
                tokio::time::sleep(PACE * 10).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    pub async fn read_until_done(self: Arc<Self>) {
        let mut dice = Dice::new();
        let mut next = None;
        while !self.done.load(Ordering::SeqCst) {
            let face = dice.below(self.faces.len() as u64) as usize;
            let read = match next.take() {
                Some(read) => read,
                None => {
                    tokio::time::sleep(PACE * 2).await;
                    let Some((life, _)) = self.faces[face].life() else {
                        continue;
                    };
                    let ledger = self.ledger.lock();
                    self.habits.plan(&mut dice, &ledger, face, life)
                }
            };
            let done = self.read(read).await;
            next = done.and_then(|done| {
                checker::follow(&mut dice, &done.begun.read, &done.answer, done.is_news)
            });
        }
    }

    /// Posts one new item to one coordinator, and asks another for it strongly as soon as it is
    /// acknowledged.
    pub async fn probe_until_done(self: Arc<Self>, post_to: usize, ask: usize) {
        let mut dice = Dice::new();
        while !self.done.load(Ordering::SeqCst) {
            tokio::time::sleep(PACE).await;
            let tenant = tenant(dice.below(TENANTS_HOT));
            let item = {
                let mut ledger = self.ledger.lock();
                let id = format!("i{}", ledger.attempted(&tenant));
                let item = Item { tenant, id };
                ledger.attempt(&item);
                item
            };
            if !self.post(post_to, std::slice::from_ref(&item)).await {
                self.left.lock().push(vec![item]);
                continue;
            }
            let Some((life, _)) = self.faces[ask].life() else {
                continue;
            };
            let what = match dice.below(2) {
                0 => What::Counts(vec![item.tenant]),
                _ => What::Item(item),
            };
            let probe = checker::Read {
                face: ask,
                life,
                what,
                consistency: Consistency::Strong,
                after: None,
                timeout_ms: CERTAIN_MS,
            };
            if self.read(probe).await.is_some_and(|done| done.answer.exact) {
                self.exact_probes.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    async fn read(&self, read: checker::Read) -> Option<Done> {
        let life = self.faces[read.face].life();
        let (_, url) = life.filter(|(life, _)| *life == read.life)?;
        let done = checker::ask(&self.http, &url, &self.ledger, read, REQUEST_LIMIT).await?;
        if done.answer.exact {
            self.exact_reads.lock().add(&done.begun.read.what);
        }
        Some(done)
    }
}
